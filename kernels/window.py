"""A whole network for a window in one kernel, or in one launch a stage.

Between two mixers everything belongs to a token: the mixer's outer layer, the MLP, the next inner
layer. So a window is cut into tiles of BM tokens, each program takes one tile through a stage, and
only between stages do the programs of a window wait for each other:

    stage 0       patches -> X;                                norm, inner of block 0 -> I
    stage 1..     I, X: mix, outer, norm, up, GELU, down -> X; norm, inner of the next block -> I
    last stage    the same, and then the heads

I (2, B T, 3 D) is read by all of a window's programs: its two halves take turns, so that nobody
overwrites what a slower one still reads. X (B T, D) belongs to the program that made it.

With PERSISTENT one launch runs all stages, X stays in registers, and programs wait by a counter
for each window. That is sound only when all of them are on the GPU at once. Otherwise it is one
launch a stage.

Moved at least: the weights once (they stay in the L2 cache); 4 B T (C + K + 1 + D) bytes at both
ends; between stages, within the L2 cache, 4 B T 3 D bytes and as often 4 B T 2 D as there are
tiles (attention), or the taps reach (convolution).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.heads import close_window, rebuild_errors, store_scores, to_rebuild
from taolora_ros.kernels.int4 import fine_product
from taolora_ros.kernels.launch import Launch, ceil_div, interpreted
from taolora_ros.kernels.patches import embed
from taolora_ros.kernels.tile import (add_down, add_outer, hidden_sums, meet, mixed, normed,
                                      store_inner)
from taolora_ros.kernels.window_layout import WindowWeights, check_tiles


@triton.jit
def read_tile(x, windows, head, rebuild, biases, norm, squares, probability, offset,
              embedding, window, tile, t, t_ok, T: tl.constexpr, D: tl.constexpr,
              C: tl.constexpr, K: tl.constexpr, Y: tl.constexpr, BC: tl.constexpr,
              BY: tl.constexpr, TILES: tl.constexpr, PRECISION: tl.constexpr):
    """Store what is read off a tile, and its squared errors."""
    row, d, y, c = window * T + t, tl.arange(0, D), tl.arange(0, BY), tl.arange(0, BC)
    v = normed(x, norm, D)
    tl.store(embedding + row[:, None] * D + d[None, :], v, mask=t_ok[:, None])
    matrix = tl.load(head + d[:, None] * Y + y[None, :], mask=(y < Y)[None, :], other=0.0)
    h = fine_product(v, matrix)
    h += tl.load(biases + y, mask=y < Y, other=0.0)[None, :]
    store_scores(h, probability, offset, row, t_ok, K, BY)
    patches, matrix, bias = to_rebuild(windows, rebuild, biases + Y, row, t_ok, Y, C, BY, BC)
    found = rebuild_errors(h, patches, matrix, bias, t_ok, PRECISION)
    tl.store(squares + (window * TILES + tile) * BC + c, found)


@triton.jit(do_not_specialize=['begin', 'end', 'batch'])
def window_kernel(windows, gates, codes, factors, vectors, ends, work, counters, scores,
                  embedding, begin, end, batch, KINDS: tl.constexpr, BLOCKS: tl.constexpr,
                  T: tl.constexpr, D: tl.constexpr, S: tl.constexpr, J: tl.constexpr,
                  E: tl.constexpr, C: tl.constexpr, K: tl.constexpr, Y: tl.constexpr,
                  FEATURES: tl.constexpr, RANK: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr,
                  BT: tl.constexpr, BC: tl.constexpr, BY: tl.constexpr, PERSISTENT: tl.constexpr,
                  PRECISION: tl.constexpr, ASM: tl.constexpr):
    """Take BM tokens of one window through the stages begin..end - 1."""
    tile, window = tl.program_id(0), tl.program_id(1)
    TILES: tl.constexpr = (T + BM - 1) // BM
    t, d = tile * BM + tl.arange(0, BM), tl.arange(0, D)
    t_ok = t < T
    row, ok = window * T + t, t_ok[:, None]
    opened = tl.load(gates + row, mask=t_ok, other=0) != 0

    tokens = batch * T
    kept = work + row[:, None] * D + d[None, :]
    inner, inner_size = work + tokens * D + window * T * 3 * D, tokens * 3 * D
    squares = work + 7 * tokens * D
    cos, sin = ends, ends + T * E // 2
    matrix = ends + T * E                     # of the embedding
    norm = matrix + C * D + D
    head = norm + 2 * D
    rebuild = head + D * Y

    x = tl.zeros((BM, D), tl.float32)
    for stage in range(begin, end):
        if stage == 0:
            x = embed(windows, matrix, norm - D, row, t_ok, d, d < D, C, D, BC, PRECISION)
        else:
            if not PERSISTENT:
                x = tl.load(kept, mask=ok, other=0.0)
            block = stage - 1
            weights = vectors + block * (18 * D + 3 * S + 16 + J * D)
            m = mixed(inner + (block & 1) * inner_size, weights + 17 * D + 3 * S + 16, t, t_ok,
                      (KINDS >> block) & 1, T, D, J, E, BM, BT)
            at = codes + block * (2 * D * D + S * D)
            low_rank = factors + block * (11 * D + 3 * S) * RANK
            x = add_outer(x, m, at, low_rank, weights, opened, D, S, RANK, BM, ASM)
            first, second, u = hidden_sums(x, at, low_rank, weights, opened, D, S, RANK, BM, BH,
                                           ASM)
            x = add_down(x, first, second, u, low_rank, weights, opened, D, S, RANK)
        if stage < BLOCKS:
            store_inner(x, inner + (stage & 1) * inner_size,
                        codes + stage * (2 * D * D + S * D),
                        factors + stage * (11 * D + 3 * S) * RANK,
                        vectors + stage * (18 * D + 3 * S + 16 + J * D), cos, sin, opened, t,
                        t_ok, (KINDS >> stage) & 1, D, S, E, RANK, BM, ASM)
            if PERSISTENT:
                meet(counters + 2 * window, TILES * (stage + 1))
            else:
                tl.store(kept, x, mask=ok)
                tl.debug_barrier()  # a program alone: its threads read what others have stored
        else:
            offset = scores + tokens * K
            read_tile(x, windows, head, rebuild, rebuild + Y * C, norm, squares, scores,
                      offset, embedding, window, tile, t, t_ok, T, D, C, K, Y, BC, BY, TILES,
                      PRECISION)
            close_window(squares, counters, rebuild + Y * C + Y + C, offset + tokens, window, T,
                         C, FEATURES, BC, TILES)


def window_launches(windows: Tensor, gates: Tensor, weights: WindowWeights, ends: Tensor,
                    scores: Tensor, embedding: Tensor, constants: dict[str, int],
                    persistent: bool, block_m: int = 16, warps: int = 8, stages: int = 2,
                    precision: str = 'tf32x3') -> list[Launch]:
    """Return the launch of a batch, or one a stage, with buffers of their own to work in.

    ``constants`` are BLOCKS, T, E, C, K, Y and FEATURES; ``scores`` holds probability, offset and
    anomaly one behind the other. Raise ValueError for sizes that the kernel cannot take.
    """
    width, tokens = weights.width, constants['T']
    check_tiles(weights.width, block_m)
    batch, tiles, power = len(gates) // tokens, ceil_div(tokens, block_m), triton.next_power_of_2
    size, columns = power(constants['C']), power(constants['Y'])
    fixed = {**constants, 'KINDS': weights.kinds, 'D': width, 'S': weights.hidden,
             'J': weights.taps, 'RANK': weights.rank, 'BM': block_m, 'BH': weights.pairs,
             'BT': max(power(tokens), 16), 'BC': max(size, 16), 'BY': max(columns, 16),
             'PERSISTENT': persistent and tiles > 1,
             'PRECISION': precision, 'ASM': not interpreted()}
    place = embedding.device
    work = torch.empty(7 * batch * tokens * width + batch * tiles * fixed['BC'], device=place)
    arguments = {
        'windows': windows, 'gates': gates, 'codes': weights.codes, 'factors': weights.factors,
        'vectors': weights.vectors, 'ends': ends, 'work': work, 'scores': scores,
        'counters': torch.zeros(2 * batch, dtype=torch.int32, device=place),
        'embedding': embedding, 'batch': batch}
    count = constants['BLOCKS'] + 1
    steps = [(0, count)] if persistent else [(i, i + 1) for i in range(count)]
    return [Launch(window_kernel, (tiles, batch), {**arguments, 'begin': begin, 'end': end}, fixed,
                   warps, stages) for begin, end in steps]
