"""What is measured of a network: its bytes, its multiplies and the error of its answers.

    B windows    T tokens    K classes
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from taolora_ros.comparators.layers import (BranchLinear, SparseLinear, tao_multiplies, tao_size)
from taolora_ros.network import RotaryAttention, TaoNetwork
from taolora_ros.quantization import TaoLinear
from taolora_ros.training.windows import Batch

STANDINS = (BranchLinear, SparseLinear, TaoLinear)
PIECE = 64  # windows run at once


def standins(network: TaoNetwork) -> dict[str, nn.Module]:
    """Return the layers that were made by a method, by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, STANDINS)}


def size(network: TaoNetwork, exact: bool = False) -> int:
    """Return all bytes: the layers with scales, zero points, padding and LoRA, and the rest.

    The rest (biases, norms, convolutions, embedding, heads) takes 16 bits, 32 when ``exact``.
    """
    layers = standins(network)
    total = sum(tao_size(m) if isinstance(m, TaoLinear) else m.size for m in layers.values())
    rest = sum(p.numel() for name, p in network.named_parameters()
               if name.rpartition('.')[0] not in layers)
    rest += sum(m.bias.numel() for m in layers.values() if m.bias is not None)
    return total + (4 if exact else 2) * rest


def multiplies(network: TaoNetwork, open_share: float) -> Counter:
    """Return the multiplies of one window by kind: 'int4', 'int8', 'float' (16 or 32 bits).

    Counted are products of matrices and convolutions, the gated branch with the share of tokens
    it ran on. Run the network first: R-Sparse counts what it kept.
    """
    per_token = Counter()
    for layer in standins(network).values():
        per_token += (tao_multiplies(layer, open_share) if isinstance(layer, TaoLinear)
                      else layer.multiplies())
    for module in (network.embed, network.head, network.squeeze, network.rebuild):
        per_token['float'] += module.weight.numel()
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            per_token['float'] += module.weight.numel()
        elif isinstance(module, RotaryAttention):
            per_token['float'] += 2 * network.tokens * network.norm.normalized_shape[0]
    return Counter({kind: count * network.tokens for kind, count in per_token.items()})


@torch.inference_mode()
def errors(network: TaoNetwork, wanted: Tensor, batch: Batch, gate: str) -> tuple[float, float]:
    """Return the relative logit error on steady and on transient tokens.

    ``wanted`` (B, T, K) are the full-precision logits, ``gate`` how the branch runs: 'auto',
    'open' or 'closed'. Logits are compared less their mean over the classes, which softmax ignores.
    """
    gates = {'auto': batch.gates, 'open': torch.ones_like(batch.gates),
             'closed': torch.zeros_like(batch.gates)}[gate]
    got = logits(network, batch.windows, gates)
    got, wanted = (x - x.mean(-1, keepdim=True) for x in (got, wanted))
    steady, transient = (float((got - wanted)[g].norm() / wanted[g].norm().clamp_min(1e-12))
                         for g in (~batch.gates, batch.gates))
    return steady, transient


@torch.inference_mode()
def logits(network: TaoNetwork, windows: Tensor, gates: Tensor) -> Tensor:
    """Return the logits (B, T, K) of windows, a few at a time."""
    return torch.cat([network(windows[i:i + PIECE], gates[i:i + PIECE])[0]
                      for i in range(0, len(windows), PIECE)])
