"""A whole network for a window in one kernel, with several programs for each tile of tokens.

As window.py, for few windows: there a tile's program does all of its work alone, and most of the
GPU has none. Here SHARES programs take a tile. Each of them makes its share of the MLP's hidden
numbers and of the inner layer's columns; what is before these they all do, which takes no longer.

    step 0        patches -> X;                                      norm, inner of block 0 -> I
    odd steps     I, X: mix, outer -> M; norm, share of up, GELU, share of down -> P
    even steps    M, P: all shares of down -> X;                     norm, inner of the next -> I
    last step     the same, and then the heads

P are integer sums, exact whatever the order, and U of the low-rank product, added in the order of
the shares. All of a window's programs wait for each other between steps. X and M (B T, D) are
written by the first program of a tile; P (B tiles, shares, BM, D + R) float32; I (B T, 3 D).

Moved at least: what window.py moves, and 4 B T shares (1 + shares) (D + R) bytes a block.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.launch import Launch, ceil_div, interpreted
from taolora_ros.kernels.patches import embed
from taolora_ros.kernels.tile import add_down, add_outer, hidden_sums, meet, mixed, store_inner
from taolora_ros.kernels.window import check_sizes, close_window, fixed_constants, read_tile
from taolora_ros.kernels.window_layout import WindowWeights

EXACT = 2 ** 24       # integers up to here are exact in float32
LARGEST = 16 * 15 * 7  # product of two codes, one of them 16 times


@triton.jit
def store_share(s0, s1, u, at, BM: tl.constexpr, HALF: tl.constexpr, RANK: tl.constexpr):
    """Store a program's sums and U one behind the other."""
    i, n, r = tl.arange(0, BM)[:, None], tl.arange(0, HALF)[None, :], tl.arange(0, RANK)[None, :]
    tl.store(at + i * HALF + n, s0.to(tl.float32))
    tl.store(at + (BM + i) * HALF + n, s1.to(tl.float32))
    tl.store(at + 2 * BM * HALF + i * RANK + r, u)


@triton.jit
def add_shares(at, BM: tl.constexpr, HALF: tl.constexpr, RANK: tl.constexpr,
               SHARES: tl.constexpr):
    """Return sums and U of all shares, each (BM, 2 HALF + RANK) numbers further on."""
    i, n, r = tl.arange(0, BM)[:, None], tl.arange(0, HALF)[None, :], tl.arange(0, RANK)[None, :]
    s0, s1 = tl.zeros((BM, HALF), tl.float32), tl.zeros((BM, HALF), tl.float32)
    u = tl.zeros((BM, RANK), tl.float32)
    for share in tl.static_range(SHARES):  # past the first-level cache: others wrote them
        part = at + share * BM * (2 * HALF + RANK)
        s0 += tl.load(part + i * HALF + n, cache_modifier='.cg')
        s1 += tl.load(part + (BM + i) * HALF + n, cache_modifier='.cg')
        u += tl.load(part + 2 * BM * HALF + i * RANK + r, cache_modifier='.cg')
    return s0.to(tl.int32), s1.to(tl.int32), u


@triton.jit(do_not_specialize=['first', 'last', 'batch'])
def shared_window_kernel(windows, gates, codes, factors, vectors, ends, work, counters, scores,
                         embedding, first, last, batch, KINDS: tl.constexpr,
                         BLOCKS: tl.constexpr, T: tl.constexpr, D: tl.constexpr, S: tl.constexpr,
                         J: tl.constexpr, E: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
                         Y: tl.constexpr, FEATURES: tl.constexpr, RANK: tl.constexpr,
                         BM: tl.constexpr, BH: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
                         BY: tl.constexpr, SHARES: tl.constexpr, PERSISTENT: tl.constexpr,
                         PRECISION: tl.constexpr, ASM: tl.constexpr):
    """Take a share of BM tokens of one window through the steps first..last - 1."""
    share, tile, window = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    half: tl.constexpr = D // 2
    TILES: tl.constexpr = (T + BM - 1) // BM
    t, d = tile * BM + tl.arange(0, BM), tl.arange(0, half)
    t_ok = t < T
    row, ok = window * T + t, t_ok[:, None]
    mine = ok & (share == 0)
    opened = tl.load(gates + row, mask=t_ok, other=0) != 0

    tokens = batch * T
    x = work + row[:, None] * D + d[None, :]
    middle = x + tokens * D
    inner = work + 2 * tokens * D + window * T * 3 * D
    room = work + (5 + share) * tokens * D + window * T * D
    part_size: tl.constexpr = BM * (D + RANK)
    parts = work + (5 + SHARES) * tokens * D + (window * TILES + tile) * SHARES * part_size
    squares = work + (5 + SHARES) * tokens * D + batch * TILES * SHARES * part_size
    cos, sin = ends, ends + T * E // 2
    matrix = ends + T * E                     # of the embedding
    norm = matrix + C * D + D
    head = norm + 2 * D
    rebuild = head + D * Y

    for step in range(first, last):
        block = tl.maximum(step - 1, 0) // 2
        weights = vectors + block * (18 * D + 3 * S + 16 + J * D)
        low_rank = factors + block * (11 * D + 3 * S) * RANK
        if step & 1:
            x0 = tl.load(x, mask=ok, other=0.0, cache_modifier='.cg')
            x1 = tl.load(x + half, mask=ok, other=0.0, cache_modifier='.cg')
            m0, m1 = mixed(inner, room, weights + 17 * D + 3 * S + 16, t, t_ok,
                           (KINDS >> block) & 1, T, D, J, E, BM, BT)
            at = codes + block * (2 * D * D + S * D)
            x0, x1 = add_outer(x0, x1, m0, m1, at, low_rank, weights, opened, D, S, RANK, BM, ASM)
            tl.store(middle, x0, mask=mine)
            tl.store(middle + half, x1, mask=mine)
            s0, s1, u = hidden_sums(x0, x1, at, low_rank, weights, opened,
                                    share * (S // 2 // SHARES), (share + 1) * (S // 2 // SHARES),
                                    D, S, RANK, BM, BH, ASM)
            store_share(s0, s1, u, parts + share * part_size, BM, half, RANK)
        else:
            if step == 0:
                x0 = embed(windows, matrix, norm - D, row, t_ok, d, d < D, C, D, BC, PRECISION)
                x1 = embed(windows, matrix, norm - D, row, t_ok, half + d, d < D, C, D, BC,
                           PRECISION)
            else:
                x0 = tl.load(middle, mask=ok, other=0.0, cache_modifier='.cg')
                x1 = tl.load(middle + half, mask=ok, other=0.0, cache_modifier='.cg')
                s0, s1, u = add_shares(parts, BM, half, RANK, SHARES)
                x0, x1 = add_down(x0, x1, s0, s1, u, low_rank, weights, opened, D, S, RANK)
            if step < 2 * BLOCKS:
                following = step // 2
                tl.store(x, x0, mask=mine)
                tl.store(x + half, x1, mask=mine)
                store_inner(x0, x1, inner, codes + following * (2 * D * D + S * D),
                            factors + following * (11 * D + 3 * S) * RANK,
                            vectors + following * (18 * D + 3 * S + 16 + J * D), cos, sin, opened,
                            t, t_ok, (KINDS >> following) & 1, share, D, S, E, RANK, BM, SHARES,
                            ASM)
            else:
                offset = scores + tokens * K
                if share == 0:
                    read_tile(x0, x1, windows, head, rebuild, rebuild + Y * C, norm, squares,
                              scores, offset, embedding, window, tile, t, t_ok, T, D, C, K, Y, BM,
                              BC, BY, TILES, PRECISION)
                close_window(squares, counters, rebuild + Y * C + Y + C, offset + tokens, window,
                             T, C, FEATURES, BC, TILES, TILES * SHARES)
        if PERSISTENT:
            if step < 2 * BLOCKS:
                meet(counters + 2 * window, TILES * SHARES * (step + 1))


def shared_window_launches(windows: Tensor, gates: Tensor, weights: WindowWeights, ends: Tensor,
                           scores: Tensor, embedding: Tensor, constants: dict[str, int],
                           persistent: bool, shares: int, block_m: int = 16, block_h: int = 64,
                           warps: int = 8, stages: int = 3, precision: str = 'tf32x3'
                           ) -> list[Launch]:
    """Return the launch of a batch, or one a step; arguments as of `window_launches`.

    Raise ValueError for sizes that the kernel cannot take.
    """
    width, hidden, tokens = weights.width, weights.hidden, constants['T']
    check_sizes(width, hidden, constants['E'], block_h)
    if hidden // 2 % (shares * block_h) or hidden * LARGEST >= EXACT:
        raise ValueError(f'hidden width: {hidden} is no multiple of {2 * shares * block_h} below '
                         f'{EXACT // LARGEST}')
    batch, tiles = len(gates) // tokens, ceil_div(tokens, block_m)
    fixed = {**fixed_constants(weights, constants, block_m, block_h, precision), 'SHARES': shares,
             'PERSISTENT': persistent, 'ASM': not interpreted()}
    place = embedding.device
    size = (5 + shares) * batch * tokens * width + batch * tiles * (
        shares * block_m * (width + weights.rank) + fixed['BC'])
    arguments = {
        'windows': windows, 'gates': gates, 'codes': weights.codes, 'factors': weights.factors,
        'vectors': weights.vectors, 'ends': ends, 'work': torch.empty(size, device=place),
        'counters': torch.zeros(2 * batch, dtype=torch.int32, device=place), 'scores': scores,
        'embedding': embedding, 'batch': batch}
    count = 2 * constants['BLOCKS'] + 1
    steps = [(0, count)] if persistent else [(i, i + 1) for i in range(count)]
    return [Launch(shared_window_kernel, (shares, tiles, batch),
                   {**arguments, 'first': first, 'last': last}, fixed, warps, stages)
            for first, last in steps]
