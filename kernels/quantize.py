"""Quantise and pack activations, and take them through the low-rank A, without the product.

    codes (M, blocks, H) uint8, packed: low nibble the first half-block of a K block, high the
    second, each Q4(V) plus the zero point (8 where there is none), so that all are 0..15; or
    codes (M, blocks, 2, H) int8: Q4(V) itself, a byte each;
    U = [V - Q4(V), V] A, (shares, M, R) float32: the parts to add up;       V = norm X or X

For what needs them apart from the product: a product without tensor cores (gemv.py), one for many
rows (linear.py), a stream of its own for the transient path. A program takes BM rows and one of
SPLIT shares of the K blocks.

Moved at least: 4 M K + 4 K + M K / 2 (packing) or 2 parts K R + 4 M R SPLIT (low rank) bytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.int4 import wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div
from taolora_ros.kernels.layout import LayerWeights, half_blocks
from taolora_ros.kernels.rows import (add_low_rank, factors_at, load_block, quantized_half,
                                      statistics)
from taolora_ros.quantization import quantize_activation

NO_ZERO = 8  # added to symmetric codes, so that they are not negative


@triton.jit(do_not_specialize=['rows'])
def quantize_kernel(x, a, vectors, codes, u, rows, K: tl.constexpr, GROUPS: tl.constexpr,
                    RANK: tl.constexpr, PARTS: tl.constexpr, H: tl.constexpr, BM: tl.constexpr,
                    A_STEP: tl.constexpr, SPLIT: tl.constexpr, NORM: tl.constexpr,
                    ZERO: tl.constexpr, PACKED: tl.constexpr, EARLY: tl.constexpr = False):
    """Take BM rows through a share of the K blocks; None for codes or u leaves that out."""
    wait_for_previous(EARLY)
    tile, share = tl.program_id(0), tl.program_id(1)
    row = tile * BM + tl.arange(0, BM)
    row_ok = row < rows
    blocks: tl.constexpr = (GROUPS * ((K // GROUPS + H - 1) // H) + 1) // 2
    each: tl.constexpr = (blocks + SPLIT - 1) // SPLIT
    offset: tl.constexpr = 8 if ZERO < 0 else ZERO
    total = tl.zeros((H // 16, BM, RANK), tl.float32)
    k = tl.arange(0, H)
    first, last = share * each, tl.minimum(share * each + each, blocks)
    x0, i0, w0, b0, x1, i1, w1, b1 = load_block(x, vectors, row, row_ok, first, last, K, GROUPS, H,
                                                NORM)
    mean, rstd = statistics(x, row, row_ok, x0, x1, K, GROUPS, H, BM, NORM)
    for block in range(first, last):
        later = load_block(x, vectors, row, row_ok, block + 1, last, K, GROUPS, H, NORM)
        v0, d0, q0 = quantized_half(x0, i0, w0, b0, mean, rstd, NORM, ZERO)
        v1, d1, q1 = quantized_half(x1, i1, w1, b1, mean, rstd, NORM, ZERO)
        x0, i0, w0, b0, x1, i1, w1, b1 = later
        if codes is not None:
            at = row[:, None] * blocks * H + block * H
            if PACKED:
                packed = (q0 + offset) | ((q1 + offset) << 4)
                tl.store(codes + at + k[None, :], packed.to(tl.uint8, bitcast=True),
                         mask=row_ok[:, None])
            else:
                tl.store(codes + 2 * at + k[None, :], q0, mask=row_ok[:, None])
                tl.store(codes + 2 * at + H + k[None, :], q1, mask=row_ok[:, None])
        if u is not None:
            start = a + block * A_STEP
            total = add_low_rank(total, v0, d0, factors_at(start, H, 2 * H, RANK, PARTS), PARTS)
            total = add_low_rank(total, v1, d1,
                                 factors_at(start + H * RANK, H, 2 * H, RANK, PARTS), PARTS)
    if u is not None:
        r = tl.arange(0, RANK)
        tl.store(u + (share * rows + row[:, None]) * RANK + r[None, :], tl.sum(total, 0),
                 mask=row_ok[:, None])


def quantize_launch(x: Tensor, weights: LayerWeights, codes: Tensor | None, u: Tensor | None,
                    block_m: int = 16, warps: int = 4) -> Launch:
    """Return the launch into codes and u (shares, M, R), or one of them.

    Codes are (M, blocks * H) uint8 or (M, blocks * 2 H) int8.
    """
    split = 1 if u is None else len(u)
    kept = {name: value for name, value in weights.constants.items()
            if name not in ('N', 'NB', 'CODE_STEP', 'SHIFT')}
    return Launch(quantize_kernel, (ceil_div(len(x), block_m), split), {
        'x': x, 'a': weights.a, 'vectors': weights.vectors, 'codes': codes, 'u': u,
        'rows': len(x)}, {**kept, 'BM': block_m, 'SPLIT': split,
                          'PACKED': codes is None or codes.dtype == torch.uint8}, warps)


def quantize_reference(x: Tensor, x_inv: Tensor, x_zero: int | None, groups: int, half: int
                       ) -> Tensor:
    """Return codes (M, blocks * H) uint8 of V itself, without a norm."""
    offset = NO_ZERO if x_zero is None else x_zero
    q = quantize_activation(x, x_inv, x_zero)
    low, high = half_blocks(q.t(), groups, half).unbind(1)             # (blocks, H, M)
    packed = (low + offset).to(torch.uint8) | ((high + offset).to(torch.uint8) << 4)
    return packed.permute(2, 0, 1).reshape(len(x), -1)
