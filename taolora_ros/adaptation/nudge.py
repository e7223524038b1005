"""The first answer to a feedback: one step of a micro tier of its own, in microseconds.

    x  (D + 1,)  the token that speaks most for the event     S    second moment of the reference
    g  (K,)      gradient in its logits, see signal.py        |x|  sqrt(x S^-1 x)

    x' = S^-1 x / |x|^2             moves x by one and the reference's tokens least
    A_i, B_i                        rank 1: one step along the gradients at x', see lora.py
    L = sum_i A_i B_i               (D + 1, K), over all feedback i that waits
    c = max_kl sqrt((L_k - L_l) S (L_k - L_l))      L_k a column: how far two logits part
    M = max |y|                     over all tokens y of the events that wait
    lean = L shift min(1, 1 / (c M))

A plain step along x would move whatever tokens have in common, and so all of them. No guard has
been asked yet: that is for the solving that takes the place of these steps. What they do together
is bounded instead: **the score of no event that waits moves by more than ``shift`` in log odds**,
however many wait, nor that of any event whose tokens have |y| <= M.

Proof. At a token y, two logits part by y (lean_k - lean_l) <= |y| c shift / (c M) <= shift, by
Cauchy and Schwarz. A score is z = logit(Q) + bias, Q = sum_t w_t q_t, q_t = h p_t, with weights w
that sum to 1 and evidence h from 0 to 1. If the logits u_t of a token change by du_t, and r is the
most that two of one token part by,

    |dq_t| = |sum_k p_tk (h_k - q_t) du_tk| <= r / 2 sum_k p_tk |h_k - q_t| <= r q_t (1 - q_t)
    |dz|   = |sum_t w_t dq_t| / (Q (1 - Q)) <= r sum_t w_t q_t (1 - q_t) / (Q (1 - Q)) <= r

for p_t (h - q_t) sums to 0; among all h from 0 to 1 with mean q, 0 and 1 are the farthest from it;
and q (1 - q) is concave. Along the way r adds up to ``shift`` at most.

That is the score of an event judged alone. What beats of its shape were said to be (alike.py) is
forgotten as soon as weights change, and a beat that was judged with them is alone again at first.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from taolora_ros.adaptation.examples import Example, softmax
from taolora_ros.adaptation.lora import AdaptedLayer
from taolora_ros.adaptation.objective import Objective
from taolora_ros.adaptation.signal import Signal

TINY = 1e-9  # logits


@dataclass(frozen=True)
class Step:
    """What one feedback asks for: A_i (D + 1,) and B_i (K,) float64, its label and largest |y|."""

    inputs: np.ndarray
    outputs: np.ndarray
    label: int
    reach: float

    def product(self) -> np.ndarray:
        """Return A_i B_i (D + 1, K)."""
        return np.outer(self.inputs, self.outputs)


class Nudges:
    """The steps of all feedback that waits, by key; one more or one less costs the same always."""

    def __init__(self, objective: Objective):
        self.objective = objective
        self._layer = AdaptedLayer(*objective.shape, base_rank=1, micro_rank=1, decay=0.0)
        self._steps: dict[str, Step] = {}
        self._sums = {label: np.zeros(objective.shape) for label in range(len(objective.evidence))}

    def take(self, key: str, example: Example, delta: np.ndarray) -> None:
        """Take the step that an example asks for, the head being changed by ``delta`` so far."""
        token = loudest(self.objective, example)
        x, toward = example.x[token], example.x @ self.objective.inverse     # of all its tokens
        sizes = np.einsum('nd,nd->n', toward, example.x)                     # |y|^2
        p = softmax((example.frozen[token] + x @ delta)[None])[0]
        told = signal_of(example, self.objective.evidence[example.label], x, p)
        toward = toward[token] / sizes[token]
        self._layer.rewind()
        self._layer.aim(toward)
        self._layer.learn(toward, told.gradient(), told.step(1.0), told.weight * example.weight)
        inputs, outputs = (rows[-1].astype(np.float64)
                           for rows in (self._layer.inputs, self._layer.outputs))
        self.drop(key)
        step = self._steps[key] = Step(inputs, outputs, example.label,
                                       math.sqrt(sizes.max()))
        self._sums[step.label] += step.product()

    def drop(self, key: str) -> None:
        """Take a step back; there may be none."""
        step = self._steps.pop(key, None)
        if step is not None:
            self._sums[step.label] -= step.product()

    def lean(self, labels: Collection[int], shift: float, room: float = math.inf
             ) -> np.ndarray | None:
        """Return the change (D + 1, K) by all steps of ``labels``, None when there is none.

        Its size (rms logits on the reference) is at most ``room``.
        """
        if not any(step.label in labels for step in self._steps.values()):
            return None
        reach = max(step.reach for step in self._steps.values())
        total = sum(self._sums[label] for label in labels).astype(np.float32)   # (D + 1, K)
        gram = total.T @ (self.objective.moment @ total)                        # (K, K)
        size = np.diag(gram)
        apart = np.sqrt(max(float((size[:, None] + size - 2.0 * gram).max()), 0.0))
        scale = min(shift / max(apart * reach, 1.0), room / max(math.sqrt(size.sum()), TINY))
        return total * np.float32(scale)


def loudest(objective: Objective, example: Example) -> int:
    """Return which token of an example counts most for its event."""
    says = softmax(example.frozen) @ objective.evidence[example.label]            # (n,)
    group = example.groups[np.argmax(example.groups @ says)]
    return int(np.argmax(group * says))


def signal_of(example: Example, evidence: np.ndarray, x: np.ndarray, p: np.ndarray) -> Signal:
    """Return the signal of an example at one token; ``evidence`` (K,) is its label's."""
    named = int(np.argmax(p * (evidence > 0.0)))  # the class by which the event has its label
    if example.sign < 0:
        return Signal(x, p, named, correct=False)
    return Signal(x, p, int(np.argmax(p)), label=named)
