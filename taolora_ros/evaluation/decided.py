"""What a detector's network said of a recording, kept so that its head can be changed afterwards.

The blocks of a network are frozen while its head learns, so their tokens are computed once. From
them any head's decisions follow with the arithmetic of the decoders alone, some hundred times
faster; windows, gates and the order in which tokens are decided are those of ``Detector``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from taolora_ros.adaptation.examples import head_input, softmax
from taolora_ros.alarms import AlarmDecoder
from taolora_ros.beats import BeatDecoder
from taolora_ros.decode import START, Event, Tokens
from taolora_ros.detector import Detector
from taolora_ros.evaluation.detection import recording_samples
from taolora_ros.features import history_length
from taolora_ros.recordings import Recording
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import ModelSpec

BLOCK = 64  # windows of beats decided together: more are no faster


@dataclass
class Decided:
    """One recording: W windows that decide n tokens in all; ``recording.values`` are dropped.

    ``window`` (W + 1,) says where each window's tokens begin; ``tokens`` (n,) fields are those of
    ``Tokens``; ``embedding`` (n, D) float16; ``logits`` (n, K) are of the frozen head.
    ``trace`` holds by segment that of ``Tokens``, from its first sample on.
    """

    recording: Recording
    duration_s: float
    spec: ModelSpec
    settings: object
    first_ns: int
    window: np.ndarray
    start_ns: np.ndarray
    end: np.ndarray
    centre: np.ndarray
    offset: np.ndarray
    gate: np.ndarray
    valid: np.ndarray
    embedding: np.ndarray
    logits: np.ndarray
    trace: dict[int, np.ndarray] = field(default_factory=dict)

    def time_s(self, stamp_ns: int) -> float:
        """Return a time as seconds from the first sample."""
        return (stamp_ns - self.first_ns) / NANOSECONDS

    def stamp_ns(self, time_s: float) -> int:
        """Return seconds from the first sample as a time."""
        return self.first_ns + round(time_s * NANOSECONDS)

    def window_times(self) -> np.ndarray:
        """Return when each window ends (W,), in seconds from the first sample."""
        return (self.start_ns - self.first_ns) / NANOSECONDS + self.end / self.spec.rate

    def decoder(self, name: str = ''):
        """Return a fresh decoder."""
        kind = BeatDecoder if self.spec.kind == 'ecg' else AlarmDecoder
        return kind(self.spec, name or self.recording.name)

    def tokens(self, first: int, last: int, delta: np.ndarray) -> Tokens:
        """Return the tokens of windows first..last (one segment) under a change of the head."""
        rows = slice(self.window[first], self.window[last])
        embedding = self.embedding[rows].astype(np.float32)
        logits = self.logits[rows] + head_input(embedding) @ delta
        begin = max(int(self.end[first]) - history_length(self.spec), 0)
        end = int(self.end[last - 1])
        return Tokens(int(self.start_ns[first]), self.centre[rows], softmax(logits),
                      self.offset[rows], self.gate[rows], self.valid[rows],
                      self.settings.event_threshold, self.settings.refractory, end,
                      self.trace[int(self.start_ns[first])][begin:end],
                      embedding)

    def runs(self, from_s: float, until_s: float, block: int) -> Iterator[tuple[int, int]]:
        """Yield (first, last) of windows that end in a span, in blocks of one segment each."""
        times = self.window_times()
        wanted = np.flatnonzero((times >= from_s) & (times < until_s))
        i = 0
        while i < len(wanted):
            same = self.start_ns[wanted[i:i + block]] == self.start_ns[wanted[i]]
            count = int(np.argmin(same)) if not same.all() else len(same)
            yield int(wanted[i]), int(wanted[i + count - 1]) + 1
            i += count

    def events(self, delta: np.ndarray, from_s: float = -np.inf, until_s: float = np.inf
               ) -> list[Event]:
        """Return all starts of events in a span under a change of the head."""
        decoder, found, segment = self.decoder(), [], None
        for first, last in self.runs(from_s, until_s, BLOCK if self.spec.kind == 'ecg' else 1):
            if segment is not None and self.start_ns[first] != segment:
                found += decoder.finish()
            segment = self.start_ns[first]
            found += decoder.push(self.tokens(first, last, delta))
        found += decoder.finish()
        return [event for event in found if event.phase == START]


class _Listener:
    """Keeps what a detector tells."""

    def __init__(self):
        self.tokens: list[Tokens] = []
        self.traces: dict[int, list[np.ndarray]] = {}  # by segment, piece after piece
        self._known: dict[int, int] = {}               # their length so far

    def decided(self, tokens: Tokens, events: list[Event]) -> None:
        known = self._known.get(tokens.start_ns, 0)
        self._known[tokens.start_ns] = tokens.end
        piece = tokens.trace[len(tokens.trace) - (tokens.end - known):].copy()
        self.traces.setdefault(tokens.start_ns, []).append(piece)
        self.tokens.append(dataclasses.replace(tokens, trace=None))

    def trace(self) -> dict[int, np.ndarray]:
        return {start_ns: np.concatenate(pieces) for start_ns, pieces in self.traces.items()}


def decide(recording: Recording, spec: ModelSpec, engine, settings) -> Decided | None:
    """Run one recording through a detector and keep its tokens; None when none is decided.

    ``engine`` must keep embeddings. The recording's values are dropped.
    """
    detector, heard = Detector(spec, engine, settings), _Listener()
    detector.memory = heard
    samples = recording_samples(recording, spec)
    detector.process(samples)
    detector.flush()
    if not any(len(t.centre) for t in heard.tokens):
        return None
    join = {name: np.concatenate([getattr(t, name) for t in heard.tokens])
            for name in ('centre', 'offset', 'gate', 'valid', 'probability', 'embedding')}
    duration, recording.values = recording.duration_s, None
    logits = np.log(np.maximum(join.pop('probability'), 1e-12))  # softmax takes them back
    return Decided(recording, duration, spec, detector.settings, int(samples.stamps[0]),
                   np.cumsum([0, *(len(t.centre) for t in heard.tokens)]),
                   np.array([t.start_ns for t in heard.tokens]),
                   np.array([t.end for t in heard.tokens]), logits=logits, trace=heard.trace(),
                   **{**join, 'embedding': join['embedding'].astype(np.float16)})
