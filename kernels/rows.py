"""How kernels read rows of activations: half-block by half-block, normed, rounded, low-rank.

Half-blocks and K blocks are those of layout.py: H inputs of one group of scales, padded with zeros.
"""

from __future__ import annotations

import triton
import triton.language as tl

from taolora_ros.kernels.int4 import round_clamp, shared_dot, shared_rows

EPS = tl.constexpr(1e-5)  # of the norm, as in torch
WHOLE = tl.constexpr(128)  # numbers of a row that are loaded at once


@triton.jit
def load_half(x, row, row_ok, h, K: tl.constexpr, GROUPS: tl.constexpr, H: tl.constexpr):
    """Load the numbers (BM, H) of half-block h; return them, their k (H,) and which exist."""
    size: tl.constexpr = K // GROUPS
    padded: tl.constexpr = (size + H - 1) // H * H
    group = h * H // padded
    within = h * H - group * padded + tl.arange(0, H)
    k = group * size + within
    k_ok = (within < size) & (k < K)  # the last half-block may lie behind the last group
    value = tl.load(x + row[:, None] * K + k[None, :], mask=row_ok[:, None] & k_ok[None, :],
                    other=0.0)
    return value.to(tl.float32), k, k_ok


@triton.jit
def norm_statistics(x, row, row_ok, K: tl.constexpr, H: tl.constexpr, BM: tl.constexpr):
    """Return mean and 1 / deviation of rows of K numbers, (BM,) each."""
    if K <= WHOLE:
        k = tl.arange(0, WHOLE)[None, :]
        ok = row_ok[:, None] & (k < K)
        value = tl.load(x + row[:, None] * K + k, mask=ok, other=0.0).to(tl.float32)
        mean = tl.sum(value, 1) / K
        away = tl.where(k < K, value - mean[:, None], 0.0)
        squares = tl.sum(away * away, 1)
    else:
        halves: tl.constexpr = (K + H - 1) // H
        total = tl.zeros((BM,), tl.float32)
        for h in range(halves):
            value, _, _ = load_half(x, row, row_ok, h, K, 1, H)
            total += tl.sum(value, 1)
        mean = total / K
        squares = tl.zeros((BM,), tl.float32)
        for h in range(halves):
            value, _, k_ok = load_half(x, row, row_ok, h, K, 1, H)
            away = tl.where(k_ok[None, :], value - mean[:, None], 0.0)
            squares += tl.sum(away * away, 1)
    return mean, 1.0 / tl.sqrt(squares / K + EPS)


@triton.jit
def quantized_half(x, vectors, row, row_ok, mean, rstd, h, K: tl.constexpr, GROUPS: tl.constexpr,
                   H: tl.constexpr, NORM: tl.constexpr, ZERO: tl.constexpr):
    """Return half-block h of V, of V - Q4(V), both float32, and of the codes, int8: (BM, H)."""
    value, k, k_ok = load_half(x, row, row_ok, h, K, GROUPS, H)
    if NORM:
        weight = tl.load(vectors + K + k, mask=k_ok, other=0.0)
        bias = tl.load(vectors + 2 * K + k, mask=k_ok, other=0.0)
        value = (value - mean[:, None]) * rstd[:, None] * weight[None, :] + bias[None, :]
    inverse = tl.load(vectors + k, mask=k_ok, other=1.0)
    rounded, code = round_clamp(value * inverse[None, :], ZERO)
    dropped = value - rounded * (1.0 / inverse)[None, :]
    return value, dropped, code


@triton.jit
def factors_at(a, K: tl.constexpr, second, RANK: tl.constexpr, PARTS: tl.constexpr):
    """Return K rows of A from a on: those for V - Q4(V) and, ``second`` rows further, for V.

    They are (K / 16, 16, R) each; with one of the PARTS both are the same.
    """
    at = a + shared_rows(K, RANK)
    return tl.load(at), tl.load(at + (PARTS - 1) * second * RANK)


@triton.jit
def add_low_rank(u, value, dropped, factors, PARTS: tl.constexpr):
    """Add to u (K / 16, BM, R) the products of numbers (BM, K) with ``factors_at`` them."""
    if PARTS == 2:
        u = shared_dot(dropped, factors[0], u)
    return shared_dot(value, factors[1], u)
