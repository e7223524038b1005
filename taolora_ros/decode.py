"""Events and anomalies, and what every decoder of the network's scores takes and shares.

A decoder (beats.py, alarms.py) takes decided tokens in the order of time, at most one patch
apart, overlapping when windows follow each other more closely than a patch. Positions are in
samples since the start of the segment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import ModelSpec

START, ONGOING, END = 0, 1, 2          # Event.phase
INFO, WARNING, CRITICAL = 0, 1, 2      # Event.severity
SEVERITIES = {'beat': INFO, 'veb': WARNING, 'fall': CRITICAL}


@dataclass(frozen=True)
class Event:
    """Something that happened; times in nanoseconds, ``score`` 0 to 1.

    ``stamp_ns`` is the time of the event itself, ``start_ns`` to ``stop_ns`` what it covers,
    ``transient_fraction`` the part of that for which the gate was open.
    """

    id: str
    label: str
    score: float
    severity: int
    phase: int
    stamp_ns: int
    start_ns: int
    stop_ns: int
    transient_fraction: float
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Anomaly:
    """How unusual a window (``start_ns`` to ``stop_ns``) is; ``score`` 1 is the usual limit.

    ``reason`` says in words what is unusual, '' when nothing is.
    """

    stamp_ns: int
    start_ns: int
    stop_ns: int
    score: float
    threshold: float
    is_anomalous: bool
    channel_scores: dict[str, float]
    reason: str = ''


@dataclass(frozen=True)
class Tokens:
    """Decided tokens of one window and the thresholds in force: n of them, in time order.

    ``centre`` (n,) in samples since ``start_ns``, the segment's start; ``probability`` (n, K),
    ``offset`` (n,) in patches from a token's start, ``gate`` (n,) and ``valid`` (n,) bool.
    ``trace`` (m,) is the signal before sample ``end``, with which the newest window ends: the
    norm of acceleration in g (IMU), or the filtered lead in mV (ECG). ``embedding`` (n, D) is
    what the head read, None when the engine keeps none.
    """

    start_ns: int
    centre: np.ndarray
    probability: np.ndarray
    offset: np.ndarray
    gate: np.ndarray
    valid: np.ndarray
    event_threshold: float
    refractory: float
    end: int = 0
    trace: np.ndarray | None = None
    embedding: np.ndarray | None = None


class Memory(Protocol):
    """What is told by a detector of all that it decides."""

    def decided(self, tokens: Tokens, events: list[Event]) -> None:
        """Take decided tokens and the events that became certain with them."""
        ...


def biased(probability: float, bias: float) -> float:
    """Return sigmoid(logit(p) + bias): a probability whose operating point was moved to 0.5."""
    p = min(max(0.0, float(probability)), 1.0)  # in this order NaN becomes 0
    odds = np.exp(bias)
    return float(p * odds / (p * odds + (1.0 - p)))


class Decoder(ABC):
    """What all decoders share: the numbering of events and positions as times."""

    def __init__(self, spec: ModelSpec, name: str):
        self.spec = spec
        self.name = name
        self._issued = 0  # never reset: ids stay unique when a recording is played again
        self._bias = spec.bias or (0.0,) * len(spec.labels)

    @abstractmethod
    def push(self, tokens: Tokens) -> list[Event]:
        """Take the next tokens of a segment; return what is certain now."""

    def forget(self) -> None:
        """Let go of what the network said before its weights changed."""

    @abstractmethod
    def scores(self) -> np.ndarray:
        """Return what each of the n tokens pushed last says of each label, (n, labels)."""

    @abstractmethod
    def finish(self) -> list[Event]:
        """End the segment; return what was still open."""

    def _new_id(self, start_ns: int) -> str:
        self._issued += 1
        return f'{self.name or self.spec.name}-{start_ns}-{self._issued}'

    def _time(self, start_ns: int, position: float) -> int:
        """Return the time in ns of a position in samples."""
        return start_ns + round(float(position) * (NANOSECONDS / self.spec.rate))
