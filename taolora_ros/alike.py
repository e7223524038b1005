"""What beats alike in shape were said to be: a beat is judged together with them.

A person's beats come in few shapes, and those of one shape are of one kind, while what the network
says of each varies with noise and rhythm. So the log odds of a beat are averaged with those of the
beats most like it among the last ones, weighted by how alike they are (Nadaraya 1964, Watson 1964,
kernel regression). One of a new shape is judged alone. It costs no delay.
"""

from __future__ import annotations

import numpy as np

from taolora_ros.decode import Tokens
from taolora_ros.spec import ModelSpec

BEFORE, AFTER = 0.16, 0.32  # s around the R peak that are compared
NEAREST = 4                 # beats that have a say
SAY = 0.5                   # weight of one of the very same shape, the beat's own being 1
DISTANCE = 0.1              # at which that falls to 1 / e
SUREST = 1e-4               # probability that log odds do not go beyond


class AlikeBeats:
    """The last ``spec.alike`` beats of a segment, and what the network said of each."""

    def __init__(self, spec: ModelSpec):
        self._offsets = np.arange(-round(BEFORE * spec.rate), round(AFTER * spec.rate))  # (S,)
        self._shapes = np.zeros((spec.alike, len(self._offsets)), np.float32)
        self._energy = np.zeros(spec.alike, np.float32)
        self._said = np.zeros(spec.alike)  # log odds
        self._count = 0  # of beats ever kept; the newest is at (count - 1) % alike

    def forget(self) -> None:
        """Begin anew: what was said is no longer what the network would say."""
        self._count = 0

    def agreed(self, tokens: Tokens, place: float, probability: float) -> float:
        """Return the probability of a beat at ``place`` (samples) after all, and remember it.

        A beat whose surroundings ``tokens`` do not hold is judged alone and not remembered.
        """
        shape = self._shape(tokens, place)
        if shape is None:
            return probability
        p = min(max(SUREST, probability), 1.0 - SUREST)  # in this order NaN becomes the least
        said = float(np.log(p / (1.0 - p)))
        energy = float(shape @ shape)
        known = min(self._count, len(self._said))
        odds = said
        if known:
            both = self._energy[:known] + energy
            apart = 1.0 - 2.0 * (self._shapes[:known] @ shape) / np.maximum(both, 1e-9)  # 0..2
            near = np.argsort(apart, kind='stable')[:NEAREST]
            say = SAY * np.exp(-apart[near] / DISTANCE)
            odds = float((said + say @ self._said[near]) / (1.0 + say.sum()))
        at = self._count % len(self._said)
        self._shapes[at], self._energy[at], self._said[at] = shape, energy, said
        self._count += 1
        return 1.0 / (1.0 + float(np.exp(-odds)))

    def _shape(self, tokens: Tokens, place: float) -> np.ndarray | None:
        """Return the signal around ``place`` without its mean (S,), None where it is not held."""
        if tokens.trace is None:
            return None
        first = tokens.end - len(tokens.trace)
        wanted = place - 0.5 - first + self._offsets  # as rows of the trace
        if wanted[0] < 0 or wanted[-1] > len(tokens.trace) - 1:
            return None
        shape = np.interp(wanted, np.arange(len(tokens.trace)), tokens.trace).astype(np.float32)
        return shape - shape.mean()
