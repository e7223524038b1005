"""Depthwise convolution over the tokens of a window, opened by a gate from each token.

    Y[t] = (sum_j w[j] V[t + j - J // 2] + b) * silu(G[t])      for each channel

    V | G (B T, 2 D) side by side;  w (J, D), J odd;  b (D,);  Y (B T, D)

Tokens beyond the window count as zero. One program takes BM tokens and BD channels; neighbouring
taps read the same rows, which stay in the cache.

Moved at least: 4 (2 + 1) B T D + 4 (J + 1) D bytes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.int4 import wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div


@triton.jit
def gated_taps(inner, taps, bias, t, d, d_ok, T: tl.constexpr, D: tl.constexpr, J: tl.constexpr,
               BM: tl.constexpr, BD: tl.constexpr):
    """Return Y (BM, BD) for tokens t and channels d; inner starts the window.

    Loads go past the first-level cache: another program may have written what they read.
    """
    total = tl.zeros((BM, BD), tl.float32)
    for j in tl.static_range(J):  # loads of all taps are on their way at once
        s = t + (j - J // 2)
        ok = ((s >= 0) & (s < T))[:, None] & d_ok[None, :]
        value = tl.load(inner + s[:, None] * 2 * D + d[None, :], mask=ok, other=0.0,
                        cache_modifier='.cg')
        total += value * tl.load(taps + j * D + d, mask=d_ok, other=0.0)[None, :]
    total += tl.load(bias + d, mask=d_ok, other=0.0)[None, :]
    gate = tl.load(inner + t[:, None] * 2 * D + D + d[None, :],
                   mask=(t < T)[:, None] & d_ok[None, :], other=0.0, cache_modifier='.cg')
    return total * gate / (1.0 + tl.exp(-gate))


@triton.jit
def convolution_kernel(inner, taps, bias, out, T: tl.constexpr, D: tl.constexpr,
                       J: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr,
                       EARLY: tl.constexpr = False):
    """Convolve BM tokens and BD channels of one window."""
    wait_for_previous(EARLY)
    tile, part, window = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    t = tile * BM + tl.arange(0, BM)
    d = part * BD + tl.arange(0, BD)
    y = gated_taps(inner + window * T * 2 * D, taps, bias, t, d, d < D, T, D, J, BM, BD)
    tl.store(out + (window * T + t)[:, None] * D + d[None, :], y,
             mask=(t < T)[:, None] & (d < D)[None, :])


def convolution_launch(inner: Tensor, taps: Tensor, bias: Tensor, out: Tensor, tokens: int,
                       block_m: int = 16, block_d: int = 64, warps: int = 4) -> Launch:
    """Return the launch of Y (B T, D) into ``out``; raise ValueError for an even J."""
    if len(taps) % 2 == 0:
        raise ValueError(f'taps: {len(taps)} of them have no middle, an odd number is needed')
    width = out.shape[1]
    block_d = min(block_d, triton.next_power_of_2(width))
    grid = (ceil_div(tokens, block_m), ceil_div(width, block_d), len(out) // tokens)
    return Launch(convolution_kernel, grid, {
        'inner': inner, 'taps': taps, 'bias': bias, 'out': out}, {
        'T': tokens, 'D': width, 'J': len(taps), 'BM': block_m, 'BD': block_d}, warps)


def convolution_reference(inner: Tensor, taps: Tensor, bias: Tensor, tokens: int) -> Tensor:
    """Return Y (B T, D) in the precision of the arguments."""
    value, gate = inner.chunk(2, 1)
    lines = value.reshape(-1, tokens, value.shape[1]).transpose(1, 2)         # (B, D, T)
    mixed = F.conv1d(lines, taps.t()[:, None], bias, padding=len(taps) // 2, groups=len(bias))
    return mixed.transpose(1, 2).reshape(len(inner), -1) * gate * torch.sigmoid(gate)
