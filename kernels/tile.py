"""What a block of the network does to a tile of tokens, all of it in registers.

What takes time here is waiting: for operands of products on their way through shared memory, and
for products that add to each other. So each step is one wide product rather than several narrow
ones: a byte of weights holds two outputs of one input, so that both its planes take all inputs at
once, and attention takes all heads at once.

The hidden layer of the MLP is made and used 2 BH numbers at a time and never stored. The weights
lie as window_layout.py says; the kernel that does this for a window is in window.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from taolora_ros.kernels.convolution import gated_taps
from taolora_ros.kernels.int4 import fine_product, gelu, half_dot, nibbles, round_between
from taolora_ros.kernels.rows import EPS


@triton.jit
def normed(x, norm, D: tl.constexpr):
    """Return the layer norm of rows (BM, D)."""
    d = tl.arange(0, D)
    x = x - (tl.sum(x, 1) / D)[:, None]
    rstd = (1.0 / tl.sqrt(tl.sum(x * x, 1) / D + EPS))[:, None]
    return x * rstd * tl.load(norm + d)[None, :] + tl.load(norm + D + d)[None, :]


@triton.jit
def low_rank(dropped, v, a, K: tl.constexpr, RANK: tl.constexpr):
    """Return [V - Q4(V), V] A (BM, RANK) for some of a layer's K inputs.

    ``a`` begins at the first of these inputs; A's rows for V are K further.
    """
    at = a + tl.arange(0, v.shape[1])[:, None] * RANK + tl.arange(0, RANK)[None, :]
    u = half_dot(dropped, tl.load(at), tl.zeros((v.shape[0], RANK), tl.float32))
    return half_dot(v, tl.load(at + K * RANK), u)


@triton.jit
def rounded(v, inverse, limits, a, K: tl.constexpr, RANK: tl.constexpr):
    """Return the codes (BM, BK) int8 of inputs v and their low-rank product U (BM, RANK)."""
    inv = tl.load(inverse + tl.arange(0, v.shape[1]))[None, :]
    value, code = round_between(v * inv, tl.load(limits), tl.load(limits + 1))
    return code, low_rank(v - value * (1.0 / inv), v, a, K, RANK)


@triton.jit
def add_products(first, second, q, codes, pair, row_bytes, ASM: tl.constexpr):
    """Add to sums (BM, P) each the products of codes (BM, BK) with both outputs of the pairs."""
    k = tl.arange(0, q.shape[1])
    packed = tl.load(codes + pair[None, :] * row_bytes + k[:, None]).to(tl.int8, bitcast=True)
    low, high = nibbles(packed, ASM)
    return (tl.dot(q, low, first, out_dtype=tl.int32),
            tl.dot(q, high, second, out_dtype=tl.int32))


@triton.jit
def end_to_end(first, second):
    """Return (BM, P) twice as (BM, 2 P), one behind the other."""
    return tl.reshape(tl.permute(tl.join(first, second), (0, 2, 1)),
                      (first.shape[0], 2 * first.shape[1]))


@triton.jit
def completed(sums, u, scale, bias, b, opened, n, columns, RANK: tl.constexpr):
    """Return outputs n of a layer from 16 times its integer sums and from U."""
    r = tl.arange(0, RANK)
    y = (sums >> 4).to(tl.float32) * tl.load(scale + n)[None, :] + tl.load(bias + n)[None, :]
    added = half_dot(u, tl.load(b + r[:, None] * columns + n[None, :]), tl.zeros_like(y))
    return y + tl.where(opened[:, None], added, 0.0)


@triton.jit
def attended(qkv, t, t_ok, T: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BT: tl.constexpr):
    """Return attention's output (BM, D) for queries t; queries and keys are turned already."""
    heads: tl.constexpr = D // E
    start = qkv + tl.arange(0, heads)[:, None, None] * E + tl.arange(0, E)[None, None, :]
    key = tl.arange(0, BT)
    # Past the first-level cache: another program wrote what is read here.
    q = tl.load(start + t[None, :, None] * 3 * D, mask=t_ok[None, :, None], other=0.0,
                cache_modifier='.cg')
    at, key_ok = start + D + key[None, :, None] * 3 * D, (key < T)[None, :, None]
    k = tl.load(at, mask=key_ok, other=0.0, cache_modifier='.cg')
    v = tl.load(at + D, mask=key_ok, other=0.0, cache_modifier='.cg')
    root: tl.constexpr = E ** -0.5
    score = fine_product(q * root, tl.permute(k, (0, 2, 1)))           # (heads, BM, BT)
    score = tl.where((key < T)[None, None, :], score, -float('inf'))
    weight = tl.exp(score - tl.max(score, 2)[:, :, None])
    out = fine_product(weight / tl.sum(weight, 2)[:, :, None], v)
    return tl.reshape(tl.permute(out, (1, 0, 2)), (t.shape[0], D))


@triton.jit
def mixed(inner, taps, t, t_ok, attends, T: tl.constexpr, D: tl.constexpr, J: tl.constexpr,
          E: tl.constexpr, BM: tl.constexpr, BT: tl.constexpr):
    """Return what a block's mixer gives for tokens t, (BM, D)."""
    if attends > 0:
        m = attended(inner, t, t_ok, T, D, E, BT)
    else:
        d = tl.arange(0, D)
        m = gated_taps(inner, taps + D, taps, t, d, d < D, T, D, J, BM, D)
    return m


@triton.jit
def add_outer(x, m, codes, factors, vectors, opened, D: tl.constexpr, S: tl.constexpr,
              RANK: tl.constexpr, BM: tl.constexpr, ASM: tl.constexpr):
    """Return X with the outer layer of what was mixed added."""
    outs = vectors + 4 * D + 16 + 3 * D + S + 6 * D       # scale and bias
    a, pair = factors + 5 * D * RANK, tl.arange(0, D // 2)
    q, u = rounded(m, vectors + 5 * D + 16, vectors + 4 * D + 2, a, D, RANK)
    zero = tl.zeros((BM, D // 2), tl.int32)
    sums = add_products(zero, zero, q, codes + 3 * D * D // 2, pair, D, ASM)
    return x + completed(end_to_end(sums[0], sums[1]), u, outs, outs + D, a + 2 * D * RANK,
                         opened, tl.arange(0, D), D, RANK)


@triton.jit
def hidden_sums(x, codes, factors, vectors, opened, D: tl.constexpr, S: tl.constexpr,
                RANK: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr, ASM: tl.constexpr):
    """Return the sums of the MLP of X and its U.

    Sums are of both halves of the outputs, (BM, D / 2) each; U is (BM, RANK).
    """
    limits = vectors + 4 * D
    inverse = limits + 16 + 2 * D
    outs = limits + 16 + 3 * D + S + 8 * D                # scale and bias of up
    a, at = factors + 8 * D * RANK, codes + 2 * D * D
    b = a + 2 * D * RANK
    a2, at2 = b + S * RANK, at + S * D // 2
    q, u = rounded(normed(x, vectors + 2 * D, D), inverse, limits + 4, a, D, RANK)
    pair, h = tl.arange(0, D // 2), tl.arange(0, 2 * BH)
    first, second = tl.zeros((BM, D // 2), tl.int32), tl.zeros((BM, D // 2), tl.int32)
    none, u2 = tl.zeros((BM, BH), tl.int32), tl.zeros((BM, RANK), tl.float32)
    for j in range(0, S, 2 * BH):
        sums = add_products(none, none, q, at, j // 2 + tl.arange(0, BH), D, ASM)
        y = gelu(completed(end_to_end(sums[0], sums[1]), u, outs, outs + S, b, opened, j + h, S,
                           RANK))
        code, more = rounded(y, inverse + D + j, limits + 6, a2 + j * RANK, S, RANK)
        u2 += more
        first, second = add_products(first, second, code, at2 + j, pair, S, ASM)
    return first, second, u2


@triton.jit
def add_down(x, first, second, u, factors, vectors, opened, D: tl.constexpr, S: tl.constexpr,
             RANK: tl.constexpr):
    """Return X with the MLP's outputs added, of all its sums and U."""
    outs = vectors + 4 * D + 16 + 3 * D + S + 8 * D + 2 * S
    b = factors + (10 * D + 3 * S) * RANK
    return x + completed(end_to_end(first, second), u, outs, outs + D, b, opened,
                         tl.arange(0, D), D, RANK)


@triton.jit
def store_inner(x, out, codes, factors, vectors, cos, sin, opened, t, t_ok, attends,
                D: tl.constexpr, S: tl.constexpr, E: tl.constexpr, RANK: tl.constexpr,
                BM: tl.constexpr, ASM: tl.constexpr):
    """Store the inner layer of the norm of X, (BM, 2 D) or (BM, 3 D); ``out`` starts a window.

    D columns at a time, the first halves of all heads paired with the second ones, so that
    queries and keys are turned (RoFormer) before anybody reads them.
    """
    half: tl.constexpr = D // 2
    turn: tl.constexpr = E // 2
    limits = vectors + 4 * D
    scale = limits + 16 + 3 * D + S
    q, u = rounded(normed(x, vectors, D), limits + 16, limits, factors, D, RANK)
    none, i = tl.zeros((BM, half), tl.int32), tl.arange(0, half)
    angle, ok = t[:, None] * turn + (i % turn)[None, :], t_ok[:, None]
    c, s = tl.load(cos + angle, mask=ok, other=0.0), tl.load(sin + angle, mask=ok, other=0.0)
    parts, turning = 2 + attends, 2 * attends  # of a convolution none is turned
    columns = parts * D
    b = factors + 2 * D * RANK
    for part in range(parts):
        n = part * D + i // turn * E + i % turn
        sums = add_products(none, none, q, codes, part * half + i, D, ASM)
        y0 = completed(sums[0], u, scale, scale + 3 * D, b, opened, n, columns, RANK)
        y1 = completed(sums[1], u, scale, scale + 3 * D, b, opened, n + turn, columns, RANK)
        if part < turning:
            y0, y1 = y0 * c - y1 * s, y0 * s + y1 * c
        at = out + t[:, None] * columns + n[None, :]
        tl.store(at, y0, mask=ok)
        tl.store(at + turn, y1, mask=ok)


@triton.jit
def meet(arrived, goal):
    """Wait until ``goal`` programs have come here; what they wrote before can be read after."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem='acq_rel')
    while tl.atomic_add(arrived, 0, sem='acquire') < goal:
        pass
    tl.debug_barrier()
