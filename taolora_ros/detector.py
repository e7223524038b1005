"""One stream from samples to events: everything but the network is driven from here.

    push(samples) ─► due() ─► windows ─► [an engine, also shared by streams] ─► absorb() ─► events

``process`` does all of it with the detector's own engine. Windows end every hop on the uniform
time of their segment, and each decides the tokens that became ``delay`` old since the window
before. So the events of a recording do not depend on how its samples were cut into pushes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from taolora_ros.alarms import AlarmDecoder
from taolora_ros.anomaly import AnomalyMonitor
from taolora_ros.beats import BeatDecoder
from taolora_ros.decode import Anomaly, Event, Memory, Tokens
from taolora_ros.gate import Gate
from taolora_ros.samples import Samples
from taolora_ros.settings import Settings
from taolora_ros.spec import ModelSpec
from taolora_ros.stream import Stream
from taolora_ros.timeline import MAX_GAP
from taolora_ros.window import Track, Window

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.adaptation.router import RouterGate
    from taolora_ros.engine import Engine, Scores
    from taolora_ros.recorder import Recorder

__all__ = ['Anomaly', 'Detector', 'Event', 'Settings', 'Window']

WAITING = 512  # samples that may wait unread: bounds memory, and the cost of one reading
PIECE = 16384  # samples `process` reads at once
BATCH = 64     # windows `process` runs at once


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
        self.memory: Memory | None = None  # is told of all tokens and events, to learn from
        self._gate = Gate(spec)
        self._router: RouterGate | None = None  # while it is asked for
        self._stream = Stream(spec)
        self._waiting: list[Samples] = []
        self._waiting_count = 0
        self._tracks: deque[Track] = deque()  # segments that are not decided to their end
        self._newest: Track | None = None     # the one that grows
        self.settings = settings or Settings.default(spec)
        self._decoder = (BeatDecoder if spec.kind == 'ecg' else AlarmDecoder)(spec, name)
        self.anomalies = AnomalyMonitor(spec)
        self._segment_ns = None  # start of the segment whose tokens are being decided
        self._decided = 0.0      # position up to which they are
        self._changes = 0        # of the network's weights that are known
        self.skipped = 0         # windows left out because decisions were late
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
        if (settings.gate == 'learned') != (self._router is not None):
            self._use_router(settings.gate == 'learned')
        self._settings = settings
        self._gate.thresholds = settings.thresholds(self.spec)

    @property
    def counts(self) -> Counter:
        """Return by name what was dropped, mended or restarted; see ``Stream``."""
        self._read()
        return +(self._stream.counts + Counter(skipped_windows=self.skipped))

    def behind(self, window: Window) -> int:
        """Return by how many ns of samples that came since ``window`` is behind them."""
        newest = self._stream.newest
        if newest is None:
            return 0
        if self._waiting and newest < (last := int(self._waiting[-1].stamps[-1])):
            newest = min(last, newest + MAX_GAP)
        return max(newest - window.stamp_ns, 0)

    @property
    def newest(self) -> int | None:
        """Return the newest stamp (ns) that was read and believed, None when nothing runs."""
        return self._stream.newest

    def ready(self) -> bool:
        """Tell whether ``due`` has something to do: windows to cut, or samples to read."""
        if self._waiting and self._worth_reading():
            return True
        return any(track.due(self._hop) for track in self._tracks)

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

    def due(self, limit: int | None = None, hurry: bool = False) -> list[Window]:
        """Return the next windows that are due, oldest first, at most ``limit`` of them.

        In a ``hurry`` windows are skipped, and counted, as far as that leaves no token undecided.
        """
        if self._waiting and self._worth_reading():
            self._read()
        windows = []
        while self._tracks and (limit is None or len(windows) < limit):
            track = self._tracks[0]
            length = len(track.segment)
            end = track.next_end(self._hop)
            if hurry:
                far = track.far_end(self._hop)
                self.skipped += (far - end) // self._hop
                end = far
            if end <= length:
                windows.append(track.cut(end, self._settings))
            elif not track.segment.closed:
                break
            else:  # a segment shorter than half a window is left undecided
                if track.last:
                    windows.append(track.cut(length, self._settings, final=True))
                self._tracks.popleft()
        return windows

    def absorb(self, windows: Sequence[Window], scores: Scores, changes: int = 0
               ) -> list[Event | Anomaly]:
        """Decide ``windows``, in the order of ``due``, by their scores; return what happened.

        ``changes`` counts how often the weights were changed before the scores were made.
        """
        if changes != self._changes:
            self._decoder.forget()
        self._changes, results = changes, []
        for i, window in enumerate(windows):
            events = []
            if window.start_ns != self._segment_ns:
                events += self._decoder.finish()
                self._segment_ns, self._decided = window.start_ns, 0.0
            tokens = self._decidable(window, scores, i)
            events += self._decoder.push(tokens)
            results += events
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
                last = self._decoder.finish()
                results += last
                events += last
                self._segment_ns = None
            if self.memory:
                self.memory.decided(tokens, events)
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

    def abandon(self) -> float:
        """Leave all that is not decided, and begin anew with the next sample; return the seconds.

        Events that were found stay found, one that lasts ends with the next window.
        """
        self.close()
        left = round(sum(len(t.segment) - t.covered for t in self._tracks))
        self._stream.counts['abandoned'] += left
        self._tracks.clear()
        return left / self.spec.rate

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
        due = track.segment.time_ns(track.next_end(self._hop))
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

    def _use_router(self, wanted: bool) -> None:
        """Let a router judge patches from now on, beginning with those still kept, or none."""
        from taolora_ros.adaptation.router import RouterGate, router_for
        self._router = RouterGate(self.spec, router_for(self.spec)) if wanted else None
        for track in self._tracks:  # the one that grows comes last, the router goes on with it
            track.use_router(self._router)

    def _follow(self) -> None:
        """Gate what the stream has grown by."""
        for segment in self._stream.segments:
            if self._newest is None or self._newest.segment is not segment:
                self._gate.reset()
                self._newest = Track(self.spec, segment)
                if self._router:
                    self._newest.use_router(self._router)
                self._tracks.append(self._newest)
            track = self._newest
            if self.recorder:
                self.recorder.grown(segment, track.gated)
            track.grow(self._gate, self._router)
        del self._stream.segments[:-1]  # tracks hold the others until they are decided

    def _decidable(self, window: Window, scores: Scores, i: int) -> Tokens:
        """Return the tokens of window i that are old enough and were not decided before."""
        spec, settings = self.spec, window.settings
        centre = window.end - spec.window + (np.arange(spec.tokens) + 0.5) * spec.patch  # (T,)
        until = window.end - (0.0 if window.final else settings.delay * spec.rate)
        new = (centre > self._decided) & (centre <= until)
        if new.any():
            self._decided = float(centre[new][-1])
        self.tokens += int(new.sum())
        self.open_tokens += int(window.gate[new].sum())
        embedding = None if scores.embedding is None else scores.embedding[i][new]
        return Tokens(window.start_ns, centre[new], scores.probability[i][new],
                      scores.offset[i][new], window.gate[new], window.valid[new],
                      settings.event_threshold, settings.refractory, window.end, window.trace,
                      embedding)

    def _run(self) -> list[Event | Anomaly]:
        """Run all that is due through the detector's own engine."""
        results = []
        while windows := self.due(BATCH):
            changes = self.engine.changes
            scores = self.engine.run(np.stack([window.features for window in windows]),
                                     np.stack([window.gate for window in windows]))
            results += self.absorb(windows, scores, changes)
        return results
