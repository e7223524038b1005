"""An engine that needs no model, recordings with events for it, and what a detector finds there."""

import numpy as np
import pytest

from taolora_ros.decode import START
from taolora_ros.detector import Detector, Event
from taolora_ros.engine import Scores
from taolora_ros.samples import Samples
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

START_NS = 1_700_000_000_000_000_000
SECOND = 10**9
SPECS = pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS], ids=lambda spec: spec.kind)


class Peaks:
    """An engine that calls strong acceleration a fall and steep ECG a beat, window by window."""

    name, device, changes = 'peaks', 'cpu', 0

    def __init__(self, spec):
        self.spec = spec

    def run(self, windows, gates):
        t, k = self.spec.tokens, len(self.spec.classes)
        out = Scores(probability=np.zeros((len(windows), t, k), np.float32),
                     offset=np.zeros((len(windows), t), np.float32),
                     anomaly=np.abs(windows).max(1) / 2)
        for b, window in enumerate(windows):
            size = np.abs(window[:, 3 if self.spec.kind == 'imu' else 0])
            if self.spec.kind == 'ecg':
                size = size / (5 * np.quantile(size, 0.75) + 1e-9)
            peak = size.reshape(t, -1).max(1)
            if self.spec.kind == 'imu':
                peak = np.convolve(peak, np.ones(7), 'same')  # a fall lasts
            sure = np.clip(peak - 2.5, 0.01, 0.99)
            out.probability[b, :, 0] = 1 - sure
            out.probability[b, :, 1:] = sure[:, None] / (k - 1)
            out.offset[b] = size.reshape(t, -1).argmax(1) / self.spec.patch
        return out


def recording(spec, seconds, rate=100.0, events=(), seed=0):
    """Return quiet samples with a pulse at each of ``events`` (s)."""
    rng = np.random.default_rng(seed)
    n = round(seconds * rate)
    values = rng.normal(size=(n, len(spec.channels))) * (0.02 if spec.kind == 'imu' else 0.002)
    t = np.arange(n) / rate
    for time in events:
        width = 0.15 if spec.kind == 'imu' else 0.015
        values[:, 0] += (40.0 if spec.kind == 'imu' else 1.5) * np.exp(-((t - time) / width)**2)
    if spec.kind == 'imu':
        values[:, 2] += 9.81
    return Samples.uniform(START_NS, rate, values)


def found(results, phase=START):
    return [(e.stamp_ns - START_NS) / 1e9 for e in results
            if isinstance(e, Event) and e.phase == phase]


def detect(spec, samples, cuts=(), settings=None, limit=None):
    detector, results = Detector(spec, Peaks(spec), settings, 'one'), []
    for stamps, values in zip(np.split(samples.stamps, cuts), np.split(samples.values, cuts)):
        if limit is None:
            results += detector.process(Samples(stamps, values))
        else:  # as the node does it
            detector.push(Samples(stamps, values))
            results += run(detector, limit)
    return results + detector.flush(), detector.counts


def run(detector, limit):
    windows = detector.due(limit)
    if not windows:
        return []
    scores = detector.engine.run(np.stack([w.features for w in windows]),
                                 np.stack([w.gate for w in windows]))
    return detector.absorb(windows, scores)
