"""One kernel a layer, a whole window replayed as one CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from taolora_ros.engine.device_weights import BlockWeights, block_weights, end_weights
from taolora_ros.engine.graph import Buffers, Fork, GraphEngine
from taolora_ros.kernels.attention import attention_launch
from taolora_ros.kernels.convolution import convolution_launch
from taolora_ros.kernels.heads import heads_launch
from taolora_ros.kernels.launch import Launch, interpreted
from taolora_ros.kernels.layout import LayerWeights
from taolora_ros.kernels.linear import linear_launch
from taolora_ros.kernels.patches import patches_launch
from taolora_ros.model_file import Model

FEW = 128   # rows: tiles of them leave most of a GPU without work
SOME = 512  # rows: small tiles keep it busy


class FusedEngine(GraphEngine):
    """Embedding, four linears and a mixer a block, heads: 22 kernels for 4 blocks.

    On a GPU with memory of its own the first one fetches the windows.
    """

    name = 'fused'

    def __init__(self, model: Model, device: str = 'cuda', block_m: int | None = None,
                 block_n: int | None = None, lora: int = 1, warps: int | None = None,
                 split: int | None = None, **options):
        """Take the shape of tiles and how linears treat the gate (see kernels/linear.py).

        ``block_m`` rows and ``block_n`` outputs make a tile of a linear, of so many ``warps``;
        None: by rows and outputs. ``split`` programs share the inputs of a tile of each linear;
        None: 4 share those of the MLP's second layer where there are few rows.
        """
        self._block_m, self._block_n = block_m, block_n
        self._lora, self._warps, self._split = lora, warps, split
        super().__init__(model, device, **options)

    def _prepare(self, model: Model) -> None:
        self._blocks = [block_weights(block, self._device)
                        for block in model.network.blocks]
        self._ends = end_weights(model, self._device)

    def _steps(self, buffers: Buffers) -> Sequence[Launch | Fork]:
        """Return the launches of embedding, blocks and heads."""
        spec, ends = self._model.spec, self._ends
        width, rows = spec.network.width, len(buffers.gates)

        def room(times: int) -> Tensor:
            return torch.empty(rows, times * width, device=self._device)

        x, inner, mixed, hidden = room(1), room(3), room(1), room(spec.network.mlp)
        host = buffers.source
        fetch = None if host is None else (host.gates, buffers.windows, buffers.gates)
        steps: list[Launch | Fork] = [
            patches_launch((host or buffers).windows, ends.embed, ends.embed_bias, x, fetch)]
        for block in self._blocks:
            wide = inner.flatten()[:rows * block.inner.n].view(rows, -1)
            steps += self.layer(x, block.inner, buffers.gates, wide)
            steps.append(self._mix(block, wide, mixed))
            steps += self.layer(mixed, block.outer, buffers.gates, x, residual=x)
            steps += self.layer(x, block.up, buffers.gates, hidden, gelu=True)
            steps += self.layer(hidden, block.down, buffers.gates, x, residual=x)
        steps.append(heads_launch(
            x, buffers.windows, ends.heads, ends.rebuild, ends.norm, ends.biases,
            buffers.probability, buffers.offset, buffers.anomaly, buffers.embedding,
            self._rows(0)))
        return steps

    def layer(self, x: Tensor, weights: LayerWeights, gates: Tensor, out: Tensor,
              residual: Tensor | None = None, gelu: bool = False) -> list[Launch | Fork]:
        """Return what runs one linear."""
        split = self._split or (4 if len(x) <= FEW and weights.k > weights.n else 1)
        return [linear_launch(x, weights, gates, out, residual, gelu=gelu, lora=self._lora,
                              split=split, **self._tile(len(x)))]

    def _tile(self, rows: int) -> dict[str, int]:
        """Return the shape of a linear's tiles: small for few rows, to use the whole GPU.

        Where there are many, a program makes many outputs of those that it rounds itself. The
        interpreter takes as long for a small tile as for a large one.
        """
        tile = {'block_m': self._rows(rows), 'warps': self._warps or 4,
                'block_n': self._block_n or (32 if rows <= SOME else 128)}
        return {**tile, 'block_n': 128} if interpreted() else tile

    def _rows(self, rows: int) -> int:
        """Return how many rows a program takes."""
        if interpreted():
            return 64
        return self._block_m or (16 if rows <= SOME else 32)

    def _mix(self, block: BlockWeights, inner: Tensor, out: Tensor) -> Launch:
        """Return the launch of a mixer."""
        rows = self._rows(len(out))
        if block.taps is None:
            return attention_launch(inner, self._ends.cos, self._ends.sin, out,
                                    self._model.spec.network.heads, rows)
        return convolution_launch(  # small tiles, one warp: what takes time is the many loads
            inner, block.taps, block.tap_bias, out, self._model.spec.tokens,
            block_m=rows if interpreted() else 2, block_d=32 if len(out) <= SOME else 64, warps=1)

    def _load(self, layer: str, values: dict[str, Tensor]) -> None:
        """Copy the values of a layer to where the kernels read them."""
        if layer == 'head':
            self._ends.load_head(values['weight'], values['bias'])
            return
        _, number, *path = layer.split('.')
        a, b = values['lora_a'], values['lora_b']
        getattr(self._blocks[int(number)], path[-1]).load_lora(a, b)
