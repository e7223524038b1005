"""From examples to a change of the head that the guards allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from taolora_ros.adaptation.examples import Example, head_input, make_example, softmax
from taolora_ros.adaptation.guards import (NEITHER, SHRINK, TRIES, allowed_shift, confirmed_by,
                                           damage, foretold, steadied, trust, within)
from taolora_ros.adaptation.head import AdaptedHead, nearest
from taolora_ros.adaptation.memory import StreamMemory
from taolora_ros.adaptation.objective import OWN, Anchors, Objective
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.spec import ModelSpec

EACH, GROWTH = 0.018, 1.5  # n feedbacks may move EACH n^GROWTH rms logits on the reference: of
                           # two little is learnt about anybody else
SETTLED = 0.98    # of the largest norm: the rest is for feedback that waits
OWN_TOKENS = 400  # of a stream's recent past, that hold the rest in its place
TINY = 1e-9       # logits
SMALLER = 5       # times that a change that harms the reference is made smaller
CROWD = 100       # recent events whose fall is bounded
PARTS = 4         # of feedback: each is to be foretold by the others


@dataclass(frozen=True)
class Solution:
    """The ``share`` that is allowed of a ``change`` (D + 1, K) that the head's tiers can hold.

    ``trusted`` is the trust in who gave the feedback; ``judged`` what it is after this feedback
    alone, by labels of which something was rejected.
    """

    change: np.ndarray
    share: float
    trusted: float
    judged: dict[int, float] = field(default_factory=dict)

    @property
    def delta(self) -> np.ndarray:
        """Return the change (D + 1, K) as allowed."""
        return self.change * np.float32(self.share)


class Learner:
    """Solves the objective for the feedback there is, and holds the solution back."""

    def __init__(self, spec: ModelSpec, objective: Objective):
        self.spec, self.objective = spec, objective
        self._is_event = {label: self._speaks_for(label) for label in range(len(spec.labels))}

    def solve(self, examples: Sequence[Example], own: np.ndarray,
              memories: Iterable[StreamMemory], start: np.ndarray, base: np.ndarray,
              centre: np.ndarray, settings: AdaptationSettings,
              earlier: Mapping[int, Sequence[float]] | None = None) -> Solution:
        """Return the change (D + 1, K) that ``examples`` ask for, as far as it is allowed.

        ``own`` (n, D) are recent tokens of the stream, ``start`` where to begin, ``base`` the
        head's base, beside which its micro tier holds what is new, ``centre`` what is to be kept
        of feedback that is gone, ``earlier`` what was ``judged`` by label after earlier feedback.
        """
        used, trusted, judged = usable(examples), NEITHER, {}
        importance = settings.decay ** np.arange(len(used))[::-1]
        anchors, memories = self._own(own), list(memories)
        wanted = self.objective.solve(used, importance, anchors, start, centre, settings.rate)
        change = nearest(wanted, base, self.objective.moment)
        most = min(SETTLED * settings.max_norm,
                   self.objective.size(centre) + EACH * len(used) ** GROWTH)
        share = most / max(self.objective.size(change), most, TINY)
        alone = self.objective.solve(used, importance, None, change * np.float32(share), centre,
                                     settings.rate)
        told = self._foretold(used, importance, centre, settings.rate)
        for label in {e.label for e in used}:
            crowd = self._crowd(label, memories)
            rejected = [e for e in used if e.label == label and e.sign < 0]
            trusted = self._trust(rejected, crowd, alone, label, told)
            if rejected:
                judged[label] = trusted
                trusted = steadied(trusted, (earlier or {}).get(label, ()))
            share = self._hold_back(change, share, trusted, label, crowd, anchors, settings)
        return Solution(change, share, trusted, judged)

    def _foretold(self, used: list[Example], importance: np.ndarray, centre: np.ndarray,
                  rate: float) -> float:
        """Return F of feedback, what was missed left out: each part is told by the others alone."""
        shifts = []
        for part in range(PARTS if len(used) >= PARTS else 0):
            rest = np.flatnonzero(np.arange(len(used)) % PARTS != part)
            alone = self.objective.solve([used[i] for i in rest], importance[rest], None, centre,
                                         centre, rate)
            for example in used[part::PARTS]:
                if example.kind != 'missed':
                    before, after = (self.objective.scores(example, change).mean()
                                     for change in (None, alone))
                    shifts.append(example.sign * float(after - before))
        return foretold(shifts)

    def _trust(self, rejected: list[Example], crowd: list[Example], alone: np.ndarray, label: int,
               told: float) -> float:
        """Return the trust in who gave the feedback on a label."""
        known = {(e.stream, e.stamp_ns) for e in rejected}
        others = [self.objective.scores(e).max() for e in crowd
                  if (e.stream, e.stamp_ns) not in known]
        doubtful = [self.objective.scores(e).max() for e in rejected]
        return confirmed_by(trust(np.array(doubtful), np.array(others)),
                            self._agreement(alone, label), told, self.spec.kind)

    def _hold_back(self, change: np.ndarray, share: float, trusted: float, label: int,
                   crowd: list[Example], own: Anchors, settings: AdaptationSettings) -> float:
        """Bound how far a label's recent events fall and the rest rises, by trust in feedback."""
        events, nothing = self.objective.crowd(crowd), np.zeros_like(change)
        sure = events(nothing)
        rest = np.flatnonzero(self._token_scores(own, label, nothing) < 0)
        quiet = Anchors(own.x[rest], own.frozen[rest], own.p0[rest], 0.0)
        calm = self._token_scores(quiet, label, nothing)

        def shifts(share: float) -> list[np.ndarray]:
            delta = change * np.float32(share)
            return [sure - events(delta), self._token_scores(quiet, label, delta) - calm]

        share = within(share, shifts, allowed_shift(trusted, settings.doubtful_shift,
                                                    settings.max_shift))
        for _ in range(SMALLER):
            if not self.harm(change * np.float32(share), settings):
                break
            share *= SHRINK
        return share

    def harm(self, delta: np.ndarray, settings: AdaptationSettings) -> str:
        """Return in words what a change does to the reference beyond the limits, '' for nothing."""
        lost, new = self.damage(delta)
        if lost <= settings.max_lost and new <= settings.max_new:
            return ''
        return f'it would lose {lost:.1%} of the reference\'s events and invent {new:.1%}'

    def mend(self, head: AdaptedHead, settings: AdaptationSettings) -> bool:
        """Shrink what is settled until it fits the limits; return whether it did not.

        What it does to the reference counts while adaptation is on.
        """
        over, shares = head.size > settings.max_norm, iter([SHRINK] * TRIES + [0.0])
        if over:
            head.shrink(SETTLED * settings.max_norm / head.size)
        while settings.enabled and self.harm(head.settled, settings) and (
                (share := next(shares, None)) is not None):
            head.shrink(share)
            over = True
        return over

    def _crowd(self, label: int, memories: Iterable[StreamMemory]) -> list[Example]:
        """Return the recent events of a label in all streams, as if they had been confirmed."""
        found = []
        for memory in memories:
            for moment in memory.recent(self.spec.labels[label], CROWD):
                example = make_example(self.spec, moment,
                                       self.objective.frozen(moment.embedding), label,
                                       'confirmed')
                found += [example] if example is not None else []
        return found

    def _agreement(self, alone: np.ndarray, label: int) -> float:
        """Return how the reference's events move against the rest of it, in logits."""
        held, is_event = self.objective.held, self._is_event[label]
        shift = (self._token_scores(held, label, alone)
                 - self._token_scores(held, label, np.zeros_like(alone)))
        return float(shift[is_event].mean() - shift[~is_event].mean())

    def _token_scores(self, anchors: Anchors, label: int, delta: np.ndarray) -> np.ndarray:
        return self.objective.token_scores(anchors.frozen, anchors.x, label, delta)

    def _own(self, embedding: np.ndarray) -> Anchors:
        """Return anchors of tokens (n, D) of a stream, those that see something first."""
        frozen = self.objective.frozen(embedding)
        sees = softmax(frozen)[:, 0] < 0.5 if len(frozen) else np.zeros(0, bool)
        chosen = np.concatenate([_evenly(np.flatnonzero(sees), OWN_TOKENS * 3 // 4),
                                 _evenly(np.flatnonzero(~sees), OWN_TOKENS // 4)])
        return Anchors.of(head_input(embedding[chosen]), frozen[chosen], OWN)

    def _speaks_for(self, label: int) -> np.ndarray:
        """Return which tokens of the reference are events of a label, (R,) bool."""
        h = self.objective.evidence[label]
        return h[self.objective.reference.classes] >= 1.0

    def damage(self, delta: np.ndarray) -> tuple[float, float]:
        """Return the worst shares of reference events lost, and newly found, of any label."""
        held, found = self.objective.held, []
        for label, is_event in self._is_event.items():
            before, after = (self._token_scores(held, label, change)
                             for change in (np.zeros_like(delta), delta))
            found.append(damage(before, after, is_event))
        return max(lost for lost, _ in found), max(new for _, new in found)


def usable(examples: Sequence[Example]) -> list[Example]:
    """Return the examples of labels of which somebody said what a true event is like, too.

    Until then a false alarm cannot be told from a true one, and nothing is learnt.
    """
    labels = known(examples)
    return [e for e in examples if e.label in labels]


def known(examples: Iterable[Example]) -> set[int]:
    """Return the labels of which somebody said what a true event is like."""
    return {e.label for e in examples if e.sign > 0}


def _evenly(indices: np.ndarray, count: int) -> np.ndarray:
    """Return at most ``count`` of ``indices``, evenly spread."""
    if len(indices) <= count:
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]
