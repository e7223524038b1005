"""An engine made of plain rules, good enough for synthetic recordings: tests need no training."""

from dataclasses import dataclass

import numpy as np

from taolora_ros.engine import Scores
from taolora_ros.evaluation.detection import Candidate, changed_settings
from taolora_ros.spec import SPECS
from taolora_ros.trained_on import TrainedOn

SURE = 0.98


class RuleEngine:
    """A fall is a hit after which gravity points elsewhere; a beat is a peak, a broad one a VEB."""

    name, device, changes = 'rules', 'cpu', 0

    def __init__(self, spec):
        self.spec = spec

    def run(self, windows, gates):
        b, t = gates.shape
        probability = np.full((b, t, len(self.spec.classes)), 0.0, np.float32)
        probability[..., 0] = 1.0
        offset = np.full((b, t), 0.5, np.float32)
        mark = self._falls if self.spec.kind == 'imu' else self._beats
        for i in range(b):
            mark(windows[i].astype(float), probability[i], offset[i])
        return Scores(probability, offset, np.zeros((b, windows.shape[2]), np.float32))

    def _falls(self, window, probability, offset):
        tokens = window.reshape(-1, self.spec.patch, 8)
        acc = tokens[..., :3].mean(1)  # (T, 3) in g
        hit = tokens[..., 3].max(1) > 1.0
        for i in np.flatnonzero(hit):
            before, after = acc[max(i - 25, 0):max(i - 12, 1)].mean(0), acc[i + 10:i + 18]
            if len(after) < 8:
                continue
            after = after.mean(0)
            cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
            if cosine < 0.7:
                near = slice(max(i - 2, 0), i + 3)
                probability[near] = [1 - SURE, SURE]

    def _beats(self, window, probability, offset):
        size = np.abs(window[:, 0])
        reach = round(0.2 * self.spec.rate)
        for i in np.flatnonzero(size > 0.45):
            if size[i] < size[max(i - reach, 0):i + reach + 1].max():
                continue
            width = (size[max(i - 6, 0):i + 7] > size[i] / 2).sum() / self.spec.rate
            kind = 'V' if width > 0.055 else 'N'
            probability[i // self.spec.patch] = 0.0
            probability[i // self.spec.patch, [0, self.spec.classes.index(kind)]] = 1 - SURE, SURE
            offset[i // self.spec.patch] = (i % self.spec.patch + 0.5) / self.spec.patch


@dataclass(frozen=True)
class RuleCandidate(Candidate):
    """The rules in place of a model file; can be sent to worker processes."""

    kind: str = 'imu'
    trained_on: TrainedOn = TrainedOn()

    def load(self):
        spec = SPECS[self.kind]
        return spec, RuleEngine(spec), changed_settings(spec, self.settings)

    def describe(self):
        return {'name': 'rules', 'kind': self.kind, 'trained_on': self.trained_on}
