"""The methods of METHOD section 7: each makes one layer from W (K, N), its bias and its inputs X.

X (M, K) is what the layer reads in the full-precision network on the calibration windows; ``rank``
is that of the branch. Papers and equations stand with ``low_rank`` and ``formats``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from taolora_ros.comparators.formats import (BLOCK, INT8_MAX, dynamic, nf4, round_to_nearest,
                                             static)
from taolora_ros.comparators.layers import BranchLinear, SparseLinear
from taolora_ros.comparators.low_rank import eora, l2qer, loftq, svd
from taolora_ros.quantization import QMAX, half

SPARSITY = 0.5                                # R-Sparse: share of features and rank saved
DENSE_SHARES = (0.6, 0.7, 0.8, 0.9, 0.97)     # alphas to choose from
SMOOTHING = (0.0, 0.25, 0.5, 0.75)            # SVDQuant: exponents to choose from
SEARCH_ROWS = 2048


def fp32(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """Keep the layer as it is."""
    return BranchLinear(w, bias, torch.nn.Identity(), 4 * w.numel(), 'float')


def fp16(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """Keep weights and activations in 16 bits."""
    return BranchLinear(half(w), bias, half, 2 * w.numel(), 'float')


def mixed(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """Keep weights and activations in 16 bits with a 16-bit LoRA: what memory is compared with."""
    return BranchLinear(half(w), bias, half, 2 * w.numel(), 'float', svd(w - half(w), rank))


def w4a16(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """Round weights to nearest, activations in 16 bits."""
    q, size = round_to_nearest(w)
    return BranchLinear(q, bias, half, size, 'float')


def w4a8(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """Round to nearest: four-bit weights, eight-bit activations clipped at their largest."""
    q, size = round_to_nearest(w)
    return BranchLinear(q, bias, static(x, INT8_MAX), size + 2, 'int8')


def w4a4(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """Round to nearest: four-bit weights, four-bit activations clipped at their largest."""
    q, size = round_to_nearest(w)
    return BranchLinear(q, bias, static(x, QMAX), size + 2, 'int4')


def w4a4_dynamic(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """Round to nearest with a scale for each token."""
    q, size = round_to_nearest(w)
    return BranchLinear(q, bias, dynamic(QMAX), size, 'int4')


def qlora(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """NF4 weights with a 16-bit LoRA that begins at nothing: it is there to be trained."""
    q, size = nf4(w)
    return BranchLinear(q, bias, half, size, 'float',
                        (torch.randn(len(w), rank) / len(w) ** 0.5, w.new_zeros(rank, w.shape[1])))


def loftq_nf4(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """NF4 weights and LoRA by five alternations."""
    q, size, branch = loftq(w, rank, nf4)
    return BranchLinear(q, bias, half, size, 'float', branch)


def l2qer_w4a8(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """L2QER over W4A8, the bits of its paper."""
    q, size = round_to_nearest(w)
    return BranchLinear(q, bias, static(x, INT8_MAX), size + 2, 'int8', l2qer(w - q, x, rank))


def l2qer_w4a4(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """L2QER over W4A4."""
    q, size = round_to_nearest(w)
    return BranchLinear(q, bias, static(x, QMAX), size + 2, 'int4', l2qer(w - q, x, rank))


def eora_w4a16(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """EoRA over W4A16, the bits of its paper."""
    q, size = round_to_nearest(w)
    return BranchLinear(q, bias, half, size, 'float', eora(w - q, x, rank))


def eora_w4a4(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """EoRA over W4A4."""
    q, size = round_to_nearest(w)
    return BranchLinear(q, bias, static(x, QMAX), size + 2, 'int4', eora(w - q, x, rank))


def r_sparse(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> SparseLinear:
    """R-Sparse in 16 bits; its alpha is the one with the least output error on X.

    t is the quantile at 1 - (1 - s) alpha of |x_j| ||W_j||, r = floor((1 - s)(1 - alpha) K N /
    (K + N)) with s the sparsity.
    """
    k, n = w.shape
    x = x[:SEARCH_ROWS]
    score = (x.abs() * w.norm(dim=1)).flatten()
    score = score[torch.randperm(len(score))[:2 ** 20]]      # quantile() takes so many at most
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    best, least = None, float('inf')
    for alpha in DENSE_SHARES:
        r = max(int((1 - SPARSITY) * (1 - alpha) * k * n / (k + n)), 1)
        threshold = float(score.quantile(1 - (1 - SPARSITY) * alpha))
        layer = SparseLinear(half(w), bias, threshold, (half(u[:, :r] * s[:r]), half(v[:r])))
        error = float((layer(x) - x @ w - (0 if bias is None else bias)).norm())
        if error < least:
            best, least = layer, error
    best.seen = best.kept = 0
    return best


def svdquant(w: Tensor, bias: Tensor, x: Tensor, rank: int) -> BranchLinear:
    """Take the low-rank part out, then round what remains (Li et al. 2024, SVDQuant).

    lambda_k = max |x_k|^a / max |w_k|^(1 - a), a by the output error; lambda W = L1 L2 + R;
    Y = X L1 L2 / lambda + Q4(X / lambda) Q4(R), both with a scale for each group of 64.
    """
    best, least = None, float('inf')
    rounded = dynamic(QMAX, BLOCK)
    for strength in SMOOTHING:
        smooth = (x.abs().amax(0).clamp_min(1e-5) ** strength
                  / w.abs().amax(1).clamp_min(1e-5) ** (1 - strength if strength else 0))
        smooth = half(smooth / smooth.log().mean().exp())
        a, b = svd(smooth[:, None] * w, rank)
        q, size = round_to_nearest(smooth[:, None] * w - half(a) @ half(b), BLOCK)
        layer = BranchLinear(q, bias, lambda x, smooth=smooth: rounded(x / smooth),
                             size + 2 * len(smooth), 'int4', (a / smooth[:, None], b))
        rows = x[:SEARCH_ROWS]
        error = float((layer(rows) - rows @ w - (0 if bias is None else bias)).norm())
        if error < least:
            best, least = layer, error
    return best
