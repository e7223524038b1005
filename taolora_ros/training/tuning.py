"""Tune what stays adjustable in an INT4 network: L = L_task + lambda ||(W - Q4(W)) - A B||_F.

The LoRA, weight scales, biases, norms, convolutions, embedding and heads move, and with ``codes``
the four-bit weights too; otherwise they stay as rounding with feedback left them. The task is to
give the full-precision network's answers (distillation, Hinton et al. 2015) on augmented windows,
so that no label is needed; rounding passes gradients straight through (Bengio et al. 2013). What
a file keeps in few bits is rounded in every step, so that the rest learns to live with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F
from torch.nn.utils import parametrize

from taolora_ros.network import TaoNetwork
from taolora_ros.quantization import QMAX, TaoLinear, lora_loss, round_clamp
from taolora_ros.storage import round_lora_a, round_lora_b
from taolora_ros.training.windows import WindowSampler

LEAN = 0.45         # codes: how far what stands behind a code may be from it at first
CODES_SHARE = 2.0   # of the learning rate: codes are integers, their scale is 1
TAUGHT_STEPS = 900  # with teachers: that many were cross-validated (docs/models.md)


@dataclass(frozen=True)
class TuneOptions:
    """How long and how fast; ``fit`` is lambda, ``codes`` lets the four-bit weights move."""

    steps: int = 600
    batch: int = 128
    learning_rate: float = 1e-3
    warmup: int = 30
    fit: float = 1e-4
    codes: bool = False


def tune(quantized: TaoNetwork, network: TaoNetwork, sampler: WindowSampler, options: TuneOptions,
         report: Callable[[int, float], None] = lambda step, loss: None,
         teachers: Sequence[TaoNetwork] = ()) -> None:
    """Tune ``quantized`` in place towards ``network`` on windows of ``sampler``.

    With ``teachers``, other networks for the same task, towards the mean of all answers.
    """
    layers = {name: m for name, m in quantized.linears().items() if m.int4}
    scales, codes = _loosen(network, layers, options.codes)
    tuned = [p for p in quantized.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{'params': tuned, 'share': 1.0},
                                   {'params': scales, 'share': 0.02},
                                   {'params': codes, 'share': CODES_SHARE}], weight_decay=0.0,
                                  fused=tuned[0].is_cuda)
    residuals = {name: _residual(network, name, layer) for name, layer in layers.items()}
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group['lr'] = options.learning_rate * group['share'] * _schedule(step, options)
        batch = sampler.draw(options.batch)
        with torch.no_grad():
            wanted = mean_answers((network, *teachers), batch.windows)
        with parametrize.cached():  # each tensor is rounded once in a step
            loss = _distance(wanted, quantized(batch.windows, batch.gates), batch.gates)
            for name, layer in layers.items():
                a = layer.lora_a[-layer.in_features:]  # the rows that read X
                loss = lora_loss(loss, *residuals[name], a, layer.lora_b, options.fit)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned + scales, 1.0)
        if codes:
            torch.nn.utils.clip_grad_norm_(codes, 1.0)
        optimizer.step()
        if step % 50 == 0 or step == options.steps - 1:
            report(step, loss.item())
    _fasten(layers.values())
    coded = [t for m in layers.values() if m.lora_bits < 16 for t in (m.lora_a, m.lora_b)]
    _freeze([*quantized.parameters(), *scales], coded)


class _Codes(torch.nn.Module):
    """Latent weights in units of their scale to four-bit codes, for the product."""

    def forward(self, latent: Tensor) -> Tensor:
        return round_clamp(latent, -QMAX, QMAX)


class _Stored(torch.nn.Module):
    """One factor of a LoRA, 'a' or 'b', to what ``lora_bits`` keep of it; straight through."""

    def __init__(self, factor: str, layer: TaoLinear):
        super().__init__()
        self.factor, self.bits, self.x_inv = factor, layer.lora_bits, layer.x_inv

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            kept = (round_lora_a(x, self.x_inv, self.bits) if self.factor == 'a'
                    else round_lora_b(x, self.bits))
        return x + (kept - x).detach()


def _loosen(network: TaoNetwork, layers: dict[str, TaoLinear], codes: bool
            ) -> tuple[list[Tensor], list[Tensor]]:
    """Make what may move in ``layers`` require gradients; return their scales and codes.

    Behind each code stands a number that rounds to it, as near to the weight in ``network`` as
    that allows: those next to a border change first.
    """
    scales, latent = [], []
    for name, layer in layers.items():
        for factor in 'ab':
            layer.get_parameter(f'lora_{factor}').requires_grad_(True)
        if layer.lora_bits < 16:
            stored = {factor: _Stored(factor, layer) for factor in 'ab'}
            for factor, module in stored.items():
                parametrize.register_parametrization(layer, f'lora_{factor}', module)
        if layer.scale_bits > 8:  # a power of two stays where it is
            scales.append(layer.w_scale.requires_grad_(True))
        if codes:
            with torch.no_grad():
                exact = network.linears()[name].weight.T / layer.x_inv[:, None]    # (K, N)
                scale = layer.w_scale.repeat_interleave(len(exact) // len(layer.w_scale), 0)
                layer.codes += (exact / scale - layer.codes).clamp(-LEAN, LEAN)
            parametrize.register_parametrization(layer, 'codes', _Codes())
            latent.append(layer.parametrizations.codes.original.requires_grad_(True))
    return scales, latent


def _fasten(layers: Iterable[TaoLinear]) -> None:
    """Put in place of what ``_loosen`` made movable what it is now, rounded."""
    for layer in layers:
        if parametrize.is_parametrized(layer):
            with torch.no_grad():
                for name in list(layer.parametrizations):
                    parametrize.remove_parametrizations(layer, name)


def _freeze(tensors: Iterable[Tensor], coded: Iterable[Tensor]) -> None:
    """End training with ``tensors`` as model files keep them: in 16 bits, but for ``coded``."""
    coded = {id(tensor) for tensor in coded}
    with torch.no_grad():
        for tensor in tensors:
            tensor.requires_grad_(False)
            if id(tensor) not in coded:
                tensor.copy_(tensor.half().float())


def _schedule(step: int, options: TuneOptions) -> float:
    if step < options.warmup:
        return (step + 1) / options.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - options.warmup)
                               / max(options.steps - options.warmup, 1)))


def quantized_weight(layer: TaoLinear) -> Tensor:
    """Return Q4(W) (K, N) of an INT4 layer, in the units of the layer's input."""
    scale = layer.w_scale.repeat_interleave(layer.in_features // len(layer.w_scale), 0)
    return layer.codes * scale * layer.x_inv[:, None]


@torch.no_grad()
def _residual(network: TaoNetwork, name: str, layer: TaoLinear) -> tuple[Tensor, Tensor]:
    """Return W and Q4(W), (K, N) each."""
    return network.linears()[name].weight.T, quantized_weight(layer)


def mean_answers(networks: Sequence[TaoNetwork], windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean probabilities, as logits, and mean offsets of ``networks``.

    What is rebuilt is the first one's alone: anomalies are a matter of the model itself.
    """
    answers = [network(windows) for network in networks]
    shares = torch.stack([logits.log_softmax(-1) for logits, _, _ in answers])
    return (shares.logsumexp(0) - math.log(len(answers)),
            torch.stack([offset for _, offset, _ in answers]).mean(0), answers[0][2])


def _distance(wanted: tuple, got: tuple, gates: Tensor) -> Tensor:
    """Return how far answers (logits, offset, rebuilt) are apart; transient tokens weigh more."""
    weight = torch.where(gates, 2.0, 1.0)
    logits = F.kl_div(got[0].log_softmax(-1), wanted[0].log_softmax(-1), reduction='none',
                      log_target=True).sum(-1)
    centred = [x - x.mean(-1, keepdim=True) for x in (wanted[0], got[0])]
    logits = logits + 0.02 * (centred[0] - centred[1]).square().sum(-1)
    event = 1 - wanted[0].softmax(-1)[..., 0]
    offset = event * (wanted[1] - got[1]).abs()
    rebuilt = (wanted[2] - got[2]).square().mean(-1)
    return ((logits + 0.3 * offset + 0.05 * rebuilt) * weight).mean()
