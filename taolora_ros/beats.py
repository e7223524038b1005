"""From scores of tokens to heart beats, one event for each."""

from __future__ import annotations

import statistics
from collections import deque

import numpy as np

from taolora_ros.alike import AlikeBeats
from taolora_ros.decode import SEVERITIES, START, WARNING, Decoder, Event, Tokens, biased
from taolora_ros.spec import OFFSET_MARGIN, ModelSpec

PEAK_REACH = 0.19  # s: no two heart beats are closer; the strongest in reach is the beat
EVIDENCE = 0.05    # probability below which a token is no candidate for a beat
FUSION_SHARE = 0.5  # of the probability of a fusion beat that counts as ventricular
RATE_BEATS = 8     # intervals whose median is the heart rate


class BeatDecoder(Decoder):
    """One event for each heart beat: ``labels[1]`` (veb) when ventricular, else ``labels[0]``.

    Every token that sees a beat points to a position, a little beyond its own patch too. Tokens
    that point to one place are one candidate; its score is the mean of what the tokens say in
    whose patch it lies, so that denser tokens do not count more. The strongest candidate within
    ``PEAK_REACH`` is the beat. Whether it is ventricular is told together with beats of its shape,
    see alike.py, where the model says so.
    """

    def __init__(self, spec: ModelSpec, name: str = ''):
        super().__init__(spec, name)
        # a fusion beat is part ventricular: networks call odd VEBs so
        self._ventricular = np.array([{'V': 1.0, 'F': FUSION_SHARE}.get(name, 0.0)
                                      for name in spec.classes])
        self._rows = None
        self.finish()

    def forget(self) -> None:
        """Let go of what the network said before its weights changed."""
        if self._alike:
            self._alike.forget()
            known = self._rows is not None and len(self._rows) > 0
            reach = (1.0 + OFFSET_MARGIN) * self.spec.patch  # a token's word counts so far from it
            self._outdated = self._rows[-1, 0] + reach if known else -np.inf

    def finish(self) -> list[Event]:
        """End the segment; return the beats that were still open."""
        events = self._judge(np.inf) if self._rows is not None else []
        self._alike = AlikeBeats(self.spec) if self.spec.alike else None
        self._rows = None       # (n, 6) centre, position, p(beat), p(V), gate, valid
        self._context = None    # the newest tokens: start of segment and thresholds
        self._judged = -np.inf  # positions up to here are settled
        self._outdated = -np.inf  # and of these the network says something else today
        self._last = None       # position of the last beat
        self._intervals: deque[float] = deque(maxlen=RATE_BEATS)
        self._breaks: deque[float] = deque(maxlen=64)  # invalid tokens since the last beat
        return events

    def push(self, tokens: Tokens) -> list[Event]:
        """Take the next tokens; return the beats that are certain now."""
        self._context = tokens
        beat = np.where(tokens.valid, 1.0 - tokens.probability[:, 0], 0.0)
        offset = np.clip(tokens.offset, -OFFSET_MARGIN, 1.0 + OFFSET_MARGIN)
        position = tokens.centre + (offset - 0.5) * self.spec.patch
        rows = np.stack([
            tokens.centre, position, beat, tokens.probability @ self._ventricular,
            tokens.gate, tokens.valid], axis=1)  # (n, 6) float64
        self._breaks.extend(tokens.centre[~tokens.valid].tolist())
        self._rows = rows if self._rows is None else np.concatenate([self._rows, rows])
        if len(rows) == 0:
            return []
        return self._judge(float(tokens.centre[-1]))

    def scores(self) -> np.ndarray:
        """Return what each token pushed last says of a beat and of a ventricular one, (n, 2).

        A beat between two tokens is scored by their mean, and whether it is ventricular by all
        that point to it, and by beats of its shape: events' own scores may differ.
        """
        tokens = self._context
        said = np.stack([1.0 - tokens.probability[:, 0],
                         tokens.probability @ self._ventricular], axis=1)
        said[~tokens.valid] = 0.0
        return np.array([[biased(p, bias) for p, bias in zip(row, self._bias)]
                         for row in said]).reshape(-1, 2)

    def _judge(self, known: float) -> list[Event]:
        """Settle all positions whose neighbourhood lies within the tokens up to ``known``."""
        patch, rate = self.spec.patch, self.spec.rate
        reach = PEAK_REACH * rate
        limit = known - reach - 2 * patch  # rivals in reach are complete, their parts too
        centre, position, beat, ventricular = self._rows[:, :4].T
        near = np.flatnonzero(beat >= EVIDENCE)  # candidates
        events = []
        if near.size and limit > self._judged:
            own, position = beat[near], position[near]
            same = np.abs(position[:, None] - position) <= patch / 2  # (c, c)
            total = same @ own
            place = same @ (own * position) / total
            events = self._pick(place, _said_there(centre, beat, place, own, patch), own,
                                same @ ventricular[near] / total, limit, reach)
        self._judged = max(self._judged, limit)
        if np.isfinite(known):
            self._rows = self._rows[centre > self._judged - reach - 3 * patch]
        return events

    def _pick(self, place, said, own, veb, limit, reach) -> list[Event]:
        """Return events for the candidates that are due and the strongest in their reach."""
        events = []
        rank = np.empty(len(place))
        rank[np.lexsort((-place, own, np.round(said, 6)))] = np.arange(len(place))
        order = np.argsort(place, kind='stable')
        due = order[(place[order] > self._judged) & (place[order] <= limit)]
        refractory = max(self._context.refractory * self.spec.rate, self.spec.patch)
        reach = min(reach, refractory)
        for i in due:
            score = biased(said[i], self._bias[0])
            if score < self._context.event_threshold:
                continue
            if (rank[np.abs(place - place[i]) <= reach] > rank[i]).any():
                continue
            if self._last is not None and place[i] - self._last < refractory:
                continue
            events.append(self._event(float(place[i]), score, float(veb[i])))
        return events

    def _event(self, place: float, score: float, ventricular: float) -> Event:
        """Make the event of a beat and keep the rhythm."""
        start_ns, patch = self._context.start_ns, self.spec.patch
        if self._alike and place > self._outdated:
            ventricular = self._alike.agreed(self._context, place, ventricular)
        veb_score = biased(ventricular, self._bias[1])
        values = {'veb_score': veb_score}
        if any(self._last is None or at > self._last for at in self._breaks if at < place):
            self._last = None
            self._intervals.clear()
        if self._last is not None:
            self._intervals.append((place - self._last) / self.spec.rate)
            values['rr_s'] = self._intervals[-1]
            values['heart_rate_bpm'] = 60.0 / statistics.median(self._intervals)
        self._last = place
        ventricular = veb_score >= self._context.event_threshold
        label = self.spec.labels[1 if ventricular else 0]
        around = np.abs(self._rows[:, 0] - place) <= 1.5 * patch
        return Event(
            self._new_id(start_ns), label, veb_score if ventricular else score,
            SEVERITIES.get(label, WARNING), START, self._time(start_ns, place),
            self._time(start_ns, max(place - patch, 0.0)), self._time(start_ns, place + patch),
            float(self._rows[around, 4].mean()), values)


def _said_there(centre, beat, place, own, patch) -> np.ndarray:
    """Return the mean of ``beat`` over the tokens in whose patch each place lies, (c,).

    ``own`` is what holds where there is no such token, at the ends of a segment.
    """
    low = np.searchsorted(centre, place - patch / 2, 'right')
    high = np.searchsorted(centre, place + patch / 2, 'right')
    sums = np.concatenate([[0.0], np.cumsum(beat)])
    return np.where(high > low, (sums[high] - sums[low]) / np.maximum(high - low, 1), own)
