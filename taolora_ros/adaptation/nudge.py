"""The first answer to a feedback: one momentum step of the micro tier, in microseconds.

    x  (D + 1,)  the token that speaks most for the event     S  second moment of the reference
    g  (K,)      gradient in its logits, see signal.py

    x' = S^-1 x / (x S^-1 x)      moves x by one and the reference's tokens least
    A_m, B_m: a step of ``shift`` along the gradients at x', see lora.py

A plain step along x would move whatever tokens have in common, and so all of them. A rank whose
row of B_m is still zero is aimed at x' first: the logits of x then move by shift g, and by what
the other ranks can say of g. No guard has been asked yet: that is for the solving that takes the
place of this step, so ``shift`` is to be small.
"""

from __future__ import annotations

import numpy as np

from taolora_ros.adaptation.examples import Example, softmax
from taolora_ros.adaptation.lora import AdaptedLayer
from taolora_ros.adaptation.objective import Objective
from taolora_ros.adaptation.signal import Signal


def nudge(layer: AdaptedLayer, objective: Objective, example: Example, shift: float) -> None:
    """Move the micro tier of ``layer`` a little to where ``example`` asks for."""
    x, frozen = loudest(objective, example)
    p = softmax((frozen + layer.forward(x))[None])[0]
    told = signal_of(example, objective.evidence[example.label], x, p)
    toward = objective.inverse @ x
    toward /= float(x @ toward)
    layer.aim(toward)
    layer.learn(toward, told.gradient(), told.step(shift), told.weight * example.weight)


def loudest(objective: Objective, example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Return input (D + 1,) and frozen logits (K,) of the token that counts most for an event."""
    says = softmax(example.frozen) @ objective.evidence[example.label]            # (n,)
    group = example.groups[np.argmax(example.groups @ says)]
    token = int(np.argmax(group * says))
    return example.x[token], example.frozen[token]


def signal_of(example: Example, evidence: np.ndarray, x: np.ndarray, p: np.ndarray) -> Signal:
    """Return the signal of an example at one token; ``evidence`` (K,) is its label's."""
    named = int(np.argmax(p * (evidence > 0.0)))  # the class by which the event has its label
    if example.sign < 0:
        return Signal(x, p, named, correct=False)
    return Signal(x, p, int(np.argmax(p)), label=named)
