"""Patch embedding: windows of features to tokens.

    X = P W + b        P (B T, C) the patches, C = samples x features;  W (C, D);  X (B T, D)

A patch lies in one piece in a window (L, F), so cutting costs nothing. Full precision: C is small,
and all that follows depends on it.

Moved at least: 4 (B T C + C D + D + B T D) bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.int4 import wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div


@triton.jit
def embed(windows, weight, bias, row, row_ok, n, n_ok, C: tl.constexpr, D: tl.constexpr,
          BC: tl.constexpr, PRECISION: tl.constexpr):
    """Return tokens (BM, BN) of the patches ``row`` in the columns n."""
    c = tl.arange(0, BC)
    patch = tl.load(windows + row[:, None] * C + c[None, :],
                    mask=row_ok[:, None] & (c < C)[None, :], other=0.0)
    matrix = tl.load(weight + c[:, None] * D + n[None, :],
                     mask=(c < C)[:, None] & n_ok[None, :], other=0.0)
    return (tl.dot(patch, matrix, input_precision=PRECISION)
            + tl.load(bias + n, mask=n_ok, other=0.0)[None, :])


@triton.jit(do_not_specialize=['rows'])
def patches_kernel(windows, weight, bias, out, rows, C: tl.constexpr, D: tl.constexpr,
                   BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
                   PRECISION: tl.constexpr, EARLY: tl.constexpr = False):
    """Embed BM patches, BN columns of them."""
    wait_for_previous(EARLY)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    x = embed(windows, weight, bias, row, row < rows, n, n < D, C, D, BC, PRECISION)
    tl.store(out + row[:, None] * D + n[None, :], x, mask=(row < rows)[:, None] & (n < D)[None, :])


def patches_launch(windows: Tensor, weight: Tensor, bias: Tensor, out: Tensor, block_m: int = 16,
                   block_n: int = 64, precision: str = 'tf32x3') -> Launch:
    """Return the launch of X (B T, D) into ``out``; ``windows`` are as many numbers as P."""
    size, width = weight.shape
    return Launch(patches_kernel, (ceil_div(len(out), block_m), ceil_div(width, block_n)), {
        'windows': windows, 'weight': weight, 'bias': bias, 'out': out, 'rows': len(out)}, {
        'C': size, 'D': width, 'BM': block_m, 'BN': block_n,
        'BC': max(triton.next_power_of_2(size), 16), 'PRECISION': precision})


def patches_reference(windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return X (B T, D) in the precision of the arguments."""
    return windows.reshape(-1, len(weight)) @ weight + bias
