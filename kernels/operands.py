"""What a tile of tokens needs of a block's weights, loaded before it is needed.

Triton loads where it is written, and no load passes the barriers of the products behind which it
stands. So what a layer takes is loaded in one go, while the layer in front of it is computed or
another program is waited for. A layer's operands are three tuples:

    given    1 / scale of its inputs (BK,), lowest and highest code, A's rows for V - Q4(V) and
             for V (BK, R)
    packed   codes (BK, P): a byte holds two outputs of an input
    outs     scale, bias (N,) and B (R, N) of some outputs

They lie as window_layout.py says: D width, S hidden width, R rank.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_given(inverse, limits, a, K: tl.constexpr, BK: tl.constexpr, RANK: tl.constexpr):
    """Load ``given`` for BK of a layer's K inputs; pointers are those of the first."""
    k = tl.arange(0, BK)
    at = a + k[:, None] * RANK + tl.arange(0, RANK)[None, :]
    return (tl.load(inverse + k), tl.load(limits), tl.load(limits + 1), tl.load(at),
            tl.load(at + K * RANK))


@triton.jit
def load_packed(codes, pair, row_bytes, BK: tl.constexpr):
    """Load ``packed`` of BK inputs, ``codes`` those of the first, and of the pairs (P,)."""
    k = tl.arange(0, BK)
    return tl.load(codes + pair[None, :] * row_bytes + k[:, None]).to(tl.int8, bitcast=True)


@triton.jit
def load_outs(scale, bias, b, n, columns, RANK: tl.constexpr):
    """Load ``outs`` of outputs n (N,); B has so many ``columns``."""
    r = tl.arange(0, RANK)
    return (tl.load(scale + n), tl.load(bias + n),
            tl.load(b + r[:, None] * columns + n[None, :]))


@triton.jit
def load_norm(norm, D: tl.constexpr):
    """Load weight and bias of a norm."""
    d = tl.arange(0, D)
    return tl.load(norm + d), tl.load(norm + D + d)


@triton.jit
def load_outer(codes, factors, vectors, D: tl.constexpr, S: tl.constexpr, RANK: tl.constexpr):
    """Load what the mixer's outer layer takes."""
    outs, a = vectors + 4 * D + 16 + 3 * D + S + 6 * D, factors + 5 * D * RANK
    given = load_given(vectors + 5 * D + 16, vectors + 4 * D + 2, a, D, D, RANK)
    packed = load_packed(codes + 3 * D * D // 2, tl.arange(0, D // 2), D, D)
    return given, packed, load_outs(outs, outs + D, a + 2 * D * RANK, tl.arange(0, D), D, RANK)


@triton.jit
def load_up(factors, vectors, D: tl.constexpr, RANK: tl.constexpr):
    """Load the norm and ``given`` of the MLP's first layer."""
    given = load_given(vectors + 6 * D + 16, vectors + 4 * D + 4, factors + 8 * D * RANK, D, D,
                       RANK)
    return load_norm(vectors + 2 * D, D), given


@triton.jit
def load_hidden(j, codes, factors, vectors, D: tl.constexpr, S: tl.constexpr,
                RANK: tl.constexpr, BH: tl.constexpr):
    """Load what makes hidden numbers j..j + 2 BH - 1 and takes them as inputs.

    ``packed`` and ``outs`` of the MLP's first layer, ``given`` and ``packed`` of its second.
    """
    outs = vectors + 4 * D + 16 + 3 * D + S + 8 * D
    at, b = codes + 2 * D * D, factors + 10 * D * RANK
    made = load_packed(at, j // 2 + tl.arange(0, BH), D, D)
    made_outs = load_outs(outs, outs + S, b, j + tl.arange(0, 2 * BH), S, RANK)
    given = load_given(vectors + 7 * D + 16 + j, vectors + 4 * D + 6, b + (S + j) * RANK, S,
                       2 * BH, RANK)
    taken = load_packed(at + S * D // 2 + j, tl.arange(0, D // 2), S, 2 * BH)
    return made, made_outs, given, taken


@triton.jit
def load_down_outs(factors, vectors, D: tl.constexpr, S: tl.constexpr, RANK: tl.constexpr):
    """Load ``outs`` of the MLP's second layer."""
    outs = vectors + 4 * D + 16 + 3 * D + S + 8 * D + 2 * S
    return load_outs(outs, outs + D, factors + (10 * D + 3 * S) * RANK, tl.arange(0, D), D, RANK)


@triton.jit
def load_inner(factors, vectors, D: tl.constexpr, RANK: tl.constexpr):
    """Load the norm and ``given`` of the mixer's inner layer."""
    given = load_given(vectors + 4 * D + 16, vectors + 4 * D, factors, D, D, RANK)
    return load_norm(vectors, D), given


@triton.jit
def load_inner_part(part, columns, codes, factors, vectors, D: tl.constexpr, S: tl.constexpr,
                    E: tl.constexpr, RANK: tl.constexpr):
    """Load ``packed`` and ``outs`` of D of its outputs: first halves of heads, and second ones.

    Of ``columns`` outputs: 2 D of a convolution, 3 D of attention.
    """
    i = tl.arange(0, D // 2)
    scale = vectors + 4 * D + 16 + 3 * D + S
    b, n = factors + 2 * D * RANK, part * D + i // (E // 2) * E + i % (E // 2)
    packed = load_packed(codes, part * (D // 2) + i, D, D)
    return (packed, load_outs(scale, scale + 3 * D, b, n, columns, RANK),
            load_outs(scale, scale + 3 * D, b, n + E // 2, columns, RANK))
