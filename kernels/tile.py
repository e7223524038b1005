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
from taolora_ros.kernels.operands import load_hidden, load_inner_part
from taolora_ros.kernels.rows import EPS


@triton.jit
def normed(x, norm, D: tl.constexpr):
    """Return the layer norm of rows (BM, D); ``norm`` are its weight and bias."""
    x = x - (tl.sum(x, 1) / D)[:, None]
    rstd = (1.0 / tl.sqrt(tl.sum(x * x, 1) / D + EPS))[:, None]
    return x * rstd * norm[0][None, :] + norm[1][None, :]


@triton.jit
def low_rank(dropped, v, a_dropped, a):
    """Return [V - Q4(V), V] A (BM, RANK) for some of a layer's inputs."""
    none = tl.zeros((v.shape[0], a.shape[1]), tl.float32)
    return half_dot(dropped, a_dropped, none) + half_dot(v, a, none)


@triton.jit
def rounded(v, given):
    """Return the codes (BM, BK) int8 of inputs v and their low-rank product U (BM, RANK)."""
    inv = given[0][None, :]
    value, code = round_between(v * inv, given[1], given[2])
    return code, low_rank(v - value * (1.0 / inv), v, given[3], given[4])


@triton.jit
def add_products(first, second, q, packed, ASM: tl.constexpr):
    """Add to sums (BM, P) each the products of codes (BM, BK) with both outputs of the pairs."""
    low, high = nibbles(packed, ASM)
    return (tl.dot(q, low, first, out_dtype=tl.int32),
            tl.dot(q, high, second, out_dtype=tl.int32))


@triton.jit
def end_to_end(first, second):
    """Return (BM, P) twice as (BM, 2 P), one behind the other."""
    return tl.reshape(tl.permute(tl.join(first, second), (0, 2, 1)),
                      (first.shape[0], 2 * first.shape[1]))


@triton.jit
def completed(sums, u, outs, opened):
    """Return outputs of a layer from 16 times their integer sums and from U."""
    y = (sums >> 4).to(tl.float32) * outs[0][None, :] + outs[1][None, :]
    added = half_dot(u, outs[2], tl.zeros_like(y))
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
def add_outer(x, m, given, packed, outs, opened, ASM: tl.constexpr):
    """Return X with the outer layer of what was mixed added."""
    q, u = rounded(m, given)
    zero = tl.zeros((q.shape[0], packed.shape[1]), tl.int32)
    first, second = add_products(zero, zero, q, packed, ASM)
    return add_layer(x, first, second, u, outs, opened)


@triton.jit
def add_layer(x, first, second, u, outs, opened):
    """Return X with the outputs of a layer added, of the sums of their halves and U."""
    return x + completed(end_to_end(first, second), u, outs, opened)


@triton.jit
def hidden_sums(x, member, up, hidden, codes, factors, vectors, opened, D: tl.constexpr,
                S: tl.constexpr, RANK: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr,
                TEAM: tl.constexpr, ASM: tl.constexpr):
    """Return the sums and the U of the MLP of X, over a member's share of the hidden numbers.

    Sums are of both halves of the outputs, (BM, D / 2) each; U is (BM, RANK). ``hidden`` are the
    operands of the first 2 BH numbers of the share.
    """
    count: tl.constexpr = S // (2 * BH * TEAM)
    start = member * (S // TEAM)
    q, u = rounded(normed(x, up[0], D), up[1])
    first, second = tl.zeros((BM, D // 2), tl.int32), tl.zeros((BM, D // 2), tl.int32)
    none, u2 = tl.zeros((BM, BH), tl.int32), tl.zeros((BM, RANK), tl.float32)
    for i in range(count):
        if count > 1:
            hidden = load_hidden(start + i * 2 * BH, codes, factors, vectors, D, S, RANK, BH)
        sums = add_products(none, none, q, hidden[0], ASM)
        y = gelu(completed(end_to_end(sums[0], sums[1]), u, hidden[1], opened))
        code, more = rounded(y, hidden[2])
        u2 += more
        first, second = add_products(first, second, code, hidden[3], ASM)
    return first, second, u2


@triton.jit
def store_inner(x, member, out, norm, given, codes, factors, vectors, cos, sin, opened, t, t_ok,
                attends, D: tl.constexpr, S: tl.constexpr, E: tl.constexpr, RANK: tl.constexpr,
                BM: tl.constexpr, TEAM: tl.constexpr, ASM: tl.constexpr):
    """Store a member's share of the inner layer of the norm of X; ``out`` starts a window.

    All of it is (BM, 2 D) or (BM, 3 D).
    D columns at a time, by turns among members, the first halves of all heads paired with the
    second ones, so that queries and keys are turned (RoFormer) before anybody reads them.
    """
    half: tl.constexpr = D // 2
    turn: tl.constexpr = E // 2
    i, ok = tl.arange(0, half), t_ok[:, None]
    angle = t[:, None] * turn + (i % turn)[None, :]
    c, s = tl.load(cos + angle, mask=ok, other=0.0), tl.load(sin + angle, mask=ok, other=0.0)
    parts, turning = 2 + attends, 2 * attends  # of a convolution none is turned
    columns = parts * D
    packed, outs, turned_outs = load_inner_part(tl.minimum(member, parts - 1), columns, codes,
                                                factors, vectors, D, S, E, RANK)
    q, u = rounded(normed(x, norm, D), given)
    none = tl.zeros((BM, half), tl.int32)
    for part in range(member, parts, TEAM):
        if TEAM < 3:
            packed, outs, turned_outs = load_inner_part(part, columns, codes, factors, vectors, D,
                                                        S, E, RANK)
        first, second = add_products(none, none, q, packed, ASM)
        y0, y1 = completed(first, u, outs, opened), completed(second, u, turned_outs, opened)
        if part < turning:
            y0, y1 = y0 * c - y1 * s, y0 * s + y1 * c
        at = out + t[:, None] * columns + (part * D + i // turn * E + i % turn)[None, :]
        tl.store(at, y0, mask=ok)
        tl.store(at + turn, y1, mask=ok)


@triton.jit
def arrive(arrived):
    """Let those who wait know that what this program has written can be read."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem='acq_rel')


@triton.jit
def wait_for(arrived, goal):
    """Wait until ``goal`` programs have arrived; what they wrote before can be read after."""
    while tl.atomic_add(arrived, 0, sem='acquire') < goal:
        pass
    tl.debug_barrier()
