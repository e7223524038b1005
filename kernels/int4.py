"""What the kernels share on the device: rounding to four bits, nibbles, scales, GELU.

Quantising is round half to even, as `taolora_ros.quantization` does: adding 1.5 * 2**23 leaves no
place behind the binary point, and the sum's lowest byte is the integer in two's complement. It is
moved by 16, which is taken off as an integer: the assembler of CUDA 12.8 takes the sum itself,
stored as a byte, for a number to convert.

A byte holds two weights. Each plane is kept in the high half of its byte, i.e. 16 times the code,
which costs one shift and two masks for four bytes where extending the sign costs four times that;
the sum of products is then shifted back by 4, exactly.
"""

from __future__ import annotations

import triton
import triton.language as tl

MAGIC = tl.constexpr(12582928.0)  # 1.5 * 2**23 + AWAY
AWAY = tl.constexpr(16)
UNPACK = tl.constexpr('{ .reg .b32 t; shl.b32 t, $2, 4; and.b32 $0, t, 0xF0F0F0F0; '
                      'and.b32 $1, $2, 0xF0F0F0F0; }')
WAIT = tl.constexpr('griddepcontrol.wait; griddepcontrol.launch_dependents; mov.u32 $0, 0;')
MOST_HALVINGS = tl.constexpr(6)
DP4A = tl.constexpr('dp4a.s32.s32 $0, $1, $2, $3;')


@triton.jit
def round_clamp(x, ZERO: tl.constexpr):
    """Round float32 to -7..7 (ZERO < 0) or -ZERO..15 - ZERO; return it as float32 and as int8."""
    low: tl.constexpr = -7.0 if ZERO < 0 else -1.0 * ZERO
    high: tl.constexpr = 7.0 if ZERO < 0 else 15.0 - ZERO
    return round_between(x, low, high)


@triton.jit
def round_between(x, low, high):
    """Round float32 to low..high, integers; return it as float32 and as int8."""
    # Clamping first is the same, the limits being integers, and keeps the product that made x
    # from being fused with the sum below: both are rounded, as they are in the reference.
    shifted = tl.minimum(tl.maximum(x, low), high) + MAGIC
    return shifted - MAGIC, (shifted.to(tl.int32, bitcast=True) - AWAY).to(tl.int8)


@triton.jit
def nibbles(packed, ASM: tl.constexpr):
    """Split bytes (int8) into planes of low and high nibbles (int8), 16 times the codes each."""
    if ASM:
        low, high = tl.inline_asm_elementwise(UNPACK, '=r,=r,r', [packed],
                                              dtype=(tl.int8, tl.int8), is_pure=True, pack=4)
    else:  # the interpreter knows no assembly
        low, high = packed << 4, packed & -16
    return low, high


@triton.jit
def wait_for_previous(EARLY: tl.constexpr):
    """In a kernel launched early, wait for what the previous one writes, and let the next come."""
    if EARLY:
        tl.inline_asm_elementwise(WAIT, '=r', [], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def dp4a(a, b, c, ASM: tl.constexpr):
    """Add to c (int32) the four products of the signed bytes of a and b (int32)."""
    if ASM:
        c = tl.inline_asm_elementwise(DP4A, '=r,r,r,r', [a, b, c], dtype=tl.int32, is_pure=True,
                                      pack=1)
    else:
        for i in tl.static_range(4):
            c += ((a << (24 - 8 * i)) >> 24) * ((b << (24 - 8 * i)) >> 24)
    return c


@triton.jit
def scaled(total, scale, SHIFT: tl.constexpr):
    """Multiply sums (float32) by scales, or by 2**scale for SHIFT: added to the exponent."""
    if SHIFT:
        moved = total.to(tl.int32, bitcast=True) + (scale.to(tl.int32) << 23)
        return tl.where(total == 0.0, 0.0, moved.to(tl.float32, bitcast=True))
    return total * scale


@triton.jit
def half_dot(x, factors, total):
    """Add to total (float32) the product of x, rounded to float16, and float16 factors."""
    return tl.dot(x.to(tl.float16), factors, total)


@triton.jit
def shared_rows(K: tl.constexpr, N: tl.constexpr):
    """Return the offsets (K / 16, 16, N) of a matrix (K, N), for ``shared_dot``."""
    share, k, n = tl.arange(0, K // 16), tl.arange(0, 16), tl.arange(0, N)
    return (share[:, None, None] * 16 + k[None, :, None]) * N + n[None, None, :]


@triton.jit
def shared_dot(x, factors, total):
    """Add to total (K / 16, M, N) the parts of ``half_dot`` of x (M, K) and factors.

    Each warp takes other inputs: of a product of so few columns all would make the same.
    """
    shares: tl.constexpr = x.shape[1] // 16
    x = tl.reshape(x.to(tl.float16), (x.shape[0], shares, 16))
    return tl.dot(tl.permute(x, (1, 0, 2)), factors, total)


@triton.jit
def add_up(parts):
    """Return the sum of parts (S, M, N), S a power of two up to 64, (M, N).

    Where each warp holds one of them, this takes one trip through shared memory; `tl.sum` takes
    two, and a line of shuffles between them.
    """
    m: tl.constexpr = parts.shape[1]
    n: tl.constexpr = parts.shape[2]
    total = tl.permute(parts, (1, 2, 0))
    for _ in tl.static_range(MOST_HALVINGS):
        if total.shape[2] > 1:
            first, second = tl.split(tl.reshape(total, (m, n, total.shape[2] // 2, 2)))
            total = first + second
    return tl.reshape(total, (m, n))


@triton.jit
def fine_product(x, y):
    """Return the product of float32 x and y, each taken as the sum of two float16."""
    x_high, y_high = x.to(tl.float16), y.to(tl.float16)
    x_low, y_low = (x - x_high.to(tl.float32)).to(tl.float16), y - y_high.to(tl.float32)
    total = tl.dot(x_high, y_low.to(tl.float16))
    return tl.dot(x_high, y_high, tl.dot(x_low, y_high, total))


@triton.jit
def gelu(x):
    """Return the exact GELU (Hendrycks and Gimpel 2016) within 3e-7 |x|, without a branch.

    The error function is formula 7.1.26 of Abramowitz and Stegun.
    """
    z = tl.abs(x) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * z)
    series = 1.421413741 + t * (-1.453152027 + t * 1.061405429)
    tail = 0.5 * t * (0.254829592 + t * (-0.284496736 + t * series)) * tl.exp(-z * z)
    return x * tl.where(x < 0.0, tail, 1.0 - tail)
