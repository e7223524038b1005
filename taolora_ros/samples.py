"""Stamped samples: what every source of a stream is turned into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Samples:
    """A run of samples of one stream, in the order in which they arrived.

    ``stamps`` (N,) int64 are header times in nanoseconds; ``values`` (N, C) float64 are the
    channels of a model's spec in its units, NaN where a value is missing. Nothing is promised
    about the order of stamps or about the values: ``Stream`` judges both. Raise ValueError when
    the shapes do not fit together.
    """

    stamps: np.ndarray
    values: np.ndarray

    def __post_init__(self):
        stamps = np.asarray(self.stamps)
        if stamps.ndim != 1 or stamps.dtype.kind not in 'iu':
            raise ValueError(f'stamps: {stamps.dtype} of shape {stamps.shape}, '
                             'integer nanoseconds of shape (N,) are needed')
        values = np.asarray(self.values, np.float64)
        if values.ndim != 2 or len(values) != len(stamps):
            raise ValueError(f'values: shape {values.shape}, ({len(stamps)}, channels) is needed '
                             'to go with the stamps')
        object.__setattr__(self, 'stamps', stamps.astype(np.int64, copy=False))
        object.__setattr__(self, 'values', values)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.stamps)

    def __getitem__(self, part: slice) -> 'Samples':
        """Return the samples of a slice."""
        return Samples(self.stamps[part], self.values[part])

    @staticmethod
    def uniform(start_ns: int, rate: float, values: np.ndarray) -> 'Samples':
        """Stamp ``values`` (N, C) at ``start_ns + i / rate`` (Hz), rounded to nanoseconds."""
        if not rate > 0:
            raise ValueError(f'rate: {rate} Hz, a positive rate is needed')
        offsets = np.rint(np.arange(len(values)) * (NANOSECONDS / rate)).astype(np.int64)
        return Samples(offsets + int(start_ns), values)
