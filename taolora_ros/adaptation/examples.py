"""From a feedback to an example: which tokens, in which proportion, should have said what.

    n  tokens of one event    G  groups of them    D  width    K  classes    J  labels

An event's score is that of the decoder that raised it: the evidence for its label, averaged over a
group of tokens, as log odds with the label's bias. Zero is the threshold of a score of 0.5. What
beats alike say (alike.py) is left out: a beat is learnt from as if judged alone.

    q_t = h_label . p_t        z_g = logit(sum_t w_gt q_t) + bias_label

A beat is one group, weighted by how much each token sees a beat; an alarm has a group for each run
of tokens over which it is averaged and that could raise it: all of them have to fall, or one rise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taolora_ros.adaptation.memory import Moment
from taolora_ros.alarms import ALARM_TOKENS
from taolora_ros.beats import FUSION_SHARE
from taolora_ros.spec import ModelSpec

UNIT = 3.0              # stands for 1 in the input of the bias: tokens are larger, too
BEAT_REACH = 1.5        # patches on both sides of a beat whose tokens see it
ALARM_REACH = (-1.0, 2.0)  # s around the impact: where the tokens lie that raised an alarm
MISSED_REACH = (-0.6, 0.9)  # s around it: where those lie that should have
RISING = 2              # groups of a missed or confirmed alarm that are to be high
DOUBT = 0.25            # share of the evidence, from which a group could raise an alarm soon
FLOOR = 1e-6            # of probabilities, so that log odds stay finite


@dataclass(frozen=True)
class Example:
    """``x`` (n, D + 1) is what the tokens give the head, the last column the bias's UNIT.

    ``frozen`` (n, K) are their logits before anything was learnt, ``groups`` (G, n) weights whose
    rows sum to 1. ``label`` is an index of ``spec.labels``; ``sign`` +1 for what should be an
    event of it, -1 for what should not. ``weight`` is its importance.
    """

    stream: str
    stamp_ns: int
    x: np.ndarray
    frozen: np.ndarray
    groups: np.ndarray
    label: int
    sign: int
    kind: str
    weight: float = 1.0


def evidence(spec: ModelSpec) -> np.ndarray:
    """Return h (J, K): how much each class speaks for each label, as the decoders have it."""
    h = np.zeros((len(spec.labels), len(spec.classes)), np.float32)
    if spec.kind == 'ecg':
        h[0, 1:] = 1.0
        h[1, spec.classes.index('V')] = 1.0
        h[1, spec.classes.index('F')] = FUSION_SHARE
        return h
    for label, name in enumerate(spec.labels):
        h[label, spec.classes.index(name)] = 1.0
    return h


def biases(spec: ModelSpec) -> np.ndarray:
    """Return the bias (J,) of each label."""
    return np.array(spec.bias or (0.0,) * len(spec.labels), np.float32)


def head_input(embedding: np.ndarray) -> np.ndarray:
    """Return tokens (n, D) with the column of the bias: (n, D + 1) float32."""
    return np.concatenate([embedding, np.full((len(embedding), 1), UNIT, np.float32)], axis=1,
                          dtype=np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities (n, K) of logits (n, K)."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def log_odds(share: np.ndarray) -> np.ndarray:
    """Return log(s / (1 - s)), kept finite."""
    share = np.clip(share, FLOOR, 1.0 - FLOOR)
    return np.log(share / (1.0 - share))


def make_example(spec: ModelSpec, moment: Moment, frozen: np.ndarray, label: int, kind: str,
                 weight: float = 1.0) -> Example | None:
    """Return the example of one feedback, None when no token of the moment has to do with it.

    ``frozen`` (n, K) are logits of the moment's tokens; ``kind`` is 'rejected', 'confirmed' or
    'missed'.
    """
    p = softmax(frozen)
    sign = -1 if kind == 'rejected' else 1
    if spec.kind == 'ecg':
        groups = _beat_groups(spec, moment.since, p)
    else:
        groups = _alarm_groups(moment.since, p @ evidence(spec)[label], kind)
    if groups is None:
        return None
    used = np.flatnonzero(groups.any(axis=0))
    return Example(moment.stream, moment.stamp_ns, head_input(moment.embedding[used]),
                   frozen[used], np.ascontiguousarray(groups[:, used]), label, sign, kind, weight)


def _beat_groups(spec: ModelSpec, since: np.ndarray, p: np.ndarray) -> np.ndarray | None:
    near = np.abs(since) <= BEAT_REACH * spec.patch / spec.rate
    if not near.any():
        return None
    weight = np.where(near, 1.0 - p[:, 0] + 1e-3, 0.0).astype(np.float32)
    return (weight / weight.sum())[None]


def _alarm_groups(since: np.ndarray, q: np.ndarray, kind: str) -> np.ndarray | None:
    """Return a row for each run of ALARM_TOKENS tokens that matters, by its evidence ``q`` (n,)."""
    low, high = MISSED_REACH if kind == 'missed' else ALARM_REACH
    near = np.flatnonzero((since >= low) & (since <= high))
    starts = near[:len(near) - ALARM_TOKENS + 1]
    if len(starts) == 0:
        return None
    mean = np.array([q[i:i + ALARM_TOKENS].mean() for i in starts])
    order = starts[np.argsort(-mean)]
    chosen = order[:RISING]
    if kind == 'rejected':
        chosen = order[:max(int((mean >= DOUBT).sum()), RISING)]
    groups = np.zeros((len(chosen), len(since)), np.float32)
    for row, start in enumerate(chosen):
        groups[row, start:start + ALARM_TOKENS] = 1.0 / ALARM_TOKENS
    return groups
