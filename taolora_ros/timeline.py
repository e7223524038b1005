"""Which samples belong to a stream's time: rules for stamps that repeat, step back or jump.

A sample *follows* the newest one when its stamp is later, but not by a gap. What does not follow
is either stale and dropped at once, or the first sign that something happened to time: samples
are missing, the clock was set, a bag starts again. The latter is held back as a *candidate*
timeline until it has lasted ``CONFIRM``, so that a few wrong stamps cost a few samples and
nothing else, and no sample after a real gap is lost.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

GAP = 250_000_000         # ns: a longer step between samples may be a gap ...
GAP_PERIODS = 3           # ... and is one when it is also longer than this many mean periods
MAX_GAP = 1_000_000_000   # ns: longer silence starts a new segment, nothing is interpolated
CONFIRM = 500_000_000     # ns a new timeline must last before the old one is given up


def is_gap(step: int, count: int, lasted: int) -> bool:
    """Tell whether a step (ns) is a gap after ``count`` samples that ``lasted`` ns."""
    return step > GAP and (count < 2 or step * (count - 1) > GAP_PERIODS * lasted)


class Run(NamedTuple):
    """Samples that follow each other; ``fresh`` when a new segment starts with the first."""

    fresh: bool
    stamps: np.ndarray  # (n,) int64 ns, strictly increasing
    values: np.ndarray  # (n, C)


class Timeline:
    """Sort samples into runs of believable time, counting by reason what is dropped.

    Counted: 'repeated' and 'late' stamps, 'jump' (a few samples far ahead), and the changes of
    timeline 'gap_restart' (time went on after more than ``MAX_GAP``) and 'restart' (time
    stepped back). The outcome does not depend on how samples are cut into pushes.
    """

    def __init__(self, counts: Counter):
        self.counts = counts
        self._newest = None  # ns, last stamp that was believed
        self._first = 0      # ns, first stamp of the segment
        self._count = 0      # samples of the segment
        self._held: list[tuple[np.ndarray, np.ndarray]] = []  # the candidate timeline

    @property
    def newest(self) -> int | None:
        """Return the last believed stamp in nanoseconds, None before the first."""
        return self._newest

    def push(self, stamps: np.ndarray, values: np.ndarray) -> list[Run]:
        """Judge samples (n,), (n, C); return the runs that can be used now."""
        runs = []
        steps = stamps[1:] - stamps[:-1]
        breaks = np.flatnonzero((steps <= 0) | (steps > GAP)) + 1
        breaks = np.append(breaks, len(stamps))
        i = 0
        while i < len(stamps):
            j = int(breaks[np.searchsorted(breaks, i, 'right')])  # samples i..j follow each other
            ahead = int(stamps[i]) - self._newest if self._newest is not None else 1
            if 0 < ahead <= MAX_GAP and not is_gap(ahead, self._count,
                                                   (self._newest or 0) - self._first):
                self._drop_held()
                runs.append(self._believe(Run(self._newest is None, stamps[i:j], values[i:j])))
            elif -MAX_GAP <= ahead <= 0 and not self._extends(stamps[i]):
                # One by one while something is held: a later one of these may extend that.
                stale = int(np.searchsorted(stamps[i:j], self._newest, 'right'))
                j = i + (1 if self._held else stale)
                repeated = int(stamps[j - 1] == self._newest)
                self.counts['repeated'] += repeated
                self.counts['late'] += j - i - repeated
            else:
                j = self._hold(stamps, values, i, j, runs)
            i = j
        return runs

    def finish(self) -> list[Run]:
        """End the recording: believe a candidate of two samples or more that lies ahead."""
        runs = []
        if self._held_ahead() and sum(len(s) for s, _ in self._held) > 1:
            runs.append(self._switch())
        self._drop_held()
        self._newest = None
        return runs

    def _hold(self, stamps, values, i, j, runs) -> int:
        """Add samples i..j to the candidate or start another; return where judging goes on."""
        if self._held and not self._extends(stamps[i]):
            behind = int(self._held[-1][0][-1]) - int(stamps[i])
            if 0 <= behind <= MAX_GAP:
                self.counts['late' if behind else 'repeated'] += 1
                return i + 1
            self._drop_held()
        self._held.append((stamps[i:j].copy(), values[i:j].copy()))
        if int(stamps[j - 1]) - int(self._held[0][0][0]) >= CONFIRM:
            runs.append(self._switch())
        return j

    def _extends(self, stamp) -> bool:
        """Tell whether ``stamp`` follows the candidate."""
        return bool(self._held) and 0 < int(stamp) - int(self._held[-1][0][-1]) <= MAX_GAP

    def _held_ahead(self) -> bool:
        return bool(self._held) and int(self._held[0][0][0]) > self._newest

    def _switch(self) -> Run:
        """Make the candidate the timeline, or what follows on it after a short gap."""
        fresh = not 0 < int(self._held[0][0][0]) - self._newest <= MAX_GAP
        if fresh:
            self.counts['gap_restart' if self._held_ahead() else 'restart'] += 1
        stamps = np.concatenate([s for s, _ in self._held])
        values = np.concatenate([v for _, v in self._held])
        self._held = []
        return self._believe(Run(fresh, stamps, values))

    def _believe(self, run: Run) -> Run:
        """Let time go on with ``run``."""
        if run.fresh:
            self._first, self._count = int(run.stamps[0]), 0
        self._newest, self._count = int(run.stamps[-1]), self._count + len(run.stamps)
        return run

    def _drop_held(self) -> None:
        if self._held:
            reason = 'jump' if self._held_ahead() else 'late'
            self.counts[reason] += sum(len(s) for s, _ in self._held)
            self._held = []
