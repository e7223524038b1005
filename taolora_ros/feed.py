"""One stream in the running node: its messages, its detector, and what happened so far.

Two threads meet here, one that collects and one that decides. The feed is locked while samples or
scores enter the detector, never while the network runs.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from taolora_ros.converter import Converter
from taolora_ros.decode import Anomaly, Event
from taolora_ros.detector import Detector, Settings, Window
from taolora_ros.health import Health
from taolora_ros.samples import NANOSECONDS
from taolora_ros.silence import BACK, OVER, STOPPED, Silence

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Engine, Scores

LATENCIES = 1000  # results over which latency is reported
HOPELESS = 4.0    # times the lag allowed: so much that skipping windows does not help
SILENCE = 'silence'  # the channel that an anomaly of a stopped stream names


def nothing() -> tuple[list, list[int], int]:
    """Take no messages: what a feed does while the node is not active."""
    return [], [], 0


class Feed:
    """One stream; ``take``, ``obstacle`` are whoever's who subscribes to its messages.

    ``take()`` returns the messages that came since it was last called, the times (ns) that stand
    in for stamps where messages have none, and the system time (ns) at which the last one came;
    ``obstacle()`` in words why none can come, '' when there is no reason.
    """

    def __init__(self, name: str, converter: Converter, detector: Detector, engine: Engine,
                 take: Callable[[], tuple[list, list[int], int]] = nothing):
        self.name = name
        self.converter = converter
        self.detector = detector
        self.engine = engine
        self.start(take, str)
        self.lock = threading.Lock()
        self.health = Health(detector.spec)
        self.messages = 0
        self.decided = 0  # windows
        self.arrived = 0  # system time in ns of the newest message, 0 before the first
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        self._behind: float | None = None  # monotonic time since which windows wait, s
        self._refused: Counter = Counter()
        self.problem = ''  # in words: why something could last not be used

    def start(self, take: Callable[[], tuple[list, list[int], int]],
              obstacle: Callable[[], str]) -> None:
        """Take messages from elsewhere from now on; no worker may run."""
        self.take, self.obstacle = take, obstacle
        self.silence = Silence()
        self._taken = self._even = time.time_ns()  # when last taken; and while no window waited

    # the thread that collects

    def collect(self, now: int) -> list[Anomaly]:
        """Push what has come into the detector; return whether the stream stopped or is back.

        ``now`` (ns) is by the clock that tells how long a stream has been silent.
        """
        before, self._taken = self._taken, time.time_ns()
        messages, arrivals, arrived = self.take()
        change = self.silence.look(now, len(messages))
        if messages:
            known = self.converter.problem
            samples = self.converter.convert(messages, arrivals)
            if self.converter.problem != known:
                self.problem = self.converter.problem
            with self.lock:
                self.messages += len(messages)
                self.arrived = arrived
                self._even = self._even if self.detector.ready() else before
                self.health.push(samples, arrivals[-1])
                try:
                    self.detector.push(samples)
                except ValueError as error:
                    self.refuse('refused', str(error), len(samples))
        elif change == OVER:
            with self.lock:
                self.detector.close()
        return [self._silent(change)] if change in (STOPPED, BACK) else []

    def ready(self) -> bool:
        """Tell whether there may be something to decide."""
        with self.lock:
            return self.detector.ready()

    def _silent(self, change: str) -> Anomaly:
        """Return the anomaly of a stream that has just stopped or come back."""
        silence, stopped = self.silence, change == STOPPED
        lasted = silence.lasted if stopped else silence.before
        last = self.health.last_stamp
        reason = f'messages again after {lasted:.1f} s'
        if stopped:
            why = self.obstacle()
            reason = f'no message for {lasted:.1f} s' + (f', {why}' if why else '')
        score = lasted / silence.limit if stopped else 0.0
        now = last + round(lasted * NANOSECONDS) * stopped
        return Anomaly(now, last, now, score, 1.0, stopped, {SILENCE: score}, reason)

    # the thread that decides

    def windows(self, limit: int, max_lag: float) -> list[tuple[Window, int]]:
        """Return windows to be decided now, each with the system time (ns) at which it was due.

        When windows have waited for more than ``max_lag`` (s), newer ones go first.
        """
        now = time.monotonic()
        with self.lock:
            late = 0.0 if self._behind is None else now - self._behind
            if late > HOPELESS * max_lag:
                left = self.detector.abandon()
                self.problem = f'too slow by far: {left:.1f} s of the stream are left undecided'
                late, self._behind = 0.0, None
            skipped = self.detector.skipped
            windows = self.detector.due(limit, hurry=late > max_lag)
            if self.detector.skipped > skipped:
                self.problem = f'decisions are {late:.1f} s late: windows are skipped'
            # Faster than the clock, as in a replay, samples lie further apart than their arrivals.
            due = [max(self.arrived - self.detector.behind(window), self._even)
                   for window in windows]
            if self.detector.ready():
                self._behind = now if self._behind is None else self._behind
            else:
                self._behind = None
            return list(zip(windows, due))

    def absorb(self, window: Window, due: int, scores: Scores, changes: int
               ) -> list[Event | Anomaly]:
        """Decide one window that was ``due`` at a system time (ns); return what happened.

        ``changes`` is that of the engine before it ran.
        """
        with self.lock:
            results = self.detector.absorb([window], scores, changes)
            self.decided += 1
        self.latencies.extend([(time.time_ns() - due) / NANOSECONDS] * len(results))
        return results

    def finish(self) -> None:
        """End the running segment, so that all of it can be decided."""
        with self.lock:
            self.detector.close()
            self._behind = None

    # any thread

    def apply(self, settings: Settings) -> None:
        """Let ``settings`` hold from the next window on."""
        with self.lock:
            self.detector.settings = settings

    def calibrate(self) -> None:
        """Take what came recently as normal; raise ValueError when that is too little."""
        with self.lock:
            self.detector.calibrate()

    def record(self, recorder) -> None:
        """Let ``recorder`` be told what is decided from now on; None: nobody."""
        with self.lock:
            self.detector.recorder = recorder

    def refuse(self, reason: str, problem: str, count: int = 1) -> None:
        """Count something that could not be used."""
        self._refused[reason] += count
        self.problem = problem

    def counts(self) -> Counter:
        """Return by name what was dropped, bridged or restarted so far."""
        with self.lock:
            return self.converter.counts + self.detector.counts + self._refused

    def gate_fraction(self) -> float:
        """Return the part of all tokens that the gate opened, 0 to 1."""
        with self.lock:
            return float(self.detector.gate_fraction)

    def latency(self, quantile: float) -> float:
        """Return a quantile of the recent latencies in seconds, 0 when there are none."""
        recent = list(self.latencies)
        return float(np.quantile(recent, quantile)) if recent else 0.0
