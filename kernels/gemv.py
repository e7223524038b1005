"""The TAO layer for few rows: four products an instruction, no tensor cores.

    Y = act(s (Q W) + b + g * (U B)) + X0        with Q and U from quantize.py, W as in layout.py

Tensor cores take 16 rows at least. Here a program makes BN outputs of one row: it loads words of
four bytes of both operands, i.e. eight pairs, and adds two times four products (dp4a), each thread
for itself; the threads' sums come together once, at the end. Weights stay 16 times their code as
everywhere, the codes of X lose their offset byte by byte without borrowing.

Moved at least: M K / 2 + K N / 2 + 4 N (G + 1) + 4 M R shares + 2 R N + 4 M N bytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.int4 import dp4a, gelu, scaled, wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div, interpreted
from taolora_ros.kernels.layout import LayerWeights


@triton.jit
def without_offset(nibbles, OFFSET: tl.constexpr):
    """Take OFFSET off each of four bytes 0..15 (int32): signed bytes."""
    return ((nibbles | -0x7F7F7F80) - OFFSET * 0x01010101) ^ -0x7F7F7F80


@triton.jit
def store_row(y, n, n_ok, bias, b, gate, u, residual, out, row, rows, N: tl.constexpr,
              NB: tl.constexpr, RANK: tl.constexpr, SHARES: tl.constexpr, GELU: tl.constexpr):
    """Complete outputs n of a row, y (BN,), and store them."""
    y += tl.load(bias + n, mask=n_ok, other=0.0)
    if u is not None:
        r = tl.arange(0, RANK)
        low = tl.zeros((RANK,), tl.float32)
        for share in range(SHARES):
            low += tl.load(u + (share * rows + row) * RANK + r)
        factors = tl.load(b + r[:, None] * NB + n[None, :])
        low = low.to(tl.float16).to(tl.float32)
        added = tl.sum(low[:, None] * factors.to(tl.float32), 0)
        y += tl.where(tl.load(gate + row) != 0, added, 0.0)
    if GELU:
        y = gelu(y)
    if residual is not None:
        y += tl.load(residual + row * N + n, mask=n_ok, other=0.0)
    tl.store(out + row * N + n, y, mask=n_ok)


@triton.jit(do_not_specialize=['rows'])
def gemv_kernel(x, codes, b, vectors, gate, u, residual, out, rows, K: tl.constexpr,
                N: tl.constexpr, NB: tl.constexpr, GROUPS: tl.constexpr, RANK: tl.constexpr,
                H: tl.constexpr, BN: tl.constexpr, CODE_STEP: tl.constexpr, SHARES: tl.constexpr,
                NORM: tl.constexpr, ZERO: tl.constexpr, GELU: tl.constexpr, SHIFT: tl.constexpr,
                ASM: tl.constexpr, EARLY: tl.constexpr = False):
    """Make BN outputs of one row."""
    wait_for_previous(EARLY)
    tile, row = tl.program_id(0), tl.program_id(1)
    size: tl.constexpr = (K // GROUPS + H - 1) // H * H
    blocks: tl.constexpr = (GROUPS * size // H + 1) // 2
    words: tl.constexpr = H // 4
    offset: tl.constexpr = 8 if ZERO < 0 else ZERO
    column, word = tl.arange(0, BN), tl.arange(0, words)
    n = tile * BN + column
    n_ok = n < N
    scales = vectors + K * (3 if NORM else 1)
    sums = tl.zeros((BN, words), tl.int32)
    total = tl.zeros((BN, words), tl.float32)
    at = codes + tile * BN * words + column[:, None] * words + word[None, :]
    for block in range(blocks):
        w = tl.load(at + block * (CODE_STEP // 4))
        pair = tl.load(x + (row * blocks + block) * words + word)
        for side in tl.static_range(2):
            # The mask makes the arithmetic shift a logical one.
            q = without_offset((pair >> (4 * side)) & 0x0F0F0F0F, offset)
            plane = (w << (4 - 4 * side)) & -0x0F0F0F10
            q = tl.broadcast_to(q[None, :], (BN, words))
            if GROUPS == 1:
                sums = dp4a(plane, q, sums, ASM)
            else:
                group = (2 * block + side) * H // size
                at_scale = group * N + n
                scale = tl.load(scales + at_scale, mask=n_ok & (at_scale < GROUPS * N), other=0.0)
                part = dp4a(plane, q, tl.zeros((BN, words), tl.int32), ASM) >> 4
                total += scaled(part.to(tl.float32), scale[:, None], SHIFT)
    if GROUPS == 1:
        y = (tl.sum(sums, 1) >> 4).to(tl.float32)
        y = scaled(y, tl.load(scales + n, mask=n_ok, other=0.0), SHIFT)
    else:
        y = tl.sum(total, 1)
    store_row(y, n, n_ok, scales + GROUPS * N, b, gate, u, residual, out, row, rows, N, NB, RANK,
              SHARES, GELU)


def gemv_launch(codes: Tensor, weights: LayerWeights, gate: Tensor, out: Tensor,
                u: Tensor | None = None, residual: Tensor | None = None, gelu: bool = False,
                block_n: int = 32, warps: int = 4) -> Launch:
    """Return the launch of Y (M, N) into ``out``; ``codes`` and ``u`` from `quantize_launch`."""
    kept = {name: value for name, value in weights.constants.items()
            if name not in ('PARTS', 'A_STEP')}
    size = len(weights.codes) // 4 * 4
    return Launch(gemv_kernel, (ceil_div(weights.n, block_n), len(out)), {
        'x': codes.view(torch.int32), 'codes': weights.codes[:size].view(torch.int32),
        'b': weights.b, 'vectors': weights.vectors, 'gate': gate, 'u': u, 'residual': residual,
        'out': out, 'rows': len(out)}, {
        **kept, 'BN': block_n, 'SHARES': 1 if u is None else len(u), 'GELU': gelu,
        'ASM': not interpreted()}, warps)
