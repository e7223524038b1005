"""Steady and transient kernels on two CUDA streams, joined layer by layer, in one CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from taolora_ros.engine.fused import FusedEngine
from taolora_ros.engine.graph import Fork
from taolora_ros.kernels.join import join_launch
from taolora_ros.kernels.launch import Launch
from taolora_ros.kernels.layout import LayerWeights
from taolora_ros.kernels.linear import linear_launch
from taolora_ros.kernels.quantize import quantize_launch
from taolora_ros.model_file import Model


class StreamsEngine(FusedEngine):
    """As fused, but a linear is three kernels: four-bit product beside low rank, and their sum."""

    name = 'streams'

    def __init__(self, model: Model, device: str = 'cuda', block_m: int | None = None,
                 block_n: int | None = None, zero_copy: bool | None = None, check: bool = True,
                 programs: int | None = None):
        """Take the shape of tiles; the rest as for all GPU engines."""
        # What runs side by side is joined by events: no kernel begins early.
        super().__init__(model, device, block_m, block_n, early=False, zero_copy=zero_copy,
                         check=check, programs=programs)

    def layer(self, x: Tensor, weights: LayerWeights, gates: Tensor, out: Tensor,
              residual: Tensor | None = None, gelu: bool = False) -> list[Launch | Fork]:
        """Return what runs one linear."""
        rows = len(x)
        steady = torch.empty(rows, weights.n, device=x.device)
        u = torch.empty(1, rows, weights.rank, device=x.device)
        block_m = self._rows(rows)
        return [Fork((linear_launch(x, weights, gates, steady, lora=0,
                                    **self._tile(rows)),),
                     (quantize_launch(x, weights, None, u, block_m),)),
                join_launch(steady, u, weights.b, gates, out, residual, gelu, block_m)]
