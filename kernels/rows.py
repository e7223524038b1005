"""How kernels read rows of activations: half-block by half-block, normed, rounded, low-rank.

Half-blocks and K blocks are those of layout.py: H inputs of one group of scales, padded with zeros.
"""

from __future__ import annotations

import triton
import triton.language as tl

from taolora_ros.kernels.int4 import round_clamp, shared_dot, shared_rows

EPS = tl.constexpr(1e-5)  # of the norm, as in torch


@triton.jit
def inputs_of(h, K: tl.constexpr, GROUPS: tl.constexpr, H: tl.constexpr):
    """Return the inputs k (H,) of half-block h, and which of them exist."""
    size: tl.constexpr = K // GROUPS
    padded: tl.constexpr = (size + H - 1) // H * H
    group = h * H // padded
    within = h * H - group * padded + tl.arange(0, H)
    k = group * size + within
    return k, (within < size) & (k < K)  # the last half-block may lie behind the last group


@triton.jit
def load_half(x, row, row_ok, k, k_ok, K: tl.constexpr):
    """Load the numbers (BM, H) of a half-block."""
    return tl.load(x + row[:, None] * K + k[None, :], mask=row_ok[:, None] & k_ok[None, :],
                   other=0.0).to(tl.float32)


@triton.jit
def load_block(x, vectors, row, row_ok, block, last, K: tl.constexpr, GROUPS: tl.constexpr,
               H: tl.constexpr, NORM: tl.constexpr):
    """Load the numbers of both half-blocks (BM, H) of a K block, and their `half_vectors`.

    From block ``last`` on the numbers are zeros. With this a loop loads a block ahead what it needs
    next: Triton would load it where it is used.
    """
    there = row_ok & (block < last)
    k0, k0_ok = inputs_of(2 * block, K, GROUPS, H)
    k1, k1_ok = inputs_of(2 * block + 1, K, GROUPS, H)
    x0 = load_half(x, row, there, k0, k0_ok, K)
    x1 = load_half(x, row, there, k1, k1_ok, K)
    inverse0, weight0, bias0 = half_vectors(vectors, k0, k0_ok, K, NORM)
    inverse1, weight1, bias1 = half_vectors(vectors, k1, k1_ok, K, NORM)
    return x0, inverse0, weight0, bias0, x1, inverse1, weight1, bias1


@triton.jit
def half_vectors(vectors, k, k_ok, K: tl.constexpr, NORM: tl.constexpr):
    """Return 1 / scale (H,) of inputs k and, with a norm, its weights and biases."""
    inverse = tl.load(vectors + k, mask=k_ok, other=1.0)
    weight, bias = inverse, inverse
    if NORM:
        weight = tl.load(vectors + K + k, mask=k_ok, other=0.0)
        bias = tl.load(vectors + 2 * K + k, mask=k_ok, other=0.0)
    return inverse, weight, bias


@triton.jit
def norm_statistics(x, row, row_ok, K: tl.constexpr, H: tl.constexpr, BM: tl.constexpr):
    """Return mean and 1 / deviation of rows of K numbers, (BM,) each."""
    halves: tl.constexpr = (K + H - 1) // H
    total = tl.zeros((BM,), tl.float32)
    for h in range(halves):
        k, k_ok = inputs_of(h, K, 1, H)
        total += tl.sum(load_half(x, row, row_ok, k, k_ok, K), 1)
    mean = total / K
    squares = tl.zeros((BM,), tl.float32)
    for h in range(halves):
        k, k_ok = inputs_of(h, K, 1, H)
        value = load_half(x, row, row_ok, k, k_ok, K)
        away = tl.where(k_ok[None, :], value - mean[:, None], 0.0)
        squares += tl.sum(away * away, 1)
    return mean, 1.0 / tl.sqrt(squares / K + EPS)


@triton.jit
def row_statistics(value, k_ok, K: tl.constexpr):
    """Return mean and 1 / deviation of whole rows (BM, BK), zero where they are not ``k_ok``."""
    mean = tl.sum(value, 1) / K
    away = tl.where(k_ok[None, :], value - mean[:, None], 0.0)
    return mean, 1.0 / tl.sqrt(tl.sum(away * away, 1) / K + EPS)


@triton.jit
def statistics(x, row, row_ok, x0, x1, K: tl.constexpr, GROUPS: tl.constexpr, H: tl.constexpr,
               BM: tl.constexpr, NORM: tl.constexpr):
    """Return `norm_statistics`, of the halves ``x0`` and ``x1`` where they are whole rows.

    Without a norm they are zeros.
    """
    mean, rstd = tl.zeros((BM,), tl.float32), tl.zeros((BM,), tl.float32)
    if NORM and (GROUPS > 1 or K > 2 * H):
        mean, rstd = norm_statistics(x, row, row_ok, K, H, BM)
    elif NORM:
        mean = tl.sum(x0 + x1, 1) / K
        k = tl.arange(0, H)[None, :]
        away0 = tl.where(k < K, x0 - mean[:, None], 0.0)
        away1 = tl.where(k + H < K, x1 - mean[:, None], 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(away0 * away0 + away1 * away1, 1) / K + EPS)
    return mean, rstd


@triton.jit
def quantized_half(value, inverse, weight, bias, mean, rstd, NORM: tl.constexpr,
                   ZERO: tl.constexpr):
    """Return V, V - Q4(V), both float32, and the codes, int8, of a half-block (BM, H)."""
    if NORM:
        value = (value - mean[:, None]) * rstd[:, None] * weight[None, :] + bias[None, :]
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
