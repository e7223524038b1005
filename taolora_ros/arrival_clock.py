"""When samples were taken whose stamps tell when they arrived: in bursts, late, out of order.

A driver that reads a radio or a serial port often stamps a sample when it gets it. Samples were
taken evenly all the same, in the order of their messages, so a straight line through the stamps
tells when, but for the mean delay. The line is kept by a g-h filter: of expanding memory at first,
with the gains of least squares, and of fading memory once it has settled (E. Brookner, Tracking
and Kalman Filtering Made Easy, 1998).
"""

from __future__ import annotations

from taolora_ros.block_clock import ARRIVAL_JITTER
from taolora_ros.samples import NANOSECONDS
from taolora_ros.timeline import MAX_GAP

SETTLED = 5 * NANOSECONDS   # time constant (ns) with which line and rate follow the stamps
LEARNING = 2 * NANOSECONDS  # ns of samples after which a rate that nobody has said is known
LATE = round(ARRIVAL_JITTER * NANOSECONDS)  # ns a stamp may be off the line; else time jumped
MANY = 10**9                # samples: so many have told the rate when it is declared


class ArrivalClock:
    """Lay single samples evenly along their stamps of arrival; the outcome depends on those alone.

    Times of believed samples rise strictly. A stamp that is off by more than ``LATE`` (by more
    than ``MAX_GAP`` while the rate is being learnt) is returned as it is, for the timeline to
    judge; when the one after it agrees with it, time has jumped, and the line starts there.
    """

    def __init__(self):
        self._declared = 0.0            # Hz
        self._period = 0.0              # ns
        self._told = 0                  # samples that have told the period
        self._count = 0                 # samples since the line was started
        self._last: int | None = None   # ns, where the newest sample was laid
        self._doubt: int | None = None  # ns, a stamp off the line

    def place(self, stamp: int, rate: float = 0.0) -> int:
        """Return the time (ns) of the next sample, which arrived at ``stamp`` (ns).

        ``rate`` (Hz) is the declared one, which may be somewhat off; 0: it is learnt.
        """
        if rate != self._declared:
            self._declare(rate)
        if self._last is None:
            return self._start(stamp)
        error = stamp - self._last - self._period
        known = self._told * self._period >= LEARNING
        limit = LATE if known else MAX_GAP
        if abs(error) > limit:
            if self._doubt is None or abs(stamp - self._doubt - self._period) > limit:
                self._doubt = stamp
                self._last += round(self._period)  # the sample's place on the line stays empty
                return stamp
            drifted = abs(error) <= 2 * LATE and self._count * self._period < SETTLED
            if drifted or not known:
                self._period, self._told = 0.0, 0
            self._start(self._doubt)
            error = stamp - self._last - self._period
        self._doubt = None
        return self._follow(error)

    def _declare(self, rate: float) -> None:
        self._declared = rate
        self._period, self._told = (NANOSECONDS / rate, MANY) if rate else (0.0, 0)

    def _start(self, stamp: int) -> int:
        self._last, self._count, self._doubt = stamp, 1, None
        self._told = max(self._told, 1)
        return stamp

    def _follow(self, error: float) -> int:
        """Go on by one sample whose stamp is ``error`` (ns) behind where the line expects it."""
        n, fading = self._told, min(self._period / SETTLED, 0.5)
        pull = max(2 * (2 * n + 1) / ((n + 1) * (n + 2)), 1 / (self._count + 1), 2 * fading)
        turn = max(6 / ((n + 1) * (n + 2)), fading * fading)
        step = self._period + pull * error
        self._last += max(round(step), round(0.5 * self._period), 1)  # none overtakes another
        self._period = max(self._period + turn * error, 0.0)
        self._told, self._count = n + 1, self._count + 1
        return self._last
