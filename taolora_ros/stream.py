"""One stream: stamped samples in, segments of uniform features out.

    samples ─► screened values ─► timeline ─► filled gaps in optional channels
            ─► uniform rate ─► causal features ─► the newest segment

A segment is time without a break. It grows sample by sample; whoever reads it lets go of what
is no longer needed, so a live stream keeps a ring of a few seconds while training keeps whole
recordings, with the same code. Nothing depends on how samples are cut into pushes.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from taolora_ros.features import FeatureFilter, feature_names
from taolora_ros.resampling import Resampler
from taolora_ros.samples import NANOSECONDS, Samples
from taolora_ros.spec import ModelSpec
from taolora_ros.timeline import Timeline

HOLD = 250_000_000  # ns a missing value of an optional channel is taken to stay as it was
LIMITS = {'m/s^2': 2000.0, 'rad/s': 200.0}  # beyond any sensor: 200 g, 11000 deg/s
LIMIT = 1e6         # other units


class Rows:
    """A growing array that can forget its oldest rows; a row keeps its number for life.

    The next row appended is number ``first``.
    """

    def __init__(self, columns: tuple[int, ...], dtype, first: int = 0):
        self._data = np.zeros((256, *columns), dtype)
        self._used = 0       # rows of _data in use, forgotten ones in front included
        self._shift = first  # number of _data's first row
        self.first = first   # number of the oldest row that is kept

    def __len__(self) -> int:
        """Return how many rows were ever appended: the number of the next row."""
        return self._shift + self._used

    def append(self, rows: np.ndarray) -> None:
        """Add rows (n, ...) at the end."""
        if self._used + len(rows) > len(self._data):
            kept = self._data[self.first - self._shift:self._used]
            if len(kept) + len(rows) > len(self._data) // 2:
                self._data = np.empty((2 * (len(kept) + len(rows)), *kept.shape[1:]), kept.dtype)
            self._data[:len(kept)] = kept.copy()
            self._used, self._shift = len(kept), self.first
        self._data[self._used:self._used + len(rows)] = rows
        self._used += len(rows)

    def get(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return a view of rows start..stop; raise IndexError when some are not there."""
        stop = len(self) if stop is None else stop
        if not self.first <= start <= stop <= len(self):
            raise IndexError(f'rows {start} to {stop}: only {self.first} to {len(self)} are kept')
        return self._data[start - self._shift:stop - self._shift]

    def release(self, first: int) -> None:
        """Forget rows before number ``first``."""
        self.first = min(max(self.first, first), len(self))


class Segment:
    """Unbroken uniform time: sample i stands for [start + i/rate, start + (i+1)/rate)."""

    def __init__(self, spec: ModelSpec, start_ns: int):
        self.start_ns = start_ns
        self.rate = spec.rate
        self.closed = False  # no sample will be added any more
        self.values = Rows((len(spec.channels),), np.float64)  # spec units, missing read as 0
        self.features = Rows((len(feature_names(spec)),), np.float32)
        self.valid = Rows((), np.bool_)  # False in bridged gaps

    def __len__(self) -> int:
        """Return the number of uniform samples so far, forgotten ones included."""
        return len(self.valid)

    def time_ns(self, index: float) -> int:
        """Return the time of a position in samples, 0 being the start of sample 0."""
        return self.start_ns + round(index * (NANOSECONDS / self.rate))

    def stamp_ns(self, index: int) -> int:
        """Return the stamp of sample ``index``, the centre of its bin."""
        return self.time_ns(index + 0.5)

    def release(self, first: int) -> None:
        """Forget samples before ``first``."""
        for rows in (self.values, self.features, self.valid):
            rows.release(first)


class Stream:
    """Turn pushed samples into segments.

    ``segments`` holds the running segment, last, and those before it that nobody took away yet.
    ``counts`` counts by name what was dropped ('nonfinite', 'out_of_range', 'invalid_stamp',
    'repeated', 'late', 'jump'), mended ('gap' bridged, 'filled' optional values) and restarted
    ('gap_restart', 'restart').
    """

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        self.counts = Counter()
        self.segments: list[Segment] = []
        self._timeline = Timeline(self.counts)
        self._filter = FeatureFilter(spec)
        self._resampler = Resampler(spec.rate)
        optional = [name in spec.optional for name in spec.channels]
        self._required = np.flatnonzero(~np.array(optional))
        self._optional = np.flatnonzero(optional)
        self._limits = usable_limits(spec)

    @property
    def newest(self) -> int | None:
        """Return the newest stamp (ns) that was believed, None when nothing runs."""
        return self._timeline.newest

    def check(self, samples: Samples) -> None:
        """Raise ValueError when samples have not the model's number of channels."""
        if samples.values.shape[1] != len(self.spec.channels):
            raise ValueError(f'values: {samples.values.shape[1]} channels, {self.spec.name} needs '
                             f'{len(self.spec.channels)} ({", ".join(self.spec.channels)})')

    def push(self, samples: Samples) -> None:
        """Take samples in the order of arrival; raise ValueError for a wrong channel count."""
        self.check(samples)
        if len(samples) == 0:
            return
        for run in self._timeline.push(*self._screen(samples.stamps, samples.values)):
            self._append(run)

    def close(self) -> None:
        """End the running segment: the recording is over or the source fell silent."""
        for run in self._timeline.finish():
            self._append(run)
        if self.segments:
            self.segments[-1].closed = True

    def _screen(self, stamps, values) -> tuple[np.ndarray, np.ndarray]:
        """Drop samples that say nothing; mark unusable optional values as missing (NaN)."""
        usable = np.abs(values) <= self._limits  # (n, C), False for NaN too
        good = usable[:, self._required].all(axis=1) & (stamps > 0)
        if usable.all() and good.all():
            return stamps, values
        finite = np.isfinite(values)
        invalid, broken = stamps <= 0, ~finite[:, self._required].all(axis=1)
        wild = (finite & ~usable).any(axis=1)
        self.counts['invalid_stamp'] += int(invalid.sum())
        self.counts['nonfinite'] += int((~invalid & broken).sum())
        self.counts['out_of_range'] += int((~invalid & ~broken & wild).sum())
        return stamps[good], np.where(usable, values, np.nan)[good]

    def _append(self, run) -> None:
        """Add a run of believed samples to its segment."""
        if run.fresh:
            if self.segments:
                self.segments[-1].closed = True
            self.segments.append(Segment(self.spec, int(run.stamps[0])))
            self._filter.reset()
            self._resampler = Resampler(self.spec.rate)
            self._known = np.zeros(len(self._optional))  # last finite optional values
            self._known_at = np.full(len(self._optional), -HOLD - 1)  # and their times, ns
        gaps = self._resampler.gaps
        values, valid = self._resampler.push(run.stamps, self._fill(run.stamps, run.values))
        self.counts['gap'] += self._resampler.gaps - gaps
        segment = self.segments[-1]
        segment.values.append(values)
        segment.features.append(self._filter.push(values))
        segment.valid.append(valid)

    def _fill(self, stamps, values) -> np.ndarray:
        """Replace missing optional values by the last one known for ``HOLD``, then by zero."""
        if not self._optional.size:
            return values
        seen = values[:, self._optional]  # (n, O)
        here = np.isfinite(seen)
        times = stamps - self.segments[-1].start_ns
        if here.all():
            self._known, self._known_at = seen[-1].copy(), np.repeat(times[-1:], len(seen[0]))
            return values
        seen = np.vstack([self._known, np.where(here, seen, 0.0)])  # (n + 1, O)
        order = np.where(here, np.arange(1, len(stamps) + 1)[:, None], 0)
        last = np.maximum.accumulate(order, axis=0)  # row of the last known value, 0: carried in
        at = np.where(last > 0, times[last - 1], self._known_at)
        fresh = times[:, None] - at <= HOLD
        filled = np.where(fresh, np.take_along_axis(seen, last, axis=0), 0.0)
        self.counts['filled'] += int((fresh & ~here).any(axis=1).sum())
        self._known = np.take_along_axis(seen, last, axis=0)[-1]
        self._known_at = at[-1]
        values = values.copy()
        values[:, self._optional] = filled
        return values


def usable_limits(spec: ModelSpec) -> np.ndarray:
    """Return for each channel (C,) the magnitude beyond which a value is no measurement."""
    return np.array([LIMITS.get(unit, LIMIT) for unit in spec.units])


def segments(spec: ModelSpec, samples: Samples) -> list[Segment]:
    """Return a whole recording's segments: offline, what a live stream would have seen."""
    stream = Stream(spec)
    stream.push(samples)
    stream.close()
    return stream.segments
