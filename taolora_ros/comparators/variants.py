"""Our own layer in its variants: what each part of it is worth (METHOD sections 2, 3 and 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from taolora_ros.comparators.calibration import Calibration, Pool
from taolora_ros.comparators.low_rank import svd
from taolora_ros.network import TaoNetwork
from taolora_ros.training.calibration import Candidate, quantize_network
from taolora_ros.training.tuning import quantized_weight, tune
from taolora_ros.training.windows import Batch
from taolora_ros.storage import round_scale


SEARCHED_WITH = ('clip', 'smooth', 'zero_point')  # options that decide what is searched for


def tao(calibration: Calibration, fit_gate: bool = True, **changes) -> TaoNetwork:
    """Return our network with ``changes`` of its options (QuantizeOptions).

    Clips and smoothings are those found for the product, unless ``changes`` has other ones tried or
    leaves the LoRA out (``rank`` 0): then they are searched for anew, as such a product would. With
    ``fit_gate`` False the branch is fitted on all tokens, for a gate that is always open.
    """
    options = replace(calibration.options, **changes)
    options = options if options.rank else replace(options, lora_bits=16)  # nothing to code
    chosen = None
    if options.rank and all(getattr(options, name) == getattr(calibration.options, name)
                            for name in SEARCHED_WITH):
        chosen = {name: Candidate(round_scale(c.x_inv, options.scale_bits), c.x_zero)
                  for name, c in calibration.chosen.items()}
    batch = calibration.batch
    if not fit_gate:
        batch = Batch(batch.windows, torch.ones_like(batch.gates), None, None)
    torch.manual_seed(options.seed)
    return quantize_network(calibration.network, batch, options, chosen=chosen)


def tao_tuned(calibration: Calibration, codes: bool = False, start: Callable = tao, **changes
              ) -> TaoNetwork:
    """Return ``start`` after tuning with L (METHOD section 3), with ``codes`` the weights too."""
    network = start(calibration, **changes)
    tune(network, calibration.network, Pool(calibration.pool, 3),
         replace(calibration.tuning, codes=codes))
    return network


@torch.no_grad()
def tao_svd(calibration: Calibration) -> TaoNetwork:
    """Return ``tao`` with the SVD of W - Q4(W) as its branch, which reads X alone."""
    network = tao(calibration, buffer='x')
    for name, layer in network.linears().items():
        weight = calibration.network.linears()[name].weight.T
        a, b = svd(weight - quantized_weight(layer), calibration.options.rank)
        layer.lora_a.copy_(a.half())
        layer.lora_b.copy_(b.half())
    return network


def spread_of_inputs(calibration: Calibration) -> dict[str, float]:
    """Return by layer the RMS of its inputs on transient tokens over that on steady ones."""
    gate = calibration.batch.gates.flatten()
    return {name: float((x[gate].square().mean() / x[~gate].square().mean()).sqrt())
            for name, x in calibration.inputs.items()}
