"""How a tile of a layer walks over K blocks: both integer products and the low-rank ones.

K blocks, tiles of weights and of A are those of layout.py. Integer sums are of 16 times the weights
until the end, see int4.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from taolora_ros.kernels.int4 import nibbles, scaled
from taolora_ros.kernels.rows import (add_low_rank, factors_at, load_block, quantized_half,
                                      statistics)


@triton.jit
def group_scale(scales, group, n, N: tl.constexpr, GROUPS: tl.constexpr):
    """Load the scales (BN,) of outputs n for a group of inputs."""
    at = group * N + n
    return tl.load(scales + at, mask=(n < N) & (at < GROUPS * N), other=0.0)


@triton.jit
def walk(x, codes, a, vectors, row, row_ok, n, code_at, first, last, K: tl.constexpr,
         N: tl.constexpr, GROUPS: tl.constexpr, RANK: tl.constexpr, PARTS: tl.constexpr,
         H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CODE_STEP: tl.constexpr,
         A_STEP: tl.constexpr, NORM: tl.constexpr, ZERO: tl.constexpr, LORA: tl.constexpr,
         SHIFT: tl.constexpr, ASM: tl.constexpr):
    """Walk over K blocks; return the sums (BM, BN), scaled if there are groups, and U (BM, R)."""
    padded: tl.constexpr = (K // GROUPS + H - 1) // H * H
    scales = vectors + K * (3 if NORM else 1)
    total = tl.zeros((BM, BN), tl.float32)
    sums = tl.zeros((BM, BN), tl.int32)
    u = tl.zeros((H // 16, BM, RANK), tl.float32)
    x0, i0, w0, b0, x1, i1, w1, b1 = load_block(x, vectors, row, row_ok, first, last, K, GROUPS, H,
                                                NORM)
    mean, rstd = statistics(x, row, row_ok, x0, x1, K, GROUPS, H, BM, NORM)
    for block in range(first, last):
        later = load_block(x, vectors, row, row_ok, block + 1, last, K, GROUPS, H, NORM)
        v0, d0, q0 = quantized_half(x0, i0, w0, b0, mean, rstd, NORM, ZERO)
        v1, d1, q1 = quantized_half(x1, i1, w1, b1, mean, rstd, NORM, ZERO)
        x0, i0, w0, b0, x1, i1, w1, b1 = later
        packed = tl.load(codes + block * CODE_STEP + code_at).to(tl.int8, bitcast=True)
        low, high = nibbles(packed, ASM)
        if GROUPS == 1:
            sums = tl.dot(q0, low, sums, out_dtype=tl.int32)
            sums = tl.dot(q1, high, sums, out_dtype=tl.int32)
        else:
            zero = tl.zeros((BM, BN), tl.int32)
            for side in tl.static_range(2):
                part = tl.dot(q1 if side else q0, high if side else low, zero, out_dtype=tl.int32)
                scale = group_scale(scales, (2 * block + side) * H // padded, n, N, GROUPS)
                total += scaled((part >> 4).to(tl.float32), scale[None, :], SHIFT)
        if LORA:
            start = a + block * A_STEP
            second = start + H * RANK
            u = add_low_rank(u, v0, d0, factors_at(start, H, 2 * H, RANK, PARTS), PARTS)
            u = add_low_rank(u, v1, d1, factors_at(second, H, 2 * H, RANK, PARTS), PARTS)
    if GROUPS == 1:
        total = (sums >> 4).to(tl.float32)
    return total, tl.sum(u, 0)


@triton.jit
def walk_ready(x, codes, vectors, row, row_ok, n, code_at, first, last, K: tl.constexpr,
               N: tl.constexpr, GROUPS: tl.constexpr, H: tl.constexpr, BM: tl.constexpr,
               BN: tl.constexpr, CODE_STEP: tl.constexpr, NORM: tl.constexpr, SHIFT: tl.constexpr,
               ASM: tl.constexpr):
    """Walk over K blocks of codes that are there; return the sums (BM, BN), scaled if groups.

    The product is made the other way round, weights first: so they go to the tensor cores of sm_90
    from registers, where they were unpacked, and X from shared memory, as it came.
    """
    padded: tl.constexpr = (K // GROUPS + H - 1) // H * H
    padded_k: tl.constexpr = (GROUPS * padded + 2 * H - 1) // (2 * H) * 2 * H
    scales = vectors + K * (3 if NORM else 1)
    total = tl.zeros((BN, BM), tl.float32)
    sums = tl.zeros((BN, BM), tl.int32)
    q_at = x + row[None, :] * padded_k + tl.arange(0, H)[:, None]
    for block in range(first, last):
        q0 = tl.load(q_at + 2 * block * H, mask=row_ok[None, :], other=0)
        q1 = tl.load(q_at + 2 * block * H + H, mask=row_ok[None, :], other=0)
        packed = tl.load(codes + block * CODE_STEP + tl.trans(code_at)).to(tl.int8, bitcast=True)
        low, high = nibbles(packed, ASM)
        if GROUPS == 1:
            sums = tl.dot(low, q0, sums, out_dtype=tl.int32)
            sums = tl.dot(high, q1, sums, out_dtype=tl.int32)
        else:
            zero = tl.zeros((BN, BM), tl.int32)
            for side in tl.static_range(2):
                part = tl.dot(high if side else low, q1 if side else q0, zero, out_dtype=tl.int32)
                scale = group_scale(scales, (2 * block + side) * H // padded, n, N, GROUPS)
                total += scaled((part >> 4).to(tl.float32), scale[:, None], SHIFT)
    if GROUPS == 1:
        total = (sums >> 4).to(tl.float32)
    return tl.trans(total)
