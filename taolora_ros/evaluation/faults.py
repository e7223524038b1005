"""Faults to inject into recordings: what goes wrong with sensors, as it looks in the samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

GAIN = 1.5            # times
VIBRATION = 1.5, 12.0  # amplitude in m/s^2 and frequency in Hz: a motor mount that came loose
HUM = 0.2, 50.0       # mV and Hz
LEAD_NOISE = 0.005    # mV: an input with nothing connected to it
LEAD_RAIL = 5.0       # mV


@dataclass(frozen=True)
class Fault:
    """A fault of one of ``channels``; ``change(signal (n,), t (n,) s, rng)`` returns the faulty
    signal from its start at t = 0; ``signal[0]`` is the last good sample, where t < 0.
    """

    name: str
    kind: str
    channels: tuple[str, ...]
    change: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _stuck(signal, t, rng):
    return np.full(len(signal), signal[0])


def _gain(signal, t, rng):
    return signal * GAIN


def _half(signal, t, rng):
    return signal / 2


def _vibration(signal, t, rng):
    return signal + VIBRATION[0] * np.sin(2 * np.pi * VIBRATION[1] * t)


def _lead_off(signal, t, rng):
    return rng.normal(0, LEAD_NOISE, len(signal))


def _rail(signal, t, rng):
    return np.full(len(signal), LEAD_RAIL)


def _hum(signal, t, rng):
    return signal + HUM[0] * np.sin(2 * np.pi * HUM[1] * t)


_ACC, _GYRO = ('acc_x', 'acc_y', 'acc_z'), ('gyro_x', 'gyro_y', 'gyro_z')
FAULTS = (
    Fault('accelerometer axis stuck', 'imu', _ACC, _stuck),
    Fault('gyroscope axis stuck', 'imu', _GYRO, _stuck),
    Fault(f'gain of an axis x {GAIN}', 'imu', _ACC, _gain),
    Fault(f'vibration {VIBRATION[0]} m/s^2, {VIBRATION[1]:g} Hz', 'imu', _ACC, _vibration),
    Fault('lead off, input floats', 'ecg', ('ecg',), _lead_off),
    Fault('lead off, input at the rail', 'ecg', ('ecg',), _rail),
    Fault(f'mains hum {HUM[0]} mV, {HUM[1]:g} Hz', 'ecg', ('ecg',), _hum),
    Fault(f'gain x {GAIN}', 'ecg', ('ecg',), _gain),
    Fault('gain x 0.5', 'ecg', ('ecg',), _half))


def inject(fault: Fault, column: int, stamps: np.ndarray, values: np.ndarray, start_ns: int,
           rng: np.random.Generator) -> np.ndarray:
    """Return ``values`` (N, C) with ``fault`` in ``column`` from ``start_ns`` to the end."""
    faulty = values.copy()
    first = int(np.searchsorted(stamps, start_ns))
    t = (stamps[max(first - 1, 0):] - start_ns) / 1e9  # from the last good sample on
    signal = fault.change(values[max(first - 1, 0):, column], t, rng)
    faulty[first:, column] = signal[min(first, 1):]
    return faulty
