"""How a tile of a layer walks over K blocks: both integer products and the low-rank ones.

K blocks, tiles of weights and of A are those of layout.py. Integer sums are of 16 times the weights
until the end, see int4.py. A narrow tile of a single K block loads and unpacks what it multiplies
by before the kernel in front has ended (`only_block`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from taolora_ros.kernels.int4 import add_up, nibbles, scaled
from taolora_ros.kernels.rows import (add_low_rank, factors_at, half_vectors, load_block,
                                      load_half, norm_statistics, quantized_half,
                                      row_statistics, statistics)


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
    return total, add_up(u)


@triton.jit
def load_block_weights(codes, a, vectors, code_at, block, K: tl.constexpr, RANK: tl.constexpr,
                       PARTS: tl.constexpr, H: tl.constexpr, CODE_STEP: tl.constexpr,
                       A_STEP: tl.constexpr, NORM: tl.constexpr, ASM: tl.constexpr):
    """Return a K block's weights (2 H, BN), 16 times them, A's rows, and `half_vectors` (2 H,).

    A's rows for V - Q4(V) and for V are (4, H / 2, R) each: each warp multiplies other ones.
    """
    k = 2 * block * H + tl.arange(0, 2 * H)
    inverse, weight, bias = half_vectors(vectors, k, k < K, K, NORM)
    low, high = nibbles(tl.load(codes + block * CODE_STEP + code_at).to(tl.int8, bitcast=True),
                        ASM)
    both = tl.permute(tl.join(low, high), (2, 0, 1))
    weights = tl.reshape(both, (2 * H, low.shape[1]))
    share, k, r = tl.arange(0, 4), tl.arange(0, H // 2), tl.arange(0, RANK)
    at = (share[:, None, None] * (H // 2) + k[None, :, None]) * RANK + r[None, None, :]
    at += block * A_STEP
    a_value = tl.load(a + at + (PARTS - 1) * 2 * H * RANK)
    a_dropped = a_value
    if PARTS == 2:
        a_dropped = tl.load(a + at)
    return weights, a_dropped, a_value, inverse, weight, bias


@triton.jit
def in_shares(x):
    """Return numbers (BM, BK) as (4, BM, BK / 4), in float16."""
    x = tl.reshape(x.to(tl.float16), (x.shape[0], 4, x.shape[1] // 4))
    return tl.permute(x, (1, 0, 2))


@triton.jit
def only_block(x, held, row, row_ok, block, K: tl.constexpr, RANK: tl.constexpr,
               PARTS: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, NORM: tl.constexpr,
               ZERO: tl.constexpr):
    """Return the sums (BM, BN) of a K block, and U (BM, R).

    ``held`` is what `load_block_weights` gave; scales have one group.
    """
    k = 2 * block * H + tl.arange(0, 2 * H)
    k_ok = k < K
    value = load_half(x, row, row_ok, k, k_ok, K)
    mean, rstd = tl.zeros((BM,), tl.float32), tl.zeros((BM,), tl.float32)
    if NORM and K > 2 * H:
        mean, rstd = norm_statistics(x, row, row_ok, K, H, BM)
    elif NORM:
        mean, rstd = row_statistics(value, k_ok, K)
    value, dropped, code = quantized_half(value, held[3], held[4], held[5], mean, rstd, NORM,
                                          ZERO)
    sums = tl.dot(code, held[0], out_dtype=tl.int32)
    u = tl.zeros((4, BM, RANK), tl.float32)
    if PARTS == 2:
        u = tl.dot(in_shares(dropped), held[1], u)
    u = tl.dot(in_shares(value), held[2], u)
    return (sums >> 4).to(tl.float32), add_up(u)


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
