"""What the raw samples of a stream say about its sensor: stuck, at a rail, off, missing.

Samples are kept until somebody asks, about once a second, so that intake pays next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taolora_ros.samples import NANOSECONDS, Samples
from taolora_ros.spec import ModelSpec
from taolora_ros.stream import usable_limits
from taolora_ros.timeline import GAP

KEPT = 2**18      # samples kept for the next question; older ones are let go
STUCK = 3.0       # s for which a channel does not change while others do
STILL = 10.0      # s for which nothing changes at all
LEAD_OFF = 0.05   # mV from lowest to highest: less than any heart beat ...
LEAD_TIME = 3.0   # s ... for so long
STEPS = 100       # smallest steps that a channel's range must hold for its ends to be rails
MOVING = 10       # smallest steps from lowest to highest that are movement
RAILED = 0.02     # part of the samples at a rail from which it is said
LEAST = 15        # steps from one stamp to the next from which something is said of them
BURST = 0.25      # a step shorter than this part of the mean one is one inside a burst
RUN = 5           # samples in a row at an end of the range that are a rail and not chance


@dataclass
class Channel:
    """What is known of one channel; ``flat`` and ``quiet`` in s, ``railed`` 0 to 1."""

    name: str
    last: float = np.nan
    low: float = np.inf
    high: float = -np.inf
    step: float = np.inf      # smallest change seen: the sensor's resolution
    flat: float = 0.0         # exactly the same value
    quiet: float = 0.0        # within LEAD_OFF
    moving: bool = False
    railed: float = 0.0

    def look(self, values: np.ndarray, seconds: float) -> None:
        """Take the newest values (n,), n >= 1 and finite, of so many seconds."""
        steps = np.abs(np.diff(values, prepend=values[0] if np.isnan(self.last) else self.last))
        changes = np.flatnonzero(steps)
        if changes.size:
            self.flat = seconds * (len(values) - 1 - changes[-1]) / len(values)
            self.step = min(self.step, float(steps[changes].min()))
        else:
            self.flat += seconds
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.quiet = self.quiet + seconds if high - low < LEAD_OFF else 0.0
        self.moving = high - low >= MOVING * self.step
        self.last = float(values[-1])
        self.railed = 0.0
        if self.high - self.low >= STEPS * self.step:
            self.railed = float(_in_runs(values == self.low) + _in_runs(values == self.high)
                                ) / len(values)


@dataclass(frozen=True)
class Report:
    """What was seen since the last report: ``missing`` is the part of values that were not
    numbers, ``railed`` the largest part of a channel at its lowest or highest value ever,
    ``bunched`` the part of the steps between stamps that lie inside bursts, ``problems`` what is
    wrong, in words.
    """

    samples: int
    missing: float
    bunched: float
    railed: float
    flat: tuple[str, ...]
    problems: tuple[str, ...]


class Health:
    """Watch one stream; ``last_stamp`` (ns) and ``skew`` (s, arrival minus stamp) are its newest.

    ``push`` and ``take`` belong into the same lock, ``judge`` needs none.
    """

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        self.last_stamp = 0
        self.skew = 0.0
        self._limits = usable_limits(spec)
        self._channels = [Channel(name) for name in spec.channels]
        self._kept: list[Samples] = []
        self._count = 0

    def push(self, samples: Samples, arrival: int) -> None:
        """Take samples whose last message came at ``arrival`` (ns)."""
        if not len(samples):
            return
        self.last_stamp = int(samples.stamps[-1])
        self.skew = (arrival - self.last_stamp) / NANOSECONDS
        self._kept.append(samples)
        self._count += len(samples)
        while self._count > KEPT and len(self._kept) > 1:
            self._count -= len(self._kept.pop(0))

    def take(self) -> list[Samples]:
        """Return what was kept, and keep it no longer."""
        kept, self._kept, self._count = self._kept, [], 0
        return kept

    def judge(self, kept: list[Samples], seconds: float) -> Report:
        """Look at what was kept in the last ``seconds``."""
        if not kept:
            return Report(0, 0.0, 0.0, 0.0, (), ())
        values = np.concatenate([samples.values for samples in kept])  # (n, C)
        good = np.abs(values) <= self._limits  # False for NaN too
        for channel, column, usable in zip(self._channels, values.T, good.T):
            if usable.any():
                channel.look(column[usable], seconds)
        problems = self._stuck()
        railed = max(self._channels, key=lambda channel: channel.railed)
        if railed.railed >= RAILED:
            problems.append(f'{railed.name} at the end of its range ({railed.low:.4g} or '
                            f'{railed.high:.4g}) for {100 * railed.railed:.0f} % of the time')
        flat = tuple(channel.name for channel in self._channels if channel.flat >= STUCK)
        bunched = _bunched(np.concatenate([samples.stamps for samples in kept]))
        return Report(len(values), float(np.isnan(values).mean()), bunched, railed.railed, flat,
                      tuple(problems))

    def _stuck(self) -> list[str]:
        """Name the channels that do not change though they should."""
        channels = [channel for channel in self._channels if not np.isnan(channel.last)]
        quiet = min((channel.quiet for channel in channels), default=0.0)
        if self.spec.kind == 'ecg' and quiet >= LEAD_TIME:
            return [f'flat line or lead off for {quiet:.0f} s']
        still = min((channel.flat for channel in channels), default=0.0)
        if still >= STILL:
            return [f'nothing has changed for {still:.0f} s']
        if not any(channel.moving for channel in channels):
            return []
        return [f'{channel.name} stuck at {channel.last:.4g} for {channel.flat:.0f} s'
                for channel in channels if channel.flat >= STUCK]


def _bunched(stamps: np.ndarray) -> float:
    """Return the part of the steps between ``stamps`` (n,) ns that are far below their mean."""
    steps = np.diff(stamps)
    steps = steps[np.abs(steps) <= GAP]  # longer ones are gaps or jumps
    return float((steps < BURST * steps.mean()).mean()) if len(steps) >= LEAST else 0.0


def _in_runs(hit: np.ndarray) -> int:
    """Count the elements of ``hit`` (n,) that lie in runs of RUN or more."""
    edges = np.flatnonzero(np.diff(hit, prepend=False, append=False))
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths >= RUN].sum())
