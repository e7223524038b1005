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

WIDEST = 128  # columns of a tile: what registers hold


@triton.jit
def load_embedding(weight, bias, n, n_ok, C: tl.constexpr, D: tl.constexpr, BC: tl.constexpr):
    """Load the columns n (BN,) of W (BC, BN) and b."""
    c = tl.arange(0, BC)
    matrix = tl.load(weight + c[:, None] * D + n[None, :],
                     mask=(c < C)[:, None] & n_ok[None, :], other=0.0)
    return matrix, tl.load(bias + n, mask=n_ok, other=0.0)


@triton.jit
def load_patches(windows, row, row_ok, C: tl.constexpr, BC: tl.constexpr):
    """Load the patches (BM, BC) of rows."""
    c = tl.arange(0, BC)
    return tl.load(windows + row[:, None] * C + c[None, :],
                   mask=row_ok[:, None] & (c < C)[None, :], other=0.0)


@triton.jit
def embed(patches, columns, PRECISION: tl.constexpr):
    """Return tokens (BM, BN) of patches, in some `load_embedding` columns."""
    matrix, bias = columns
    return tl.dot(patches, matrix, input_precision=PRECISION) + bias[None, :]


@triton.jit(do_not_specialize=['rows'])
def patches_kernel(windows, weight, bias, out, gates, own_windows, own_gates, rows,
                   C: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                   BC: tl.constexpr, PRECISION: tl.constexpr, EARLY: tl.constexpr = False):
    """Embed BM patches, BN columns of them; keep what comes from the host."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    c, row_ok = tl.arange(0, BC), row < rows
    columns = load_embedding(weight, bias, n, n < D, C, D, BC)
    wait_for_previous(EARLY)
    if own_windows is not None:  # before the patches: nothing waits for it
        opened = tl.load(gates + row, mask=row_ok)
    patches = load_patches(windows, row, row_ok, C, BC)
    if own_windows is not None:
        tl.store(own_windows + row[:, None] * C + c[None, :], patches,
                 mask=row_ok[:, None] & (c < C)[None, :])
        tl.store(own_gates + row, opened, mask=row_ok)
    x = embed(patches, columns, PRECISION)
    tl.store(out + row[:, None] * D + n[None, :], x, mask=row_ok[:, None] & (n < D)[None, :])


def patches_launch(windows: Tensor, weight: Tensor, bias: Tensor, out: Tensor,
                   fetch: tuple[Tensor, Tensor, Tensor] | None = None, block_m: int = 16,
                   block_n: int = 64, precision: str = 'tf32x3') -> Launch:
    """Return the launch of X (B T, D) into ``out``; ``windows`` are as many numbers as P.

    ``fetch``: gates (B T,) of the host, whose windows ``windows`` are then, and where to keep
    windows and gates on the GPU.
    """
    size, width = weight.shape
    gates, own_windows, own_gates = fetch or (None, None, None)
    if fetch:  # once across the bus, or seldom
        block_n = min(triton.next_power_of_2(width), WIDEST)
    return Launch(patches_kernel, (ceil_div(len(out), block_m), ceil_div(width, block_n)), {
        'windows': windows, 'weight': weight, 'bias': bias, 'out': out, 'gates': gates,
        'own_windows': own_windows, 'own_gates': own_gates, 'rows': len(out)}, {
        'C': size, 'D': width, 'BM': block_m, 'BN': block_n,
        'BC': max(triton.next_power_of_2(size), 16), 'PRECISION': precision})


def patches_reference(windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return X (B T, D) in the precision of the arguments."""
    return windows.reshape(-1, len(weight)) @ weight + bias
