"""What the GPU engines share: static buffers, one CUDA graph a batch size, weights kept in place.

A window's way: copied into a pinned buffer, which the graph's first kernel brings to the GPU,
through the kernels, of which the last one writes the scores into a pinned buffer: one launch by
the host and one wait. The gate is data on the device, so nothing waits for it. On a GPU that
shares its memory with the CPU (Jetson) all kernels use the pinned buffers themselves. Without a
GPU the same launches run one after the other in Triton's interpreter, which is for checking them.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from taolora_ros.engine.agreement import check_agreement
from taolora_ros.engine.device_weights import Adaptable
from taolora_ros.engine.interface import Scores, differs
from taolora_ros.kernels.launch import Launch, can_overlap, interpreted, overlapped
from taolora_ros.model_file import Model

LARGEST = 64       # windows of one graph: more run as several
EARLY = (1, 2, 4, 8)  # windows of graphs captured at start-up: no stream waits for them later
CAPTURING = threading.Lock()  # while one graph is captured, no other may begin in this process


@dataclass(frozen=True)
class Fork:
    """Launches that may run side by side: the first ones on this stream, the others beside it."""

    here: tuple[Launch, ...]
    beside: tuple[Launch, ...]


@dataclass(frozen=True)
class Buffers:
    """What B windows go through, T tokens, K classes, F features, width D."""

    windows: Tensor      # (B, T C) float32
    gates: Tensor        # (B T,) uint8
    probability: Tensor  # (B, T, K) float32
    offset: Tensor       # (B, T)
    anomaly: Tensor      # (B, F)
    embedding: Tensor    # (B T, D)
    source: Buffers | None = None  # whose windows and gates, on the host, are to be fetched

    @property
    def inputs(self) -> Tensor:
        """The bytes of windows and gates: they lie one behind the other."""
        size = self.windows.numel() * 4 + self.gates.numel()
        return torch.as_strided(self.windows.view(torch.uint8), (size,), (1,))

    @property
    def outputs(self) -> Tensor:
        """Probability, offset and anomaly, which lie one behind the other."""
        size = self.probability.numel() + self.offset.numel() + self.anomaly.numel()
        return torch.as_strided(self.probability, (size,), (1,))


def make_buffers(model: Model, batch: int, device: torch.device | str, pinned: bool = False
                 ) -> Buffers:
    """Return buffers for ``batch`` windows."""
    spec = model.spec
    features, classes = model.network.features, len(spec.classes)
    where = {'device': device, 'pin_memory': pinned}
    numbers = batch * spec.window * features
    given = torch.zeros(numbers * 4 + batch * spec.tokens, dtype=torch.uint8, **where)
    sizes = [batch * spec.tokens * classes, batch * spec.tokens, batch * features]
    probability, offset, anomaly = torch.zeros(sum(sizes), **where).split(sizes)
    return Buffers(given[:numbers * 4].view(torch.float32).view(batch, -1), given[numbers * 4:],
                   probability.view(batch, spec.tokens, classes),
                   offset.view(batch, spec.tokens), anomaly.view(batch, features),
                   torch.zeros(batch * spec.tokens, spec.network.width, **where))


def on_device(model: Model, host: Buffers, device: torch.device | str) -> Buffers:
    """Return buffers on a device for what is fetched from ``host``, and scores written there."""
    own = make_buffers(model, len(host.windows), device)
    return replace(own, probability=host.probability, offset=host.offset, anomaly=host.anomaly,
                   source=host)


class GraphEngine(ABC):
    """Runs an INT4 model by launches that never change; a subclass says which."""

    name = ''
    why = 'made directly'

    def __init__(self, model: Model, device: str = 'cuda', zero_copy: bool | None = None,
                 check: bool = True, programs: int | None = None, early: bool | None = None):
        """Put the weights on the device; raise ValueError when the model or device cannot be run.

        ``zero_copy`` lets kernels read and write the host's buffers, None: where memory is shared.
        ``check`` compares with the reference engine and raises RuntimeError when scores differ.
        ``programs`` is for an engine that never runs, whose launches are compiled for another
        GPU: how many programs that one surely holds at once. ``early`` lets a kernel begin while
        the one before ends, None: where the GPU can.
        """
        if early is None:
            early = device == 'cuda' and not interpreted() and can_overlap()
        self._early = early
        self._adaptable, self._programs = Adaptable(model), programs
        if device != 'cuda' and programs is None and not interpreted():
            raise ValueError(f'it runs on a CUDA device, not on {device}')
        self._device, self.device = torch.device(device), device
        self._model, self._cuda = model, device == 'cuda' and not interpreted()
        if zero_copy is None:
            zero_copy = self._cuda and shares_memory(self._device)
        self.zero_copy = zero_copy
        self._window_shape = (model.spec.window, model.network.features)
        self._tokens = model.spec.tokens
        self.keeps_embedding, self.changes = False, 0
        self._slots: dict[int, _Slot] = {}
        self._lock = threading.Lock()  # a run and a change of weights exclude each other
        self._prepare(model)
        if self._cuda:
            for batch in EARLY:
                self.slot(batch)
            if check:
                check_agreement(model, self.run)

    @abstractmethod
    def _prepare(self, model: Model) -> None:
        """Put a subclass's weights on the device."""

    def launches(self, buffers: Buffers) -> Sequence[Launch | Fork]:
        """Return what runs a batch of the size of ``buffers``, in order."""
        steps = list(self._steps(buffers))
        return overlapped(steps) if self._early else steps

    @abstractmethod
    def _steps(self, buffers: Buffers) -> Sequence[Launch | Fork]:
        """Return a subclass's launches, which read and write ``buffers``.

        Where these have a source, the first one fetches windows and gates from there.
        """

    @abstractmethod
    def _load(self, layer: str, values: dict[str, Tensor]) -> None:
        """Copy the values of a layer ('head' or 'blocks.0.up') to where the kernels read them."""

    def run(self, windows: np.ndarray, gates: np.ndarray) -> Scores:
        """Score windows (B, L, F) with gates (B, T); raise ValueError for other shapes."""
        count, shape, tokens = len(windows), self._window_shape, self._tokens
        if windows.shape[1:] != shape or gates.shape != (count, tokens):
            raise ValueError(f'windows {windows.shape} and gates {gates.shape}: expected '
                             f'(B, {shape[0]}, {shape[1]}) and (B, {tokens})')
        with self._lock:
            if count <= LARGEST:
                return self.slot(count).run(windows, gates, self.keeps_embedding)
            parts = [self.slot(min(count - first, LARGEST)).run(
                windows[first:first + LARGEST], gates[first:first + LARGEST],
                self.keeps_embedding) for first in range(0, count, LARGEST)]
        return Scores(**{name: None if value is None else np.concatenate(
            [getattr(part, name) for part in parts]) for name, value in vars(parts[0]).items()})

    def slot(self, batch: int) -> _Slot:
        """Return what runs ``batch`` windows: sizes are rounded up to powers of two."""
        size = 1 << (batch - 1).bit_length()
        if size not in self._slots:
            self._slots[size] = _Slot(self, size)
        return self._slots[size]

    def read_weights(self, *names: str) -> dict[str, np.ndarray]:
        """Return copies of weights that may be adapted; raise ValueError for other names."""
        values = self._adaptable.values
        for name in names:
            if name not in values:
                raise ValueError(f'{name}: not a weight that can be adapted; those are '
                                 f'{", ".join(sorted(values))}')
        return {name: values[name].numpy().copy() for name in names}

    def write_weights(self, changes: Mapping[str, np.ndarray]) -> None:
        """Copy other values into the buffers that kernels read; no graph is captured anew."""
        self._adaptable.check(changes)
        with self._lock:
            self.changes += differs(self.read_weights(*changes), changes)
            for layer in self._adaptable.take(changes):
                self._load(layer, {name.rpartition('.')[2]: value for name, value
                                   in self._adaptable.values.items()
                                   if name.rpartition('.')[0] == layer})


class _Slot:
    """Buffers and, on a GPU, the graph of one batch size."""

    def __init__(self, engine: GraphEngine, batch: int):
        self._cuda, self._direct = engine._cuda, engine.zero_copy or not engine._cuda
        self._host = make_buffers(engine._model, batch, 'cpu', pinned=self._cuda)
        if self._direct:  # kernels work on the host's buffers; embeddings are seldom read there
            self._own = self._host if not self._cuda else replace(
                self._host, embedding=torch.zeros_like(self._host.embedding, device='cuda'))
        else:
            self._own = on_device(engine._model, self._host, engine._device)
        self.launches = engine.launches(self._own)
        spec = engine._model.spec
        self._windows = self._host.windows.view(batch, spec.window, -1).numpy()
        self._gates = self._host.gates.view(batch, spec.tokens).numpy()
        self._scores = self._host.outputs.numpy()
        shapes = [tuple(getattr(self._host, name).shape)
                  for name in ('probability', 'offset', 'anomaly')]
        ends = list(accumulate(map(math.prod, shapes)))
        self._parts = [(slice(end - math.prod(shape), end), shape)
                       for end, shape in zip(ends, shapes)]
        self._graph = self._capture() if self._cuda else None

    def _capture(self) -> torch.cuda.CUDAGraph:
        # Compiles; a graph may not. On the stream of all engines: kernels of two that wait for
        # their programs must not be on the GPU at once.
        self._issue()
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may copy weights to the GPU meanwhile.
        with CAPTURING, torch.cuda.graph(graph, capture_error_mode='thread_local'):
            self._issue()
        return graph

    def _issue(self) -> None:
        """Issue the kernels once, on the current stream."""
        issue(self.launches, self._cuda)

    def start(self) -> None:
        """Begin to run once with what lies in the buffers."""
        if self._graph is None:
            self._issue()
        else:
            self._graph.replay()

    def run(self, windows: np.ndarray, gates: np.ndarray, keep: bool) -> Scores:
        """Score at most as many windows as there is room for.

        What the host has to do is done while the GPU works, but for copies in and out.
        """
        count = len(windows)
        self._windows[:count], self._gates[:count] = windows, gates
        self.start()
        kept = np.empty_like(self._scores)
        scores = Scores(*(kept[part].reshape(shape)[:count] for part, shape in self._parts))
        if self._cuda:
            torch.cuda.current_stream().synchronize()
        kept[:] = self._scores
        if not keep:
            return scores
        tokens = self._own.embedding.view(len(self._gates), self._gates.shape[1], -1)
        return replace(scores, embedding=tokens[:count].cpu().numpy().copy())


def issue(launches: Sequence[Launch | Fork], cuda: bool) -> None:
    """Issue launches; what a Fork has beside goes to a stream of its own, joined behind it."""
    beside = torch.cuda.Stream() if cuda and any(isinstance(s, Fork) for s in launches) else None
    for step in launches:
        if isinstance(step, Launch):
            step()
            continue
        if beside is None:
            for launch in step.here + step.beside:
                launch()
            continue
        here = torch.cuda.current_stream()
        beside.wait_stream(here)      # an event recorded there, waited for here
        with torch.cuda.stream(beside):
            for launch in step.beside:
                launch()
        for launch in step.here:
            launch()
        here.wait_stream(beside)


def shares_memory(device: torch.device) -> bool:
    """Tell whether a GPU uses the memory of the CPU, as Jetsons do."""
    return bool(getattr(torch.cuda.get_device_properties(device), 'is_integrated', False))
