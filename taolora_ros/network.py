"""The TAO network: a window of features in, one decision per patch out.

    B  windows      L  samples in a window     F  feature channels     T  tokens (patches)
    P  samples per patch, L = T * P            D  width                K  classes, 0 = nothing

A patch embedding, then alternating blocks of gated depthwise convolution (what a beat looks
like) and rotary attention (how beats follow one another), each with an MLP; then three small
heads. Relative position and local convolution decide the accuracy (METHOD section 8): attention
with learned absolute positions lost twelve points of VEB sensitivity there.

The anomaly score is the error of rebuilding each patch from a narrow bottleneck of its token.
It needs no labels, it is dense in time, it falls apart by channel (so that it can point at the
culprit), and it reads the tokens the network computes anyway, so it costs one small product;
a distance between embeddings (Mahalanobis) was the alternative and has no channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from taolora_ros.features import feature_names
from taolora_ros.quantization import TaoLinear
from taolora_ros.spec import OFFSET_MARGIN, ModelSpec, NetworkSpec

ROTARY_BASE = 1000.0


class GatedConvolution(nn.Module):
    """Depthwise convolution over neighbouring tokens, opened by a gate computed from each token."""

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.inner = TaoLinear(spec.width, 2 * spec.width)
        self.conv = nn.Conv1d(spec.width, spec.width, spec.kernel, padding=spec.kernel // 2,
                              groups=spec.width)
        self.outer = TaoLinear(spec.width, spec.width)

    def forward(self, x: Tensor, shape: tuple[int, int], rows: Tensor | None) -> Tensor:
        value, gate = self.inner(x, rows).chunk(2, dim=-1)         # (B*T, D) each
        value = value.view(*shape, -1).transpose(1, 2)             # (B, D, T)
        value = self.conv(value).transpose(1, 2).flatten(0, 1)     # (B*T, D)
        return self.outer(value * F.silu(gate), rows)


class RotaryAttention(nn.Module):
    """Self-attention over the window's tokens with rotary positions (Su et al. 2021, RoFormer)."""

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.heads = spec.heads
        self.inner = TaoLinear(spec.width, 3 * spec.width)
        self.outer = TaoLinear(spec.width, spec.width)

    def forward(self, x: Tensor, shape: tuple[int, int], rows: Tensor | None) -> Tensor:
        qkv = self.inner(x, rows).view(*shape, 3, self.heads, -1)  # (B, T, 3, H, E)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                       # (B, H, T, E) each
        cos, sin = rotary_table(shape[1], q.shape[-1], q.device)   # (T, E/2)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.outer(y.transpose(1, 2).reshape(len(x), -1), rows)


def rotary_table(tokens: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cos and sin of each token's angles, (T, E/2)."""
    frequency = ROTARY_BASE ** (-torch.arange(0, size, 2, device=device) / size)
    angle = torch.arange(tokens, device=device)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the two halves of each head (..., T, E) by the token's angles."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Block(nn.Module):
    """Pre-norm residual block: mix tokens, then an MLP per token."""

    def __init__(self, kind: str, spec: NetworkSpec):
        super().__init__()
        mixers = {'conv': GatedConvolution, 'attention': RotaryAttention}
        if kind not in mixers:
            raise ValueError(f'network.blocks: {kind!r} is none of {sorted(mixers)}')
        self.norm1 = nn.LayerNorm(spec.width)
        self.mix = mixers[kind](spec)
        self.norm2 = nn.LayerNorm(spec.width)
        self.up = TaoLinear(spec.width, spec.mlp * spec.width)
        self.down = TaoLinear(spec.mlp * spec.width, spec.width)
        self.dropout = nn.Dropout(0.0)  # training sets how much

    def forward(self, x: Tensor, shape: tuple[int, int], rows: Tensor | None) -> Tensor:
        x = x + self.dropout(self.mix(self.norm1(x), shape, rows))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x), rows)), rows))


class TaoNetwork(nn.Module):
    """Windows (B, L, F) and gates (B, T) to logits, offsets and patch reconstructions."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.patch, self.tokens = spec.patch, spec.tokens
        self.features = len(feature_names(spec))
        width = spec.network.width
        self.embed = nn.Linear(spec.patch * self.features, width)
        self.blocks = nn.ModuleList(Block(kind, spec.network) for kind in spec.network.blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(spec.classes) + 1)        # classes and the offset
        self.squeeze = nn.Linear(width, spec.network.bottleneck)
        self.rebuild = nn.Linear(spec.network.bottleneck, spec.patch * self.features)

    def forward(self, windows: Tensor, gates: Tensor | None = None):
        """Return logits (B, T, K), offset (B, T) and rebuilt patches (B, T, P * F).

        The offset is where in its patch an event lies, 0 to 1 and ``OFFSET_MARGIN`` beyond both:
        an event on a border is reported by the patches on both sides, not by half of each.
        ``gates`` (B, T) bool opens the transient path per token; None opens it everywhere. It
        has no effect on a network in full precision.
        """
        return self.read(self.encode(windows, gates))

    def encode(self, windows: Tensor, gates: Tensor | None = None) -> Tensor:
        """Return what the heads read, the normed tokens (B, T, D); arguments as for forward."""
        shape = (len(windows), self.tokens)
        rows = None if gates is None else gates.flatten().nonzero().squeeze(1)
        x = self.embed(self.patches(windows).flatten(0, 1))        # (B*T, D)
        for block in self.blocks:
            x = block(x, shape, rows)
        return self.norm(x).view(*shape, -1)                       # (B, T, D)

    def read(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what forward does of encoded tokens (B, T, D)."""
        out = self.head(tokens)                                    # (B, T, K + 1)
        rebuilt = self.rebuild(self.squeeze(tokens))               # (B, T, P * F)
        offset = (1 + 2 * OFFSET_MARGIN) * out[..., -1].sigmoid() - OFFSET_MARGIN
        return out[..., :-1], offset, rebuilt

    def patches(self, windows: Tensor) -> Tensor:
        """Cut windows (B, L, F) into patches (B, T, P * F)."""
        return windows.reshape(len(windows), self.tokens, self.patch * self.features)

    def linears(self) -> dict[str, TaoLinear]:
        """Return the quantizable layers by name, in order of execution."""
        return {n: m for n, m in self.named_modules() if isinstance(m, TaoLinear)}
