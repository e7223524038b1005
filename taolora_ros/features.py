"""From uniform samples to what the network reads: causal filters and the steady scale.

The stateful half (``FeatureFilter``) runs once per sample and never looks ahead, so feeding a
recording in any chunks gives the same values. The stateless half (``normalise``) scales one
window by the running scale of the history that ends with it.
"""

from __future__ import annotations

import numpy as np
from scipy import signal

from taolora_ros.spec import ModelSpec

GRAVITY = 9.80665       # m/s^2 (CGPM 1901)
GYRO_SCALE = 4.0        # rad/s that become 1: keeps walking and falling within a few units
ECG_BAND = (0.5, 42.0)  # Hz: baseline wander below, muscle and mains noise above
ECG_CLIP = 5.0          # times the running scale
SCALE_BLOCK = 2.0       # s: every block of this length holds at least one beat above 30 bpm
SCALE_BLOCKS = 5        # blocks whose median maximum is the running scale
SCALE_FLOOR = 0.05      # mV: below this a lead is flat and is not blown up to full scale


def feature_names(spec: ModelSpec) -> tuple[str, ...]:
    """Return the names of the network's input features, F of them."""
    if spec.kind == 'imu':
        return ('acc_x', 'acc_y', 'acc_z', 'acc_norm', 'gyro_x', 'gyro_y', 'gyro_z', 'gyro_norm')
    return ('ecg',)


def history_length(spec: ModelSpec) -> int:
    """Return how many feature rows ``normalise`` wants to see, the window included."""
    if spec.kind == 'imu':
        return spec.window
    return max(spec.window, round(SCALE_BLOCK * SCALE_BLOCKS * spec.rate))


class FeatureFilter:
    """Turn uniform samples of one unbroken segment into feature rows, causally."""

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        if spec.kind == 'ecg':
            high = signal.butter(1, ECG_BAND[0], 'highpass', fs=spec.rate, output='sos')
            low = signal.butter(2, ECG_BAND[1], 'lowpass', fs=spec.rate, output='sos')
            self._sos = np.vstack([high, low])
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next sample starts a new segment."""
        self._state = None

    def push(self, values: np.ndarray) -> np.ndarray:
        """Filter ``values`` (n, C) in the spec's units; return features (n, F), float32.

        Optional channels that are NaN read as zero.
        """
        if self.spec.kind == 'imu':
            return imu_features(values)
        if len(values) == 0:
            return np.zeros((0, 1), np.float32)
        if self._state is None:  # start as if the first value had always been there
            self._state = signal.sosfilt_zi(self._sos)[:, :, None] * values[0][None, None, :]
        filtered, self._state = signal.sosfilt(self._sos, values, axis=0, zi=self._state)
        return filtered.astype(np.float32)


def imu_features(values: np.ndarray) -> np.ndarray:
    """Scale acceleration to g and turn rate to ``GYRO_SCALE``, and add their norms: (n, 8)."""
    acc = values[:, :3] / GRAVITY
    gyro = np.nan_to_num(values[:, 3:6]) / GYRO_SCALE
    acc_norm = np.linalg.norm(acc, axis=1, keepdims=True) - 1.0
    gyro_norm = np.linalg.norm(gyro, axis=1, keepdims=True)
    return np.hstack([acc, acc_norm, gyro, gyro_norm]).astype(np.float32)


def normalise(spec: ModelSpec, history: np.ndarray) -> np.ndarray:
    """Return the last window (L, F) of ``history`` (H, F) in units of the running scale.

    A history shorter than a window is padded in front with its first row, i.e. as if the
    signal had been steady before it began. Raise ValueError when it is empty.
    """
    if len(history) == 0:
        raise ValueError('history: 0 rows, at least 1 is needed')
    window = history[-spec.window:]
    if len(window) < spec.window:
        window = np.concatenate([np.repeat(window[:1], spec.window - len(window), 0), window])
    if spec.kind == 'imu':
        return window
    return np.clip(window / ecg_scale(spec, history[:, 0]), -ECG_CLIP, ECG_CLIP)


def trace(spec: ModelSpec, history: np.ndarray) -> np.ndarray:
    """Return the signal of ``history`` (H, F) that decoders read (H,).

    That is the norm of acceleration in g (IMU), or the filtered lead in mV (ECG).
    """
    if spec.kind == 'imu':
        return history[:, feature_names(spec).index('acc_norm')] + 1.0
    return history[:, 0]


def ecg_scale(spec: ModelSpec, history: np.ndarray) -> np.float32:
    """Return the running scale (mV) of ``history`` (H,): the median of its blocks' maxima.

    Blocks are counted back from the newest sample; an incomplete oldest block is left out
    unless it is the only one.
    """
    block = round(SCALE_BLOCK * spec.rate)
    count = min(max(len(history) // block, 1), SCALE_BLOCKS)
    used = np.abs(history[-count * block:])
    maxima = [used[max(len(used) - (i + 1) * block, 0):len(used) - i * block].max()
              for i in range(count)]
    return np.maximum(np.median(maxima), SCALE_FLOOR).astype(np.float32)
