"""The TAO layer for few rows by one-bit products: an ablation, no engine uses it.

    Q = sum_i 2^i x_i - o     x_i  plane i of the codes 0..15 that quantize.py packs; o: 8 or ZERO
    W = sum_j c_j w_j         w_j  plane j of W in two's complement;        c = 1, 2, 4, -8

    Q W = sum_ij 2^i c_j popcount(x_i & w_j) - o sum W                      16 products of planes
    Y = act(s (Q W) + b + g * (U B)) + X0

A word (int32) holds one plane of 32 inputs: 16 neighbours of a half-block and the 16 beside them in
the same bytes, as the codes of X lie, so that a program makes the planes of X of four words of
codes, eight nibbles each. Those of W are made once. Inputs that only pad have bits in X, none in W.
With W + 8 in place of W in two's complement there would be 8 sum Q to take off for each row, too.

Planes of W: (N padded, words, 4) int32.
Moved at least: M K / 2 + K N / 2 + 12 N + 4 M R shares + 2 R N + 4 M N bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.gemv import store_row
from taolora_ros.kernels.int4 import scaled, wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div, interpreted
from taolora_ros.kernels.layout import LayerWeights

POPC = tl.constexpr('popc.b32 $0, $1;')
FIRST_BITS = 0x11111111  # of eight nibbles
STEP = 16                # words that a program takes at a time, at most


@triton.jit
def popcount(word, ASM: tl.constexpr):
    """Count the bits that are set in each int32."""
    if ASM:
        count = tl.inline_asm_elementwise(POPC, '=r,r', [word], dtype=tl.int32, is_pure=True,
                                          pack=1)
    else:  # masks make arithmetic shifts logical ones
        count = word - ((word >> 1) & 0x55555555)
        count = (count & 0x33333333) + ((count >> 2) & 0x33333333)
        count = (count + (count >> 4)) & 0x0F0F0F0F
        count += count >> 8
        count = (count + (count >> 16)) & 0x3F
    return count


@triton.jit
def load_words(x, word, word_ok):
    """Load the four int32 of packed codes that each word's planes are made of."""
    return (tl.load(x + 4 * word, mask=word_ok, other=0),
            tl.load(x + 4 * word + 1, mask=word_ok, other=0),
            tl.load(x + 4 * word + 2, mask=word_ok, other=0),
            tl.load(x + 4 * word + 3, mask=word_ok, other=0))


@triton.jit
def plane_of(a, b, c, d, i: tl.constexpr):
    """Return plane i of four words of codes."""
    return (((a >> i) & 0x11111111) | (((b >> i) & 0x11111111) << 1)
            | (((c >> i) & 0x11111111) << 2) | (((d >> i) & 0x11111111) << 3))


@triton.jit(do_not_specialize=['rows'])
def bit_planes_kernel(x, planes, totals, b, vectors, gate, u, residual, out, rows,
                      K: tl.constexpr, N: tl.constexpr, NB: tl.constexpr, RANK: tl.constexpr,
                      WORDS: tl.constexpr, STEP: tl.constexpr, BN: tl.constexpr,
                      SHARES: tl.constexpr, NORM: tl.constexpr, ZERO: tl.constexpr,
                      GELU: tl.constexpr, SHIFT: tl.constexpr, ASM: tl.constexpr,
                      EARLY: tl.constexpr = False):
    """Make BN outputs of one row."""
    wait_for_previous(EARLY)
    row = tl.program_id(1)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    n_ok = n < N
    j = tl.arange(0, 4)
    sums = tl.zeros((BN, STEP, 4), tl.int32)
    for start in range(0, WORDS, STEP):
        word = start + tl.arange(0, STEP)
        word_ok = word < WORDS
        at = (n[:, None, None] * WORDS + word[None, :, None]) * 4 + j[None, None, :]
        w = tl.load(planes + at, mask=word_ok[None, :, None], other=0)
        c0, c1, c2, c3 = load_words(x + row * WORDS * 4, word, word_ok)
        for i in tl.static_range(4):
            plane = plane_of(c0, c1, c2, c3, i)
            sums += popcount(w & plane[None, :, None], ASM) << i
    sums *= tl.where(j == 3, -8, 1 << j)[None, None, :]
    offset: tl.constexpr = 8 if ZERO < 0 else ZERO
    product = tl.sum(tl.sum(sums, 2), 1) - offset * tl.load(totals + n)
    scales = vectors + K * (3 if NORM else 1)
    y = scaled(product.to(tl.float32), tl.load(scales + n, mask=n_ok, other=0.0), SHIFT)
    store_row(y, n, n_ok, scales + N, b, gate, u, residual, out, row, rows, N, NB, RANK, SHARES,
              GELU)


@dataclass(frozen=True)
class BitWeights:
    """A layer whose weights lie as planes, too."""

    layer: LayerWeights
    planes: Tensor  # (N padded, words, 4) int32
    totals: Tensor  # (N padded) int32: sum W


def bit_weights(layer: LayerWeights) -> BitWeights:
    """Make the planes of a layer; raise ValueError for one with groups of inputs."""
    if layer.groups != 1:
        raise ValueError(f'groups: {layer.groups}, bit planes take one scale for each output')
    half, columns = layer.tiles.half, layer.b.shape[1]
    packed = torch.as_strided(layer.codes, (layer.blocks, columns, half),
                              (layer.code_step, half, 1)).transpose(0, 1).reshape(columns, -1)
    words = packed.view(torch.int32).unflatten(1, (-1, 4))            # (N padded, words, 4)
    place = torch.arange(4, device=words.device, dtype=torch.int32)
    planes = torch.stack([(((words >> j) & FIRST_BITS) << place).sum(2, dtype=torch.int32)
                          for j in range(4)], 2)
    signed = packed.view(torch.int8)
    totals = ((signed << 4) >> 4).sum(1) + (signed >> 4).sum(1)
    return BitWeights(layer, planes.contiguous(), totals.int())


def bit_planes_launch(codes: Tensor, weights: BitWeights, gate: Tensor, out: Tensor,
                      u: Tensor | None = None, residual: Tensor | None = None,
                      gelu: bool = False, block_n: int = 32, warps: int = 4) -> Launch:
    """Return the launch of Y (M, N) into ``out``; ``codes`` and ``u`` from `quantize_launch`."""
    layer, words = weights.layer, weights.planes.shape[1]
    kept = {name: layer.constants[name] for name in (
        'K', 'N', 'NB', 'RANK', 'NORM', 'ZERO', 'SHIFT')}
    return Launch(bit_planes_kernel, (ceil_div(layer.n, block_n), len(out)), {
        'x': codes.view(torch.int32), 'planes': weights.planes, 'totals': weights.totals,
        'b': layer.b, 'vectors': layer.vectors, 'gate': gate, 'u': u, 'residual': residual,
        'out': out, 'rows': len(out)}, {
        **kept, 'WORDS': words, 'STEP': min(STEP, triton.next_power_of_2(words)), 'BN': block_n,
        'SHARES': 1 if u is None else len(u), 'GELU': gelu, 'ASM': not interpreted()}, warps)


def bit_planes_reference(q: Tensor, codes: Tensor, x_zero: int | None) -> Tensor:
    """Return Q W (M, N) int64 plane by plane: Q (M, K) and W (K, N) are integers."""
    offset, q, w = 8 if x_zero is None else x_zero, q.long(), codes.long()
    total = -offset * w.sum(0)
    for i in range(4):
        for j, c in enumerate((1, 2, 4, -8)):
            total = total + 2 ** i * c * ((((q + offset) >> i) & 1) @ ((w >> j) & 1))
    return total
