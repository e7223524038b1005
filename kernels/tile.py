"""What a block of the network does to a tile of tokens, all of it in registers.

Numbers of width D are held in two halves (BM, D / 2) throughout: those that share their bytes. The
hidden layer of the MLP is made and used BH numbers of each half at a time and never stored. The
weights lie as window_layout.py says; the kernel that does this for a window is in window.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from taolora_ros.kernels.convolution import gated_taps
from taolora_ros.kernels.int4 import fine_dot, fine_product, gelu, nibbles, round_between
from taolora_ros.kernels.rows import EPS


@triton.jit
def normed(x0, x1, norm, D: tl.constexpr):
    """Return the layer norm of rows held in two halves (BM, D / 2)."""
    half: tl.constexpr = D // 2
    mean = ((tl.sum(x0, 1) + tl.sum(x1, 1)) / D)[:, None]
    x0, x1 = x0 - mean, x1 - mean
    rstd = (1.0 / tl.sqrt((tl.sum(x0 * x0, 1) + tl.sum(x1 * x1, 1)) / D + EPS))[:, None]
    k = tl.arange(0, half)
    v0 = x0 * rstd * tl.load(norm + k)[None, :] + tl.load(norm + D + k)[None, :]
    v1 = x1 * rstd * tl.load(norm + half + k)[None, :] + tl.load(norm + D + half + k)[None, :]
    return v0, v1


@triton.jit
def rounded(v, inverse, limits, u, a, K: tl.constexpr, RANK: tl.constexpr, BK: tl.constexpr):
    """Return the codes (BM, BK) int8 of inputs v, and u with their low-rank product added.

    ``inverse`` and ``a`` begin at the first of these inputs; A's rows for X are K further.
    """
    k, r = tl.arange(0, BK), tl.arange(0, RANK)
    inv = tl.load(inverse + k)[None, :]
    value, code = round_between(v * inv, tl.load(limits), tl.load(limits + 1))
    at = a + k[:, None] * RANK + r[None, :]
    u = fine_dot(v - value * (1.0 / inv), tl.load(at), u)
    return code, fine_dot(v, tl.load(at + K * RANK), u)


@triton.jit
def completed(sums, u, scale, bias, b, opened, n, columns, RANK: tl.constexpr):
    """Return outputs n of a layer from 16 times its integer sums and from U."""
    r = tl.arange(0, RANK)
    y = (sums >> 4).to(tl.float32) * tl.load(scale + n)[None, :] + tl.load(bias + n)[None, :]
    added = fine_dot(u, tl.load(b + r[:, None] * columns + n[None, :]), tl.zeros_like(y))
    return y + tl.where(opened[:, None], added, 0.0)


@triton.jit
def add_products(sums, q0, q1, codes, n, row_bytes, BK: tl.constexpr, ASM: tl.constexpr):
    """Add to sums (BM, BN) the products of codes with BK bytes of each of the outputs n."""
    k = tl.arange(0, BK)
    packed = tl.load(codes + n[None, :] * row_bytes + k[:, None]).to(tl.int8, bitcast=True)
    low, high = nibbles(packed, ASM)
    sums = tl.dot(q0, low, sums, out_dtype=tl.int32)
    return tl.dot(q1, high, sums, out_dtype=tl.int32)


@triton.jit
def attend_turned(qkv, t, t_ok, head, T: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
                  BT: tl.constexpr):
    """Return one head's output (BM, E) for queries t; queries and keys are turned already."""
    e, key = tl.arange(0, E), tl.arange(0, BT)
    start = qkv + head * E + e[None, :]
    # Past the first-level cache: another program wrote what is read here.
    q = tl.load(start + t[:, None] * 3 * D, mask=t_ok[:, None], other=0.0, cache_modifier='.cg')
    at, key_ok = start + D + key[:, None] * 3 * D, (key < T)[:, None]
    k = tl.load(at, mask=key_ok, other=0.0, cache_modifier='.cg')
    v = tl.load(at + D, mask=key_ok, other=0.0, cache_modifier='.cg')
    root: tl.constexpr = E ** -0.5
    score = tl.where((key < T)[None, :], fine_product(q * root, tl.trans(k)), -float('inf'))
    weight = tl.exp(score - tl.max(score, 1)[:, None])
    return fine_product(weight / tl.sum(weight, 1)[:, None], v)


@triton.jit
def mixed(inner, room, taps, t, t_ok, attends, T: tl.constexpr, D: tl.constexpr, J: tl.constexpr,
          E: tl.constexpr, BM: tl.constexpr, BT: tl.constexpr):
    """Return what a block's mixer gives for tokens t, in halves; ``room`` (T, D) is for it."""
    half: tl.constexpr = D // 2
    d, e = tl.arange(0, half), tl.arange(0, E)
    ok = t_ok[:, None]
    if attends > 0:
        for head in range(D // E):
            o = attend_turned(inner, t, t_ok, head, T, D, E, BT)
            tl.store(room + t[:, None] * D + head * E + e[None, :], o, mask=ok)
        tl.debug_barrier()
        at = room + t[:, None] * D + d[None, :]
        m0 = tl.load(at, mask=ok, other=0.0, cache_modifier='.cg')
        m1 = tl.load(at + half, mask=ok, other=0.0, cache_modifier='.cg')
    else:
        m0 = gated_taps(inner, taps + D, taps, t, d, d < D, T, D, J, BM, half)
        m1 = gated_taps(inner, taps + D, taps, t, half + d, d < D, T, D, J, BM, half)
    return m0, m1


@triton.jit
def add_outer(x0, x1, m0, m1, codes, factors, vectors, opened, D: tl.constexpr, S: tl.constexpr,
              RANK: tl.constexpr, BM: tl.constexpr, ASM: tl.constexpr):
    """Add to X, in halves, the outer layer of what was mixed."""
    half: tl.constexpr = D // 2
    d = tl.arange(0, half)
    limits = vectors + 4 * D + 2
    inverse = vectors + 5 * D + 16
    outs = vectors + 4 * D + 16 + 3 * D + S + 6 * D       # scale and bias
    zero, no_u = tl.zeros((BM, half), tl.int32), tl.zeros((BM, RANK), tl.float32)
    a, at = factors + 5 * D * RANK, codes + 3 * D * half
    q0, u = rounded(m0, inverse, limits, no_u, a, D, RANK, half)
    q1, u = rounded(m1, inverse + half, limits, u, a + half * RANK, D, RANK, half)
    b = a + 2 * D * RANK
    s0 = add_products(zero, q0, q1, at, d, half, half, ASM)
    s1 = add_products(zero, q0, q1, at, half + d, half, half, ASM)
    x0 += completed(s0, u, outs, outs + D, b, opened, d, D, RANK)
    x1 += completed(s1, u, outs, outs + D, b, opened, half + d, D, RANK)
    return x0, x1


@triton.jit
def hidden_sums(x0, x1, codes, factors, vectors, opened, first, last, D: tl.constexpr,
                S: tl.constexpr, RANK: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr,
                ASM: tl.constexpr):
    """Return what the MLP's hidden numbers first..last - 1 of each half add to its sums and U."""
    half: tl.constexpr = D // 2
    d, h = tl.arange(0, half), tl.arange(0, BH)
    limits = vectors + 4 * D
    inverse = limits + 16 + 2 * D
    outs = limits + 16 + 3 * D + S + 8 * D                # scale and bias of up
    a, at = factors + 8 * D * RANK, codes + 4 * D * half
    zero, no_u = tl.zeros((BM, half), tl.int32), tl.zeros((BM, RANK), tl.float32)
    v0, v1 = normed(x0, x1, vectors + 2 * D, D)
    q0, u = rounded(v0, inverse, limits + 4, no_u, a, D, RANK, half)
    q1, u = rounded(v1, inverse + half, limits + 4, u, a + half * RANK, D, RANK, half)
    b = a + 2 * D * RANK
    a2, at2 = b + S * RANK, at + S * half
    s0, s1, u2 = zero, zero, no_u
    none = tl.zeros((BM, BH), tl.int32)
    for j in range(first, last, BH):
        n = j + h
        y = add_products(none, q0, q1, at, n, half, half, ASM)
        y = gelu(completed(y, u, outs, outs + S, b, opened, n, S, RANK))
        c0, u2 = rounded(y, inverse + D + j, limits + 6, u2, a2 + j * RANK, S, RANK, BH)
        n = S // 2 + j + h
        y = add_products(none, q0, q1, at, n, half, half, ASM)
        y = gelu(completed(y, u, outs, outs + S, b, opened, n, S, RANK))
        c1, u2 = rounded(y, inverse + D + S // 2 + j, limits + 6, u2,
                         a2 + (S // 2 + j) * RANK, S, RANK, BH)
        s0 = add_products(s0, c0, c1, at2 + j, d, S // 2, BH, ASM)
        s1 = add_products(s1, c0, c1, at2 + j, half + d, S // 2, BH, ASM)
    return s0, s1, u2


@triton.jit
def add_down(x0, x1, s0, s1, u2, factors, vectors, opened, D: tl.constexpr, S: tl.constexpr,
             RANK: tl.constexpr):
    """Add to X, in halves, the MLP's outputs of all its sums and U."""
    half: tl.constexpr = D // 2
    d = tl.arange(0, half)
    outs = vectors + 4 * D + 16 + 3 * D + S + 8 * D + 2 * S
    b = factors + (10 * D + 3 * S) * RANK
    x0 += completed(s0, u2, outs, outs + D, b, opened, d, D, RANK)
    x1 += completed(s1, u2, outs, outs + D, b, opened, half + d, D, RANK)
    return x0, x1


@triton.jit
def store_inner(x0, x1, out, codes, factors, vectors, cos, sin, opened, t, t_ok, attends, share,
                D: tl.constexpr, S: tl.constexpr, E: tl.constexpr, RANK: tl.constexpr,
                BM: tl.constexpr, SHARES: tl.constexpr, ASM: tl.constexpr):
    """Store the inner layer of the norm of X, (BM, 2 D) or (BM, 3 D); ``out`` starts a window.

    D columns at a time, of which each of SHARES programs takes its share: first halves of all
    heads, then the second ones, so that queries and keys are turned (RoFormer) before anybody
    reads them.
    """
    half: tl.constexpr = D // 2
    turn: tl.constexpr = E // 2
    limits = vectors + 4 * D
    scale = limits + 16 + 3 * D + S
    v0, v1 = normed(x0, x1, vectors, D)
    no_u, none = tl.zeros((BM, RANK), tl.float32), tl.zeros((BM, half), tl.int32)
    q0, u = rounded(v0, limits + 16, limits, no_u, factors, D, RANK, half)
    q1, u = rounded(v1, limits + 16 + half, limits, u, factors + half * RANK, D, RANK, half)
    i = tl.arange(0, half)
    angle, ok = t[:, None] * turn + (i % turn)[None, :], t_ok[:, None]
    c, s = tl.load(cos + angle, mask=ok, other=0.0), tl.load(sin + angle, mask=ok, other=0.0)
    parts, turning = 2 + attends, 2 * attends  # of a convolution none is turned
    columns = parts * D
    b = factors + 2 * D * RANK
    for part in range(share, parts, SHARES):
        n = part * D + i // turn * E + i % turn
        y0 = add_products(none, q0, q1, codes, n, half, half, ASM)
        y1 = add_products(none, q0, q1, codes, n + turn, half, half, ASM)
        y0 = completed(y0, u, scale, scale + 3 * D, b, opened, n, columns, RANK)
        y1 = completed(y1, u, scale, scale + 3 * D, b, opened, n + turn, columns, RANK)
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
