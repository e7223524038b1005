"""What an engine takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Results for B windows of T tokens, K classes, F features, width D; all float32.

    ``probability`` (B, T, K) sums to 1 over the classes; ``offset`` (B, T) is where in its
    patch an event lies, 0 to 1 and ``spec.OFFSET_MARGIN`` beyond both; ``anomaly`` (B, F) is each
    feature's anomaly in the window, 1 being what 99.9 % of steady training windows stay below.
    ``embedding`` (B, T, D) is what the head read, None unless the engine was asked to keep it.
    """

    probability: np.ndarray
    offset: np.ndarray
    anomaly: np.ndarray
    embedding: np.ndarray | None = None


class Engine(Protocol):
    """Runs windows of one model.

    While ``keeps_embedding`` is set, scores carry embeddings; one that is not kept costs nothing.
    ``changes`` counts how often weights were changed; writing what is there is none.
    """

    name: str
    device: str
    why: str  # how it was picked, in words
    keeps_embedding: bool
    changes: int

    def run(self, windows: np.ndarray, gates: np.ndarray) -> Scores:
        """Score windows (B, L, F) float32 with gates (B, T) bool; B may be any number >= 1."""
        ...

    def read_weights(self, *names: str) -> dict[str, np.ndarray]:
        """Return copies, float32, of weights that may be adapted (``adaptable``), by name.

        Raise ValueError for any other name.
        """
        ...

    def write_weights(self, changes: Mapping[str, np.ndarray]) -> None:
        """Put other values into weights that may be adapted, all of them between two windows.

        A run sees either none of the changes or all. Values are copied into the tensors that are
        there, so nothing is built, captured or allocated anew: an engine that replays a CUDA graph
        copies to the buffers its kernels read, on the stream of the graph, between two launches;
        its embeddings are another static buffer, copied to the host only while they are kept.
        Raise ValueError, and change nothing, for other names, shapes or values that are not finite.
        """
        ...


def adaptable(name: str) -> bool:
    """Tell whether a weight may be adapted: head and LoRA factors, named as in the network.

    ``head.weight`` (K + 1, D) and ``head.bias`` (K + 1,), of which the last row is the offset;
    of the quantized layers ``lora_a`` (D or 2 D, r) and ``lora_b`` (r, N), the transient path.
    """
    return name in ('head.weight', 'head.bias') or name.endswith(('.lora_a', '.lora_b'))


def check_changes(changes: Mapping[str, np.ndarray], shapes: Mapping[str, tuple]) -> None:
    """Raise ValueError unless ``changes`` are finite and of the ``shapes`` that may be adapted."""
    check_names(changes, shapes)
    for name, value in changes.items():
        if np.shape(value) != tuple(shapes[name]):
            raise ValueError(f'{name}: shape {np.shape(value)}, expected {tuple(shapes[name])}')
        if not np.isfinite(value).all():
            raise ValueError(f'{name}: a value is not a finite number')


def differs(now: Mapping[str, np.ndarray], changes: Mapping[str, np.ndarray]) -> bool:
    """Tell whether ``changes`` have other values than the weights have ``now``."""
    return any(not np.array_equal(now[name], value) for name, value in changes.items())


def check_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError unless all ``names`` are ``known`` as weights that can be adapted."""
    for name in names:
        if name not in known:
            raise ValueError(f'{name}: not a weight that can be adapted; those are '
                             f'{", ".join(sorted(known))}')
