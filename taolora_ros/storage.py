"""How the scales and the LoRA of an INT4 layer are kept: rounded to what a file holds, and coded.

    K inputs    N outputs    r rank    P 1 or 2: parts of X' (X, or X - Q4(X) and X)

    lora_bits   16: float16.  8, 4: integers, with one float16 scale for each column of A and each
                row of B. A is coded in units of the layer's quantized input, A / x_inv, where the
                smoothing no longer spreads its rows; each part of X' has scales of its own.
    scale_bits  32: x_inv float32, w_scale float16.  16: both float16.  8: both powers of two, of
                which the exponent is kept, so that scaling is a shift (METHOD section 5).

Only files hold codes. Networks in memory hold the numbers that the codes stand for, so that no
engine has to know of this.
"""

from __future__ import annotations

import torch
from torch import Tensor

from taolora_ros.quantization import QMAX, pack_int4, quantize_weight, unpack_int4

LORA_BITS = (16, 8, 4)
SCALE_BITS = (32, 16, 8)
LARGEST = {8: 127, 4: QMAX}   # code
EXPONENTS = (-40, 40)         # of scales that are powers of two
HALF = (2.0 ** -14, 65504.0)  # range of float16
LORA_SCALES = ('lora_a_scale', 'lora_b_scale')


def round_scale(scale: Tensor, bits: int) -> Tensor:
    """Round positive scales to what ``bits`` of SCALE_BITS can hold; any shape, float32."""
    if bits == 8:
        return torch.exp2(scale.log2().round().clamp(*EXPONENTS))
    return scale.clamp(*HALF).half().float() if bits == 16 else scale.float()


def code_scale(scale: Tensor, bits: int) -> Tensor:
    """Return a rounded scale as the file keeps it."""
    if bits == 8:
        return scale.log2().round().to(torch.int8)
    return scale.half() if bits == 16 else scale.float()


def decode_scale(stored: Tensor) -> Tensor:
    """Invert ``code_scale``; raise ValueError for exponents out of range."""
    if stored.is_floating_point():
        return stored.float()
    low, high = EXPONENTS
    if stored.dtype != torch.int8 or stored.min() < low or stored.max() > high:
        raise ValueError(f'exponents must be int8 from {low} to {high}')
    return torch.exp2(stored.float())


def code_lora(a: Tensor, b: Tensor, x_inv: Tensor, bits: int) -> dict[str, Tensor]:
    """Return the tensors of a file for A (P * K, r) and B (r, N), by their names in it.

    Coded factors are lora_a (P * K, r) and lora_b (N, r), int8, or at four bits uint8 with half
    of the rows; lora_a_scale (P, r) and lora_b_scale (1, r), float16.
    """
    if bits == 16:
        return {'lora_a': a.half(), 'lora_b': b.half()}
    parts = len(a) // len(x_inv)
    codes_a, scale_a = quantize_weight(a / x_inv.repeat(parts)[:, None], parts, LARGEST[bits])
    codes_b, scale_b = quantize_weight(b.T, 1, LARGEST[bits])
    if bits == 4:
        codes_a, codes_b = pack_int4(codes_a), pack_int4(codes_b)
    return {'lora_a': codes_a, 'lora_b': codes_b, 'lora_a_scale': scale_a.half(),
            'lora_b_scale': scale_b.half()}


def decode_lora(stored: dict[str, Tensor], x_inv: Tensor, outputs: int, parts: int, bits: int
                ) -> tuple[Tensor, Tensor]:
    """Invert ``code_lora``: A (P * K, r), B (r, N); raise ValueError naming what does not fit."""
    a, b = stored['lora_a'], stored['lora_b']
    kinds = {16: (torch.float16, torch.float32, torch.bfloat16, torch.float64),
             8: (torch.int8,), 4: (torch.uint8,)}[bits]
    for name, tensor in (('lora_a', a), ('lora_b', b)):
        if tensor.dtype not in kinds or tensor.ndim != 2:
            raise ValueError(f'{name}: {tensor.dtype} {tuple(tensor.shape)} with {bits} bits')
    if bits == 16:
        return a.float(), b.float()
    inputs, rank = parts * len(x_inv), a.shape[1]
    if bits == 4:
        a, b = unpack_int4(a, inputs), unpack_int4(b, outputs)
    scale_a, scale_b = (stored[name] for name in LORA_SCALES)
    for name, tensor, shape in (('lora_a', a, (inputs, rank)), ('lora_b', b, (outputs, rank)),
                                ('lora_a_scale', scale_a, (parts, rank)),
                                ('lora_b_scale', scale_b, (1, rank))):
        if tuple(tensor.shape) != shape:
            raise ValueError(f'{name}: shape {tuple(tensor.shape)}, expected {shape}')
    if not (scale_a.is_floating_point() and scale_b.is_floating_point()):
        raise ValueError(f'scales of the LoRA: {scale_a.dtype}, {scale_b.dtype}')
    a = (a.float().view(parts, -1, rank) * scale_a.float()[:, None]).view(inputs, rank)
    return a * x_inv.repeat(parts)[:, None], (b.float() * scale_b.float()).T.contiguous()


def round_lora(a: Tensor, b: Tensor, x_inv: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return A and B as a file with so many bits would give them back."""
    return round_lora_a(a, x_inv, bits), round_lora_b(b, bits)


def round_lora_a(a: Tensor, x_inv: Tensor, bits: int) -> Tensor:
    """Return A (P * K, r) as a file with so many bits would give it back."""
    if bits == 16:
        return a.half().float()
    parts = len(a) // len(x_inv)
    inverse = x_inv.repeat(parts)[:, None]
    return _round_columns(a / inverse, parts, bits) * inverse


def round_lora_b(b: Tensor, bits: int) -> Tensor:
    """Return B (r, N) as a file with so many bits would give it back."""
    return b.half().float() if bits == 16 else _round_columns(b.T, 1, bits).T.contiguous()


def _round_columns(w: Tensor, groups: int, bits: int) -> Tensor:
    codes, scale = quantize_weight(w, groups, LARGEST[bits])
    kept = scale.half().float()[:, None]
    return (codes.float().view(groups, -1, w.shape[1]) * kept).view(w.shape)
