"""INT4 arithmetic and the TAO-LoRA layer (METHOD sections 1 to 3).

    Y = Q4(X) Q4(W) + g * (X' A B) + b

    M  tokens                 K  input features          N  output features
    r  rank                   G  weight scale groups along K
    X  (M, K) activations     W  (K, N) weights          g  (M,) gate, one flag per token
    X' X, or [X - Q4(X), X] when the buffer reads what the steady path dropped

The steady path is exact integer arithmetic. Activations are multiplied by ``x_inv`` (K,), rounded
to four-bit integers and summed against four-bit weights; one multiply by ``w_scale`` (G, N)
brings the sum back. ``x_inv`` holds the clip and, channel by channel, the smoothing (Xiao et al.
2023, SmoothQuant), whose inverse is folded into the weights before they are rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
import torch.nn.functional as F

QMAX = 7                      # symmetric signed 4-bit: -7 .. 7
UNSIGNED_MAX = 15             # with a zero point: 0 .. 15
SHRINKS = 21                  # ranges of a weight that are tried, from all of it to SMALLEST
SMALLEST = 0.6
AT_ONCE = 1 << 22             # numbers that they are tried on together: fewer, larger operations
EXACT_FLOAT32 = 2 ** 24       # integers up to here are exact in float32


def quantize_weight(weight: Tensor, groups: int = 1, qmax: int = QMAX, shift: bool = False
                    ) -> tuple[Tensor, Tensor]:
    """Round ``weight`` (K, N) to -qmax..qmax; return codes (K, N) int8 and scales (groups, N).

    Each group of K / groups rows has one scale per output channel: of a few shrunken ranges, the
    one with the least squared error; a power of two for ``shift``. Raise ValueError when groups
    does not divide K.
    """
    k, n = weight.shape
    if groups < 1 or k % groups:
        raise ValueError(f'groups: {groups} does not divide K = {k}')
    w = weight.reshape(groups, k // groups, n)
    top = w.abs().amax(1).clamp_min(1e-5)  # (G, N); far above what float16 loses
    best_error = torch.full_like(top, float('inf'))
    best_scale = top.clone()
    shrinks = torch.linspace(1.0, SMALLEST, SHRINKS, device=w.device).to(w.dtype)
    for some in shrinks.split(max(AT_ONCE // w.numel(), 1)):
        scale = top * some[:, None, None] / qmax                      # (S, G, N)
        scale = torch.exp2(scale.log2().round()) if shift else scale.half().to(w.dtype)  # as kept
        wide = scale[:, :, None]                                      # (S, G, 1, N)
        error = (round_clamp(w / wide, -qmax, qmax) * wide - w).square().sum(2)
        least, at = error.min(0)                                      # (G, N), the first of equals
        better = least < best_error
        best_error = torch.where(better, least, best_error)
        best_scale = torch.where(better, scale.gather(0, at[None])[0], best_scale)
    codes = round_clamp(w / best_scale[:, None], -qmax, qmax)
    return codes.reshape(k, n).to(torch.int8), best_scale.float()


class _Round(torch.autograd.Function):
    """Round half to even; gradients pass straight through (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


def round_clamp(x: Tensor, low: int, high: int) -> Tensor:
    """Round half to even and clamp to [low, high]; differentiable where it does not clamp."""
    rounded = _Round.apply(x) if x.requires_grad else x.round()
    return rounded.clamp(low, high)


def half(x: Tensor) -> Tensor:
    """Round to float16; the type stays."""
    return x.half().to(x.dtype)


def pack_int4(codes: Tensor) -> Tensor:
    """Pack signed codes (K, N) int8 in [-8, 7] two to a byte: (ceil(K / 2), N) uint8.

    Row k shares its byte with row k + ceil(K / 2) (low and high nibble), so both halves unpack
    to contiguous rows. An odd K is padded with a row of zeros. Raise ValueError out of range.
    """
    if codes.min() < -8 or codes.max() > 7:
        raise ValueError(f'codes: {int(codes.min())}..{int(codes.max())} do not fit in -8..7')
    rows = (codes.shape[0] + 1) // 2
    low, high = codes[:rows], codes[rows:]
    high = F.pad(high, (0, 0, 0, rows - high.shape[0]))
    return ((low & 0xF) | ((high & 0xF) << 4)).view(torch.uint8)


def unpack_int4(packed: Tensor, k: int) -> Tensor:
    """Invert ``pack_int4``: (ceil(K / 2), N) uint8 to (K, N) int8."""
    if packed.shape[0] != (k + 1) // 2:
        raise ValueError(f'packed: {packed.shape[0]} rows cannot hold K = {k} codes')
    signed = packed.view(torch.int8)
    low = (signed << 4) >> 4   # arithmetic shifts extend the sign
    high = signed >> 4
    return torch.cat([low, high])[:k]


def integer_matmul(x: Tensor, w: Tensor) -> Tensor:
    """Multiply integers held in float32, exactly: (M, K) by (K, N) gives int32 values.

    Every product is at most 15 * 7, so partial sums stay below 2 ** 24 for K up to 159782 and
    float32 adds them without rounding, in any order: the result is that of int4 x int4 -> int32
    with the speed of a tuned float product. Raise ValueError for a K beyond that.
    """
    if x.shape[-1] * UNSIGNED_MAX * QMAX >= EXACT_FLOAT32:
        raise ValueError(f'K = {x.shape[-1]}: sums may pass 2**24 and lose exactness')
    return x @ w


class TaoLinear(nn.Linear):
    """A linear layer that runs in full precision until ``load_int4`` gives it both paths."""

    int4 = False
    lora_bits, scale_bits = 16, 32  # how a file keeps LoRA and scales, see storage.py
    half_lora = False  # whether what the LoRA multiplies is rounded to float16, as on a GPU

    def load_int4(self, codes: Tensor, w_scale: Tensor, x_inv: Tensor, x_zero: int | None,
                  lora_a: Tensor, lora_b: Tensor, buffer: str = 'residual') -> None:
        """Switch to INT4: codes (K, N), w_scale (G, N), x_inv (K,), LoRA (K or 2K, r), (r, N).

        ``x_zero`` is the zero point of unsigned activations, None for symmetric ones; ``buffer``
        is 'x' or 'residual'. The full-precision weight is dropped; the bias stays. Raise
        ValueError when shapes disagree.
        """
        k, n = self.in_features, self.out_features
        reads = {'x': k, 'residual': 2 * k}.get(buffer)
        if reads is None:
            raise ValueError(f"buffer: {buffer!r} is neither 'x' nor 'residual'")
        rank = lora_b.shape[0]
        for name, tensor, shape in (
                ('codes', codes, (k, n)), ('w_scale', w_scale, (w_scale.shape[0], n)),
                ('x_inv', x_inv, (k,)), ('lora_a', lora_a, (reads, rank)),
                ('lora_b', lora_b, (rank, n))):
            if tuple(tensor.shape) != shape:
                raise ValueError(f'{name}: shape {tuple(tensor.shape)}, expected {shape}')
        self.weight = None
        self.buffer, self.x_zero, self.int4 = buffer, x_zero, True
        self.register_buffer('codes', codes.float())  # integers, ready for the product
        self.register_buffer('w_scale', w_scale.float())
        self.register_buffer('x_inv', x_inv.float())
        self.lora_a = nn.Parameter(lora_a.float(), requires_grad=False)
        self.lora_b = nn.Parameter(lora_b.float(), requires_grad=False)

    def quantize_input(self, x: Tensor) -> Tensor:
        """Round activations (..., K) to four-bit integers, the zero point already taken off."""
        return quantize_activation(x, self.x_inv, self.x_zero)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map (M, K) to (M, N); ``rows`` are the indices of gated tokens, None meaning all."""
        if not self.int4:
            return F.linear(x, self.weight, self.bias)
        q = self.quantize_input(x)                                   # (M, K) integers
        y = grouped_matmul(q, self.codes, self.w_scale)
        if self.bias is not None:
            y = y + self.bias
        if rows is None:
            return y + self.transient(x, q)
        if len(rows):
            y = y.index_add(0, rows, self.transient(x[rows], q[rows]))
        return y

    def transient(self, x: Tensor, q: Tensor) -> Tensor:
        """Return the low-rank path X' A B for tokens x (m, K) with their codes q (m, K)."""
        if self.buffer == 'residual':
            x = torch.cat([x - q / self.x_inv, x], dim=-1)           # (m, 2K)
        if self.half_lora:
            return half(half(x) @ self.lora_a) @ self.lora_b
        return (x @ self.lora_a) @ self.lora_b


def quantize_activation(x: Tensor, x_inv: Tensor, x_zero: int | None) -> Tensor:
    """Round ``x`` (..., K) to the integers Q with Q / x_inv ~ x, clipped to four bits."""
    if x_zero is None:
        return round_clamp(x * x_inv, -QMAX, QMAX)
    return round_clamp(x * x_inv, -x_zero, UNSIGNED_MAX - x_zero)


def grouped_matmul(q: Tensor, codes: Tensor, w_scale: Tensor) -> Tensor:
    """Exact integer product of q (M, K) and codes (K, N), scaled group by group: (M, N)."""
    groups = w_scale.shape[0]
    if groups == 1:
        return integer_matmul(q, codes) * w_scale
    m, k = q.shape
    parts = integer_matmul(q.reshape(m, groups, k // groups).transpose(0, 1),
                           codes.reshape(groups, k // groups, -1))   # (G, M, N)
    return (parts * w_scale[:, None]).sum(0)


def lora_loss(task_loss: Tensor, weight: Tensor, quantized: Tensor, a: Tensor, b: Tensor,
              weight_of_fit: float) -> Tensor:
    """Return L = L_task + lambda ||(W - Q4(W)) - A B||_F, matrices (K, N) (METHOD section 3)."""
    return task_loss + weight_of_fit * torch.linalg.norm((weight - quantized) - a @ b)
