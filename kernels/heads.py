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

from taolora_ros.kernels.int4 import add_up, fine_product, wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div
from taolora_ros.kernels.patches import load_patches
from taolora_ros.kernels.rows import EPS, norm_statistics

MARGIN = tl.constexpr(0.25)  # spec.OFFSET_MARGIN, held equal by a test


@triton.jit
def load_numbers(x, row, row_ok, block, D: tl.constexpr, BD: tl.constexpr):
    """Load BD numbers of rows."""
    d = block * BD + tl.arange(0, BD)
    return tl.load(x + row[:, None] * D + d[None, :], mask=row_ok[:, None] & (d < D)[None, :],
                   other=0.0)


@triton.jit
def load_columns(weight, norms, block, D: tl.constexpr, Y: tl.constexpr, BD: tl.constexpr,
                 BY: tl.constexpr):
    """Load what belongs to BD numbers of rows: scale and shift of the norm, weights."""
    d, y = block * BD + tl.arange(0, BD), tl.arange(0, BY)
    scale = tl.load(norms + d, mask=d < D, other=0.0)
    shift = tl.load(norms + D + d, mask=d < D, other=0.0)
    place = tl.arange(0, BD // 16)[:, None, None] * 16 + tl.arange(0, 16)[None, :, None]
    place += block * BD
    matrix = tl.load(weight + place * Y + y[None, None, :],
                     mask=(place < D) & (y < Y)[None, None, :], other=0.0)
    return scale, shift, matrix


@triton.jit
def normed_product(value, columns, mean, rstd, embedding, row, row_ok, block, D: tl.constexpr,
                   BM: tl.constexpr, BD: tl.constexpr):
    """Norm a block of numbers and store it; return its products (BD / 16, BM, BY).

    Each warp makes those of other inputs: of so few columns all would make the same.
    """
    scale, shift, matrix = columns
    d = block * BD + tl.arange(0, BD)
    value = (value - mean[:, None]) * rstd[:, None] * scale[None, :] + shift[None, :]
    value = tl.where((d < D)[None, :], value, 0.0)
    tl.store(embedding + row[:, None] * D + d[None, :], value,
             mask=row_ok[:, None] & (d < D)[None, :])
    return fine_product(tl.permute(tl.reshape(value, (BM, BD // 16, 16)), (1, 0, 2)), matrix)


@triton.jit
def read_off(x, weight, bias, norms, columns, embedding, row, row_ok, D: tl.constexpr,
             Y: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, BY: tl.constexpr):
    """Return H (BM, BY) of rows of tokens; store what it is read off.

    ``bias`` (BY,) and ``columns``, those of the first block, are loaded already.
    """
    value = load_numbers(x, row, row_ok, 0, D, BD)
    if D <= BD:
        mean = tl.sum(value, 1) / D
        away = tl.where((tl.arange(0, BD) < D)[None, :], value - mean[:, None], 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(away * away, 1) / D + EPS)
    else:
        mean, rstd = norm_statistics(x, row, row_ok, D, BD, BM)
    total = normed_product(value, columns, mean, rstd, embedding, row, row_ok, 0, D, BM, BD)
    for block in range(1, (D + BD - 1) // BD):
        value = load_numbers(x, row, row_ok, block, D, BD)
        more = load_columns(weight, norms, block, D, Y, BD, BY)
        total += normed_product(value, more, mean, rstd, embedding, row, row_ok, block, D, BM, BD)
    return add_up(total) + bias[None, :]


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
def load_rebuilding(weight2, bias2, Y: tl.constexpr, C: tl.constexpr, BY: tl.constexpr,
                    BC: tl.constexpr):
    """Load what patches are rebuilt with: a matrix (BY, BC) and biases (BC,)."""
    y, c = tl.arange(0, BY), tl.arange(0, BC)
    matrix = tl.load(weight2 + y[:, None] * C + c[None, :],
                     mask=(y < Y)[:, None] & (c < C)[None, :], other=0.0)
    return matrix, tl.load(bias2 + c, mask=c < C, other=0.0)


@triton.jit
def rebuild_errors(h, patches, matrix, bias, row_ok, PRECISION: tl.constexpr):
    """Return the sum over rows of squared errors of each number of a patch, (BC,)."""
    wrong = patches - tl.dot(h, matrix, input_precision=PRECISION) - bias[None, :]
    wrong = tl.where(row_ok[:, None], wrong, 0.0)
    return tl.sum(wrong * wrong, 0)


@triton.jit
def store_anomaly(squares, scale, anomaly, T: tl.constexpr, C: tl.constexpr,
                  FEATURES: tl.constexpr, BC: tl.constexpr, BF: tl.constexpr):
    """Store one window's anomaly (F,) from squared errors (BC,) summed over its T tokens."""
    c, f = tl.arange(0, BC), tl.arange(0, BF)
    of = (c % FEATURES)[:, None] == f[None, :]
    mean = tl.sum(tl.where(of, squares[:, None], 0.0), 0) / (T * C // FEATURES)
    tl.store(anomaly + f, tl.sqrt(mean) / scale, mask=f < FEATURES)


@triton.jit
def close_window(squares, counters, scale, anomaly, window, T: tl.constexpr, C: tl.constexpr,
                 FEATURES: tl.constexpr, BC: tl.constexpr, BF: tl.constexpr, TILES: tl.constexpr):
    """Add up a window's anomaly in the last of its programs to come here; clear its counters."""
    f = tl.arange(0, BF)
    scales = tl.load(scale + f, mask=f < FEATURES, other=1.0)
    tl.debug_barrier()
    if tl.atomic_add(counters + 2 * window + 1, 1, sem='acq_rel') == TILES - 1:
        total = tl.zeros((BC,), tl.float32)
        at = squares + window * TILES * BC + tl.arange(0, BC)
        for tile in range(TILES):
            total += tl.load(at + tile * BC, cache_modifier='.cg')
        store_anomaly(total, scales, anomaly + window * FEATURES, T, C, FEATURES, BC, BF)
        tl.store(counters + 2 * window, 0)  # everybody is past them: ready for the next launch
        tl.store(counters + 2 * window + 1, 0)


@triton.jit
def heads_kernel(x, windows, weight, weight2, norm, biases, probability, offset, anomaly,
                 embedding, squares, counters, T: tl.constexpr, D: tl.constexpr,
                 K: tl.constexpr, Y: tl.constexpr, C: tl.constexpr, FEATURES: tl.constexpr,
                 BM: tl.constexpr, BD: tl.constexpr, BY: tl.constexpr, BC: tl.constexpr,
                 BF: tl.constexpr, PRECISION: tl.constexpr, EARLY: tl.constexpr = False):
    """Read off BM tokens of one window.

    What no other kernel writes is loaded before the one in front has ended.
    """
    tile, window = tl.program_id(0), tl.program_id(1)
    TILES: tl.constexpr = (T + BM - 1) // BM
    t = tile * BM + tl.arange(0, BM)
    row, row_ok = window * T + t, t < T
    y = tl.arange(0, BY)
    bias = tl.load(biases + y, mask=y < Y, other=0.0)
    columns = load_columns(weight, norm, 0, D, Y, BD, BY)
    matrix, bias2 = load_rebuilding(weight2, biases + Y, Y, C, BY, BC)
    wait_for_previous(EARLY)
    patches = load_patches(windows, row, row_ok, C, BC)
    h = read_off(x, weight, bias, norm, columns, embedding, row, row_ok, D, Y, BM, BD, BY)
    store_scores(h, probability, offset, row, row_ok, K, BY)
    found = rebuild_errors(h, patches, matrix, bias2, row_ok, PRECISION)
    tl.store(squares + (window * TILES + tile) * BC + tl.arange(0, BC), found)
    close_window(squares, counters, biases + Y + C, anomaly, window, T, C, FEATURES, BC, BF,
                 TILES)


def heads_launch(x: Tensor, windows: Tensor, weight: Tensor, weight2: Tensor, norm: Tensor,
                 biases: Tensor, probability: Tensor, offset: Tensor, anomaly: Tensor,
                 embedding: Tensor, block_m: int = 16, precision: str = 'tf32x3') -> Launch:
    """Return the launch into probability (B, T, K), offset (B, T), anomaly (B, F) and norm X."""
    batch, tokens, classes = probability.shape
    (width, columns), size, features = weight.shape, weight2.shape[1], anomaly.shape[1]
    power, tiles = triton.next_power_of_2, ceil_div(tokens, block_m)
    room, wide, place = max(power(size), 16), max(power(columns), 16), x.device
    return Launch(heads_kernel, (tiles, batch), {
        'x': x, 'windows': windows, 'weight': weight, 'weight2': weight2, 'norm': norm,
        'biases': biases, 'probability': probability, 'offset': offset, 'anomaly': anomaly,
        'embedding': embedding, 'squares': torch.empty(batch * tiles * room, device=place),
        'counters': torch.zeros(2 * batch, dtype=torch.int32, device=place)}, {
        'T': tokens, 'D': width, 'K': classes, 'Y': columns, 'C': size, 'FEATURES': features,
        'BM': block_m, 'BD': 128, 'BY': wide, 'BC': room, 'BF': power(features),
        'PRECISION': precision},
        warps=2 if wide == 16 else 4)  # few columns are not work for more


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
