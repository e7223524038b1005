"""One stream from samples to events: everything but the network is driven from here.

    push(samples) ─► due() ─► windows ─► [an engine, also shared by streams] ─► absorb() ─► events

``process`` does all of it with the detector's own engine. Windows end every hop on the uniform
time of their segment, and each decides the tokens that became ``delay`` old since the window
before. So the events of a recording do not depend on how its samples were cut into pushes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taolora_ros.alarms import AlarmDecoder
from taolora_ros.anomaly import AnomalyMonitor, measured, statistics
from taolora_ros.beats import BeatDecoder
from taolora_ros.decode import Anomaly, Event, Tokens
from taolora_ros.features import feature_names, history_length, normalise
from taolora_ros.gate import Gate, dilate, token_flags
from taolora_ros.samples import Samples
from taolora_ros.settings import Settings
from taolora_ros.spec import ModelSpec
from taolora_ros.stream import Rows, Segment, Stream

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Engine, Scores
    from taolora_ros.recorder import Recorder

__all__ = ['Anomaly', 'Detector', 'Event', 'Settings', 'Window']

WAITING = 512     # samples that may wait unread: bounds memory, and the cost of one reading
GAP_MARGIN = 0.2  # s: a step that a bridged gap leaves behind rings that long in the filters
PIECE = 16384     # samples `process` reads at once
BATCH = 64        # windows `process` runs at once


@dataclass(frozen=True)
class Window:
    """One window to be scored, and what is needed to decide its tokens.

    ``features`` (L, F) float32 normalised and ``gate`` (T,) bool are for the engine. The window
    ends before sample ``end`` of the segment that began at ``start_ns``; ``stamp_ns`` is that
    moment. ``valid`` (T,) is False near bridged gaps; ``final`` when the segment ends here.
    ``statistics`` (3, F) are those of its newest quarter, see anomaly.py.
    """

    features: np.ndarray
    gate: np.ndarray
    valid: np.ndarray
    statistics: np.ndarray
    start_ns: int
    stamp_ns: int
    end: int
    final: bool
    settings: Settings


class _Track:
    """How far one segment has been turned into windows."""

    def __init__(self, segment: Segment):
        self.segment = segment
        self.flags = Rows((), np.bool_)  # of the gate, one for each complete patch
        self.gated = 0                   # samples the gate has seen
        self.last = 0                    # end of the last window, 0 before the first

    def next_end(self, spec: ModelSpec, hop: int) -> int:
        """Return where the next window ends; the first one may be half empty."""
        return self.last + hop if self.last else (spec.window + 1) // 2


class Detector:
    """Find the events of one stream.

    ``engine`` may be left out by who runs the windows of several detectors together; ``name``
    begins the ids of events; a ``recorder`` is told everything. Raise ValueError when the
    settings do not fit the model.
    """

    def __init__(self, spec: ModelSpec, engine: Engine | None = None,
                 settings: Settings | None = None, name: str = '',
                 recorder: Recorder | None = None):
        self.spec = spec
        self.engine = engine
        self.name = name
        self.recorder = recorder
        self._gate = Gate(spec)
        self.settings = settings or Settings.default(spec)
        self._stream = Stream(spec)
        self._waiting: list[Samples] = []
        self._waiting_count = 0
        self._tracks: deque[_Track] = deque()  # segments that are not decided to their end
        self._newest: _Track | None = None     # the one that grows
        self._decoder = (BeatDecoder if spec.kind == 'ecg' else AlarmDecoder)(spec, name)
        self.anomalies = AnomalyMonitor(spec)
        self._segment_ns = None  # start of the segment whose tokens are being decided
        self._decided = 0.0      # position up to which they are
        self.tokens = 0          # decided so far
        self.open_tokens = 0     # of those, with an open gate

    @property
    def settings(self) -> Settings:
        """Return the settings in force; what is assigned holds from the next window on."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        """Take valid settings as a whole; raise ValueError and keep the old ones otherwise."""
        settings.validate(self.spec)
        self._settings = settings
        self._gate.thresholds = settings.thresholds(self.spec)

    @property
    def counts(self) -> Counter:
        """Return by name what was dropped, mended or restarted; see ``Stream``."""
        self._read()
        return +self._stream.counts

    def behind(self, window: Window) -> int:
        """Return by how many ns of samples that came since ``window`` is behind them."""
        newest = self._stream.newest
        return 0 if newest is None else max(newest - window.stamp_ns, 0)

    @property
    def gate_fraction(self) -> float:
        """Return the part of all decided tokens whose gate was open, 0 to 1."""
        return self.open_tokens / self.tokens if self.tokens else 0.0

    def push(self, samples: Samples) -> None:
        """Take samples in the order of arrival; raise ValueError for a wrong channel count."""
        self._stream.check(samples)
        if len(samples) == 0:
            return
        if len(samples) < WAITING:  # it may wait, and its owner may use the arrays again
            samples = Samples(samples.stamps.copy(), samples.values.copy())
        self._waiting.append(samples)
        self._waiting_count += len(samples)
        if self._waiting_count >= WAITING:
            self._read()

    def due(self, limit: int | None = None) -> list[Window]:
        """Return the next windows that are due, oldest first, at most ``limit`` of them."""
        if self._waiting and self._worth_reading():
            self._read()
        windows = []
        while self._tracks and (limit is None or len(windows) < limit):
            track = self._tracks[0]
            length = len(track.segment)
            end = track.next_end(self.spec, self._hop)
            if end <= length:
                windows.append(self._window(track, end, False))
            elif not track.segment.closed:
                break
            else:  # a segment shorter than half a window is left undecided
                if track.last:
                    windows.append(self._window(track, length, True))
                self._tracks.popleft()
        return windows

    def absorb(self, windows: Sequence[Window], scores: Scores) -> list[Event | Anomaly]:
        """Decide ``windows``, in the order of ``due``, by their scores; return what happened."""
        results = []
        for i, window in enumerate(windows):
            if window.start_ns != self._segment_ns:
                results += self._decoder.finish()
                self._segment_ns, self._decided = window.start_ns, 0.0
            tokens = self._decidable(window, scores.probability[i], scores.offset[i])
            results += self._decoder.push(tokens)
            judged = window.end >= self.spec.window and window.valid.all()
            if judged:
                results += self.anomalies.push(window.stamp_ns, scores.anomaly[i],
                                               window.settings.anomaly_threshold,
                                               window.statistics)
            if self.recorder:
                self.recorder.decided(
                    window, tokens, self._decoder.scores(),
                    self.anomalies.scores if judged else None)
            if window.final:
                results += self._decoder.finish()
                self._segment_ns = None
        return results

    def process(self, samples: Samples) -> list[Event | Anomaly]:
        """Push samples and run everything that becomes due through the detector's engine."""
        results = []
        for first in range(0, len(samples), PIECE):
            self.push(samples[first:first + PIECE])
            results += self._run()
        return results

    def flush(self) -> list[Event | Anomaly]:
        """End the recording: decide the tokens still younger than ``delay``, end what is on."""
        self.close()
        return self._run()

    def close(self) -> None:
        """End the segment; its last windows become due. The next sample starts another."""
        self._read()
        self._stream.close()
        self._follow()

    def calibrate(self) -> None:
        """Take the recent windows as normal: their anomaly becomes just under 1.

        Raise ValueError when too little has been seen.
        """
        self.anomalies.calibrate()

    @property
    def _hop(self) -> int:
        return max(round(self._settings.hop * self.spec.rate), 1)

    def _worth_reading(self) -> bool:
        """Tell whether the waiting samples could make a window due, or time is not even."""
        newest = self._stream.newest
        if not self._tracks or newest is None:
            return True
        track = self._tracks[-1]
        due = track.segment.time_ns(track.next_end(self.spec, self._hop))
        return not newest < self._waiting[-1].stamps[-1] < due

    def _read(self) -> None:
        """Turn the waiting samples into features and gate flags."""
        if not self._waiting:
            return
        waiting, self._waiting, self._waiting_count = self._waiting, [], 0
        self._stream.push(waiting[0] if len(waiting) == 1 else Samples(
            np.concatenate([s.stamps for s in waiting]),
            np.concatenate([s.values for s in waiting])))
        self._follow()

    def _follow(self) -> None:
        """Gate what the stream has grown by."""
        for segment in self._stream.segments:
            if self._newest is None or self._newest.segment is not segment:
                self._gate.reset()
                self._newest = _Track(segment)
                self._tracks.append(self._newest)
            track = self._newest
            if self.recorder:
                self.recorder.grown(segment, track.gated)
            track.flags.append(self._gate.push(segment.features.get(track.gated)))
            track.gated = len(segment)
        del self._stream.segments[:-1]  # tracks hold the others until they are decided

    def _window(self, track: _Track, end: int, final: bool) -> Window:
        """Cut the window that ends before sample ``end`` and forget what no later one needs."""
        spec, segment = self.spec, track.segment
        history = segment.features.get(max(end - history_length(spec), 0), end)
        if self._settings.gate == 'auto':
            gate = token_flags(spec, track.flags.get(track.flags.first), track.flags.first, end)
        else:
            gate = np.full(spec.tokens, self._settings.gate == 'open')
        bridged = np.zeros(spec.window, bool)
        bridged[max(spec.window - end, 0):] = ~segment.valid.get(max(end - spec.window, 0), end)
        valid = ~dilate(bridged.reshape(spec.tokens, spec.patch).any(axis=1), gap_margin(spec))
        newest = max(end - spec.window // 4, 0)
        stats = statistics(measured(spec, segment.features.get(newest, end),
                                    segment.values.get(newest, end)))
        track.last = end
        segment.release(end - history_length(spec))
        track.flags.release((end - spec.window) // spec.patch)
        return Window(normalise(spec, history), gate, valid, stats, segment.start_ns,
                      segment.time_ns(end), end, final, self._settings)

    def _decidable(self, window: Window, probability: np.ndarray, offset: np.ndarray) -> Tokens:
        """Return the tokens of a window that are old enough and were not decided before."""
        spec, settings = self.spec, window.settings
        centre = window.end - spec.window + (np.arange(spec.tokens) + 0.5) * spec.patch  # (T,)
        until = window.end - (0.0 if window.final else settings.delay * spec.rate)
        new = (centre > self._decided) & (centre <= until)
        if new.any():
            self._decided = float(centre[new][-1])
        self.tokens += int(new.sum())
        self.open_tokens += int(window.gate[new].sum())
        magnitude = None
        if 'acc_norm' in feature_names(spec):
            magnitude = window.features[:, feature_names(spec).index('acc_norm')] + 1.0
        return Tokens(window.start_ns, centre[new], probability[new], offset[new],
                      window.gate[new], window.valid[new], settings.event_threshold,
                      settings.refractory, window.end, magnitude)

    def _run(self) -> list[Event | Anomaly]:
        """Run all that is due through the detector's own engine."""
        results = []
        while windows := self.due(BATCH):
            scores = self.engine.run(np.stack([window.features for window in windows]),
                                     np.stack([window.gate for window in windows]))
            results += self.absorb(windows, scores)
        return results


def gap_margin(spec: ModelSpec) -> int:
    """Return how many tokens on both sides of a bridged gap may not start an event."""
    return max(round(GAP_MARGIN * spec.rate / spec.patch), 1)
