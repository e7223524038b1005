"""Where two streams meet: add the transient path to the steady one.

    Y = act(Y0 + g * (U B)) + X0

    Y0, X0, Y (M, N), Y0 with its bias;  U (shares, M, R) from quantize.py;  B (R, N) float16

Moved at least: 4 M N (2, 3 with X0) + 4 M R shares + 2 R N + M bytes.
"""

from __future__ import annotations

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.int4 import gelu, half_dot
from taolora_ros.kernels.launch import Launch, ceil_div
from taolora_ros.quantization import half


@triton.jit(do_not_specialize=['rows'])
def join_kernel(steady, u, b, gate, residual, out, rows, N: tl.constexpr, NB: tl.constexpr,
                RANK: tl.constexpr, SHARES: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                GELU: tl.constexpr):
    """Join a (BM, BN) tile."""
    row, n = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    r = tl.arange(0, RANK)
    row_ok = row < rows
    ok = row_ok[:, None] & (n < N)[None, :]
    low = tl.zeros((BM, RANK), tl.float32)
    for share in range(SHARES):
        low += tl.load(u + (share * rows + row[:, None]) * RANK + r[None, :],
                       mask=row_ok[:, None], other=0.0)
    factors = tl.load(b + r[:, None] * NB + n[None, :], mask=(n < NB)[None, :], other=0.0)
    opened = tl.load(gate + row, mask=row_ok, other=0) != 0
    at = row[:, None] * N + n[None, :]
    y = tl.load(steady + at, mask=ok, other=0.0)
    y += tl.where(opened[:, None], half_dot(low, factors, tl.zeros_like(y)), 0.0)
    if GELU:
        y = gelu(y)
    if residual is not None:
        y += tl.load(residual + at, mask=ok, other=0.0)
    tl.store(out + at, y, mask=ok)


def join_launch(steady: Tensor, u: Tensor, b: Tensor, gate: Tensor, out: Tensor,
                residual: Tensor | None = None, gelu: bool = False, block_m: int = 16,
                block_n: int = 64) -> Launch:
    """Return the launch of Y into ``out``."""
    rows, columns = out.shape
    return Launch(join_kernel, (ceil_div(rows, block_m), ceil_div(columns, block_n)), {
        'steady': steady, 'u': u, 'b': b, 'gate': gate, 'residual': residual, 'out': out,
        'rows': rows}, {'N': columns, 'NB': b.shape[1], 'RANK': u.shape[2], 'SHARES': len(u),
                        'BM': block_m, 'BN': block_n, 'GELU': gelu})


def join_reference(steady: Tensor, u: Tensor, b: Tensor, gate: Tensor, gelu: bool = False
                   ) -> Tensor:
    """Return Y without X0 in the precision of the arguments, U rounded to float16."""
    y = steady + gate[:, None] * (half(u.sum(0)) @ b)
    return F.gelu(y) if gelu else y
