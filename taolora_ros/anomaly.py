"""How unusual each window is, in units of what is usual for this stream."""

from __future__ import annotations

from collections import deque

import numpy as np

from taolora_ros.decode import Anomaly
from taolora_ros.features import feature_names
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import ModelSpec

RECENT = 60.0    # s of windows that are kept to calibrate on
ENOUGH = 10.0    # s of windows that calibrating needs
USUAL = 0.99     # share of the recent windows that lie below 1 once calibrated ...
MARGIN = 1.05    # ... with some room
FLOOR = 0.25     # of the model's own scale: silence does not make everything else an anomaly


class AnomalyMonitor:
    """Report windows over the threshold, and the first one after them."""

    def __init__(self, spec: ModelSpec):
        self.names = feature_names(spec)
        self.scale = np.ones(len(self.names))  # (F,) in units of the model's own scale
        self._length_ns = round(spec.window * NANOSECONDS / spec.rate)
        self._recent: deque[tuple[int, np.ndarray]] = deque()  # window end in ns, scores (F,)
        self._anomalous = False

    def push(self, stamp_ns: int, scores: np.ndarray, threshold: float) -> list[Anomaly]:
        """Take the scores (F,) of the window that ends at ``stamp_ns``."""
        if self._recent and stamp_ns == self._recent[-1][0]:
            return []  # the last window of a segment may come twice
        if self._recent and stamp_ns < self._recent[-1][0]:
            self._recent.clear()  # the clock was set back
        self._recent.append((stamp_ns, np.asarray(scores, np.float64)))
        while stamp_ns - self._recent[0][0] > RECENT * NANOSECONDS:
            self._recent.popleft()
        relative = self._recent[-1][1] / self.scale
        score, before = float(relative.max()), self._anomalous
        self._anomalous = score >= threshold
        if not (self._anomalous or before):
            return []
        return [Anomaly(stamp_ns, stamp_ns - self._length_ns, stamp_ns, score, threshold,
                        self._anomalous, dict(zip(self.names, relative.tolist())))]

    def calibrate(self) -> None:
        """Let the recent windows be normal; raise ValueError when there are too few."""
        seconds = 0.0
        if self._recent:
            seconds = (self._recent[-1][0] - self._recent[0][0]) / NANOSECONDS
        if seconds < ENOUGH:
            raise ValueError(f'calibrate: windows of the last {seconds:.1f} s are known, '
                             f'{ENOUGH:g} s are needed')
        scores = np.array([scores for _, scores in self._recent])  # (n, F)
        self.scale = np.maximum(MARGIN * np.quantile(scores, USUAL, axis=0), FLOOR)
