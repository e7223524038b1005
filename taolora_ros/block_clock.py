"""Where blocks of uniform samples lie in time when the stamps of the blocks jitter."""

from __future__ import annotations

SETTLING = 2.0      # s: time constant with which the blocks are drawn to their stamps
EXACT = 2e-6        # s: rounding of stamps; one this close to the expected is taken as it is
ARRIVAL_JITTER = 0.25  # s: what executors, radios and busy machines add to arrival times


class BlockClock:
    """Lay blocks of a declared rate end to end as long as their stamps allow it.

    Drivers stamp a block when they get around to it, a few milliseconds off. Taken literally,
    such stamps make blocks overlap or leave holes. A block whose stamp lies within a tolerance
    of the end of the block before it therefore continues that block and is drawn to its stamp
    slowly; any other block starts where its stamp says. True stamps come out unchanged.
    """

    def __init__(self):
        self._end = None

    def place(self, stamp: int, count: int, rate: float, tolerance: float,
              contiguous: bool = True) -> int:
        """Return the time (ns) of the first of ``count`` samples at ``rate`` (Hz).

        ``stamp`` (ns) is what the message or its arrival says, ``tolerance`` in seconds.
        ``contiguous`` is False when blocks are known to be missing before this one.
        """
        duration = count / rate
        start = stamp
        if contiguous and self._end is not None:
            error = stamp - self._end
            if EXACT < abs(error) * 1e-9 <= tolerance:
                pull = min(1.0, duration / SETTLING) * error
                limit = 0.5e9 / rate  # never so far that a sample overtakes another
                start = self._end + round(min(max(pull, -limit), limit))
        self._end = start + round(duration * 1e9)
        return start
