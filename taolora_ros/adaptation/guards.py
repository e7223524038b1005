"""What keeps feedback from doing harm: whom to trust, how far to go, when to go back.

Nobody on the robot knows whether an operator is right. Three things are known: what the network
found doubtful before it learnt anything (z, log odds of the frozen network's score), how it
judges the reference's events, whose truth is certain, and how often somebody speaks.

Trust. Somebody who knows rejects what is doubtful and leaves, or confirms, what is not; somebody
who mixes things up does the reverse, somebody who guesses neither. With m half-way between the
mean z of rejected events and of the stream's others:

    log P(honest) = sum log sigma(+-(z - m))    P(inverted): the signs exchanged    P(random) = 1/2

Events rejected although they are as sure as those that are not say nothing: the share of the
honest stays at a third. Then the reference is asked. Taken alone, the feedback of somebody who
knows moves its events up against all else, or leaves them; that of others moves it against the
truth. With a the mean shift of the reference's events minus that of its other tokens, in logits:

    odds(honest) = P(honest) / (1 - P(honest)) * exp(EVIDENCE (a + EXPECTED)) * exp(F)

F tells whether feedback is foretold by the rest of it: with s the shift of a feedback's z, in the
direction that it asks for, by what the other parts of the feedback teach (cross-validation),
F = min(0, sum log 2 sigma(s)). Who guesses cannot be foretold; who is consistently wrong can, so F
never adds to the trust.

One more feedback can turn that over, since what all of it teaches is judged anew. So trust is the
mean of the log odds after the last RECENT feedbacks on different events of a label, each at most
SATURATED either way, from the first rejection on. Where these odds are not better than three to
two, learning stays as small as ``doubtful_shift``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

SATURATION = 2.0   # logits beyond which one event says no more
FEW = 3            # events fewer than these are no crowd to compare with
NEITHER = 1.0 / 3  # trust in somebody of whom nothing is known
LIKELY = 0.6       # trust from which more than the least is learnt
TYPICAL = 0.9      # quantile of the shifts of a stream's events, or of the rest, that is bounded
EVIDENCE = 2.0     # per logit of agreement
EXPECTED = {'ecg': 1.2, 'imu': 2.3}  # logits that honest feedback may cost the reference, too: a
                                     # new place of the sensor has falls unlike those of training
RECENT = 5         # feedbacks over which trust is averaged
SATURATED = 3.0    # log odds at most of each
SHRINK = 0.8       # of a change that goes too far, again and again ...
TRIES = 16         # ... so often: then it is dropped


class RateLimit:
    """A bucket of ``per_minute`` tokens that fills evenly; each feedback takes one."""

    def __init__(self, per_minute: int, now: float):
        self.per_minute = per_minute
        self._level, self._last = float(per_minute), now

    def take(self, now: float) -> bool:
        """Tell whether a feedback at time ``now`` (s) may be used."""
        passed, self._last = max(now - self._last, 0.0), now
        self._level = min(self._level + passed * self.per_minute / 60.0, float(self.per_minute))
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True


def trust(rejected: np.ndarray, others: np.ndarray) -> float:
    """Return the probability that whoever rejected knows: z of rejected and of other events."""
    if len(rejected) == 0 or len(others) < FEW:
        return NEITHER
    middle = 0.5 * (rejected.mean() + others.mean())
    low = np.clip(middle - rejected, -SATURATION, SATURATION)
    high = np.clip(others - middle, -SATURATION, SATURATION)
    share = min(1.0, len(rejected) / len(others))
    honest, inverted = (-np.logaddexp(0.0, -s * low).sum()
                        - share * np.logaddexp(0.0, -s * high).sum() for s in (1.0, -1.0))
    chance = (len(low) + share * len(high)) * np.log(0.5)
    weights = np.exp(np.array([honest, inverted, chance]) - max(honest, inverted, chance))
    return float(weights[0] / weights.sum())


def foretold(shifts: Sequence[float]) -> float:
    """Return F for shifts (logits) of feedbacks by what the rest teaches."""
    s = np.clip(np.array(shifts, float), -SATURATION, SATURATION)
    return min(float(-np.logaddexp(0.0, -s).sum() + len(s) * np.log(2.0)), 0.0)


def confirmed_by(trusted: float, agreement: float, told: float, kind: str) -> float:
    """Return the trust that is left when the reference agrees so much (logits), and F is so."""
    evidence = np.clip(EVIDENCE * (agreement + EXPECTED[kind]) + told, -20.0, 20.0)
    odds = trusted / max(1.0 - trusted, 1e-9) * np.exp(evidence)
    return float(odds / (1.0 + odds))


def steadied(trusted: float, earlier: Sequence[float]) -> float:
    """Return the trust on average over this and the ``earlier`` values, the last RECENT of all."""
    recent = np.clip([*earlier, trusted][-RECENT:], 1e-6, 1.0 - 1e-6)
    odds = np.clip(np.log(recent / (1.0 - recent)), -SATURATED, SATURATED)
    return float(1.0 / (1.0 + np.exp(-odds.mean())))


class Judged:
    """What trust was after the last RECENT feedbacks on each label, by the event spoken of."""

    def __init__(self):
        self._said: dict[int, dict[str, float]] = defaultdict(dict)

    def take(self, label: int, key: str, trusted: float) -> None:
        """Keep what trust was after feedback on the event ``key``, the last one of each."""
        said = self._said[label]
        said.pop(key, None)
        said[key] = trusted
        if len(said) > RECENT:
            del said[next(iter(said))]

    def before(self, key: str) -> dict[int, list[float]]:
        """Return by label what it was after feedback on other events."""
        return {label: [trusted for name, trusted in said.items() if name != key]
                for label, said in self._said.items()}


def allowed_shift(trusted: float, doubtful: float, most: float) -> float:
    """Return how far (logits) a stream's events may fall, by the trust in who rejects them."""
    known = np.clip((trusted - LIKELY) / (1.0 - LIKELY), 0.0, 1.0)
    return float(doubtful + (most - doubtful) * known)


def within(share: float, shifts: Callable[[float], list[np.ndarray]], most: float) -> float:
    """Return ``share`` of a change, made smaller until each group's typical shift is at most so.

    ``shifts(share)`` are the shifts (n,) for the worse of each group: of a stream's events
    downwards, of the rest upwards.
    """
    for _ in range(TRIES):
        if all(len(s) == 0 or np.quantile(s, TYPICAL) <= most for s in shifts(share)):
            return share
        share *= SHRINK
    return 0.0


def damage(before: np.ndarray, after: np.ndarray, is_event: np.ndarray) -> tuple[float, float]:
    """Return the shares of events lost and of others newly called events.

    ``before``, ``after`` (R,) are z of reference tokens, ``is_event`` (R,) bool the truth.
    """
    lost = (before >= 0) & (after < 0) & is_event
    new = (before < 0) & (after >= 0) & ~is_event
    return (float(lost.sum() / max(is_event.sum(), 1)),
            float(new.sum() / max((~is_event).sum(), 1)))
