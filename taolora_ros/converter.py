"""What all converters of messages do: samples one message after the other, faults counted."""

from __future__ import annotations

from collections import Counter

import numpy as np

from taolora_ros.arrival_clock import ArrivalClock
from taolora_ros.block_clock import ARRIVAL_JITTER
from taolora_ros.samples import Samples
from taolora_ros.spec import ModelSpec

STAMPS = ('sampling', 'arrival')  # what header stamps may tell


class Converter:
    """Turn messages into samples one by one; what cannot be read is counted, not raised.

    ``counts`` tells by reason what was left out, ``problem`` the last reason in words,
    ``frame_id`` the sensor's frame as last seen, ``stamped`` whether messages carry header stamps
    (otherwise ``arrival`` times and the declared rate stand in), ``late_stamps`` whether those
    tell when a sample arrived at its driver, so that they must be evened out, ``raw`` whether it
    reads bytes, ``expected_rate`` how many samples a second there should be (Hz, 0: nobody has
    said).
    """

    stamped = True
    late_stamps = False
    raw = False

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        self.counts: Counter = Counter()
        self.problem = ''
        self.frame_id = ''
        self.expected_rate = 0.0
        self._even = ArrivalClock()

    def convert(self, messages: list, arrivals: list[int]) -> Samples:
        """Return the samples of ``messages`` that arrived at ``arrivals`` (ns), in order."""
        parts = []
        for message, arrival in zip(messages, arrivals):
            try:
                parts.append(self.one(message, arrival))
            except (ValueError, TypeError, OverflowError) as error:
                self.counts['unreadable'] += 1
                self.problem = str(error)
        if not parts:
            return Samples(np.zeros(0, np.int64), np.zeros((0, len(self.spec.channels))))
        if len(parts) == 1:
            return parts[0]
        return Samples(np.concatenate([part.stamps for part in parts]),
                       np.concatenate([part.values for part in parts]))

    def one(self, message, arrival: int) -> Samples:
        """Return the samples of one message; raise ValueError when it makes no sense."""
        raise NotImplementedError

    def _block(self, start: int, rate: float, values: np.ndarray) -> Samples:
        """Stamp a block; one without a time has it nowhere, so that all of it is dropped."""
        if start <= 0:
            return Samples(np.full(len(values), start, np.int64), values)
        return Samples.uniform(start, rate, values)

    def _taken(self, stamp: int) -> int:
        """Return when a single sample was taken whose header's stamp (ns) is given."""
        if not self.late_stamps or stamp <= 0:
            return stamp
        return self._even.place(stamp, self.expected_rate)

    def _tolerance(self, duration: float) -> float:
        """Return how far (s) the stamp of a block of ``duration`` (s) may be off its place."""
        return max(0.5 * duration, ARRIVAL_JITTER if self.late_stamps else 0.0)
