"""What is read off the last tokens: probabilities, offset, and how well patches are rebuilt.

    H = norm(X) W + b              columns: K classes, the offset, then the S of the bottleneck
    probability = softmax of the classes,  offset = (1 + 2 m) sigmoid(H_K) - m
    anomaly_f = sqrt(mean over the window of (P - (H W2 + b2))**2 for feature f) / scale_f

    X (B T, D);  W (D, K + 1 + S);  W2 (K + 1 + S, C), zero in its first K + 1 rows;  P (B T, C)
    norm: weight and bias (D each);  biases: b (K + 1 + S), b2 (C), scale (F)

A program takes BM tokens; the last one of a window to arrive adds up its anomaly, always in the
same order. Everything as good as in full precision.

The normed tokens are kept too: adaptation learns from them.

Moved at least: 4 B T (2 D + C + K + 1) + 4 (D + C) (K + 1 + S) bytes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.int4 import fine_product, wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div
from taolora_ros.kernels.rows import EPS

MARGIN = tl.constexpr(0.25)  # spec.OFFSET_MARGIN, held equal by a test


@triton.jit
def read_off(x, weight, bias, norms, embedding, row, row_ok, D: tl.constexpr, Y: tl.constexpr,
             BM: tl.constexpr, BD: tl.constexpr, BY: tl.constexpr):
    """Return H (BM, BY) of rows of tokens; store what it is read off.

    Each warp adds up other inputs: of a product of so few columns all would make the same.
    """
    d, y = tl.arange(0, BD), tl.arange(0, BY)
    d_ok, at = d < D, row[:, None] * D + d[None, :]
    value = tl.load(x + at, mask=row_ok[:, None] & d_ok[None, :], other=0.0)
    scale = tl.load(norms + d, mask=d_ok, other=0.0)
    shift = tl.load(norms + D + d, mask=d_ok, other=0.0)
    place = tl.arange(0, BD // 16)[:, None, None] * 16 + tl.arange(0, 16)[None, :, None]
    matrix = tl.load(weight + place * Y + y[None, None, :],
                     mask=(place < D) & (y < Y)[None, None, :], other=0.0)
    away = tl.where(d_ok[None, :], value - (tl.sum(value, 1) / D)[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(away * away, 1) / D + EPS)
    value = away * rstd[:, None] * scale[None, :] + shift[None, :]
    tl.store(embedding + at, value, mask=row_ok[:, None] & d_ok[None, :])
    value = tl.permute(tl.reshape(value, (BM, BD // 16, 16)), (1, 0, 2))
    return tl.sum(fine_product(value, matrix), 0) + tl.load(bias + y, mask=y < Y,
                                                            other=0.0)[None, :]


@triton.jit
def store_scores(h, probability, offset, row, row_ok, K: tl.constexpr, BY: tl.constexpr):
    """Store probabilities (rows, K) and offsets (rows,) of H (BM, BY)."""
    y = tl.arange(0, BY)[None, :]
    logit = tl.where(y < K, h, -float('inf'))
    share = tl.exp(logit - tl.max(logit, 1)[:, None])
    share = share / tl.sum(share, 1)[:, None]
    tl.store(probability + row[:, None] * K + y, share, mask=row_ok[:, None] & (y < K))
    where = tl.sum(tl.where(y == K, h, 0.0), 1)
    tl.store(offset + row, tl.sigmoid(where) * (1.0 + 2.0 * MARGIN) - MARGIN, mask=row_ok)


@triton.jit
def to_rebuild(windows, weight2, bias2, row, row_ok, Y: tl.constexpr, C: tl.constexpr,
               BY: tl.constexpr, BC: tl.constexpr):
    """Load the patches (BM, BC) of rows, and what rebuilds them: a matrix (BY, BC) and biases."""
    y, c = tl.arange(0, BY), tl.arange(0, BC)
    patches = tl.load(windows + row[:, None] * C + c[None, :],
                      mask=row_ok[:, None] & (c < C)[None, :], other=0.0)
    matrix = tl.load(weight2 + y[:, None] * C + c[None, :],
                     mask=(y < Y)[:, None] & (c < C)[None, :], other=0.0)
    return patches, matrix, tl.load(bias2 + c, mask=c < C, other=0.0)


@triton.jit
def rebuild_errors(h, patches, matrix, bias, row_ok, PRECISION: tl.constexpr):
    """Return the sum over rows of squared errors of each number of a patch, (BC,)."""
    wrong = patches - tl.dot(h, matrix, input_precision=PRECISION) - bias[None, :]
    wrong = tl.where(row_ok[:, None], wrong, 0.0)
    return tl.sum(wrong * wrong, 0)


@triton.jit
def store_anomaly(squares, scale, anomaly, T: tl.constexpr, C: tl.constexpr,
                  FEATURES: tl.constexpr, BC: tl.constexpr):
    """Store one window's anomaly (F,) from squared errors (BC,) summed over its T tokens."""
    c = tl.arange(0, BC)
    for f in tl.static_range(FEATURES):
        total = tl.sum(tl.where(c % FEATURES == f, squares, 0.0), 0)
        mean = total / (T * C // FEATURES)
        tl.store(anomaly + f, tl.sqrt(mean) / tl.load(scale + f))


@triton.jit
def close_window(squares, counters, scale, anomaly, window, T: tl.constexpr, C: tl.constexpr,
                 FEATURES: tl.constexpr, BC: tl.constexpr, TILES: tl.constexpr):
    """Add up a window's anomaly in the last of its programs to come here; clear its counters."""
    tl.debug_barrier()
    if tl.atomic_add(counters + 2 * window + 1, 1, sem='acq_rel') == TILES - 1:
        total = tl.zeros((BC,), tl.float32)
        at = squares + window * TILES * BC + tl.arange(0, BC)
        for tile in range(TILES):
            total += tl.load(at + tile * BC, cache_modifier='.cg')
        store_anomaly(total, scale, anomaly + window * FEATURES, T, C, FEATURES, BC)
        tl.store(counters + 2 * window, 0)  # everybody is past them: ready for the next launch
        tl.store(counters + 2 * window + 1, 0)


@triton.jit
def heads_kernel(x, windows, weight, weight2, norm, biases, probability, offset, anomaly,
                 embedding, squares, counters, T: tl.constexpr, D: tl.constexpr,
                 K: tl.constexpr, Y: tl.constexpr, C: tl.constexpr, FEATURES: tl.constexpr,
                 BM: tl.constexpr, BD: tl.constexpr, BY: tl.constexpr, BC: tl.constexpr,
                 PRECISION: tl.constexpr, EARLY: tl.constexpr = False):
    """Read off BM tokens of one window."""
    wait_for_previous(EARLY)
    tile, window = tl.program_id(0), tl.program_id(1)
    TILES: tl.constexpr = (T + BM - 1) // BM
    t = tile * BM + tl.arange(0, BM)
    row, row_ok = window * T + t, t < T
    patches, matrix, bias = to_rebuild(windows, weight2, biases + Y, row, row_ok, Y, C, BY, BC)
    h = read_off(x, weight, biases, norm, embedding, row, row_ok, D, Y, BM, BD, BY)
    store_scores(h, probability, offset, row, row_ok, K, BY)
    found = rebuild_errors(h, patches, matrix, bias, row_ok, PRECISION)
    tl.store(squares + (window * TILES + tile) * BC + tl.arange(0, BC), found)
    close_window(squares, counters, biases + Y + C, anomaly, window, T, C, FEATURES, BC, TILES)


def heads_launch(x: Tensor, windows: Tensor, weight: Tensor, weight2: Tensor, norm: Tensor,
                 biases: Tensor, probability: Tensor, offset: Tensor, anomaly: Tensor,
                 embedding: Tensor, block_m: int = 16, precision: str = 'tf32x3',
                 warps: int = 2) -> Launch:
    """Return the launch into probability (B, T, K), offset (B, T), anomaly (B, F) and norm X."""
    batch, tokens, classes = probability.shape
    (width, columns), size, features = weight.shape, weight2.shape[1], anomaly.shape[1]
    power, tiles = triton.next_power_of_2, ceil_div(tokens, block_m)
    room, place = max(power(size), 16), x.device
    return Launch(heads_kernel, (tiles, batch), {
        'x': x, 'windows': windows, 'weight': weight, 'weight2': weight2, 'norm': norm,
        'biases': biases, 'probability': probability, 'offset': offset, 'anomaly': anomaly,
        'embedding': embedding, 'squares': torch.empty(batch * tiles * room, device=place),
        'counters': torch.zeros(2 * batch, dtype=torch.int32, device=place)}, {
        'T': tokens, 'D': width, 'K': classes, 'Y': columns, 'C': size, 'FEATURES': features,
        'BM': block_m, 'BD': max(power(width), 16), 'BY': max(power(columns), 16), 'BC': room,
        'PRECISION': precision}, warps)


def heads_reference(x: Tensor, windows: Tensor, weight: Tensor, weight2: Tensor, norm: Tensor,
                    biases: Tensor, tokens: int, classes: int, features: int
                    ) -> tuple[Tensor, ...]:
    """Return probability (B T, K), offset (B T,), anomaly (B, F) and norm X (B T, D)."""
    (width, columns), size = weight.shape, weight2.shape[1]
    bias, bias2, scale = biases.split([columns, size, features])
    normed = F.layer_norm(x, (width,), *norm.split(width))
    h = normed @ weight + bias
    wrong = windows.reshape(-1, size) - (h @ weight2 + bias2)
    rms = wrong.reshape(-1, tokens * size // features, features).square().mean(1).sqrt()
    offset = (1 + 2 * 0.25) * torch.sigmoid(h[:, classes]) - 0.25
    return h[:, :classes].softmax(1), offset, rms / scale, normed
