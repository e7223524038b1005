"""What a stream was like lately: its tokens, and those of every event, to learn from later.

    n  tokens    D  width    K  classes

One thread appends what a detector decides, any thread reads; both take a few microseconds. What
is kept is bounded by time and by number: of 4.2 kB a second for tokens of 120 ms. Where time jumps
back (a bag begins anew, a clock is set) tokens of before are let go of; their events keep theirs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass

import numpy as np

from taolora_ros.decode import START, Event, Tokens
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import ModelSpec

BACK = NANOSECONDS  # ns from which on time went back, rather than that two segments touch
REACH = {'ecg': (0.5, 0.5), 'imu': (1.5, 2.5)}  # s before and after an event: what is kept with it


@dataclass(frozen=True)
class Moment:
    """Tokens around one moment of a stream, in the order of time.

    ``since`` (n,) are their centres in seconds after the moment, ``embedding`` (n, D) float32
    what the head read. ``label`` is what the event was called, '' where there was none.
    """

    stream: str
    label: str
    stamp_ns: int
    since: np.ndarray
    embedding: np.ndarray


class StreamMemory:
    """The recent past of one stream; a ``Memory`` that a detector tells of all it decides.

    ``events`` and ``seconds`` bound what is kept: so many events with their tokens, and the
    tokens of so long a time for events that were missed.
    """

    def __init__(self, spec: ModelSpec, name: str, events: int = 256, seconds: float = 300.0):
        self.spec, self.name, self.reach = spec, name, REACH[spec.kind]
        count = max(int(seconds * spec.rate / spec.patch), spec.tokens)
        self._events = events
        self._lock = threading.Lock()
        self._times: deque[int] = deque(maxlen=count)           # ns, of centres
        self._rows: deque[np.ndarray] = deque(maxlen=count)     # (D,) float32 each
        self._found: OrderedDict[str, Event] = OrderedDict()          # without their tokens
        self._kept: OrderedDict[str, Moment] = OrderedDict()          # with them

    def decided(self, tokens: Tokens, events: list[Event]) -> None:
        """Take decided tokens and the events that became certain with them."""
        if tokens.embedding is None:
            return
        step = NANOSECONDS / self.spec.rate
        times = tokens.start_ns + np.round(tokens.centre * step).astype(np.int64)
        with self._lock:
            if self._times and len(times) and times[0] < self._times[-1] - BACK:
                self._settle(everything=True)
                self._times.clear()
                self._rows.clear()
            self._times.extend(times.tolist())
            self._rows.extend(np.array(tokens.embedding, np.float32))  # rows of one small copy
            for event in events:
                if event.phase == START:
                    self._found[event.id] = event
            self._settle()

    def _settle(self, everything: bool = False) -> None:
        """Give events their tokens as soon as those after them are decided too, or now."""
        newest = self._times[-1] if self._times else 0
        while self._found:
            name, event = next(iter(self._found.items()))
            if not everything and len(self._found) <= self._events and (
                    newest < event.stamp_ns + self.reach[1] * NANOSECONDS):
                return
            self._found.popitem(last=False)
            self._kept[name] = self._around(event.stamp_ns, event.label)
            while len(self._kept) > self._events:
                self._kept.popitem(last=False)

    def _around(self, stamp_ns: int, label: str) -> Moment:
        """Return the tokens within reach of a time, the lock being held."""
        before, after = (round(s * NANOSECONDS) for s in self.reach)
        times = np.fromiter(self._times, np.int64, len(self._times))
        near = np.flatnonzero((times >= stamp_ns - before) & (times <= stamp_ns + after))
        rows = [self._rows[i] for i in near]
        width = self.spec.network.width
        return Moment(self.name, label, stamp_ns, (times[near] - stamp_ns) / NANOSECONDS,
                      np.array(rows, np.float32).reshape(-1, width))

    def event(self, event_id: str) -> Moment | None:
        """Return the tokens of an event, None when it is not known or too long ago."""
        with self._lock:
            if event_id in self._found:
                event = self._found[event_id]
                return self._around(event.stamp_ns, event.label)
            return self._kept.get(event_id)

    def moment(self, stamp_ns: int) -> Moment | None:
        """Return the tokens around a time, None when it is too long ago or not decided yet."""
        with self._lock:
            if not self._times or not self._times[0] <= stamp_ns <= self._times[-1]:
                return None
            return self._around(stamp_ns, '')

    def tokens(self, without: list[int]) -> np.ndarray:
        """Return all tokens (n, D) but those within reach of the times ``without`` (ns)."""
        before, after = (round(s * NANOSECONDS) for s in self.reach)
        with self._lock:
            times = np.fromiter(self._times, np.int64, len(self._times))
            rows = np.array(self._rows, np.float32).reshape(-1, self.spec.network.width)
        keep = np.ones(len(times), bool)
        for stamp in without:
            keep &= (times < stamp - before) | (times > stamp + after)
        return rows[keep]

    def resize(self, events: int, seconds: float) -> None:
        """Keep so much from now on; the oldest goes first."""
        with self._lock:
            count = max(int(seconds * self.spec.rate / self.spec.patch), self.spec.tokens)
            self._times, self._rows = deque(self._times, count), deque(self._rows, count)
            self._events = events
            while len(self._kept) > events:
                self._kept.popitem(last=False)

    def recent(self, label: str, count: int) -> list[Moment]:
        """Return the last events called ``label``, at most ``count``."""
        with self._lock:
            return [m for m in self._kept.values() if m.label == label][-count:]
