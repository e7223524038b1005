"""A whole network for a window in one kernel, or in one launch a stage.

Between two mixers everything belongs to a token: the mixer's outer layer, the MLP, the next inner
layer. So a window is cut into tiles of BM tokens, each program takes one tile through a stage, and
only between stages do the programs of a window wait for each other:

    stage 0       patches -> X;                                norm, inner of block 0 -> I
    stage 1..     I, X: mix, outer, norm, up, GELU, down -> X; norm, inner of the next block -> I
    last stage    the same, and then the heads

I (2, B T, 3 D) is read by all of a window's programs: its two halves take turns, so that nobody
overwrites what a slower one still reads. X (B T, D) belongs to the program that made it.

A TEAM of programs may share a tile: all of them mix its tokens and make its outer layer, each makes
its share of the hidden numbers and takes them through the MLP's second layer; what they have then
is added up (`added_up`), and each makes its share of the next inner layer.

With PERSISTENT one launch runs all stages, X stays in registers, and programs wait by counters: two
for each window, and one for each tile. That is sound only when all of them are on the GPU at once,
so no other kernel that waits may run there on another stream. Otherwise it is one launch a stage,
without teams.

Moved at least: the weights once (they stay in the L2 cache); 4 B T (C + K + 1 + D) bytes at both
ends; between stages, within the L2 cache, 4 B T 3 D bytes and as often 4 B T 2 D as there are
programs (attention), or the taps reach (convolution); of a team 4 B T (D + R) from each member to
each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.heads import (close_window, load_rebuilding, rebuild_errors,
                                       store_scores)
from taolora_ros.kernels.int4 import fine_product, wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div, interpreted
from taolora_ros.kernels.patches import embed, load_embedding, load_patches
from taolora_ros.kernels.operands import (load_down_outs, load_hidden, load_inner, load_norm,
                                          load_outer, load_up)
from taolora_ros.kernels.tile import (add_layer, add_outer, arrive, hidden_sums, mixed, normed,
                                      store_inner, wait_for)
from taolora_ros.kernels.window_layout import WindowWeights, check_tiles


@triton.jit
def read_tile(x, windows, head, rebuild, biases, norm, squares, probability, offset,
              embedding, window, tile, t, t_ok, T: tl.constexpr, D: tl.constexpr,
              C: tl.constexpr, K: tl.constexpr, Y: tl.constexpr, BC: tl.constexpr,
              BY: tl.constexpr, TILES: tl.constexpr, PRECISION: tl.constexpr):
    """Store what is read off a tile, and its squared errors."""
    row, d, y, c = window * T + t, tl.arange(0, D), tl.arange(0, BY), tl.arange(0, BC)
    weights = tl.load(head + d[:, None] * Y + y[None, :], mask=(y < Y)[None, :], other=0.0)
    bias = tl.load(biases + y, mask=y < Y, other=0.0)
    matrix, bias2 = load_rebuilding(rebuild, biases + Y, Y, C, BY, BC)
    patches = load_patches(windows, row, t_ok, C, BC)
    v = normed(x, load_norm(norm, D), D)
    tl.store(embedding + row[:, None] * D + d[None, :], v, mask=t_ok[:, None])
    h = fine_product(v, weights) + bias[None, :]
    store_scores(h, probability, offset, row, t_ok, K, BY)
    found = rebuild_errors(h, patches, matrix, bias2, t_ok, PRECISION)
    tl.store(squares + (window * TILES + tile) * BC + c, found)


@triton.jit
def added_up(first, second, u, parts, member, arrived, goal, D: tl.constexpr, BM: tl.constexpr,
             RANK: tl.constexpr, TEAM: tl.constexpr):
    """Return sums and U of all members of a team, always added in the same order.

    ``parts`` are (TEAM, BM, D + RANK) of the tile; it waits until ``goal`` members have come.
    """
    size: tl.constexpr = BM * (D + RANK)
    i, half = tl.arange(0, BM)[:, None], tl.arange(0, D // 2)[None, :]
    at, at_u = parts + i * D + half, parts + BM * D + i * RANK + tl.arange(0, RANK)[None, :]
    tl.store(at + member * size, first.to(tl.float32, bitcast=True))
    tl.store(at + member * size + D // 2, second.to(tl.float32, bitcast=True))
    tl.store(at_u + member * size, u)
    arrive(arrived)
    wait_for(arrived, goal)
    first, second, u = tl.zeros_like(first), tl.zeros_like(second), tl.zeros_like(u)
    for other in range(TEAM):  # a loop: LLVM puts all loads in front, unrolled by Triton none
        more = tl.load(at + other * size, cache_modifier='.cg')
        first += more.to(tl.int32, bitcast=True)
        more = tl.load(at + other * size + D // 2, cache_modifier='.cg')
        second += more.to(tl.int32, bitcast=True)
        u += tl.load(at_u + other * size, cache_modifier='.cg')
    return first, second, u


@triton.jit(do_not_specialize=['begin', 'end', 'batch'])
def window_kernel(windows, gates, codes, factors, vectors, ends, work, counters, scores,
                  embedding, begin, end, batch, KINDS: tl.constexpr, BLOCKS: tl.constexpr,
                  T: tl.constexpr, D: tl.constexpr, S: tl.constexpr, J: tl.constexpr,
                  E: tl.constexpr, C: tl.constexpr, K: tl.constexpr, Y: tl.constexpr,
                  FEATURES: tl.constexpr, RANK: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr,
                  BT: tl.constexpr, BC: tl.constexpr, BY: tl.constexpr, BF: tl.constexpr,
                  TEAM: tl.constexpr, PERSISTENT: tl.constexpr, PRECISION: tl.constexpr,
                  ASM: tl.constexpr, EARLY: tl.constexpr = False):
    """Take BM tokens of one window through the stages begin..end - 1."""
    member, tile, window = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    TILES: tl.constexpr = (T + BM - 1) // BM
    wait_for_previous(EARLY)
    t, d = tile * BM + tl.arange(0, BM), tl.arange(0, D)
    t_ok = t < T
    row, ok = window * T + t, t_ok[:, None]
    opened = tl.load(gates + row, mask=t_ok, other=0) != 0

    tokens = batch * T
    kept = work + row[:, None] * D + d[None, :]
    inner, inner_size = work + tokens * D + window * T * 3 * D, tokens * 3 * D
    squares = work + 7 * tokens * D
    parts = squares + batch * TILES * BC + (window * TILES + tile) * TEAM * BM * (D + RANK)
    team = counters + 2 * batch + window * TILES + tile
    cos, sin = ends, ends + T * E // 2
    matrix = ends + T * E                     # of the embedding
    norm = matrix + C * D + D
    head = norm + 2 * D
    rebuild = head + D * Y

    x = tl.zeros((BM, D), tl.float32)
    for stage in range(begin, end):
        # What is loaded here and never used, behind the last block, is of that block again.
        block, after = tl.maximum(stage - 1, 0), tl.minimum(stage, BLOCKS - 1)
        next_at = codes + after * (2 * D * D + S * D)
        next_factors = factors + after * (11 * D + 3 * S) * RANK
        next_vectors = vectors + after * (18 * D + 3 * S + 16 + J * D)
        if stage == 0:
            next_norm, next_given = load_inner(next_factors, next_vectors, D, RANK)
            x = embed(load_patches(windows, row, t_ok, C, BC),
                      load_embedding(matrix, norm - D, d, d < D, C, D, BC), PRECISION)
        else:
            if not PERSISTENT:
                x = tl.load(kept, mask=ok, other=0.0)
            at = codes + block * (2 * D * D + S * D)
            low_rank = factors + block * (11 * D + 3 * S) * RANK
            weights = vectors + block * (18 * D + 3 * S + 16 + J * D)
            given, packed, outs = load_outer(at, low_rank, weights, D, S, RANK)
            if PERSISTENT:
                wait_for(counters + 2 * window, TEAM * TILES * stage)
            m = mixed(inner + (block & 1) * inner_size, weights + 17 * D + 3 * S + 16, t, t_ok,
                      (KINDS >> block) & 1, T, D, J, E, BM, BT)
            up = load_up(low_rank, weights, D, RANK)
            hidden = load_hidden(member * (S // TEAM), at, low_rank, weights, D, S, RANK, BH)
            x = add_outer(x, m, given, packed, outs, opened, ASM)
            first, second, u = hidden_sums(x, member, up, hidden, at, low_rank, weights, opened,
                                           D, S, RANK, BM, BH, TEAM, ASM)
            outs = load_down_outs(low_rank, weights, D, S, RANK)
            next_norm, next_given = load_inner(next_factors, next_vectors, D, RANK)
            if TEAM > 1:
                # Only the first one reads off the last tokens: the others need not wait.
                goal = tl.where((stage < BLOCKS) | (member == 0), TEAM * stage, 0)
                first, second, u = added_up(first, second, u, parts, member, team, goal, D, BM,
                                            RANK, TEAM)
            x = add_layer(x, first, second, u, outs, opened)
        if stage < BLOCKS:
            store_inner(x, member, inner + (stage & 1) * inner_size, next_norm, next_given,
                        next_at, next_factors, next_vectors, cos, sin, opened, t, t_ok,
                        (KINDS >> stage) & 1, D, S, E, RANK, BM, TEAM, ASM)
            if PERSISTENT:
                arrive(counters + 2 * window)
            else:
                tl.store(kept, x, mask=ok)
                tl.debug_barrier()  # a program alone: its threads read what others have stored
        elif member == 0:
            if TEAM > 1:
                tl.store(team, 0)  # all have come: ready for the next launch
            offset = scores + tokens * K
            read_tile(x, windows, head, rebuild, rebuild + Y * C, norm, squares, scores,
                      offset, embedding, window, tile, t, t_ok, T, D, C, K, Y, BC, BY, TILES,
                      PRECISION)
            close_window(squares, counters, rebuild + Y * C + Y + C, offset + tokens, window, T,
                         C, FEATURES, BC, BF, TILES)


def window_launches(windows: Tensor, gates: Tensor, weights: WindowWeights, ends: Tensor,
                    scores: Tensor, embedding: Tensor, constants: dict[str, int],
                    persistent: bool, team: int = 1, block_m: int = 16, warps: int = 8,
                    stages: int = 2, precision: str = 'tf32x3') -> list[Launch]:
    """Return the launch of a batch, or one a stage, with buffers of their own to work in.

    ``constants`` are BLOCKS, T, E, C, K, Y and FEATURES; ``scores`` holds probability, offset and
    anomaly one behind the other. Raise ValueError for sizes that the kernel cannot take.
    """
    width, tokens = weights.width, constants['T']
    check_tiles(weights.width, block_m)
    if weights.hidden % (2 * weights.pairs * team):
        raise ValueError(f'team: {team} programs cannot share {weights.hidden} hidden numbers, '
                         f'made {2 * weights.pairs} at a time')
    batch, tiles, power = len(gates) // tokens, ceil_div(tokens, block_m), triton.next_power_of_2
    size, columns = power(constants['C']), power(constants['Y'])
    fixed = {**constants, 'KINDS': weights.kinds, 'D': width, 'S': weights.hidden,
             'J': weights.taps, 'RANK': weights.rank, 'BM': block_m, 'BH': weights.pairs,
             'BT': max(power(tokens), 16), 'BC': max(size, 16), 'BY': max(columns, 16),
             'BF': power(constants['FEATURES']),
             'TEAM': team, 'PERSISTENT': persistent and team * tiles > 1,
             'PRECISION': precision, 'ASM': not interpreted()}
    place = embedding.device
    parts = team * block_m * (width + weights.rank)
    work = torch.empty(7 * batch * tokens * width + batch * tiles * (fixed['BC'] + parts),
                       device=place)
    arguments = {
        'windows': windows, 'gates': gates, 'codes': weights.codes, 'factors': weights.factors,
        'vectors': weights.vectors, 'ends': ends, 'work': work, 'scores': scores,
        'counters': torch.zeros((2 + tiles) * batch, dtype=torch.int32, device=place),
        'embedding': embedding, 'batch': batch}
    count = constants['BLOCKS'] + 1
    steps = [(0, count)] if persistent else [(i, i + 1) for i in range(count)]
    return [Launch(window_kernel, (team, tiles, batch),
                   {**arguments, 'begin': begin, 'end': end}, fixed, warps, stages)
            for begin, end in steps]
