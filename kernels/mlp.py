"""The MLP of a block in one kernel: up, GELU, down and residual, the hidden layer never stored.

    X += down(gelu(up(norm X)))        each layer with its gated LoRA, as in linear.py; X (M, D)

A tile of BM rows has SHARES programs. Each makes its share of the hidden numbers and what these
add to the sums of the second layer, exact integers, and to its U. The last one to arrive adds all
of them in their order, so that results do not depend on which that was. Weights as in
window_layout.py: those of one block.

Moved at least: S D bytes of codes, 2 R (3 D + 3 S) of factors, 4 M D twice, and within the L2
cache 4 M (D + R) SHARES twice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.int4 import wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div, interpreted
from taolora_ros.kernels.tile import add_down, hidden_sums
from taolora_ros.kernels.window_layout import WindowWeights, check_tiles


@triton.jit(do_not_specialize=['rows'])
def mlp_kernel(x, codes, factors, vectors, gate, sums, low, arrived, rows, D: tl.constexpr,
               S: tl.constexpr, RANK: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr,
               SHARES: tl.constexpr, ASM: tl.constexpr, EARLY: tl.constexpr = False):
    """Add the MLP to BM rows of X, or leave a share of it."""
    wait_for_previous(EARLY)
    half: tl.constexpr = D // 2
    share, tile = tl.program_id(0), tl.program_id(1)
    i, n, r = tl.arange(0, BM), tl.arange(0, half), tl.arange(0, RANK)
    row = tile * BM + i
    row_ok = row < rows
    at, ok = x + row[:, None] * D + tl.arange(0, D)[None, :], row_ok[:, None]
    opened = tl.load(gate + row, mask=row_ok, other=0) != 0
    value = tl.load(at, mask=ok, other=0.0)
    each: tl.constexpr = S // SHARES
    first, second, u = hidden_sums(value, codes, factors, vectors, opened, share * each,
                                   share * each + each, D, S, RANK, BM, BH, ASM)
    sum_at = sums + tile * SHARES * BM * D + i[:, None] * half + n[None, :]
    u_at = low + tile * SHARES * BM * RANK + i[:, None] * RANK + r[None, :]
    tl.store(sum_at + share * BM * D, first)
    tl.store(sum_at + share * BM * D + BM * half, second)
    tl.store(u_at + share * BM * RANK, u)
    tl.debug_barrier()
    if tl.atomic_add(arrived + tile, 1, sem='acq_rel') == SHARES - 1:
        tl.store(arrived + tile, 0)  # ready for the next launch
        first = tl.zeros((BM, half), tl.int32)
        second = tl.zeros((BM, half), tl.int32)
        u = tl.zeros((BM, RANK), tl.float32)
        for part in tl.static_range(SHARES):  # past the first-level cache: others wrote them
            first += tl.load(sum_at + part * BM * D, cache_modifier='.cg')
            second += tl.load(sum_at + part * BM * D + BM * half, cache_modifier='.cg')
            u += tl.load(u_at + part * BM * RANK, cache_modifier='.cg')
        tl.store(at, add_down(value, first, second, u, factors, vectors, opened, D, S, RANK),
                 mask=ok)


def mlp_launch(x: Tensor, weights: WindowWeights, block: int, gate: Tensor, block_m: int = 16,
               warps: int = 4, stages: int = 2) -> Launch:
    """Return the launch of a block's MLP on X (M, D), in place; ``gate`` (M,) uint8.

    There are as many shares as ``weights.pairs`` makes parts of the hidden layer. Raise ValueError
    for tiles that the kernel cannot take.
    """
    check_tiles(weights.width, block_m)
    width, hidden, place = weights.width, weights.hidden, x.device
    tiles, shares = ceil_div(len(x), block_m), hidden // (2 * weights.pairs)
    codes, factors, vectors = weights.of_block(block)
    return Launch(mlp_kernel, (shares, tiles), {
        'x': x, 'codes': codes, 'factors': factors, 'vectors': vectors, 'gate': gate,
        'sums': torch.empty(tiles * shares * block_m * width, dtype=torch.int32, device=place),
        'low': torch.empty(tiles * shares * block_m * weights.rank, device=place),
        'arrived': torch.zeros(tiles, dtype=torch.int32, device=place), 'rows': len(x)}, {
        'D': width, 'S': hidden, 'RANK': weights.rank, 'BM': block_m, 'BH': weights.pairs,
        'SHARES': shares, 'ASM': not interpreted()}, warps, stages)
