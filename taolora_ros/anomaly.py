"""How unusual a stream is, channel by channel, in units of what is usual for it.

Two things are looked at. The network rebuilds each window, and its error says whether the shape
of the signal is one it knows. It is blind to what is easy to rebuild, a constant above all, and
to what it was never shown, so the newest quarter of each window is also measured, per channel::

    level      the mean                                 a lead at its rail, an offset, a gain
    variance   of the samples, in nats (log)            a stuck axis, a lead that came off
    bend       the mean square second difference, log   vibration, mains hum, a loose contact

and the latter two once more beside the mean of all channels: who walks moves every axis, a fault
moves one. ``calibrate`` takes the last minutes as usual and keeps the range of each measure in
them, with some room. A measure scores its distance from the middle of its range in units of half
the range, so 1 is the edge. A channel scores the worst of its measures and of the network's error.

The score is the smallest of the last ``SUSTAIN`` seconds: a fault stays, a stumble passes. Until
calibrated, the network's error alone counts, in the model's own units. What this finds, how soon
and at how many false alarms is measured by ``taolora evaluate anomalies``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from taolora_ros.decode import Anomaly
from taolora_ros.features import feature_names
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import ModelSpec

# Chosen on the recordings that evaluation/anomalies.py names in CHOSEN_ON, and judged on others.
RECENT = 300.0    # s of windows that are kept to calibrate on
ENOUGH = 10.0     # s of windows that calibrating needs
SPACING = 0.25    # s: windows closer than this tell nothing new; bounds memory and work
SUSTAIN = 3.0     # s for which a score has to last
TAIL = 0.005      # share of the recent windows beyond each end of the usual range ...
ROOM = 0.1        # ... which is widened at both ends by this share of its width, at least by:
LEVEL_ROOM = {'imu': 0.1, 'ecg': 0.2}  # g (turn rate: 0.4 rad/s) and mV
LOG_ROOM = 0.7    # nats: twice the energy
FLOOR = 0.25      # of the model's own scale: silence does not make everything else an anomaly
NOTHING = 1e-7    # features squared: an energy below this is none
MOST = 1e6        # a score that is not finite, or larger, reads so


def measured(spec: ModelSpec, features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return which samples to measure: an ECG's filter would hide what is wrong with a lead."""
    return features if spec.kind == 'imu' else values


def statistics(samples: np.ndarray) -> np.ndarray:
    """Return level, variance and bend (3, F) of samples (n, F), n >= 3; the latter two as logs."""
    samples = np.asarray(samples, np.float64)
    level = samples.mean(0)
    apart = samples - level
    bend = samples[2:] - 2.0 * samples[1:-1] + samples[:-2]
    energy = np.stack([np.einsum('nf,nf->f', apart, apart) / len(apart),
                       np.einsum('nf,nf->f', bend, bend) / len(bend)])
    return np.concatenate([level[None], np.log(energy + NOTHING)])


def _measures(stats: np.ndarray) -> np.ndarray:
    """Append the logs beside their mean over the channels: (..., 3, F) -> (..., 5, F)."""
    logs = stats[..., 1:, :]
    return np.concatenate([stats, logs - logs.mean(-1, keepdims=True)], axis=-2)


@dataclass(frozen=True)
class Usual:
    """What is usual for a stream: ``scale`` (F,) of the network's error, and for each measure
    the ``middle`` (5, F) and half the width ``half`` (5, F) of its range; None until calibrated.
    """

    scale: np.ndarray
    middle: np.ndarray | None = None
    half: np.ndarray | None = None

    def judge(self, errors: np.ndarray, stats: np.ndarray | None) -> np.ndarray:
        """Return the score (F,) of a window by the network's errors (F,) and its statistics."""
        scores = errors / self.scale
        if stats is None or self.middle is None:
            return scores
        apart = np.abs(_measures(stats) - self.middle) / self.half  # (5, F)
        return np.maximum(scores, apart.max(0))

    @staticmethod
    def of(kind: str, errors: np.ndarray, stats: np.ndarray | None) -> 'Usual':
        """Return what is usual in n windows: errors (n, F) and statistics (n, 3, F)."""
        scale = np.maximum((1.0 + ROOM) * np.quantile(errors, 1.0 - TAIL, axis=0), FLOOR)
        if stats is None:
            return Usual(scale)
        low, high = np.quantile(_measures(stats), [TAIL, 1.0 - TAIL], axis=0)  # (5, F) each
        least = np.array([LEVEL_ROOM[kind]] + [LOG_ROOM] * 4)[:, None]
        room = np.maximum(ROOM * (high - low), least)
        return Usual(scale, (low + high) / 2, (high - low) / 2 + room)


class AnomalyMonitor:
    """Report windows over the threshold, and the first one after them."""

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        self.names = feature_names(spec)
        self.usual = Usual(np.ones(len(self.names)))
        self.scores = np.zeros(len(self.names))  # (F,) of the newest window
        self._length_ns = round(spec.window * NANOSECONDS / spec.rate)
        self._recent: deque[tuple] = deque()  # (window end in ns, errors (F,), statistics)
        self._lasting: deque[tuple[int, np.ndarray]] = deque()  # (window end in ns, scores (F,))
        self._newest: int | None = None
        self._anomalous = False

    def push(self, stamp_ns: int, errors: np.ndarray, threshold: float,
             stats: np.ndarray | None = None) -> list[Anomaly]:
        """Take errors (F,) and ``statistics`` (3, F) of the window that ends at ``stamp_ns``."""
        if stamp_ns == self._newest:
            return []  # the last window of a segment may come twice
        if self._newest is not None and stamp_ns < self._newest:
            self._recent.clear()  # the clock was set back
            self._lasting.clear()
        self._newest = stamp_ns
        errors = np.nan_to_num(np.asarray(errors, np.float64), nan=MOST, posinf=MOST)
        errors = np.minimum(errors, MOST)
        _append(self._recent, (stamp_ns, errors, stats))
        while stamp_ns - self._recent[0][0] > RECENT * NANOSECONDS:
            self._recent.popleft()
        scores = self._sustained(stamp_ns, np.minimum(self.usual.judge(errors, stats), MOST))
        self.scores = scores
        score, before = float(scores.max()), self._anomalous
        self._anomalous = score >= threshold
        if not (self._anomalous or before):
            return []
        by_channel = dict(zip(self.names, scores.tolist()))
        return [Anomaly(stamp_ns, stamp_ns - self._length_ns, stamp_ns, score, threshold,
                        self._anomalous, by_channel, _reason(by_channel, threshold))]

    def _sustained(self, stamp_ns: int, scores: np.ndarray) -> np.ndarray:
        """Return the smallest scores (F,) of the last ``SUSTAIN`` seconds, 0 until known."""
        lasting, since = self._lasting, stamp_ns - SUSTAIN * NANOSECONDS
        if lasting and stamp_ns - lasting[-1][0] > self._length_ns:
            lasting.clear()  # nobody knows what was between
        while len(lasting) > 1 and lasting[1][0] <= since:
            lasting.popleft()
        smallest = np.minimum.reduce([*(entry[1] for entry in lasting), scores])
        known = bool(lasting) and lasting[0][0] <= since
        _append(lasting, (stamp_ns, scores))
        return smallest if known else np.zeros_like(scores)

    def calibrate(self) -> None:
        """Let the recent windows be usual; raise ValueError when there are too few."""
        seconds = 0.0
        if self._recent:
            seconds = (self._recent[-1][0] - self._recent[0][0]) / NANOSECONDS
        if seconds < ENOUGH:
            raise ValueError(f'calibrate: windows of the last {seconds:.1f} s are known, '
                             f'{ENOUGH:g} s are needed')
        errors = np.array([errors for _, errors, _ in self._recent])  # (n, F)
        stats = [stats for *_, stats in self._recent if stats is not None]
        self.usual = Usual.of(self.spec.kind, errors, np.array(stats) if stats else None)
        self._lasting.clear()  # scores in other units


def _reason(scores: dict[str, float], threshold: float) -> str:
    """Name the channels from ``threshold`` on, worst first."""
    worst = sorted((name for name in scores if scores[name] >= threshold), key=scores.get)[::-1]
    return f'unlike what is usual: {", ".join(worst)}' if worst else ''


def _append(entries: deque, entry: tuple) -> None:
    """Append ``entry`` (stamp in ns, ...) unless it is closer than ``SPACING`` to the last."""
    if not entries or entry[0] - entries[-1][0] >= SPACING * NANOSECONDS:
        entries.append(entry)
