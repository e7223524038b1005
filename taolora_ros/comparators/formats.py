"""Number formats of the comparators: what rounding leaves of a tensor, and the bytes it takes.

    W (K, N) weights    X (M, K) activations    all scales count, 16 bits each where nothing is said
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
import torch.nn.functional as F

from taolora_ros.quantization import QMAX, half

BLOCK = 64          # weights that share a scale in NF4, and in SVDQuant's groups
SCALES = 256        # NF4 scales that share one of theirs
INT8_MAX = 127
# Dettmers et al. 2023 (QLoRA), appendix E: quantiles of the normal distribution, one exactly 0.
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
       0.7229568362236023, 1.0)
Activation = Callable[[Tensor], Tensor]


def round_to_nearest(w: Tensor, group: int | None = None) -> tuple[Tensor, int]:
    """Round W (K, N) to signed 4-bit with the scale max / 7 for each column, or group of rows.

    Return the rounded weights and their bytes: codes two to a byte, scales.
    """
    k, n = w.shape
    group = k if group is None or k % group else group
    parts = w.reshape(-1, group, n)                                    # (G, group, N)
    scale = half(parts.abs().amax(1, keepdim=True).clamp_min(1e-6) / QMAX)
    rounded = (parts / scale).round().clamp(-QMAX, QMAX) * scale
    return rounded.reshape(k, n), (k + 1) // 2 * n + 2 * scale.numel()


def nf4(w: Tensor) -> tuple[Tensor, int]:
    """Round W (K, N) to NF4 in blocks of 64 inputs, scales rounded to 8 bits in blocks of 256.

    QLoRA (Dettmers et al. 2023): each block is divided by its largest magnitude, each value goes
    to the nearest of 16 levels; the scales, less their mean, are kept in int8 (linear here, where
    the paper has an 8-bit float) with one float32 for 256 of them.
    """
    k, n = w.shape
    blocks = F.pad(w.T.reshape(-1), (0, -k * n % BLOCK)).view(-1, BLOCK)   # along inputs
    scale = _double_quantized(blocks.abs().amax(1).clamp_min(1e-8))
    levels = torch.tensor(NF4, dtype=w.dtype, device=w.device)
    borders = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / scale[:, None], borders)
    rounded = (levels[codes] * scale[:, None]).reshape(-1)[:k * n].view(n, k).T
    size = (k * n + 1) // 2 + len(scale) + 4 * -(-len(scale) // SCALES) + 4
    return rounded.contiguous(), size


def _double_quantized(scale: Tensor) -> Tensor:
    """Return scales (B,) as eight bits, a mean and one float32 for 256 of them give them back."""
    mean = scale.mean()
    rest = F.pad(scale - mean, (0, -len(scale) % SCALES)).view(-1, SCALES)
    step = rest.abs().amax(1, keepdim=True).clamp_min(1e-12) / INT8_MAX
    back = (rest / step).round() * step + mean
    return back.reshape(-1)[:len(scale)].clamp_min(1e-8)


def static(x: Tensor, qmax: int) -> Activation:
    """Return symmetric rounding with one scale: the largest magnitude in X (M, K) over ``qmax``."""
    step = float(x.abs().max().clamp_min(1e-8)) / qmax
    return lambda x: (x / step).round().clamp(-qmax, qmax) * step


def dynamic(qmax: int, group: int | None = None) -> Activation:
    """Return symmetric rounding with a scale for each token, or each ``group`` of its features."""
    def rounded(x: Tensor) -> Tensor:
        size = x.shape[-1] if group is None or x.shape[-1] % group else group
        parts = x.reshape(*x.shape[:-1], -1, size)
        step = half(parts.abs().amax(-1, keepdim=True).clamp_min(1e-6) / qmax)
        return ((parts / step).round().clamp(-qmax, qmax) * step).reshape(x.shape)
    return rounded
