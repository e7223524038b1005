"""From scores of tokens to alarms that start and end, e.g. falls."""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass

import numpy as np

from taolora_ros.decode import END, SEVERITIES, START, WARNING, Decoder, Event, Tokens, biased
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import ModelSpec

ALARM_TOKENS = 3       # patches over which an alarm's probability is averaged
ALARM_DURATION = 5.0   # s after which an alarm ends at the latest
AFTERMATH = 2.0        # refractory times within which a weaker impact is no other alarm,
WEAKER = 0.9           # weaker being less than this share of the one before
IMPACT_BEFORE, IMPACT_AFTER = 0.75, 1.5  # s around the rise of an alarm: where its impact lies


@dataclass
class _Alarm:
    """An alarm that was raised and did not end yet."""

    event: Event
    segment_ns: int  # start of the segment
    position: float  # of the token that raised it, in samples
    tokens: int = 0  # that it lasted, and those of them whose gate was open
    opened: int = 0


class AlarmDecoder(Decoder):
    """START and END for each label that is one of the classes, e.g. a fall.

    A label's score is its probability averaged over the last ``ALARM_TOKENS`` patches. An alarm
    starts when it reaches the threshold and ends when it falls below half of that, or after
    ``ALARM_DURATION``. The next alarm of the label needs a fresh rise after the refractory time,
    and for as long again an impact that is not weaker: who has fallen rolls over or gets up.
    """

    def __init__(self, spec: ModelSpec, name: str = ''):
        super().__init__(spec, name)
        self._classes = [spec.classes.index(label) for label in spec.labels]
        self._alarms: list[_Alarm | None] = [None] * len(spec.labels)
        self._scores: list[list[float]] = []  # of the tokens pushed last
        self.finish()

    def finish(self) -> list[Event]:
        """End the segment; return the ends of alarms that were still on."""
        events = [self._end(label, self._newest) for label, alarm in enumerate(self._alarms)
                  if alarm]
        self._newest = None            # centre of the newest token
        self._recent: deque = deque()  # (centre, samples it adds, probabilities) of tokens
        self._armed = [True] * len(self.spec.labels)   # the score was low since the last rise
        self._started = [-np.inf] * len(self.spec.labels)  # position of the last alarm
        self._hardest = [0.0] * len(self.spec.labels)      # and its impact in g
        return events

    def push(self, tokens: Tokens) -> list[Event]:
        """Take the next tokens; return starts and ends of alarms."""
        events, self._scores = [], []
        for i, centre in enumerate(tokens.centre.tolist()):
            means = self._average(centre, tokens.probability[i], bool(tokens.valid[i]))
            self._scores.append([biased(mean, bias) for mean, bias in zip(means, self._bias)])
            for label, score in enumerate(self._scores[-1]):
                if self._alarms[label]:
                    self._alarms[label].tokens += 1
                    self._alarms[label].opened += bool(tokens.gate[i])
                event = self._step(label, score, tokens, i)
                if event:
                    events.append(event)
        return events

    def scores(self) -> np.ndarray:
        """Return the biased averages of the tokens pushed last, (n, labels)."""
        return np.reshape(self._scores, (-1, len(self.spec.labels)))

    def _average(self, centre: float, probability: np.ndarray, valid: bool) -> list[float]:
        """Return each label's mean probability over the last ``ALARM_TOKENS`` patches."""
        patch = self.spec.patch
        span = ALARM_TOKENS * patch
        adds = patch if self._newest is None else min(centre - self._newest, patch)
        self._newest = centre
        now = [float(probability[k]) if valid else 0.0 for k in self._classes]
        self._recent.append((centre, adds, now))
        while self._recent[0][0] <= centre - span:
            self._recent.popleft()
        shares = [min(adds, at - (centre - span)) / span for at, adds, _ in self._recent]
        return [sum(share * p[label] for share, (_, _, p) in zip(shares, self._recent))
                for label in range(len(now))]

    def _step(self, label: int, score: float, tokens: Tokens, i: int) -> Event | None:
        """Start or end the alarm of one label at token i."""
        alarm, centre = self._alarms[label], float(tokens.centre[i])
        low = score < tokens.event_threshold / 2
        if alarm:
            late = centre - alarm.position >= ALARM_DURATION * self.spec.rate
            if late or low:
                self._armed[label] = low
                return self._end(label, centre)
        elif low:
            self._armed[label] = True
        elif score >= tokens.event_threshold and self._armed[label] and tokens.valid[i]:
            self._armed[label] = False
            since = (centre - self._started[label]) / self.spec.rate
            middle = centre - ALARM_TOKENS * self.spec.patch / 2
            impact, peak = _impact(tokens, middle, self.spec.rate)
            aftermath = since < AFTERMATH * tokens.refractory and (
                peak is not None and peak < WEAKER * self._hardest[label])
            if since >= tokens.refractory and not aftermath:
                return self._start(label, score, tokens, i, impact, peak)
        return None

    def _start(self, label: int, score: float, tokens: Tokens, i: int, impact: float,
               peak: float | None) -> Event:
        """Raise an alarm; it is stamped with the strongest acceleration around it."""
        centre, name = float(tokens.centre[i]), self.spec.labels[label]
        middle = centre - ALARM_TOKENS * self.spec.patch / 2
        begin = max(min(middle - ALARM_TOKENS * self.spec.patch / 2, impact), 0.0)
        stop = max(centre + self.spec.patch / 2, impact)
        around = slice(max(i - ALARM_TOKENS + 1, 0), i + 1)
        event = Event(
            self._new_id(tokens.start_ns), name, score, SEVERITIES.get(name, WARNING), START,
            self._time(tokens.start_ns, impact), self._time(tokens.start_ns, begin),
            self._time(tokens.start_ns, stop), float(tokens.gate[around].mean()),
            {'peak_g': peak} if peak is not None else {})
        count = around.stop - around.start
        opened = int(tokens.gate[around].sum())
        self._alarms[label] = _Alarm(event, tokens.start_ns, centre, count, opened)
        self._started[label] = centre
        self._hardest[label] = peak or 0.0
        return event

    def _end(self, label: int, centre: float) -> Event:
        """End an alarm: the same event, with how long it lasted."""
        alarm, self._alarms[label] = self._alarms[label], None
        stop = max(self._time(alarm.segment_ns, centre + self.spec.patch / 2),
                   alarm.event.stop_ns)
        return dataclasses.replace(
            alarm.event, phase=END, stop_ns=stop,
            transient_fraction=alarm.opened / alarm.tokens,
            values={**alarm.event.values,
                    'duration_s': (stop - alarm.event.start_ns) / NANOSECONDS})


def _impact(tokens: Tokens, middle: float, rate: float) -> tuple[float, float | None]:
    """Return position and size in g of the strongest acceleration near ``middle``."""
    if tokens.trace is None:
        return middle, None
    first = tokens.end - len(tokens.trace)  # position of trace[0]
    low = max(int(middle - IMPACT_BEFORE * rate) - first, 0)
    near = tokens.trace[low:max(int(middle + IMPACT_AFTER * rate) - first, low + 1)]
    if len(near) == 0:
        return middle, None
    at = int(np.argmax(near))
    return first + low + at + 0.5, float(near[at])
