"""The transient detector: which tokens need the high-precision path (METHOD section 4).

Per patch and feature channel three statistics are taken: the variance in the patch, the energy
of the second difference, and the energy above a cut-off. Each is compared with its own running
steady scale, so a threshold says how many times steady. Any statistic over its threshold opens
the gate; it closes when all are below half of theirs.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import signal

from taolora_ros.features import feature_names
from taolora_ros.spec import GateSpec, ModelSpec

HYSTERESIS = 0.5  # an open gate closes below this share of the thresholds
STEP = 2.0        # nats: a patch far off the steady scale pulls it no more than this
MOSTLY = 0.5      # open for more than this share of the time: what was a transient is steady


class Gate:
    """Open or closed, patch by patch, on the features of one segment.

    Patch p holds the segment's samples [p * patch, (p + 1) * patch). ``thresholds`` may be
    assigned at any time and hold from the next patch on. Any chunking of the features gives the
    same flags; the cost per sample does not depend on any window.
    """

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        self.thresholds = spec.gate
        self._memory = spec.gate.memory * spec.rate / spec.patch  # patches
        self._channels = len(feature_names(spec))
        self._highpass = signal.butter(2, spec.gate.cutoff, 'highpass', fs=spec.rate, output='sos')
        self.reset()

    @property
    def thresholds(self) -> GateSpec:
        """Return the thresholds in force."""
        return self._thresholds

    @thresholds.setter
    def thresholds(self, gate: GateSpec) -> None:
        """Take variance, curvature and hf_energy of ``gate``."""
        self._thresholds = dataclasses.replace(
            self.spec.gate, variance=gate.variance, curvature=gate.curvature,
            hf_energy=gate.hf_energy)
        per_statistic = [gate.variance, gate.curvature, gate.hf_energy]
        self._opening = np.log(np.repeat(per_statistic, len(feature_names(self.spec))))
        self._closing = self._opening + np.log(HYSTERESIS)

    def reset(self) -> None:
        """Forget the past: a new segment starts, its steady scale is not known."""
        self._rows = np.zeros((0, self._channels))  # of the patch in progress
        self._tail = None       # (2, F) the two rows before them, for the second difference
        self._state = None      # of the high-pass filter
        self._steady = None     # (3F,) log of the steady scales
        self._patches = 0       # that shaped the steady scale
        self._open = False
        self._share = 0.0       # of recent patches that were open

    def push(self, features: np.ndarray) -> np.ndarray:
        """Take features (n, F); return one flag for every patch they complete, (p,) bool."""
        rows = np.concatenate([self._rows, features])
        whole = len(rows) // self.spec.patch * self.spec.patch
        self._rows = rows[whole:]
        if whole == 0:
            return np.zeros(0, bool)
        energies = self._energies(rows[:whole])
        floor = self.spec.gate.floor ** 2
        return np.array([self._judge(row) for row in np.log(energies + floor)])

    def _energies(self, features: np.ndarray) -> np.ndarray:
        """Return the statistics (p, 3F) of whole patches of features, mean squares each."""
        if self._tail is None:  # as if the first row had always been there
            self._tail = np.repeat(features[:1], 2, axis=0)
            self._state = signal.sosfilt_zi(self._highpass)[:, :, None] * features[0]
        rows = np.concatenate([self._tail, features])  # (n + 2, F)
        self._tail = rows[-2:]
        bend = rows[2:] - 2.0 * rows[1:-1] + rows[:-2]
        high, self._state = signal.sosfilt(self._highpass, features, axis=0, zi=self._state)
        terms = np.stack([features, bend, high], axis=1)  # (n, 3, F)
        terms = terms.reshape(-1, self.spec.patch, 3, self._channels)
        terms[:, :, 0] -= (_sum(terms[:, :, 0]) / self.spec.patch)[:, None]
        return (_sum(terms * terms) / self.spec.patch).reshape(-1, 3 * self._channels)

    def _judge(self, row: np.ndarray) -> bool:
        """Judge one patch by its log statistics (3F,) and move the steady scale."""
        if self._steady is None:
            self._steady = row.copy()
        over = row - self._steady
        limit = self._closing if self._open else self._opening
        self._open = bool((over >= limit).any())
        self._share += (self._open - self._share) / self._memory
        if not self._open or self._share > MOSTLY:
            self._patches += 1
            step = max(1.0 / self._memory, 1.0 / (1 + self._patches))
            self._steady += step * np.clip(over, -STEP, STEP)
        return self._open


def _sum(terms: np.ndarray) -> np.ndarray:
    """Sum (p, patch, ...) over the patch in one fixed order, whatever p is."""
    total = terms[:, 0].copy()
    for i in range(1, terms.shape[1]):
        total += terms[:, i]
    return total


def gate_flags(spec: ModelSpec, features: np.ndarray) -> np.ndarray:
    """Return the flags (n // patch,) of a whole segment's features (n, F)."""
    return Gate(spec).push(features)


def dilate(flags: np.ndarray, by: int) -> np.ndarray:
    """Open the ``by`` neighbours on each side of every open flag, (T,) -> (T,)."""
    wide = flags.copy()
    for shift in range(1, by + 1):
        wide[shift:] |= flags[:-shift]
        wide[:-shift] |= flags[shift:]
    return wide


def token_flags(spec: ModelSpec, flags: np.ndarray, first: int, end: int) -> np.ndarray:
    """Return the gate (T,) of the window of ``spec.window`` samples that ends before ``end``.

    ``flags`` are those of patches ``first``, ``first + 1`` and on. A token is open when a patch
    it overlaps is, and so are its neighbours. Patches that ``end`` cuts and those before the
    segment's start count as closed.
    """
    base, cut = divmod(end - spec.window, spec.patch)  # the patch in which the window begins
    before = max(-base, 0)
    known = flags[max(base - first, 0):max(end // spec.patch - first, 0)]
    patches = np.zeros(spec.tokens + 1, bool)
    patches[before:before + len(known)] = known
    tokens = patches[:-1] | patches[1:] if cut else patches[:-1]
    return dilate(tokens, spec.gate.dilation)
