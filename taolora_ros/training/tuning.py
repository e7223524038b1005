"""Tune what stays adjustable in an INT4 network: L = L_task + lambda ||(W - Q4(W)) - A B||_F.

The four-bit codes are fixed; the LoRA, weight scales, biases, norms, convolutions, embedding and
heads move. The task is to give the full-precision network's answers (distillation, Hinton et al.
2015) on augmented windows, so that no label is needed; rounding passes gradients straight through
(Bengio et al. 2013).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from taolora_ros.network import TaoNetwork
from taolora_ros.quantization import lora_loss
from taolora_ros.training.windows import WindowSampler


@dataclass(frozen=True)
class TuneOptions:
    """How long and how fast; ``fit`` is lambda."""

    steps: int = 600
    batch: int = 128
    learning_rate: float = 1e-3
    warmup: int = 30
    fit: float = 1e-4


def tune(quantized: TaoNetwork, network: TaoNetwork, sampler: WindowSampler, options: TuneOptions,
         report: Callable[[int, float], None] = lambda step, loss: None) -> None:
    """Tune ``quantized`` in place towards ``network`` on windows of ``sampler``."""
    layers = {name: m for name, m in quantized.linears().items() if m.int4}
    for layer in layers.values():
        layer.w_scale.requires_grad_(True)
        layer.lora_a.requires_grad_(True)
        layer.lora_b.requires_grad_(True)
    tuned = [p for p in quantized.parameters() if p.requires_grad]
    scales = [layer.w_scale for layer in layers.values()]
    optimizer = torch.optim.AdamW([{'params': tuned, 'share': 1.0},
                                   {'params': scales, 'share': 0.02}], weight_decay=0.0)
    residuals = {name: _residual(network, name, layer) for name, layer in layers.items()}
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group['lr'] = options.learning_rate * group['share'] * _schedule(step, options)
        batch = sampler.draw(options.batch)
        with torch.no_grad():
            wanted = network(batch.windows)
        loss = _distance(wanted, quantized(batch.windows, batch.gates), batch.gates)
        for name, layer in layers.items():
            a = layer.lora_a[-layer.in_features:]  # the rows that read X
            loss = lora_loss(loss, *residuals[name], a, layer.lora_b, options.fit)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned + scales, 1.0)
        optimizer.step()
        if step % 50 == 0 or step == options.steps - 1:
            report(step, loss.item())
    with torch.no_grad():
        for tensor in tuned + scales:
            tensor.requires_grad_(False)
            tensor.copy_(tensor.half().float())  # as model files keep them


def _schedule(step: int, options: TuneOptions) -> float:
    if step < options.warmup:
        return (step + 1) / options.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - options.warmup)
                               / max(options.steps - options.warmup, 1)))


@torch.no_grad()
def _residual(network: TaoNetwork, name: str, layer) -> tuple[Tensor, Tensor]:
    """Return W and Q4(W), (K, N) each, in the units of the layer's input."""
    groups = len(layer.w_scale)
    weight = network.linears()[name].weight.T
    quantized = (layer.codes.view(groups, -1, layer.out_features) * layer.w_scale[:, None])
    return weight, quantized.reshape(weight.shape) * layer.x_inv[:, None]


def _distance(wanted: tuple, got: tuple, gates: Tensor) -> Tensor:
    """Return how far the answers (logits, offset, rebuilt) are apart; transient tokens weigh more."""
    weight = torch.where(gates, 2.0, 1.0)
    logits = F.kl_div(got[0].log_softmax(-1), wanted[0].log_softmax(-1), reduction='none',
                      log_target=True).sum(-1)
    centred = [x - x.mean(-1, keepdim=True) for x in (wanted[0], got[0])]
    logits = logits + 0.02 * (centred[0] - centred[1]).square().sum(-1)
    event = 1 - wanted[0].softmax(-1)[..., 0]
    offset = event * (wanted[1] - got[1]).abs()
    rebuilt = (wanted[2] - got[2]).square().mean(-1)
    return ((logits + 0.3 * offset + 0.05 * rebuilt) * weight).mean()
