"""The feedback that is kept to learn from again, and what waits to be learnt from."""

from __future__ import annotations

from collections import Counter, OrderedDict

import numpy as np

from taolora_ros.adaptation.examples import Example
from taolora_ros.adaptation.learner import known
from taolora_ros.adaptation.nudge import Nudges
from taolora_ros.adaptation.objective import Objective
from taolora_ros.samples import NANOSECONDS

SAME = {'ecg': 0.15, 'imu': 0.9}  # s between two reports of one missed event


class Replay:
    """Examples by key, the oldest first; not to be shared by threads without a lock.

    What waits has taken a step already, see nudge.py.

    ``centre`` (D + 1, K) is the change that remains of feedback that is not kept any more.
    """

    def __init__(self, objective: Objective, centre: np.ndarray):
        self.centre = centre
        self._nudges = Nudges(objective)
        self.waiting: OrderedDict[str, Example] = OrderedDict()
        self.kept: OrderedDict[str, Example] = OrderedDict()
        self._reach = SAME[objective.spec.kind] * NANOSECONDS

    def wait(self, key: str, example: Example, delta: np.ndarray) -> str:
        """Let an example wait, in the place of an earlier one of the same event; return its key.

        ``delta`` (D + 1, K) is what the head is changed by when it comes.
        """
        if example.kind == 'missed':
            key = self._same(example) or key
        self._nudges.take(key, example, delta)
        self.waiting.pop(key, None)
        self.waiting[key] = example
        return key

    def _same(self, example: Example) -> str | None:
        """Return the key of an earlier report of the same missed event, None when there is none."""
        return next((key for examples in (self.waiting, self.kept) for key, e in examples.items()
                     if e.kind == 'missed' and e.stream == example.stream
                     and abs(e.stamp_ns - example.stamp_ns) <= self._reach), None)

    def lean(self, shift: float, room: float) -> np.ndarray | None:
        """Return the change (D + 1, K) towards what waits and can be used, None for none.

        ``shift`` and ``room`` bound it, see nudge.py.
        """
        labels = known([*self.kept.values(), *self.waiting.values()])
        return self._nudges.lean(labels, shift, room)

    def with_one(self, key: str, example: Example) -> list[Example]:
        """Return what would be kept if an example was."""
        return [e for other, e in self.kept.items() if other != key] + [example]

    def settled(self, key: str, example: Example) -> None:
        """Let an example wait no longer; one that took its place meanwhile still does."""
        if self.waiting.get(key) is example:
            del self.waiting[key]
            self._nudges.drop(key)

    def let_go(self, delta: np.ndarray) -> None:
        """Let go of all that is kept; what remains of it is ``delta``. What waits still does."""
        self.kept.clear()
        self.centre = delta

    def keep(self, key: str, example: Example, most: int, delta: np.ndarray) -> None:
        """Keep an example, and let go of what is over ``most``; what it changed, ``delta``, stays.

        The last event of a label that was confirmed or missed is kept: nothing is learnt without.
        """
        self.kept.pop(key, None)
        self.kept[key] = example
        while len(self.kept) > most:
            true = Counter(e.label for e in self.kept.values() if e.sign > 0)
            oldest = next((name for name, e in self.kept.items()
                           if e.sign < 0 or true[e.label] > 1), next(iter(self.kept)))
            del self.kept[oldest]
            self.centre = delta
