"""The learning signal: what one feedback on one decision says to a softmax head (METHOD section 6).

    h  (K,) the layer's input for that event       p  (C,) what the head gave, a softmax
    d  the class decided        y  (C,) the target  g  (C,) gradient of the loss in the logits

    uncertainty = 1 - |quality|                     reward = quality max(0, 2 - latency_ratio)
    weight = 1 if reward > 0.5 else -0.1            step = rate (1 + uncertainty), rate 0.001

What the true class is known to be decides the target; -log p_y is the loss, so g = p - y, and the
gradient of the head's weights is h^T g:

    label given, or d called correct    y = one-hot of it        g = p - y,   weight 1
    d called wrong, no label            y_d = 0, y_j = p_j / (1 - p_d): the loss is -log(1 - p_d)
    neither                             y = one-hot of d         g = weight (p - y): towards the
                                        decision when the reward says so, else a little away

The reference text steps away from a wrong decision by -0.1 even where the truth is known; here
that is left to the last case, in which nobody said what was true.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RATE = 0.001        # step of a certain signal
REINFORCE = 0.5     # reward from which the decision is reinforced
AWAY = -0.1         # weight of a signal that does not reinforce
LEFT = 1e-30        # probability of all other classes below which they count as equally likely


@dataclass(frozen=True)
class Signal:
    """One feedback, ready to learn from.

    ``embedding`` (K,) and ``probability`` (C,) float32 are the head's input and output at the
    event, ``decided`` its class. ``quality`` is 0 to 1. ``correct`` is None when nobody said,
    ``label`` the true class or None. ``latency_ratio`` is the measured latency over its target.
    Raise ValueError for a class or number out of range, or a feedback that contradicts itself.
    """

    embedding: np.ndarray
    probability: np.ndarray
    decided: int
    quality: float = 1.0
    correct: bool | None = None
    label: int | None = None
    latency_ratio: float = 1.0

    def __post_init__(self):
        classes = len(self.probability)
        if classes < 2:
            raise ValueError(f'probability: {classes} classes, at least 2 are needed')
        if not 0 <= self.decided < classes:
            raise ValueError(f'decided: class {self.decided}, must be 0..{classes - 1}')
        if self.label is not None and not 0 <= self.label < classes:
            raise ValueError(f'label: class {self.label}, must be 0..{classes - 1}')
        if not 0.0 <= self.quality <= 1.0:
            raise ValueError(f'quality: {self.quality}, must be 0..1')
        if not 0.0 <= self.latency_ratio < float('inf'):
            raise ValueError(f'latency_ratio: {self.latency_ratio}, must be 0 or more')
        contradicts = self.correct != (self.label == self.decided)
        if None not in (self.label, self.correct) and contradicts:
            raise ValueError(f'feedback: class {self.decided} called '
                             f'{"correct" if self.correct else "wrong"}, and the label is '
                             f'{self.label}')

    @property
    def uncertainty(self) -> float:
        """Return 1 - |quality|, 0 to 1."""
        return 1.0 - abs(self.quality)

    @property
    def reward(self) -> float:
        """Return the quality, doubled for an instant decision, 0 for one twice too late."""
        return self.quality * max(0.0, 2.0 - self.latency_ratio)

    @property
    def told(self) -> bool:
        """Tell whether somebody said what is true, or what is not."""
        return self.label is not None or self.correct is not None

    @property
    def weight(self) -> float:
        """Return the weight of the gradient: 1 where the truth is known or the reward good."""
        return 1.0 if self.told or self.reward > REINFORCE else AWAY

    def step(self, rate: float = RATE) -> float:
        """Return the step to take, up to twice ``rate``."""
        return rate * (1.0 + self.uncertainty)

    def gradient(self, out: np.ndarray | None = None) -> np.ndarray:
        """Return g (C,) without its ``weight``, which ``AdaptedLayer.learn`` takes as its scale."""
        gradient = np.empty_like(self.probability) if out is None else out
        gradient[:] = self.probability
        if self.correct is False and self.label is None:
            self._reject(gradient)
        else:
            gradient[self.decided if self.label is None else self.label] -= 1.0
        return gradient

    def _reject(self, gradient: np.ndarray) -> None:
        """Turn p into p - y where y is p without the decided class, over what is left."""
        d = self.decided
        certainty, gradient[d] = float(gradient[d]), 0.0
        left = float(np.add.reduce(gradient))
        if left < LEFT:
            gradient[:], left = 1.0, len(gradient) - 1.0
        gradient *= -certainty / left
        gradient[d] = certainty
