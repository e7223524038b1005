"""What an engine takes and gives."""

from __future__ import annotations

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
    """Runs windows of one model."""

    name: str
    device: str

    def run(self, windows: np.ndarray, gates: np.ndarray) -> Scores:
        """Score windows (B, L, F) float32 with gates (B, T) bool; B may be any number >= 1."""
        ...
