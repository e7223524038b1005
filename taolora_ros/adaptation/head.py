"""The adapted head of a running engine: what its two tiers hold is what the engine decides with.

    delta  (D + 1, K)  change of weights and bias       settled  delta without what leans
    base   rank 8: exact for up to 8 classes            micro    rank 2

New weights are copied into the engine's between two windows; while ``active`` is false it decides
as it was shipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from taolora_ros.adaptation.examples import UNIT
from taolora_ros.adaptation.lora import AdaptedLayer
from taolora_ros.adaptation.objective import Objective
from taolora_ros.adaptation.targets import HEAD

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Engine

RANKS = 8, 2            # of base and micro: with up to 8 classes the base loses nothing
WEIGHTS = ('head.weight', 'head.bias')


class AdaptedHead:
    """The tiers, and the engine that decides with them; to be used by one thread at a time."""

    def __init__(self, engine: Engine, objective: Objective, frozen: dict[str, np.ndarray]):
        self.engine, self.objective, self.frozen = engine, objective, frozen
        self.active = False
        self._layer = AdaptedLayer(*objective.shape, *RANKS, alpha=RANKS[0], decay=0.0)
        self._measure()
        self.delta = self.settled

    def _measure(self) -> None:
        """Take what the tiers hold for what is settled; ``size`` is the objective's."""
        self.settled = self._layer.delta()
        self.size = self.objective.size(self.settled)

    def apply(self, active: bool) -> None:
        """Let the engine decide with what was learnt, or as it was shipped."""
        self.active = active
        self.engine.keeps_embedding = active
        self.engine.write_weights(adapted(self.frozen, self.delta) if active else self.frozen)

    def lean(self, change: np.ndarray | None) -> None:
        """Decide with what is settled, and a ``change`` (D + 1, K) beside it that is not kept."""
        self.delta = self.settled if change is None else self.settled + change
        if self.active:
            self.engine.write_weights(adapted(self.frozen, self.delta))

    def base(self) -> np.ndarray:
        """Return what the base changes (D + 1, K)."""
        r = RANKS[0]
        return self._layer.inputs[:r].T @ self._layer.outputs[:r]

    def settle(self, change: np.ndarray, share: float = 1.0) -> None:
        """Put ``share`` of a change that is ``nearest`` beside the base into the tiers.

        What it differs by goes into the micro tier; a share below 1 makes the base smaller, too.
        """
        state = self._layer.state()
        inputs, outputs = factors(change - self.base(), self.objective.moment)
        state['micro'] = np.concatenate([inputs, outputs], axis=1)
        state['counts'][0] += 1
        self._put(state, share)

    def shrink(self, share: float) -> None:
        """Keep only ``share`` of what is settled."""
        self._put(self._layer.state(), share)

    def _put(self, state: dict[str, np.ndarray], share: float) -> None:
        """Settle on ``share`` of what the tiers of a ``state`` hold."""
        state['base_b'] *= np.float32(share)
        state['micro'][:, :self._layer.in_features] *= np.float32(share)
        self._layer.load(state)
        self._measure()

    def consolidate(self) -> None:
        """Fold the micro tier into the base; what is settled stays the same."""
        self._layer.consolidate()
        self._measure()

    def reset(self) -> None:
        """Forget all: the engine decides as it was shipped, bit by bit."""
        self._layer.reset()
        self._measure()
        self.delta = self.settled
        self.engine.write_weights(self.frozen)

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """Return what is settled by layer, as checkpoints keep it."""
        return {HEAD: self._layer.state()}

    def load(self, layers: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Settle on a ``state``; raise ValueError, and change nothing, when it does not fit."""
        if set(layers) != {HEAD}:
            raise ValueError(f'adaptation: layers {sorted(layers)}, expected {[HEAD]}')
        self._layer.load(layers[HEAD])
        self._measure()


def nearest(delta: np.ndarray, base: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Return the change (D + 1, K) that the tiers can hold beside ``base``, nearest to ``delta``.

    Nearest in the metric ``moment`` (D + 1, D + 1): least in the mean square of logits.
    """
    inputs, outputs = factors(delta - base, moment)
    return base + inputs.T @ outputs


def factors(left: np.ndarray, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return A_m^T (q, D + 1) and B_m (q, K), whose product is nearest to ``left`` (D + 1, K)."""
    gram = left.T @ moment @ left                                     # (K, K), in logits
    outputs = np.linalg.eigh(gram)[1].T[::-1][:RANKS[1]]              # (q, K)
    return outputs @ left.T, outputs


def adapted(frozen: dict[str, np.ndarray], delta: np.ndarray) -> dict[str, np.ndarray]:
    """Return head weights (K + 1, D) and bias (K + 1,) with a change (D + 1, K) added."""
    weight, bias = (frozen[name].copy() for name in WEIGHTS)
    classes = delta.shape[1]
    weight[:classes] += delta[:-1].T
    bias[:classes] += np.float32(UNIT) * delta[-1]
    return dict(zip(WEIGHTS, (weight, bias)))
