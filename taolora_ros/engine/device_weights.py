"""A network's weights on the GPU, as its kernels read them, where adaptation can reach them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from taolora_ros.kernels.layout import LayerWeights, arrange
from taolora_ros.model_file import Model
from taolora_ros.network import Block, rotary_table
from taolora_ros.quantization import TaoLinear, half


@dataclass(frozen=True)
class BlockWeights:
    """One block; ``taps`` (J, D) and ``tap_bias`` (D,) are those of a convolution, else None."""

    inner: LayerWeights
    outer: LayerWeights
    up: LayerWeights
    down: LayerWeights
    taps: Tensor | None
    tap_bias: Tensor | None


@dataclass(frozen=True)
class EndWeights:
    """What is before and behind the blocks, float32, all of it views of ``buffer``, in order."""

    buffer: Tensor
    cos: Tensor         # (T, E / 2)
    sin: Tensor
    embed: Tensor       # (C, D)
    embed_bias: Tensor  # (D,)
    norm: Tensor        # (2 D,)
    heads: Tensor       # (D, Y), the head itself and the bottleneck
    rebuild: Tensor     # (Y, C)
    biases: Tensor      # (Y + C + F,), the last ones being the scale of the anomaly
    columns: int        # of the head itself, K + 1

    def load_head(self, weight: Tensor, bias: Tensor) -> None:
        """Replace the head (K + 1, D), (K + 1,) in place."""
        self.heads[:, :self.columns].copy_(weight.t())
        self.biases[:self.columns].copy_(bias)


class Adaptable:
    """The weights that adaptation may change, by name, with copies of what they are."""

    def __init__(self, model: Model):
        if model.precision != 'int4':
            raise ValueError(f'{model.spec.name}: {model.precision}, and its kernels are for INT4')
        self.values = {name: tensor.detach().float().cpu().clone()
                       for name, tensor in model.network.state_dict().items()
                       if name in ('head.weight', 'head.bias')
                       or name.endswith(('.lora_a', '.lora_b'))}

    def check(self, changes: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError for other names, shapes or values that are not finite."""
        for name, value in changes.items():
            if name not in self.values:
                raise ValueError(f'{name}: not a weight that can be adapted; those are '
                                 f'{", ".join(sorted(self.values))}')
            if np.shape(value) != tuple(self.values[name].shape):
                raise ValueError(f'{name}: shape {np.shape(value)}, expected '
                                 f'{tuple(self.values[name].shape)}')
            if not np.isfinite(value).all():
                raise ValueError(f'{name}: a value is not a finite number')

    def take(self, changes: Mapping[str, np.ndarray]) -> set[str]:
        """Keep ``changes``; return the layers they are of ('head' or 'blocks.0.up')."""
        for name, value in changes.items():
            self.values[name].copy_(torch.as_tensor(value))
        return {name.rpartition('.')[0] for name in changes}


def with_half_lora(model: Model) -> Model:
    """Return a copy of an INT4 model whose LoRA is that of the kernels: of float16 numbers."""
    network = deepcopy(model.network)
    for layer in network.linears().values():
        layer.half_lora = True
        for factor in (layer.lora_a, layer.lora_b):
            factor.data = half(factor.data)
    return replace(model, network=network)


def block_weights(block: Block, device: torch.device) -> BlockWeights:
    """Lay out one block on ``device``."""
    def arranged(layer: TaoLinear, norm=None) -> LayerWeights:
        tensors = [t.detach().to(device) for t in (
            layer.codes, layer.w_scale, layer.x_inv, layer.lora_a, layer.lora_b, layer.bias)]
        codes, w_scale, x_inv, a, b, bias = tensors
        before = norm and tuple(t.detach().to(device) for t in (norm.weight, norm.bias))
        return arrange(codes, w_scale, x_inv, layer.x_zero, a, b, bias, before)

    conv = getattr(block.mix, 'conv', None)
    return BlockWeights(
        arranged(block.mix.inner, block.norm1), arranged(block.mix.outer),
        arranged(block.up, block.norm2), arranged(block.down),
        None if conv is None else conv.weight.detach()[:, 0].t().to(device).contiguous(),
        None if conv is None else conv.bias.detach().to(device).contiguous())


def end_weights(model: Model, device: torch.device) -> EndWeights:
    """Lay out embedding and heads on ``device``."""
    network = model.network
    columns, size = network.head.out_features, network.rebuild.out_features
    parts = {
        'cos': None, 'sin': None, 'embed': network.embed.weight.t(),
        'embed_bias': network.embed.bias, 'norm': torch.cat([network.norm.weight,
                                                             network.norm.bias]),
        'heads': torch.cat([network.head.weight, network.squeeze.weight]).t(),
        'rebuild': torch.cat([torch.zeros(columns, size), network.rebuild.weight.t().cpu()]),
        'biases': torch.cat([network.head.bias, network.squeeze.bias, network.rebuild.bias,
                             model.anomaly_scale.to(network.rebuild.bias)])}
    shape = model.spec.network
    parts['cos'], parts['sin'] = rotary_table(
        model.spec.tokens, shape.width // shape.heads, torch.device('cpu'))
    buffer = torch.cat([t.detach().float().cpu().flatten() for t in parts.values()]).to(device)
    views = dict(zip(parts, buffer.split([t.numel() for t in parts.values()])))
    return EndWeights(columns=columns, buffer=buffer, **{
        name: view.view(parts[name].shape) for name, view in views.items()})
