"""The fused TAO layer: norm, four-bit product, gated LoRA, bias, GELU and residual in one kernel.

    Y = act(s (Q4(norm X) Q4(W)) + b + g * ([V - Q4(V), V] A) B) + X0,      V = norm X

    X (M, K), Y and X0 (M, N), g (M,) one byte a token; weights as in layout.py

Each program makes a (BM, BN) tile of Y. It reads X a K block ahead of its use (and before that
twice for a norm of more than one block; the cache gives all but once), rounds it in registers, and
walks over K blocks (walk.py): one byte tile brings two integer products, the A tile beside it the
low-rank ones of the same numbers. Nothing between X and Y goes to memory. A narrow tile of a single
K block loads and unpacks all that it multiplies X by before the kernel in front has ended. With
SPLIT > 1 so many programs share a tile's K blocks; the last one to arrive adds the parts in their
order, so that results do not depend on which that was.

With READY the codes of V come from quantize.py, a byte each, and X is not read: for many rows,
where each tile of outputs would round the same inputs again.

LORA: 0 none, 1 always computed and added where the gate is open (the same time for any gate), 2
left out by programs without an open token, 3 U = V' A was computed before, see quantize.py. What
its factors are multiplied by is rounded to float16 for the tensor cores; sums are float32.

Moved at least: 4 M K + K N / 2 + 2 parts K R + 2 R N + 4 (K + G N + N) + M + 4 M N bytes, each
once if caches hold what several programs read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.int4 import gelu, half_dot, scaled, wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div, interpreted
from taolora_ros.kernels.layout import LayerWeights
from taolora_ros.kernels.walk import load_block_weights, only_block, walk, walk_ready
from taolora_ros.quantization import grouped_matmul, half, quantize_activation

NARROW = tl.constexpr(32)  # outputs of tiles for few rows


@triton.jit
def add_shares(u, u_ready, row, row_ok, rows, RANK: tl.constexpr, SHARES: tl.constexpr):
    """Add to u (BM, R) what quantize.py left in shares."""
    at = row[:, None] * RANK + tl.arange(0, RANK)[None, :]
    for share in range(SHARES):
        u += tl.load(u_ready + share * rows * RANK + at, mask=row_ok[:, None], other=0.0)
    return u


@triton.jit
def finish(total, u, scale, bias, factors, opened, added, out, at, ok, GROUPS: tl.constexpr,
           LORA: tl.constexpr, GELU: tl.constexpr, SHIFT: tl.constexpr):
    """Scale, add bias, gated U B and residual; store the tile."""
    if GROUPS == 1:
        total = scaled(total, scale[None, :], SHIFT)
    y = total + bias[None, :]
    if LORA:
        y += tl.where(opened[:, None], half_dot(u, factors, tl.zeros_like(y)), 0.0)
    if GELU:
        y = gelu(y)
    if added is not None:
        y += added
    tl.store(out + at, y, mask=ok)


@triton.jit
def parts_at(parts, tile_m, tile_n, BM: tl.constexpr, BN: tl.constexpr, RANK: tl.constexpr,
             SPLIT: tl.constexpr):
    """Return where a tile's first parts of sums (BM, BN) and of U (BM, R) lie.

    Parts lie tile by tile: (tile, share, BM, BN) and then (tile, share, BM, R).
    """
    m, tile = tl.arange(0, BM)[:, None], tile_m * tl.num_programs(0) + tile_n
    u_parts = parts + tl.num_programs(1) * tl.num_programs(0) * SPLIT * BM * BN
    return (parts + tile * SPLIT * BM * BN + m * BN + tl.arange(0, BN)[None, :],
            u_parts + tile * SPLIT * BM * RANK + m * RANK + tl.arange(0, RANK)[None, :])


@triton.jit
def hand_in(total, u, parts, arrived, tile_m, tile_n, share, BM: tl.constexpr, BN: tl.constexpr,
            RANK: tl.constexpr, SPLIT: tl.constexpr, LORA: tl.constexpr):
    """Store a program's share of a tile; return whether it is the last one to do so."""
    total_at, u_at = parts_at(parts, tile_m, tile_n, BM, BN, RANK, SPLIT)
    counter = arrived + tile_m * tl.num_programs(0) + tile_n
    tl.store(total_at + share * BM * BN, total)
    if LORA:
        tl.store(u_at + share * BM * RANK, u)
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem='acq_rel') == SPLIT - 1
    if last:
        tl.store(counter, 0)  # ready for the next launch
    return last


@triton.jit
def handed_in(parts, tile_m, tile_n, BM: tl.constexpr, BN: tl.constexpr, RANK: tl.constexpr,
              SPLIT: tl.constexpr, LORA: tl.constexpr):
    """Return the sums (BM, BN) and U (BM, R) of a tile, its parts added in their order."""
    total_at, u_at = parts_at(parts, tile_m, tile_n, BM, BN, RANK, SPLIT)
    total, u = tl.zeros((BM, BN), tl.float32), tl.zeros((BM, RANK), tl.float32)
    for part in range(SPLIT):  # LLVM puts all loads in front; unrolled by Triton none would be
        total += tl.load(total_at + part * BM * BN, cache_modifier='.cg')
        if LORA:
            u += tl.load(u_at + part * BM * RANK, cache_modifier='.cg')
    return total, u


@triton.jit(do_not_specialize=['rows'])
def linear_kernel(x, codes, a, b, vectors, gate, u_ready, residual, out, parts, arrived, rows,
                  K: tl.constexpr, N: tl.constexpr, NB: tl.constexpr, GROUPS: tl.constexpr,
                  RANK: tl.constexpr, PARTS: tl.constexpr, H: tl.constexpr, BM: tl.constexpr,
                  BN: tl.constexpr, CODE_STEP: tl.constexpr, A_STEP: tl.constexpr,
                  SPLIT: tl.constexpr, SHARES: tl.constexpr, NORM: tl.constexpr,
                  ZERO: tl.constexpr, LORA: tl.constexpr, GELU: tl.constexpr, SHIFT: tl.constexpr,
                  READY: tl.constexpr, ASM: tl.constexpr, EARLY: tl.constexpr = False):
    """Make one (BM, BN) tile of Y, or with SPLIT a part of it; see the top of the file.

    What no other kernel writes is loaded before the one in front has ended.
    """
    tile_n, tile_m, share = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    blocks: tl.constexpr = (GROUPS * ((K // GROUPS + H - 1) // H) + 1) // 2
    each: tl.constexpr = (blocks + SPLIT - 1) // SPLIT
    first, last = share * each, tl.minimum(share * each + each, blocks)
    row = tile_m * BM + tl.arange(0, BM)
    n = tile_n * BN + tl.arange(0, BN)
    row_ok, n_ok = row < rows, n < N
    scales = vectors + K * (3 if NORM else 1)
    scale, b_tile, added = None, None, None
    code_at = tile_n * BN * H + tl.arange(0, BN)[None, :] * H + tl.arange(0, H)[:, None]
    if GROUPS == 1:
        scale = tl.load(scales + n, mask=n_ok, other=0.0)
    bias = tl.load(scales + GROUPS * N + n, mask=n_ok, other=0.0)
    only: tl.constexpr = each == 1 and GROUPS == 1 and not READY and BN <= NARROW and LORA == 1
    if LORA:
        b_tile = tl.load(b + tl.arange(0, RANK)[:, None] * NB + n[None, :])
    if only:
        held = load_block_weights(codes, a, vectors, code_at, first, K, RANK, PARTS, H, CODE_STEP,
                                  A_STEP, NORM, ASM)
    wait_for_previous(EARLY)
    at, ok = row[:, None] * N + n[None, :], row_ok[:, None] & n_ok[None, :]
    if residual is not None:
        added = tl.load(residual + at, mask=ok, other=0.0)
    opened = row_ok
    if LORA:
        opened = tl.load(gate + row, mask=row_ok, other=0) != 0
    u = tl.zeros((BM, RANK), tl.float32)
    if READY:
        total = walk_ready(x, codes, vectors, row, row_ok, n, code_at, first, last, K, N, GROUPS,
                           H, BM, BN, CODE_STEP, NORM, SHIFT, ASM)
    elif only:
        total, u = only_block(x, held, row, row_ok, first, K, RANK, PARTS, H, BM, NORM, ZERO)
    elif LORA == 2:
        if tl.max(opened.to(tl.int32), 0) > 0:
            total, u = walk(x, codes, a, vectors, row, row_ok, n, code_at, first, last, K, N,
                            GROUPS, RANK, PARTS, H, BM, BN, CODE_STEP, A_STEP, NORM, ZERO, 1,
                            SHIFT, ASM)
        else:
            total, u = walk(x, codes, a, vectors, row, row_ok, n, code_at, first, last, K, N,
                            GROUPS, RANK, PARTS, H, BM, BN, CODE_STEP, A_STEP, NORM, ZERO, 0,
                            SHIFT, ASM)
    else:
        total, u = walk(x, codes, a, vectors, row, row_ok, n, code_at, first, last, K, N, GROUPS,
                        RANK, PARTS, H, BM, BN, CODE_STEP, A_STEP, NORM, ZERO, LORA == 1, SHIFT,
                        ASM)
    if LORA == 3:
        u = add_shares(u, u_ready, row, row_ok, rows, RANK, SHARES)
    if SPLIT == 1:
        finish(total, u, scale, bias, b_tile, opened, added, out, at, ok, GROUPS, LORA, GELU,
               SHIFT)
    elif hand_in(total, u, parts, arrived, tile_m, tile_n, share, BM, BN, RANK, SPLIT, LORA):
        total, u = handed_in(parts, tile_m, tile_n, BM, BN, RANK, SPLIT, LORA)
        finish(total, u, scale, bias, b_tile, opened, added, out, at, ok, GROUPS, LORA, GELU,
               SHIFT)


def linear_launch(x: Tensor, weights: LayerWeights, gate: Tensor, out: Tensor,
                  residual: Tensor | None = None, u: Tensor | None = None, gelu: bool = False,
                  lora: int = 1, block_m: int = 16, block_n: int = 64, split: int = 1,
                  warps: int = 4, stages: int = 2) -> Launch:
    """Return the launch of Y (M, N) into ``out``; ``gate`` (M,) uint8, ``u`` (shares, M, R).

    ``x`` is (M, K) or, as int8 and with lora 0 or 3, what `quantize_launch` makes of it; raise
    ValueError for another ``lora`` then, and for lora 3 with ``split``.
    """
    if x.dtype == torch.int8 and lora not in (0, 3):
        raise ValueError(f'lora: {lora}, with codes made before it must be 0 or 3')
    if lora == 3 and split > 1:
        raise ValueError(f'split: {split}, with U made before it must be 1')
    rows = len(x)
    split = min(split, weights.blocks)
    grid = (ceil_div(weights.n, block_n), ceil_div(rows, block_m), split)
    parts = arrived = None
    if split > 1:
        size = grid[0] * grid[1] * split * block_m * (block_n + weights.rank)
        parts = torch.empty(size, device=x.device)
        arrived = torch.zeros(grid[0] * grid[1], dtype=torch.int32, device=x.device)
    return Launch(linear_kernel, grid, {
        'x': x, 'codes': weights.codes, 'a': weights.a, 'b': weights.b,
        'vectors': weights.vectors, 'gate': gate, 'u_ready': u, 'residual': residual, 'out': out,
        'parts': parts, 'arrived': arrived, 'rows': rows}, {
        **weights.constants, 'BM': block_m, 'BN': block_n, 'SPLIT': split,
        'SHARES': 1 if u is None else len(u), 'LORA': lora, 'GELU': gelu,
        'READY': x.dtype == torch.int8, 'ASM': not interpreted()}, warps, stages)


def linear_reference(x: Tensor, gate: Tensor, codes: Tensor, w_scale: Tensor, x_inv: Tensor,
                     x_zero: int | None, a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """Return Y (M, N) without norm, GELU and residual, in the precision of the arguments.

    What the LoRA multiplies is rounded to float16, as the kernels do.
    """
    q = quantize_activation(x, x_inv, x_zero)
    read = torch.cat([x - q / x_inv, x], 1) if len(a) == 2 * len(codes) else x
    return grouped_matmul(q, codes, w_scale) + bias + gate[:, None] * (half(half(read) @ a) @ b)
