"""Rotary self-attention over the tokens of a window (Su et al. 2021, RoFormer).

    O = softmax(R(Q) R(K)' / sqrt(E)) V        for each window and head

    QKV (B T, 3 D) with D = heads E;  O (B T, D);  cos, sin (T, E / 2)

R turns the two halves of a head by the token's angles. One program takes BM queries of one head
and all T keys at once: T is at most a few hundred, so no running maximum is needed. Halves
of Q and K are loaded apart and never put together: Q K' is the sum of two products.

Moved at least: 4 (3 + 1) B T D + 4 T E bytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.int4 import fine_product, wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div

ONE_WARP = 64 * 32  # tokens times numbers of a head


@triton.jit
def turned(start, at, cos, sin, ok, E: tl.constexpr):
    """Load both halves of rows at ``start + at`` and turn them."""
    first = tl.load(start + at, mask=ok, other=0.0, cache_modifier='.cg')
    second = tl.load(start + at + E // 2, mask=ok, other=0.0, cache_modifier='.cg')
    return first * cos - second * sin, first * sin + second * cos


@triton.jit
def attend(qkv, cos, sin, query, head, T: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
           BM: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr):
    """Return one head's output (BM, 2 BE) for queries (BM,); qkv starts the window.

    Each warp adds up other keys: of a product of so few columns all would make the same. All is
    loaded before anything is computed, past the first-level cache: another program may have
    written it.
    """
    e = tl.arange(0, BE)
    e_ok = e[None, :] < E // 2
    key = tl.arange(0, BT)
    query_ok, key_ok = (query < T)[:, None] & e_ok, (key < T)[:, None] & e_ok
    start = qkv + head * E
    q_at = query[:, None] * 3 * D + e[None, :]
    k_at = key[:, None] * 3 * D + e[None, :]
    angle = query[:, None] * (E // 2) + e[None, :]
    q0, q1 = turned(start, q_at, tl.load(cos + angle, mask=query_ok, other=0.0),
                    tl.load(sin + angle, mask=query_ok, other=0.0), query_ok, E)
    angle = key[:, None] * (E // 2) + e[None, :]
    k0, k1 = turned(start + D, k_at, tl.load(cos + angle, mask=key_ok, other=0.0),
                    tl.load(sin + angle, mask=key_ok, other=0.0), key_ok, E)
    place = tl.arange(0, BT // 16)[:, None, None] * 16 + tl.arange(0, 16)[None, :, None]
    column = tl.arange(0, 2 * BE)[None, None, :]
    value = tl.load(start + 2 * D + place * 3 * D + column, mask=(place < T) & (column < E),
                    other=0.0, cache_modifier='.cg')
    score = fine_product(q0, tl.trans(k0)) + fine_product(q1, tl.trans(k1))
    root: tl.constexpr = E ** -0.5
    score = tl.where((key < T)[None, :], score * root, -float('inf'))
    weight = tl.exp(score - tl.max(score, 1)[:, None])
    weight = weight / tl.sum(weight, 1)[:, None]
    weight = tl.permute(tl.reshape(weight, (BM, BT // 16, 16)), (1, 0, 2))
    return tl.sum(fine_product(weight, value), 0)


@triton.jit
def attention_kernel(qkv, cos, sin, out, T: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
                     BM: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr,
                     EARLY: tl.constexpr = False):
    """Attend with BM queries of one head of one window."""
    wait_for_previous(EARLY)
    tile, head, window = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    query = tile * BM + tl.arange(0, BM)
    y = attend(qkv + window * T * 3 * D, cos, sin, query, head, T, D, E, BM, BT, BE)
    e = tl.arange(0, 2 * BE)
    tl.store(out + (window * T + query)[:, None] * D + head * E + e[None, :], y,
             mask=(query < T)[:, None] & (e < E)[None, :])


def attention_launch(qkv: Tensor, cos: Tensor, sin: Tensor, out: Tensor, heads: int,
                     block_m: int = 16) -> Launch:
    """Return the launch of O (B T, D) into ``out``; T is the length of ``cos`` (T, E / 2).

    One warp is fastest as long as its registers hold keys and values.
    """
    tokens, width = len(cos), out.shape[1]
    size = width // heads
    power = triton.next_power_of_2
    return Launch(attention_kernel, (ceil_div(tokens, block_m), heads, len(out) // tokens), {
        'qkv': qkv, 'cos': cos, 'sin': sin, 'out': out}, {
        'T': tokens, 'D': width, 'E': size, 'BM': block_m, 'BT': max(power(tokens), 16),
        'BE': max(power(size // 2), 16)}, warps=1 if tokens * size <= ONE_WARP else 4)


def attention_reference(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Return O (B T, D) in the precision of the arguments."""
    tokens = len(cos)
    q, k, v = qkv.view(-1, tokens, 3, heads, qkv.shape[1] // 3 // heads).permute(2, 0, 3, 1, 4)

    def turn(x):
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)

    score = turn(q) @ turn(k).transpose(-1, -2) / q.shape[-1] ** 0.5
    return (score.softmax(-1) @ v).transpose(1, 2).reshape(len(qkv), -1)
