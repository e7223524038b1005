"""Layers that stand in for a network's linears, with what they weigh and multiply.

    Y = act(X) W' + b + (X A) B        act rounds, W' is rounded, the branch is always on
"""

from __future__ import annotations

from collections import Counter

from torch import Tensor, nn

from taolora_ros.comparators.formats import Activation
from taolora_ros.quantization import TaoLinear, half
from taolora_ros.storage import code_lora, code_scale


class BranchLinear(nn.Module):
    """A rounded linear layer with an optional low-rank branch in 16 bits that is always on.

    ``weight`` (K, N) and the branch A (K, r), B (r, N) are float32 holding what the formats left;
    ``size`` are the bytes of the weight with all its scales, ``kind`` the numbers its products
    are of ('int4', 'int8' or 'float').
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: Activation, size: int,
                 kind: str, branch: tuple[Tensor, Tensor] | None = None):
        super().__init__()
        self.register_buffer('weight', weight)
        self.register_buffer('bias', bias)
        self.activation, self.kind = activation, kind
        self.a = self.b = None
        if branch is not None:
            self.a, self.b = (nn.Parameter(half(m), requires_grad=False) for m in branch)
        self.size = size + (0 if branch is None else 2 * (self.a.numel() + self.b.numel()))

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map (M, K) to (M, N); ``rows`` are of no importance, the branch is always on."""
        y = self.activation(x) @ self.weight
        if self.bias is not None:
            y = y + self.bias
        return y if self.a is None else y + (x @ self.a) @ self.b

    def multiplies(self) -> Counter:
        """Return multiplies per token by kind."""
        count = Counter({self.kind: self.weight.numel()})
        if self.a is not None:
            count['float'] += self.a.numel() + self.b.numel()
        return count


class SparseLinear(nn.Module):
    """R-Sparse (Zhang et al. 2025): strong features in full, the rest through the SVD of W.

    y = (x m) W + (((x (1 - m)) U_r S_r) V_r^T with m = |x_j| ||W_j|| > t; A = U_r S_r, B = V_r^T.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, threshold: float,
                 branch: tuple[Tensor, Tensor]):
        super().__init__()
        self.register_buffer('weight', weight)
        self.register_buffer('bias', bias)
        self.register_buffer('strength', weight.norm(dim=1))           # (K,)
        self.a, self.b = branch
        self.threshold = threshold
        self.seen = self.kept = 0
        self.size = 2 * (weight.numel() + self.a.numel() + self.b.numel() + len(weight)) + 2

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map (M, K) to (M, N), counting the features kept."""
        strong = x.abs() * self.strength > self.threshold              # (M, K)
        self.seen, self.kept = self.seen + strong.numel(), self.kept + int(strong.sum())
        x = half(x)
        y = (x * strong) @ self.weight + ((x * ~strong) @ self.a) @ self.b
        return y if self.bias is None else y + self.bias

    def multiplies(self) -> Counter:
        """Return multiplies per token: the share of features kept so far, the branch whole."""
        share = self.kept / max(self.seen, 1)
        return Counter(float=round(share * self.weight.numel())
                       + self.a.numel() + self.b.numel() + len(self.weight))


def tao_size(layer: TaoLinear) -> int:
    """Return the bytes of an INT4 layer in its file: codes, scales, zero point, LoRA, padding."""
    lora = code_lora(layer.lora_a, layer.lora_b, layer.x_inv, layer.lora_bits)
    scales = (code_scale(layer.x_inv, layer.scale_bits),
              code_scale(layer.w_scale, min(layer.scale_bits, 16)))
    stored = sum(t.numel() * t.element_size() for t in (*lora.values(), *scales))
    return (layer.in_features + 1) // 2 * layer.out_features + stored + (layer.x_zero is not None)


def tao_multiplies(layer: TaoLinear, open_share: float) -> Counter:
    """Return multiplies per token of an INT4 layer whose branch runs on a share of the tokens."""
    branch = open_share * (layer.lora_a.numel() + layer.lora_b.numel())
    return Counter({'int4': layer.in_features * layer.out_features, 'float': round(branch)})
