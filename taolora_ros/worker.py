"""Several streams through their models on one thread of their own; no ROS in here.

    take messages ─► samples ─► detector (windows due) ─┐
    take messages ─► samples ─► detector (windows due) ─┴► one engine call a model ─► events out

Whoever owns the worker hands in how messages are taken and where results go, and stays free for
everything else: a feed is locked while samples or scores enter its detector, never while the
network runs.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from taolora_ros.conversions import Converter
from taolora_ros.decode import Anomaly, Event
from taolora_ros.detector import Detector, Settings, Window
from taolora_ros.samples import NANOSECONDS

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Engine, Scores

WINDOWS = 16      # windows of one stream in one engine call: bounds the time one call takes
LATENCIES = 1000  # results over which latency is reported


class Feed:
    """One stream: where its messages come from, its detector, and what happened so far.

    ``take()`` returns the messages that came since it was last called, the times (ns) that stand
    in for stamps where messages have none, and the system time (ns) at which the last one came.
    """

    def __init__(self, name: str, take: Callable[[], tuple[list, list[int], int]],
                 converter: Converter, detector: Detector, engine: Engine):
        self.name = name
        self.take = take
        self.converter = converter
        self.detector = detector
        self.engine = engine
        self.lock = threading.Lock()
        self.messages = 0
        self.arrived = 0  # system time in ns of the newest message, 0 before the first
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        self._refused: Counter = Counter()
        self._problem = ''

    def collect(self) -> None:
        """Take what has come and push it into the detector."""
        messages, arrivals, arrived = self.take()
        if not messages:
            return
        samples = self.converter.convert(messages, arrivals)
        with self.lock:
            self.messages += len(messages)
            self.arrived = arrived
            try:
                self.detector.push(samples)
            except ValueError as error:
                self.refuse('refused', str(error), len(samples))

    def apply(self, settings: Settings) -> None:
        """Let ``settings`` hold from the next window on."""
        with self.lock:
            self.detector.settings = settings

    def calibrate(self) -> None:
        """Take what came recently as normal; raise ValueError when that is too little."""
        with self.lock:
            self.detector.calibrate()

    def refuse(self, reason: str, problem: str, count: int = 1) -> None:
        """Count something that could not be used."""
        self._refused[reason] += count
        self._problem = problem

    def counts(self) -> Counter:
        """Return by name what was dropped, bridged or restarted so far."""
        with self.lock:
            return self.converter.counts + self.detector.counts + self._refused

    def gate_fraction(self) -> float:
        """Return the part of recent tokens that the gate opened, 0 to 1."""
        with self.lock:
            return float(self.detector.gate_fraction)

    @property
    def problem(self) -> str:
        """Return in words why something could last not be used, '' when there was nothing."""
        return self._problem or self.converter.problem

    def latency(self, quantile: float) -> float:
        """Return a quantile of the recent latencies in seconds, 0 when there are none."""
        recent = list(self.latencies)
        return float(np.quantile(recent, quantile)) if recent else 0.0


class Worker:
    """Run feeds on a thread; ``publish`` and ``report`` are called on it.

    ``publish(feed, event or anomaly, latency in s)`` for each result in the order of time,
    ``report(feed, what went wrong)`` when a feed or its engine raised: the others go on.
    """

    def __init__(self, feeds: list[Feed], publish: Callable[[Feed, Event | Anomaly, float], None],
                 report: Callable[[Feed, Exception], None], period: float):
        self.feeds = feeds
        self.publish = publish
        self.report = report
        self.period = period
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name='taolora-worker', daemon=True)

    def start(self) -> None:
        """Begin to take messages."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End after the running turn."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def turn(self) -> bool:
        """Collect what came and decide one batch a model; return whether there was a window."""
        due: dict[int, list[tuple[Feed, list[Window]]]] = {}
        for feed in self.feeds:
            try:
                feed.collect()
                with feed.lock:
                    windows = feed.detector.due(WINDOWS)
                if windows:
                    due.setdefault(id(feed.engine), []).append((feed, windows))
            except Exception as error:  # one feed must not end the others
                self._failed(feed, error)
        for batch in due.values():
            self._decide(batch)
        return bool(due)

    def _decide(self, batch: list[tuple[Feed, list[Window]]]) -> None:
        """Run the windows of several feeds through their common engine and publish results."""
        windows = [window for _, part in batch for window in part]
        try:
            scores = batch[0][0].engine.run(
                np.stack([window.features for window in windows]),  # (B, L, F)
                np.stack([window.gate for window in windows]))      # (B, T)
        except Exception as error:  # a device that failed once may work the next time
            for feed, _ in batch:
                self._failed(feed, error)
            return
        first = 0
        for feed, part in batch:
            try:
                with feed.lock:
                    behind = feed.detector.behind(part[-1])  # its samples came that much earlier
                    results = feed.detector.absorb(part, split(scores, first, first + len(part)))
                for result in results:
                    latency = (time.time_ns() - feed.arrived + behind) / NANOSECONDS
                    feed.latencies.append(latency)
                    self.publish(feed, result, latency)
            except Exception as error:
                self._failed(feed, error)
            first += len(part)

    def _failed(self, feed: Feed, error: Exception) -> None:
        with feed.lock:
            feed.refuse('errors', f'{type(error).__name__}: {error}')
        self.report(feed, error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            if not self.turn():
                self._stopping.wait(max(0.0, self.period - (time.monotonic() - started)))


def split(scores: Scores, start: int, stop: int) -> Scores:
    """Return the scores of windows start..stop of a batch."""
    return type(scores)(**{field.name: getattr(scores, field.name)[start:stop]
                           for field in dataclasses.fields(scores)})
