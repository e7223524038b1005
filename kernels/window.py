"""A whole network for a window in one kernel, or in one launch a stage.

Between two mixers everything belongs to a token: the mixer's outer layer, the MLP, the next inner
layer. So a window is cut into tiles of BM tokens, each program takes one tile through a stage, and
only between stages do the programs of a window wait for each other:

    stage 0       patches -> X;                                norm, inner of block 0 -> I
    stage 1..     I, X: mix, outer, norm, up, GELU, down -> X; norm, inner of the next block -> I
    last stage    the same, and then the heads

X (B T, D) is read by the program that wrote it; I (2, B T, 3 D) by all of a window's: its two
halves take turns, so that nobody overwrites what a slower one still reads.

With PERSISTENT one launch runs all stages, and programs wait by a counter for each window. That is
sound only when all of them are on the GPU at once. Otherwise it is one launch a stage.

Moved at least: the weights once (they stay in the L2 cache); 4 B T (C + K + 1 + D) bytes at both
ends; between stages, within the L2 cache, 4 B T 5 D bytes and as often 4 B T 3 D as there are
tiles (attention), or the taps reach (convolution).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.heads import rebuild_errors, store_anomaly, store_scores
from taolora_ros.kernels.launch import Launch, ceil_div, interpreted
from taolora_ros.kernels.patches import embed
from taolora_ros.kernels.tile import (add_down, add_outer, hidden_sums, meet, mixed, normed,
                                      store_inner)
from taolora_ros.kernels.window_layout import WindowWeights


@triton.jit
def read_tile(x0, x1, windows, head, rebuild, biases, norm, squares, probability, offset,
              embedding, window, tile, t, t_ok, T: tl.constexpr, D: tl.constexpr,
              C: tl.constexpr, K: tl.constexpr, Y: tl.constexpr, BM: tl.constexpr,
              BC: tl.constexpr, BY: tl.constexpr, TILES: tl.constexpr, PRECISION: tl.constexpr):
    """Store what is read off a tile, and its squared errors."""
    half: tl.constexpr = D // 2
    row, d, y, c = window * T + t, tl.arange(0, half), tl.arange(0, BY), tl.arange(0, BC)
    v0, v1 = normed(x0, x1, norm, D)
    at = embedding + row[:, None] * D + d[None, :]
    tl.store(at, v0, mask=t_ok[:, None])
    tl.store(at + half, v1, mask=t_ok[:, None])
    at = head + d[:, None] * Y + y[None, :]
    y_ok = (y < Y)[None, :]
    h = tl.dot(v0, tl.load(at, mask=y_ok, other=0.0), input_precision=PRECISION)
    h = tl.dot(v1, tl.load(at + half * Y, mask=y_ok, other=0.0), h, input_precision=PRECISION)
    h += tl.load(biases + y, mask=y < Y, other=0.0)[None, :]
    store_scores(h, probability, offset, row, t_ok, K, BY)
    found = rebuild_errors(h, windows, rebuild, biases + Y, row, t_ok, Y, C, BY, BC, PRECISION)
    tl.store(squares + (window * TILES + tile) * BC + c, found)


@triton.jit
def close_window(squares, counters, scale, anomaly, window, T: tl.constexpr, C: tl.constexpr,
                 FEATURES: tl.constexpr, BC: tl.constexpr, TILES: tl.constexpr,
                 PROGRAMS: tl.constexpr):
    """Add up a window's anomaly in the last of its programs to come here."""
    tl.debug_barrier()
    if tl.atomic_add(counters + 2 * window + 1, 1, sem='acq_rel') == PROGRAMS - 1:
        total = tl.zeros((BC,), tl.float32)
        at = squares + window * TILES * BC + tl.arange(0, BC)
        for tile in range(TILES):
            total += tl.load(at + tile * BC, cache_modifier='.cg')
        store_anomaly(total, scale, anomaly + window * FEATURES, T, C, FEATURES, BC)
        tl.store(counters + 2 * window, 0)  # everybody is past them: ready for the next launch
        tl.store(counters + 2 * window + 1, 0)


@triton.jit(do_not_specialize=['first', 'last', 'batch'])
def window_kernel(windows, gates, codes, factors, vectors, ends, work, counters, scores,
                  embedding, first, last, batch, KINDS: tl.constexpr, BLOCKS: tl.constexpr,
                  T: tl.constexpr, D: tl.constexpr, S: tl.constexpr, J: tl.constexpr,
                  E: tl.constexpr, C: tl.constexpr, K: tl.constexpr, Y: tl.constexpr,
                  FEATURES: tl.constexpr, RANK: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr,
                  BT: tl.constexpr, BC: tl.constexpr, BY: tl.constexpr, PERSISTENT: tl.constexpr,
                  PRECISION: tl.constexpr, ASM: tl.constexpr):
    """Take BM tokens of one window through the stages first..last - 1."""
    tile, window = tl.program_id(0), tl.program_id(1)
    half: tl.constexpr = D // 2
    TILES: tl.constexpr = (T + BM - 1) // BM
    t, d = tile * BM + tl.arange(0, BM), tl.arange(0, half)
    t_ok = t < T
    row, ok = window * T + t, t_ok[:, None]
    opened = tl.load(gates + row, mask=t_ok, other=0) != 0

    tokens = batch * T
    x = work + row[:, None] * D + d[None, :]
    room = work + tokens * D + window * T * D
    inner, inner_size = work + 2 * tokens * D + window * T * 3 * D, tokens * 3 * D
    squares = work + 8 * tokens * D
    cos, sin = ends, ends + T * E // 2
    matrix = ends + T * E                     # of the embedding
    norm = matrix + C * D + D
    head = norm + 2 * D
    rebuild = head + D * Y

    for stage in range(first, last):
        if stage == 0:
            x0 = embed(windows, matrix, norm - D, row, t_ok, d, d < D, C, D, BC, PRECISION)
            x1 = embed(windows, matrix, norm - D, row, t_ok, half + d, d < D, C, D, BC, PRECISION)
        else:
            x0, x1 = tl.load(x, mask=ok, other=0.0), tl.load(x + half, mask=ok, other=0.0)
            block = stage - 1
            weights = vectors + block * (18 * D + 3 * S + 16 + J * D)
            m0, m1 = mixed(inner + (block & 1) * inner_size, room, weights + 17 * D + 3 * S + 16,
                           t, t_ok, (KINDS >> block) & 1, T, D, J, E, BM, BT)
            at = codes + block * (2 * D * D + S * D)
            low_rank = factors + block * (11 * D + 3 * S) * RANK
            x0, x1 = add_outer(x0, x1, m0, m1, at, low_rank, weights, opened, D, S, RANK, BM, ASM)
            s0, s1, u = hidden_sums(x0, x1, at, low_rank, weights, opened, 0, S // 2, D, S, RANK,
                                    BM, BH, ASM)
            x0, x1 = add_down(x0, x1, s0, s1, u, low_rank, weights, opened, D, S, RANK)
        if stage < BLOCKS:
            tl.store(x, x0, mask=ok)
            tl.store(x + half, x1, mask=ok)
            store_inner(x0, x1, inner + (stage & 1) * inner_size,
                        codes + stage * (2 * D * D + S * D),
                        factors + stage * (11 * D + 3 * S) * RANK,
                        vectors + stage * (18 * D + 3 * S + 16 + J * D), cos, sin, opened, t,
                        t_ok, (KINDS >> stage) & 1, 0, D, S, E, RANK, BM, 1, ASM)
            if PERSISTENT:
                meet(counters + 2 * window, TILES * (stage + 1))
            else:  # a program alone: its threads read what others of them have stored
                tl.debug_barrier()
        else:
            offset = scores + tokens * K
            read_tile(x0, x1, windows, head, rebuild, rebuild + Y * C, norm, squares, scores,
                      offset, embedding, window, tile, t, t_ok, T, D, C, K, Y, BM, BC, BY, TILES,
                      PRECISION)
            close_window(squares, counters, rebuild + Y * C + Y + C, offset + tokens, window, T,
                         C, FEATURES, BC, TILES, TILES)


def window_launches(windows: Tensor, gates: Tensor, weights: WindowWeights, ends: Tensor,
                    scores: Tensor, embedding: Tensor, constants: dict[str, int],
                    persistent: bool, block_m: int = 16, block_h: int = 64, warps: int = 8,
                    stages: int = 3, precision: str = 'tf32x3') -> list[Launch]:
    """Return the launch of a batch, or one a stage, with buffers of their own to work in.

    ``constants`` are BLOCKS, T, E, C, K, Y and FEATURES; ``scores`` holds probability, offset and
    anomaly one behind the other. Raise ValueError for sizes that the kernel cannot take.
    """
    width, hidden, tokens = weights.width, weights.hidden, constants['T']
    check_sizes(width, hidden, constants['E'], block_h)
    batch, tiles = len(gates) // tokens, ceil_div(tokens, block_m)
    fixed = {**fixed_constants(weights, constants, block_m, block_h, precision),
             'PERSISTENT': persistent and tiles > 1, 'ASM': not interpreted()}
    place = embedding.device
    work = torch.empty(8 * batch * tokens * width + batch * tiles * fixed['BC'], device=place)
    arguments = {
        'windows': windows, 'gates': gates, 'codes': weights.codes, 'factors': weights.factors,
        'vectors': weights.vectors, 'ends': ends, 'work': work, 'scores': scores,
        'counters': torch.zeros(2 * batch, dtype=torch.int32, device=place),
        'embedding': embedding, 'batch': batch}
    count = constants['BLOCKS'] + 1
    steps = [(0, count)] if persistent else [(i, i + 1) for i in range(count)]
    return [Launch(window_kernel, (tiles, batch), {**arguments, 'first': first, 'last': last},
                   fixed, warps, stages) for first, last in steps]


def fixed_constants(weights: WindowWeights, constants: dict[str, int], block_m: int, block_h: int,
                    precision: str) -> dict:
    """Return what kernels of a window know of a network when they are compiled."""
    power = triton.next_power_of_2
    return {**constants, 'KINDS': weights.kinds, 'D': weights.width, 'S': weights.hidden,
            'J': weights.taps, 'RANK': weights.rank, 'BM': block_m, 'BH': block_h,
            'BT': max(power(constants['T']), 16), 'BC': max(power(constants['C']), 16),
            'BY': max(power(constants['Y']), 16), 'PRECISION': precision}


def check_sizes(width: int, hidden: int, head: int, block_h: int) -> None:
    """Raise ValueError naming what the kernel of a window cannot take."""
    half = width // 2
    if half < 32 or half & (half - 1) or width % 2:
        raise ValueError(f'width: {width} is not a power of two from 64')
    if hidden // 2 % block_h or hidden % 2:
        raise ValueError(f'hidden width: {hidden} is no multiple of {2 * block_h}')
    if head < 16 or head & (head - 1):
        raise ValueError(f'size of a head: {head} is not a power of two from 16')
