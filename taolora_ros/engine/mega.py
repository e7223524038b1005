"""A whole window in one kernel, or, where not all of its programs fit the GPU, a launch a stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from taolora_ros.engine.device_weights import end_weights
from taolora_ros.engine.graph import Buffers, Fork, GraphEngine
from taolora_ros.kernels.fetch import fetch_launch
from taolora_ros.kernels.launch import Launch, ceil_div, interpreted
from taolora_ros.kernels.window import window_launches
from taolora_ros.kernels.window_layout import window_weights
from taolora_ros.model_file import Model


class MegaEngine(GraphEngine):
    """A team of programs takes ``block_m`` tokens through all layers; see kernels/window.py."""

    name = 'mega'

    def __init__(self, model: Model, device: str = 'cuda', persistent: bool = True,
                 block_m: int | None = None, block_h: int = 64, warps: int = 8,
                 stages: int = 2, team: int = 4, **options):
        """Take the shape of tiles; ``persistent`` False is a launch a stage for any batch.

        The hidden layer is made 2 ``block_h`` numbers at a time. ``team`` is the most programs
        that share a tile: as many as there is room for on the GPU.
        """
        self._persistent, self._block_h, self._team = persistent, block_h, team
        # The interpreter takes as long for a small tile as for a large one.
        self._tiles = {'block_m': block_m or (64 if interpreted() else 16), 'warps': warps,
                       'stages': stages}
        super().__init__(model, device, **options)

    def _prepare(self, model: Model) -> None:
        shape = model.spec.network
        self._weights = window_weights(model.network.blocks, shape.width // shape.heads,
                                       self._block_h, self._device)
        self._ends = end_weights(model, self._device)

    def _steps(self, buffers: Buffers) -> Sequence[Launch | Fork]:
        """Return the launch of all stages, or one of each."""
        spec, network = self._model.spec, self._model.network
        constants = {
            'BLOCKS': len(network.blocks), 'T': spec.tokens,
            'E': spec.network.width // spec.network.heads, 'C': spec.patch * network.features,
            'K': len(spec.classes), 'Y': self._ends.heads.shape[1], 'FEATURES': network.features}
        tiles = ceil_div(spec.tokens, self._tiles['block_m'])
        programs = tiles * len(buffers.windows)
        persistent = self._persistent and programs <= self._room()
        team = self._team if persistent else 1
        hidden = spec.network.mlp * spec.network.width
        while team > 1 and (team * programs > self._room()
                            or hidden % (2 * self._block_h * team)):
            team //= 2
        steps = [] if buffers.source is None else [
            fetch_launch(buffers.source.inputs, buffers.inputs)]
        return steps + window_launches(
            buffers.windows, buffers.gates, self._weights, self._ends.buffer, buffers.outputs,
            buffers.embedding, constants, persistent, team, **self._tiles)

    def _room(self) -> int:
        """Return how many programs are surely on the GPU at once: one a multiprocessor."""
        if self._programs is not None:
            return self._programs
        if not self._cuda:  # the interpreter runs one after the other: only one can wait for none
            return 1
        return torch.cuda.get_device_properties(self._device).multi_processor_count

    def _load(self, layer: str, values: dict[str, Tensor]) -> None:
        """Copy the values of a layer to where the kernel reads them."""
        if layer == 'head':
            self._ends.load_head(values['weight'], values['bias'])
            return
        _, number, *path = layer.split('.')
        self._weights.load_lora(int(number), path[-1], values['lora_a'], values['lora_b'])
