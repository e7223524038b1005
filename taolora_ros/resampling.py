"""From samples at any times to a uniform rate: box means of the straight-line interpolant.

Bin k of a segment that starts at t0 covers [t0 + k/rate, t0 + (k+1)/rate), and its value is the
mean of the piecewise-linear interpolant of the samples over it. The mean over a bin is its own
anti-alias filter, needs no declared input rate, and weighs bunched samples by the time they
stand for. Sums run sample by sample in one fixed order, so any chunking of the input gives
bit-identical output.
"""

from __future__ import annotations

import numpy as np

from taolora_ros.timeline import GAP, is_gap


class Resampler:
    """Resample one unbroken segment of strictly increasing stamps."""

    def __init__(self, rate: float):
        self.rate = rate    # Hz
        self.gaps = 0       # steps between samples that were bridged so far
        self.start = None   # ns, first stamp and start of bin 0
        self._newest = 0    # ns
        self._count = 0     # samples so far
        self._time = 0.0    # time of the newest sample, in bins since the start
        self._value = None  # (C,) its value
        self._sum = None    # (C,) integral of the bin in progress, up to the newest sample
        self._spoilt = 0    # bins before this one touch a gap

    def push(self, stamps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take samples (n,) ns, (n, C) float64; return the bins they complete.

        These are values (m, C) and validity (m,) bool, False where a bin touches a gap.
        """
        if self.start is None and len(stamps):
            self.start = self._newest = int(stamps[0])
            self._count, self._value, self._sum = 1, values[0].copy(), np.zeros(values.shape[1])
            stamps, values = stamps[1:], values[1:]
        if len(stamps) == 0:
            return np.zeros((0, values.shape[1])), np.zeros(0, bool)
        times = np.empty(len(stamps) + 1)  # in bins; exact in float64 for 104 days of a segment
        times[0] = self._time
        times[1:] = (stamps - self.start) * self.rate / 1e9
        knots = np.concatenate([self._value[None], values])  # (n + 1, C)
        first, last = int(times[0]), int(times[-1])  # bins in progress before and after
        means = self._integrate(times, knots, first, last)
        valid = self._validity(stamps, times, first, last)
        self._time, self._value = float(times[-1]), knots[-1].copy()
        self._newest, self._count = int(stamps[-1]), self._count + len(stamps)
        return means, valid

    def _integrate(self, times, knots, first, last) -> np.ndarray:
        """Return the means (last - first, C) of the completed bins, keep the rest."""
        edges = np.arange(first + 1, last + 1)  # bin borders that are crossed
        after = np.searchsorted(times, edges, 'left')  # first knot at or after each border
        share = (edges - times[after - 1]) / (times[after] - times[after - 1])
        at_edges = knots[after - 1] + (knots[after] - knots[after - 1]) * share[:, None]
        total = len(times) + len(edges)
        border = np.zeros(total, bool)
        border[after + np.arange(len(edges))] = True
        when, what = np.empty(total), np.empty((total, knots.shape[1]))
        when[border], when[~border] = edges, times
        what[border], what[~border] = at_edges, knots
        areas = (when[1:] - when[:-1])[:, None] * ((what[1:] + what[:-1]) * 0.5)
        channels = knots.shape[1]
        cells = np.empty((total, channels), np.int64)  # bin and channel each area goes to
        cells[0], cells[1:] = 0, ((when[:-1].astype(np.int64) - first) * channels)[:, None]
        cells += np.arange(channels)
        weights = np.concatenate([self._sum[None], areas])
        # bincount adds in order, whatever the chunk, and begins with what was carried in
        sums = np.bincount(cells.ravel(), weights.ravel(), (last - first + 1) * channels)
        sums = sums.reshape(-1, channels)
        self._sum = sums[-1].copy()
        return sums[:-1]

    def _validity(self, stamps, times, first, last) -> np.ndarray:
        """Mark the completed bins that touch a step too long to be trusted."""
        valid = np.ones(last - first, bool)
        valid[:max(self._spoilt - first, 0)] = False
        steps = np.empty_like(stamps)
        steps[0], steps[1:] = stamps[0] - self._newest, stamps[1:] - stamps[:-1]
        for i in np.flatnonzero(steps > GAP):
            step, count = int(steps[i]), self._count + int(i)
            before = int(stamps[i]) - step - self.start  # ns that `count` samples took
            if not is_gap(step, count, before):
                continue
            self.gaps += 1
            begin, self._spoilt = int(times[i]), int(np.ceil(times[i + 1]))
            valid[begin - first:self._spoilt - first] = False
        return valid


def resample(stamps: np.ndarray, values: np.ndarray,
             rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Resample a whole segment: stamps (N,) ns, values (N, C) -> values (n, C), validity (n,).

    The first output stands for the time ``stamps[0] + 0.5 / rate``. This is what runs live, so
    training on its output trains on what the model will see.
    """
    return Resampler(rate).push(np.asarray(stamps, np.int64), np.asarray(values, np.float64))
