"""Several streams through their models on two threads of their own; no ROS in here.

    collects:  take messages ─► samples ─► detector      (poll_rate times a second)
    decides:   detectors ─► windows due ─► one engine call a model ─► detectors ─► events out

Whoever owns the worker hands in how messages are taken and where results go, and stays free for
everything else. Intake does not wait for the network, and the network not for intake.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from taolora_ros.decode import Anomaly, Event
from taolora_ros.features import feature_names
from taolora_ros.feed import Feed
from taolora_ros.window import Window

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Scores

WINDOWS = 16   # windows of one stream at a time ...
BUDGET = 0.2   # s: ... and fewer when all streams' would take longer than this
TOGETHER = 8   # windows in one engine call: more are no faster on a CPU, but take memory for good

Batch = list[tuple[Feed, Window, int]]  # with the system time (ns) at which the window was due


class Worker:
    """Run feeds; ``publish`` and ``report`` are called on the worker's threads.

    ``publish(feed, event or anomaly, latency in s)`` for each result in the order of time,
    ``report(feed, what went wrong)`` when a feed or its engine raised: the others go on.
    ``period`` (s) is that of intake, ``max_lag`` (s) how long windows may wait before newer ones go
    first, ``clock()`` (ns) the time by which a stream is silent.
    """

    def __init__(self, feeds: list[Feed], publish: Callable[[Feed, Event | Anomaly, float], None],
                 report: Callable[[Feed, Exception], None], period: float, max_lag: float,
                 clock: Callable[[], int] = time.monotonic_ns):
        self.feeds = feeds
        self.publish = publish
        self.report = report
        self.period = period
        self.max_lag = max_lag
        self.clock = clock
        self._pace: dict[int, float] = {}  # s that an engine takes for one window
        self._stopping = threading.Event()
        self._awake = threading.Event()
        self._longest = 0.0  # s between two looks at the subscriptions, since it was last asked
        self._threads = [threading.Thread(target=run, name=f'taolora-{name}', daemon=True)
                         for name, run in (('collects', self._collecting),
                                           ('decides', self._deciding))]

    def start(self) -> None:
        """Begin to take messages."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End both threads after what they are doing."""
        self._stopping.set()
        self._awake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout)

    def finish(self) -> None:
        """Decide what has been collected, to its end; call it after ``stop``."""
        for feed in self.feeds:
            feed.finish()
        while self.decide():
            pass

    def longest_break(self) -> float:
        """Return the longest time (s) without intake since this was last asked."""
        longest, self._longest = self._longest, 0.0
        return longest

    def collect(self) -> bool:
        """Take what came on all streams; return whether there may be something to decide."""
        ready = False
        for feed in self.feeds:
            try:
                for anomaly in feed.collect(self.clock()):
                    self.publish(feed, anomaly, 0.0)
                ready |= feed.ready()
            except Exception as error:  # one feed must not end the others
                self._failed(feed, error)
        return ready

    def decide(self) -> bool:
        """Decide one batch for each engine; return whether there was a window."""
        due: dict[int, Batch] = {}
        for feed in self.feeds:
            engine = id(feed.engine)
            share = BUDGET / max(self._pace.get(engine, 0.0), 1e-6) / len(self.feeds)
            try:
                windows = feed.windows(min(max(int(share), 1), WINDOWS), self.max_lag)
                due.setdefault(engine, []).extend((feed, *window) for window in windows)
            except Exception as error:
                self._failed(feed, error)
        for batch in filter(None, due.values()):
            for first in range(0, len(batch), TOGETHER):
                self._run(batch[first:first + TOGETHER])
        return any(due.values())

    def _run(self, batch: Batch) -> None:
        """Run the windows of several feeds through their common engine and publish results."""
        engine, began = batch[0][0].engine, time.monotonic()
        changes = engine.changes  # weights that change while it runs count as changed later
        try:
            scores = engine.run(np.stack([window.features for _, window, _ in batch]),  # (B, L, F)
                                np.stack([window.gate for _, window, _ in batch]))      # (B, T)
        except Exception as error:  # a device that failed once may work the next time
            for feed in dict.fromkeys(feed for feed, *_ in batch):
                self._failed(feed, error)
            return
        took, pace = (time.monotonic() - began) / len(batch), self._pace.get(id(engine), 0.0)
        self._pace[id(engine)] = pace + 0.2 * (took - pace)
        for i, (feed, window, since) in enumerate(batch):
            try:
                for result in feed.absorb(window, since, split(scores, i, i + 1), changes):
                    self.publish(feed, result, (time.time_ns() - since) / 1e9)
            except Exception as error:
                self._failed(feed, error)

    def _failed(self, feed: Feed, error: Exception) -> None:
        with feed.lock:
            feed.refuse('errors', f'{type(error).__name__}: {error}')
        self.report(feed, error)

    def _collecting(self) -> None:
        last = time.monotonic()
        while not self._stopping.is_set():
            started = time.monotonic()
            self._longest, last = max(self._longest, started - last), started
            if self.collect():
                self._awake.set()
            self._stopping.wait(max(0.0, self.period - (time.monotonic() - started)))

    def warm_up(self) -> None:
        """Run each engine on its largest batch once: memory and first times are spent now."""
        for feed in {id(feed.engine): feed for feed in self.feeds}.values():
            spec = feed.detector.spec
            with suppress(Exception):  # the first window will say what is wrong
                feed.engine.run(
                    np.zeros((TOGETHER, spec.window, len(feature_names(spec))), np.float32),
                    np.ones((TOGETHER, spec.tokens), bool))

    def _deciding(self) -> None:
        self.warm_up()  # on this thread, whose memory allocator keeps it
        while not self._stopping.is_set():
            self._awake.wait()
            self._awake.clear()
            while not self._stopping.is_set() and self.decide():
                pass


def split(scores: Scores, start: int, stop: int) -> Scores:
    """Return the scores of windows start..stop of a batch."""
    parts = {field.name: getattr(scores, field.name) for field in dataclasses.fields(scores)}
    return type(scores)(**{name: None if part is None else part[start:stop]
                           for name, part in parts.items()})
