"""What a change of the head is worth: the loss of all feedback, and what must not move.

    dW  (D + 1, K)  change of weights and bias     x  tokens (., D + 1)     p0, p  before and after
    S   (D + 1, D + 1)  second moment of reference tokens, each class counting alike

    J = sum_i c_i mean_g log(1 + exp(margin - s_i z_ig))        feedback: a logistic loss of events
      + held  KL(p0 || p)  over reference tokens                others must not change
      + own   KL(p0 || p)  over the stream's recent tokens      what nobody spoke of stays
      + stiffness / 2  tr((dW - C)^T S (dW - C))                the mean square change of logits

The last term is the squared change of all logits that ordinary tokens would see, so what is learnt
goes where feedback differs from them, instead of along what all tokens have in common, as a plain
gradient step does. C (D + 1, K) is zero, or what was learnt from feedback that is no longer
kept. J is smooth in K (D + 1) numbers; L-BFGS from the last solution takes some milliseconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from taolora_ros.adaptation.examples import (FLOOR, Example, biases, evidence, head_input,
                                             log_odds, softmax)
from taolora_ros.adaptation.reference import Reference
from taolora_ros.spec import ModelSpec

STIFFNESS, HELD, OWN = 1.0, 60.0, 1.0   # chosen as told in docs/adaptation.md
MARGINS = {'rejected': 2.0, 'confirmed': 1.0, 'missed': 0.0}  # logits beyond the threshold
IMPORTANCE = {  # beats have many events and few true ones are lost; of falls each one counts
    'ecg': {'rejected': 3.0, 'confirmed': 1.0, 'missed': 0.05},
    'imu': {'rejected': 1.0, 'confirmed': 1.0, 'missed': 0.2}}
RIDGE = 0.05     # of the mean second moment: tokens in no direction of the reference
STEPS = 60       # of L-BFGS at most


@dataclass
class Anchors:
    """Tokens whose probabilities should stay: ``x`` (R, D + 1), frozen logits, p0 (R, K)."""

    x: np.ndarray
    frozen: np.ndarray
    p0: np.ndarray
    weight: float

    @staticmethod
    def of(x: np.ndarray, frozen: np.ndarray, weight: float) -> Anchors:
        """Return anchors with the probabilities of the frozen logits."""
        return Anchors(x, frozen, softmax(frozen), weight)

    def add(self, delta: np.ndarray, gradient: np.ndarray) -> float:
        """Add the gradient of weight * mean KL(p0 || p) to ``gradient``; return the loss."""
        if len(self.x) == 0:
            return 0.0
        p = softmax(self.frozen + self.x @ delta)
        share = self.weight / len(p)
        gradient += share * (self.x.T @ (p - self.p0))
        return share * float((self.p0 * np.log((self.p0 + 1e-9) / (p + 1e-9))).sum())


class Objective:
    """J for one head; ``weight`` (K + 1, D) and ``bias`` (K + 1,) are the frozen ones."""

    def __init__(self, spec: ModelSpec, reference: Reference, weight: np.ndarray,
                 bias: np.ndarray):
        self.spec = spec
        classes = len(spec.classes)
        self._weight, self._bias = weight[:classes].T.astype(np.float32), bias[:classes]
        self.evidence, self._biases = evidence(spec), biases(spec)
        self._worth = IMPORTANCE[spec.kind]
        self.reference = reference
        x = head_input(reference.embedding)
        self.held = Anchors.of(x, self.frozen(reference.embedding), HELD)
        self.moment = _second_moment(x, reference.classes)
        self.inverse = np.linalg.inv(self.moment.astype(np.float64)).astype(np.float32)
        self.shape = self.moment.shape[0], classes

    def frozen(self, embedding: np.ndarray) -> np.ndarray:
        """Return the logits (n, K) that tokens (n, D) had before anything was learnt."""
        return embedding @ self._weight + self._bias

    def scores(self, example: Example, delta: np.ndarray | None = None) -> np.ndarray:
        """Return z (G,) of an example's groups, after a change if one is given."""
        logits = example.frozen if delta is None else example.frozen + example.x @ delta
        share = example.groups @ (softmax(logits) @ self.evidence[example.label])
        return log_odds(share) + self._biases[example.label]

    def crowd(self, examples: Sequence[Example]) -> Callable[[np.ndarray], np.ndarray]:
        """Return what gives z (n,) of n examples' first groups under a change (D + 1, K)."""
        if not examples:
            return lambda delta: np.zeros(0)
        firsts = [dataclasses.replace(e, groups=e.groups[:1]) for e in examples]
        return _Batch(firsts, np.ones(len(firsts)), self._worth, self.evidence,
                      self._biases).scores

    def token_scores(self, frozen: np.ndarray, x: np.ndarray, label: int,
                     delta: np.ndarray | None = None) -> np.ndarray:
        """Return z (n,) of single tokens."""
        logits = frozen if delta is None else frozen + x @ delta
        return log_odds(softmax(logits) @ self.evidence[label]) + self._biases[label]

    def size(self, delta: np.ndarray) -> float:
        """Return the root mean square change of the reference's logits: sqrt(tr(dW^T S dW))."""
        return float(np.sqrt(max(np.sum(delta * (self.moment @ delta)), 0.0)))

    def solve(self, examples: Sequence[Example], importance: np.ndarray, own: Anchors | None,
              start: np.ndarray, centre: np.ndarray, rate: float = 1.0) -> np.ndarray:
        """Return the change (D + 1, K) float32 with the least J, looked for from ``start``.

        Without ``own`` the feedback stands alone: no token is held, only the stiffness is left.
        """
        if not examples:
            return centre
        batch = _Batch(examples, importance * rate, self._worth, self.evidence,
                       self._biases)

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            delta = flat.reshape(self.shape).astype(np.float32)
            moved = delta - centre
            gradient = STIFFNESS * (self.moment @ moved)
            total = 0.5 * float(np.sum(moved * gradient))
            total += batch.add(delta, gradient)
            if own is not None:
                total += self.held.add(delta, gradient) + own.add(delta, gradient)
            return total, gradient.ravel().astype(np.float64)

        found = minimize(loss, start.ravel().astype(np.float64), jac=True, method='L-BFGS-B',
                         options={'maxiter': STEPS})
        return found.x.reshape(self.shape).astype(np.float32)


class _Batch:
    """All examples in arrays: N tokens in G groups."""

    def __init__(self, examples: Sequence[Example], importance: np.ndarray, worth: dict,
                 h: np.ndarray, bias: np.ndarray):
        self.x = np.concatenate([e.x for e in examples])                       # (N, D + 1)
        self.frozen = np.concatenate([e.frozen for e in examples])             # (N, K)
        self.h = np.concatenate([np.repeat(h[e.label][None], len(e.x), 0) for e in examples])
        count = [len(e.groups) for e in examples]
        self.groups = np.zeros((sum(count), len(self.x)), np.float32)          # (G, N)
        row = column = 0
        for e in examples:
            self.groups[row:row + len(e.groups), column:column + len(e.x)] = e.groups
            row, column = row + len(e.groups), column + len(e.x)
        every = np.repeat(np.arange(len(examples)), count)
        self.bias = np.array([bias[e.label] for e in examples])[every]
        self.sign = np.array([e.sign for e in examples])[every]
        self.margin = np.array([MARGINS[e.kind] for e in examples])[every]
        kinds = np.array([worth[e.kind] * e.weight for e in examples])
        self.share = (kinds * importance / np.array(count))[every]             # (G,)

    def add(self, delta: np.ndarray, gradient: np.ndarray) -> float:
        """Add the gradient of the examples' loss to ``gradient``; return the loss."""
        p, q, share, z = self._judge(delta)
        lack = self.margin - self.sign * z
        by_z = -self.share * self.sign / (1.0 + np.exp(-np.clip(lack, -50.0, 50.0)))
        by_q = (by_z / (share * (1.0 - share))) @ self.groups                  # (N,)
        by_logit = by_q[:, None] * p * (self.h - q[:, None])
        gradient += self.x.T @ by_logit
        return float((self.share * np.logaddexp(0.0, lack)).sum())

    def scores(self, delta: np.ndarray) -> np.ndarray:
        """Return z (G,) under a change."""
        return self._judge(delta)[3]

    def _judge(self, delta: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return p (N, K), q (N,), the groups' evidence (G,) and their z (G,)."""
        p = softmax(self.frozen + self.x @ delta)
        q = (p * self.h).sum(axis=1)
        share = np.clip(self.groups @ q, FLOOR, 1.0 - FLOOR)
        return p, q, share, np.log(share / (1.0 - share)) + self.bias


def _second_moment(x: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return S (D + 1, D + 1) of tokens x with every class counting alike, and a ridge."""
    moment = np.mean([x[classes == c].T @ x[classes == c] / max((classes == c).sum(), 1)
                      for c in np.unique(classes)], axis=0)
    return (moment + RIDGE * np.trace(moment) / len(moment) * np.eye(len(moment))
            ).astype(np.float32)
