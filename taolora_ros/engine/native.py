"""The native engine: the whole network in C on one core, four-bit products in integers.

It needs a C compiler on the machine that runs it, see `kernels/cpu/library.py`. Integer sums are
exact, as those of the reference engine; everything else is float32 added in another order, so that
an activation that lies on the border of two codes may get the other one now and then.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from ctypes import POINTER, byref, c_float, c_uint8

import numpy as np

from taolora_ros.engine.interface import (
    Scores, adaptable, check_changes, check_names, differs)
from taolora_ros.kernels.cpu import layout
from taolora_ros.kernels.cpu.library import load
from taolora_ros.model_file import Model
from taolora_ros.network import RotaryAttention, rotary_table
from taolora_ros.spec import OFFSET_MARGIN


class NativeEngine:
    """Runs an INT4 model in C; the interpreter is free for other threads meanwhile."""

    name, device, why = 'native', 'cpu', 'made directly'

    def __init__(self, model: Model, flags: tuple[str, ...] = ()):
        """Compile for this machine, with more compiler ``flags`` if any.

        Raise ValueError for a model that is not INT4, RuntimeError where nothing can be compiled.
        """
        spec = model.spec
        self._arrays = layout.Arrays()
        self._network = _network(model, self._arrays)
        self._library = load(flags)
        self.instructions = self._library.taolora_isa().decode()
        self._room = np.empty(self._library.taolora_room(byref(self._network)), np.float32)
        self._lock = threading.Lock()  # there is one room, and weights change between two runs
        self._adaptable = {name: array for name, array in self._arrays.adaptable.items()
                           if adaptable(name)}
        self.keeps_embedding, self.changes = False, 0
        self._shape = (spec.window, model.network.features)
        self._tokens, self._classes = spec.tokens, len(spec.classes)

    @property
    def weight_bytes(self) -> int:
        """Return the size of all weights as they lie in memory."""
        return self._arrays.bytes

    def run(self, windows: np.ndarray, gates: np.ndarray) -> Scores:
        """Score windows (B, L, F) with gates (B, T); raise ValueError for other shapes."""
        if windows.shape[1:] != self._shape or gates.shape != (len(windows), self._tokens):
            raise ValueError(f'windows {windows.shape} and gates {gates.shape}: expected '
                             f'(B, {self._shape[0]}, {self._shape[1]}) and (B, {self._tokens})')
        batch = len(windows)
        windows = np.ascontiguousarray(windows, np.float32)
        gates = np.ascontiguousarray(gates, np.uint8)
        probability = np.empty((batch, self._tokens, self._classes), np.float32)
        offset = np.empty((batch, self._tokens), np.float32)
        anomaly = np.empty((batch, self._shape[1]), np.float32)
        embedding = None
        if self.keeps_embedding:
            embedding = np.empty((batch, self._tokens, self._network.width), np.float32)
        with self._lock:
            self._library.taolora_run(
                byref(self._network), batch, _floats(windows),
                gates.ctypes.data_as(POINTER(c_uint8)), _floats(self._room),
                _floats(probability), _floats(offset), _floats(anomaly),
                None if embedding is None else _floats(embedding))
        return Scores(probability, offset, anomaly, embedding)

    def read_weights(self, *names: str) -> dict[str, np.ndarray]:
        """Return copies of weights that may be adapted; raise ValueError for other names."""
        check_names(names, self._adaptable)
        return {name: self._adaptable[name].copy() for name in names}

    def write_weights(self, changes: Mapping[str, np.ndarray]) -> None:
        """Copy other values into weights between two runs; errors as the interface says."""
        check_changes(changes, {name: array.shape for name, array in self._adaptable.items()})
        with self._lock:
            self.changes += differs(self._adaptable, changes)
            for name, value in changes.items():
                self._adaptable[name][:] = value


def _floats(array: np.ndarray) -> layout.Floats:
    return array.ctypes.data_as(POINTER(c_float))


def _network(model: Model, arrays: layout.Arrays) -> layout.Network:
    """Return the structure that `network.c` runs; ``arrays`` keeps what it points to."""
    network, spec = model.network, model.spec
    shape, names = spec.network, {layer: name for name, layer in network.linears().items()}
    if spec.tokens % 4:
        raise ValueError(f'tokens: {spec.tokens} is no multiple of 4, as it has to be')

    def norm(layer):
        return arrays.floats(np.stack([layer.weight.detach(), layer.bias.detach()]))

    def block(part) -> layout.Block:
        mix, attention = part.mix, isinstance(part.mix, RotaryAttention)
        kernel = arrays.floats(np.zeros(1)) if attention else arrays.floats(layout.pad(np.vstack(
            [mix.conv.weight.detach()[:, 0].T, mix.conv.bias.detach()])))
        return layout.Block(attention, norm(part.norm1), norm(part.norm2), kernel, *[
            arrays.linear(names[layer], layer)
            for layer in (mix.inner, mix.outer, part.up, part.down)])

    blocks = [block(part) for part in network.blocks]
    turns = rotary_table(spec.tokens, shape.width // shape.heads, network.norm.weight.device)
    return layout.Network(
        spec.tokens, shape.width, shape.heads, shape.kernel, shape.mlp, len(spec.classes),
        spec.patch, network.features, shape.bottleneck, len(blocks), network.norm.eps,
        OFFSET_MARGIN, norm(network.norm), arrays.floats(np.stack(turns)),
        arrays.floats(model.anomaly_scale),
        *[arrays.dense(name, getattr(network, name))
          for name in ('embed', 'head', 'squeeze', 'rebuild')],
        (layout.Block * len(blocks))(*blocks))
