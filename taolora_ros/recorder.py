"""What a detector saw and decided, kept for people to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from taolora_ros.decode import Tokens
from taolora_ros.features import feature_names
from taolora_ros.samples import NANOSECONDS
from taolora_ros.settings import Settings
from taolora_ros.spec import ModelSpec
from taolora_ros.stream import Segment

if TYPE_CHECKING:  # the detector calls the recorder, not the other way round
    from taolora_ros.detector import Window


@dataclass
class Piece:
    """One segment, unbroken uniform time from ``start_ns``, and what was decided in it.

    Each list holds arrays to be joined: ``values`` (n, C) float32 in the spec's units, NaN in
    bridged gaps; of tokens ``centre`` (t,) in samples since the start, ``scores`` (t, labels)
    and ``gate`` (t,); of judged windows ``end`` (w,) in samples and ``anomaly`` (w, F).
    """

    start_ns: int
    values: list[np.ndarray] = field(default_factory=list)
    centre: list[np.ndarray] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    gate: list[np.ndarray] = field(default_factory=list)
    end: list[np.ndarray] = field(default_factory=list)
    anomaly: list[np.ndarray] = field(default_factory=list)


class Recorder:
    """Keep all that one detector sees and decides from its first sample on, in memory.

    ``settings`` are those it runs with; ``reference`` is what somebody annotated, (seconds since
    the first sample, label) each. Meant for recordings: it grows with time.
    """

    def __init__(self, spec: ModelSpec, settings: Settings | None = None,
                 reference: tuple[tuple[float, str], ...] = ()):
        self.spec = spec
        self.settings = settings or Settings.default(spec)
        self.reference = reference
        self.pieces: list[Piece] = []
        self._at = 0  # of the pieces, the one that is being decided

    def grown(self, segment: Segment, first: int) -> None:
        """Take the samples of ``segment`` from number ``first`` on."""
        if first == 0:
            self.pieces.append(Piece(segment.start_ns))
        values = segment.values.get(first).astype(np.float32)
        values[~segment.valid.get(first)] = np.nan
        self.pieces[-1].values.append(values)

    def decided(self, window: Window, tokens: Tokens, scores: np.ndarray,
                anomaly: np.ndarray | None) -> None:
        """Take decided tokens, their ``scores`` (n, labels) and the window's anomaly (F,).

        Scores and anomaly are in the units of their thresholds; ``anomaly`` is None when the
        window was not judged.
        """
        while self.pieces[self._at].start_ns != window.start_ns:
            self._at += 1  # segments too short to be decided
        piece = self.pieces[self._at]
        piece.centre.append(tokens.centre)
        piece.scores.append(scores)
        piece.gate.append(tokens.gate)
        if anomaly is not None:
            piece.end.append(np.array([window.end]))
            piece.anomaly.append(np.asarray(anomaly)[None])
        self._at += window.final

    def samples(self) -> list[tuple[int, np.ndarray]]:
        """Return (time of the first sample in ns, values (n, C)) of each piece."""
        half = NANOSECONDS / self.spec.rate / 2
        return [(piece.start_ns + round(half), _joined(piece.values, len(self.spec.channels)))
                for piece in self.pieces]

    def tokens(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return (times (t,) in ns, scores (t, labels), gate (t,)) of each piece."""
        return [(self._times(piece, piece.centre), _joined(piece.scores, len(self.spec.labels)),
                 _joined(piece.gate).astype(bool)) for piece in self.pieces]

    def windows(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (ends (w,) in ns, anomaly (w, F)) of each piece."""
        return [(self._times(piece, piece.end),
                 _joined(piece.anomaly, len(feature_names(self.spec)))) for piece in self.pieces]

    def _times(self, piece: Piece, positions: list[np.ndarray]) -> np.ndarray:
        step = NANOSECONDS / self.spec.rate
        return piece.start_ns + np.round(_joined(positions) * step).astype(np.int64)


def _joined(arrays: list[np.ndarray], *columns: int) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros((0, *columns))
