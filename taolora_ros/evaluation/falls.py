"""Score fall alarms: one per fall counts, everything else is false, and time is the measure.

Alarms are starts of events, in seconds of the recording. Never point-adjusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import chi2

from taolora_ros.evaluation.beats import ratio

EARLIEST, LATEST = -2.0, 4.0  # s around the annotated peak where an alarm belongs to the fall
CONFIDENCE = 0.95             # of the upper bound given with every rate


@dataclass(frozen=True)
class FallCount:
    """One recording: whether it has a fall and it was found, and the alarms that were false."""

    source: str
    is_fall: bool
    duration_s: float
    found: bool
    false_alarms: int


def count_falls(source: str, duration_s: float, fall_time_s: float | None,
                alarms_s: Sequence[float]) -> FallCount:
    """Judge the alarms of one recording; ``fall_time_s`` is None for an activity."""
    inside = 0
    if fall_time_s is not None:
        inside = sum(EARLIEST - 1e-9 <= time - fall_time_s <= LATEST + 1e-9 for time in alarms_s)
    return FallCount(source, fall_time_s is not None, duration_s, inside > 0,
                     len(alarms_s) - min(inside, 1))


def fall_figures(counts: Iterable[FallCount]) -> dict:
    """Return the figures over ``counts`` and of each of ``sources``, all with ``activities`` alone.

    ``se`` is a fraction from 0 to 1 (None without falls). Rates are per hour of all recordings,
    falls included, with the one-sided 95 % Poisson upper bound.
    """
    counts = list(counts)
    sources = sorted({c.source for c in counts})
    return {**_with_activities(counts), 'sources': {
        source: _with_activities([c for c in counts if c.source == source])
        for source in sources}}


def _with_activities(counts: list[FallCount]) -> dict:
    activities = _rates([c for c in counts if not c.is_fall])
    return {**_rates(counts), 'activities': {key: value for key, value in activities.items()
                                             if key not in ('se', 'falls', 'found')}}


def _rates(counts: list[FallCount]) -> dict:
    falls = sum(c.is_fall for c in counts)
    found = sum(c.found for c in counts)
    alarms = sum(c.false_alarms for c in counts)
    hours = sum(c.duration_s for c in counts) / 3600
    return {'se': ratio(found, falls), 'false_alarms_per_hour': ratio(alarms, hours),
            'falls': falls, 'hours': hours, 'found': found, 'false_alarms': alarms,
            'false_alarms_per_hour_upper_95': ratio(poisson_upper(alarms), hours)}


def poisson_upper(count: int, confidence: float = CONFIDENCE) -> float:
    """Return the largest mean that still gives ``count`` or fewer with 1 - ``confidence``."""
    return float(chi2.ppf(confidence, 2 * (count + 1)) / 2)
