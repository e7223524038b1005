"""What every method is made from, and how its layers are put into the network.

    K  inputs    N  outputs    M  tokens of all calibration windows
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from taolora_ros.network import TaoNetwork
from taolora_ros.quantization import half
from taolora_ros.training.calibration import (Candidate, QuantizeOptions, layer_inputs,
                                              quantize_network)
from taolora_ros.training.tuning import TuneOptions, tune
from taolora_ros.training.windows import Batch

MakeLayer = Callable[[Tensor, Tensor, Tensor, int], nn.Module]  # W (K, N), bias, X (M, K), rank


@dataclass
class Calibration:
    """A full-precision network, the windows to calibrate it on, and how ours is quantized.

    ``pool`` are the augmented windows that tuning draws from. ``chosen`` are the clips and
    smoothings of ours, searched once for all of its variants.
    """

    network: TaoNetwork
    batch: Batch
    pool: Batch
    options: QuantizeOptions
    tuning: TuneOptions
    chosen: dict[str, Candidate] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """What each layer reads in full precision, (M, K)."""
        return layer_inputs(self.network, self.batch, list(self.network.linears()))

    def search(self) -> None:
        """Find ``chosen``."""
        torch.manual_seed(self.options.seed)
        found = quantize_network(self.network, self.batch, self.options)
        self.chosen = {name: Candidate(layer.x_inv, layer.x_zero)
                       for name, layer in found.linears().items()}


class Pool:
    """Draws random windows of a batch, as ``WindowSampler`` draws fresh ones."""

    def __init__(self, batch: Batch, seed: int):
        self.batch = batch
        self.random = torch.Generator().manual_seed(seed)

    def draw(self, count: int) -> Batch:
        """Return ``count`` windows with their gates."""
        rows = torch.randint(len(self.batch.windows), (count,), generator=self.random)
        return Batch(self.batch.windows[rows], self.batch.gates[rows], None, None)


def replace_layers(calibration: Calibration, make: MakeLayer, rank: int, exact: bool = False
                   ) -> TaoNetwork:
    """Return a copy of the network with every linear made anew; the rest in 16 bits or exact."""
    torch.manual_seed(calibration.options.seed)
    network = copy.deepcopy(calibration.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.data = parameter.data if exact else half(parameter.data)
        for name, layer in calibration.network.linears().items():
            bias = layer.bias.detach() if exact or layer.bias is None else half(layer.bias.detach())
            parent, _, child = name.rpartition('.')
            setattr(network.get_submodule(parent), child, make(
                layer.weight.T.detach().contiguous(), bias, calibration.inputs[name], rank))
    return network.eval()


def tune_branches(calibration: Calibration, network: TaoNetwork) -> TaoNetwork:
    """Train the branches of BranchLinear layers towards the full-precision answers, in place."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.endswith(('.a', '.b')))
    tune(network, calibration.network, Pool(calibration.pool, 3), calibration.tuning)
    return network
