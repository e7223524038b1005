"""The same heart or body measured another way: polarity, rate, place, range, what is missing."""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly
from scipy.spatial.transform import Rotation

from taolora_ros.arrival_clock import ArrivalClock
from taolora_ros.features import GRAVITY
from taolora_ros.recordings import Recording
from taolora_ros.samples import NANOSECONDS

MOST = 1000           # denominator of the ratio of two rates
BURST_STEP = 1e-3     # s between the stamps of a burst


@dataclass(frozen=True)
class Change:
    """How a recording is changed: its ``rate`` (Hz, None: as recorded), and by kind.

    An ECG's lead is multiplied by ``sign``. An IMU is ``turned`` as a whole, another way for each
    recording, meets a ``rail`` (g) in each axis, loses its ``gyro``, or its samples are stamped
    when they arrive, those of ``burst`` seconds at once; stamps are ``evened`` out as by the
    node's parameter ``stamps: arrival``.
    """

    name: str
    sign: float = 1.0
    rate: float | None = None
    turned: bool = False
    rail: float = np.inf
    gyro: bool = True
    burst: float = 0.0
    evened: bool = False


CHANGES = {
    'ecg': (Change('as recorded, 360 Hz'), Change('turned over', sign=-1.0),
            *(Change(f'{rate} Hz', rate=float(rate)) for rate in (125, 250, 500))),
    'imu': (Change('as recorded'), Change('acceleration only', gyro=False),
            Change('turned at random', turned=True),
            Change('turned, acceleration only', turned=True, gyro=False),
            *(Change(f'range of {rail} g', rail=float(rail)) for rail in (4, 16)),
            *(Change(f'{rate} Hz', rate=float(rate)) for rate in (40, 50, 100, 200)),
            Change('in bursts of 0.1 s', burst=0.1),
            Change('in bursts of 0.1 s, evened out', burst=0.1, evened=True),
            Change('as an old phone: turned, acceleration only, 2 g', turned=True, gyro=False,
                   rail=2.0))}


def changed(recording: Recording, change: Change) -> Recording:
    """Return the signal of ``recording`` that a model reads, changed.

    Of an ECG that is one lead. Another rate is reached by polyphase filtering; what is annotated
    stays where it is in time.
    """
    parts = {}
    if recording.kind == 'ecg':
        column = recording.lead()
        parts['leads'] = (recording.leads[column],)
        values = change.sign * recording.values[:, [column]]
    else:
        values = _measured(recording, change)
    rate = change.rate or recording.rate
    if rate != recording.rate:
        ratio = Fraction(rate / recording.rate).limit_denominator(MOST)
        rest = np.median(values, axis=0)  # the filter takes what lies beyond the ends for zero
        values = resample_poly(values - rest, ratio.numerator, ratio.denominator) + rest
    stamps = recording.stamps if rate == recording.rate else None
    if change.burst:
        stamps = burst_stamps(len(values), rate, round(change.burst * rate))
    if change.evened:
        clock = ArrivalClock()
        stamps = np.array([clock.place(int(stamp)) for stamp in stamps])
    return dataclasses.replace(recording, values=values, rate=rate, stamps=stamps, **parts)


def _measured(recording: Recording, change: Change) -> np.ndarray:
    """Return acceleration and turn rate (N, 6) as a sensor would that ``change`` describes."""
    acc, gyro = recording.values[:, :3], recording.values[:, 3:]
    if change.turned:
        seed = zlib.crc32(recording.name.encode())
        turn = Rotation.random(random_state=np.random.default_rng(seed)).as_matrix()
        acc, gyro = acc @ turn, gyro @ turn
    acc = acc.clip(-change.rail * GRAVITY, change.rail * GRAVITY)
    return np.hstack([acc, gyro if change.gyro else np.full(gyro.shape, np.nan)])


def burst_stamps(count: int, rate: float, burst: int) -> np.ndarray:
    """Return stamps (count,) of samples that arrive ``burst`` at a time, with the last of them."""
    index = np.arange(count)
    last = index // burst * burst + burst - 1
    times = (last + 1) / rate - (last - index) * BURST_STEP
    return np.round(times * NANOSECONDS).astype(np.int64)
