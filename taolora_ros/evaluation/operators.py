"""Simulated operators: they watch a stream being decided, and tell the detector what they think.

An operator answers ``REACTION`` seconds after an event, or after one that was missed. The one who
knows rejects false alarms and reports misses, as they come, and confirms the first right alarm
after each false one. The hostile ones hurt as best they can: *inverted* rejects what is right,
confirms what is false and reports ordinary beats or moments as missed; *random* tosses a coin;
*flooded* rejects everything and repeats himself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from taolora_ros.adaptation.session import Session
from taolora_ros.decode import START
from taolora_ros.evaluation.beats import TOLERANCE
from taolora_ros.evaluation.decided import Decided
from taolora_ros.evaluation.falls import EARLIEST, LATEST
from taolora_ros.samples import NANOSECONDS

REACTION = 3.0   # s
REPEATS = 10     # of each feedback of the flooding one
EVERY = 10       # one of so many ordinary beats, or seconds, is reported as missed by hostile ones
HOSTILE = ('inverted', 'random', 'flooded')
STREAM = 'watched'
TARGET = {'ecg': 'veb', 'imu': 'fall'}
STEP = 4         # windows decided together at most


@dataclass(frozen=True)
class Truth:
    """What is true of a stream: times (s) of events of the target, of other beats, and unclear."""

    events: np.ndarray
    ordinary: np.ndarray
    unclear: np.ndarray
    low: float   # s around an event where an alarm belongs to it
    high: float


def truth(decided: Decided) -> Truth:
    """Return the truth of one recording."""
    recording = decided.recording
    if recording.kind == 'ecg':
        times, aami = recording.beat_times_s, recording.beat_aami
        flutter = [np.arange(a, b, TOLERANCE) for a, b in recording.flutter_s]
        return Truth(times[aami == 'V'], times[np.isin(aami, ('N', 'S'))],
                     np.concatenate([times[np.isin(aami, ('F', 'Q'))], *flutter]),
                     -TOLERANCE, TOLERANCE)
    falls = [recording.fall_time_s] if recording.is_fall else []
    ordinary = np.arange(2.0, decided.duration_s - 2.0)
    if falls:
        ordinary = ordinary[(ordinary < falls[0] - 4.0) | (ordinary > falls[0] + 6.0)]
    return Truth(np.array(falls), ordinary, np.zeros(0), EARLIEST, LATEST)


class Operator:
    """Watches one recording after the other and gives at most ``budget`` feedbacks.

    ``now`` (s) is the time of all that was watched; ``session`` is to be given ``time`` as clock.
    """

    def __init__(self, kind: str, budget: int, rng: np.random.Generator):
        self.kind, self.budget, self.rng = kind, budget, rng
        self.given = dict.fromkeys(('rejected', 'confirmed', 'missed'), 0)
        self.now = 0.0
        self.doubted = False  # the last alarm answered was rejected

    def time(self) -> float:
        """Return the time (s) by which the session lives."""
        return self.now

    @property
    def done(self) -> bool:
        """Tell whether all feedback that may be given was given."""
        return sum(self.given.values()) >= self.budget

    def attend(self, session: Session) -> None:
        """Give feedback to this session from now on."""
        self.session, self.memory = session, session.memory(STREAM)
        self.label = TARGET[session.spec.kind]

    def watch(self, decided: Decided, from_s: float = 0.0, until_s: float = np.inf) -> None:
        """Let ``decided`` run with what is learnt so far, and answer to what happens."""
        shift = round((self.now + 10.0 - from_s) * NANOSECONDS)  # a pause before each recording
        zero = decided.first_ns + shift                          # of the recording, as streamed
        true, decoder, segment = truth(decided), decided.decoder(STREAM), None
        waiting: list[tuple[float, str, object]] = []  # (when, kind, event id or time)
        settled, alarms = from_s, []                   # true events before are found or missed
        delta = self.session.delta
        times = decided.window_times()
        for first, last in decided.runs(from_s, until_s, STEP):
            if not np.array_equal(delta, self.session.delta):
                delta = self.session.delta
                decoder.forget()  # as a detector does when weights change
            tokens = decided.tokens(first, last, delta)
            tokens = dataclasses.replace(tokens, start_ns=tokens.start_ns + shift)
            events = decoder.finish() if segment not in (None, tokens.start_ns) else []
            segment, at = tokens.start_ns, float(times[last - 1])
            events += decoder.push(tokens)
            self.memory.decided(tokens, events)
            self.now = (zero - decided.first_ns) / NANOSECONDS + at
            for event in events:
                if event.phase == START and event.label == self.label:
                    alarms.append((event.stamp_ns - zero) / NANOSECONDS)
                    waiting += self._about(event.id, alarms[-1], at, true)
            until = at - 2.0 - max(true.high, 0.5)  # by then alarms would have come
            waiting += self._missed(true, settled, until, at, alarms)
            settled = max(settled, until)
            waiting = self._speak(zero, waiting, at)
            if self.done:
                return
        self._speak(zero, waiting, np.inf)

    def _about(self, event_id: str, time: float, at: float, true: Truth
               ) -> Iterator[tuple[float, str, object]]:
        """Yield what to say of an event, if anything."""
        since = time - true.events
        right = bool(((since >= true.low) & (since <= true.high)).any())
        if not right and (np.abs(time - true.unclear) <= TOLERANCE).any():
            return
        kind = {'honest': self._answer(right),
                'inverted': 'rejected' if right else 'confirmed',
                'random': 'rejected' if self.rng.random() < 0.5 else 'confirmed',
                'flooded': 'rejected'}[self.kind]
        if kind is not None:
            for _ in range(REPEATS if self.kind == 'flooded' else 1):
                yield at + REACTION, kind, event_id

    def _answer(self, right: bool) -> str | None:
        """Return the honest answer: a right alarm is confirmed when the last answer was no."""
        if right and not self.doubted:
            return None
        self.doubted = not right
        return 'confirmed' if right else 'rejected'

    def _missed(self, true: Truth, settled: float, until: float, at: float, alarms: list[float]
                ) -> Iterator[tuple[float, str, object]]:
        """Yield the reports of what was missed between two times, or was not."""
        if self.kind == 'honest':
            for time in true.events[(true.events > settled) & (true.events <= until)]:
                if not any(true.low <= alarm - time <= true.high for alarm in alarms):
                    yield at + REACTION, 'missed', float(time)
        elif self.kind != 'flooded':
            near = true.ordinary[(true.ordinary > settled) & (true.ordinary <= until)]
            for time in near[self.rng.random(len(near)) < 1.0 / EVERY]:
                yield at + REACTION, 'missed', float(time)

    def _speak(self, zero: int, waiting: list, at: float) -> list:
        """Give the feedbacks that are due; return the others."""
        for when, kind, about in waiting:
            if when > at or self.done:
                continue
            if kind == 'missed':
                stamp = zero + round(about * NANOSECONDS)
                outcome = self.session.miss(STREAM, stamp, self.label)
            else:
                outcome = self.session.feedback(about, kind == 'confirmed')
            learnt = outcome.learnt and all(one.learnt for one in self.session.settle())
            self.given[kind] += learnt or self.kind != 'flooded'
        return [item for item in waiting if item[0] > at]
