"""Counts of an evaluation of adaptation, and what they say together, with intervals.

Intervals are percentiles of a bootstrap: subjects are drawn again, with replacement, each with all
its counts; for what happens to others, sites are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from taolora_ros.evaluation.beats import ratio

DRAWS = 2000
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class Count:
    """``events`` annotated and ``found`` of them, ``false`` alarms, among so many ``cases``.

    Cases are what could be mistaken, the events included: beats, or recordings.
    """

    events: int = 0
    found: int = 0
    false: int = 0
    cases: int = 0
    hours: float = 0.0

    def __add__(self, other: Count) -> Count:
        return Count(*(a + b for a, b in zip(dataclasses.astuple(self),
                                             dataclasses.astuple(other))))

    @property
    def recall(self) -> float | None:
        """Share of events found."""
        return ratio(self.found, self.events)

    @property
    def specificity(self) -> float | None:
        """Share of the cases without an event that raised no alarm."""
        ordinary = self.cases - self.events
        return None if ordinary <= 0 else 1.0 - self.false / ordinary


def summarise(sites: list[dict]) -> dict:
    """Return the figures over the rows of sites; changes are in points (per cent)."""
    subjects = [(before, after, {who: [draw['after'][i] for draw in draws]
                                 for who, draws in site['hostile'].items()})
                for site in sites
                for i, (before, after) in enumerate(zip(site['before'], site['after']))]
    before, after = (total(part) for part in list(zip(*subjects))[:2])
    others = [(total(site['others_before']), total(site['others_after'])) for site in sites]
    moved = {name: _both(others, name) for name in ('recall', 'specificity')}
    kinds = list(sites[0]['hostile'])
    hostile = {who: _draws(subjects, who) for who in kinds}
    means = {who: mean(draws) for who, draws in hostile.items()}
    return {
        'sites': len(sites), 'subjects': len(subjects),
        'sites_with_feedback': sum(any(site['given'].values()) for site in sites),
        'given': {kind: sum(site['given'][kind] for site in sites)
                  for kind in ('rejected', 'confirmed', 'missed')},
        'false_alarms_before': before.false, 'false_alarms_after': after.false,
        'false_alarms_change': change(before, after),
        'false_alarms_change_interval': bootstrap(subjects, lambda drawn: change(
            total(b for b, *_ in drawn), total(a for _, a, _ in drawn))),
        'recall_before': before.recall, 'recall_after': after.recall,
        'recall_change': points(before, after, 'recall'),
        'recall_change_interval': bootstrap(subjects, lambda drawn: points(
            total(b for b, *_ in drawn), total(a for _, a, _ in drawn), 'recall')),
        'events': before.events, 'found_before': before.found, 'found_after': after.found,
        'hours': before.hours, 'others_change': moved,
        'others_interval': {name: bootstrap(others, lambda drawn, name=name: _both(drawn, name))
                            for name in moved},
        'others_worst_change': worst(moved.values()),
        'others_worst_site': worst(points(*pair, name) for pair in others for name in moved),
        'hostile_change': means, 'hostile_draws': hostile,
        'hostile_interval': {who: bootstrap(subjects, lambda drawn, who=who: mean(
            _draws(drawn, who))) for who in kinds},
        'hostile_worst_change': worst(means.values()),
        'hostile_worst_draw': worst(change for draws in hostile.values() for change in draws)}


def mean(changes: list[float | None]) -> float | None:
    """Return the mean, None when nothing could be compared."""
    return None if None in changes else float(np.mean(changes))


def _draws(subjects: list[tuple], who: str) -> list[float | None]:
    """Return the change of recall in points by each draw of one kind of hostile operator."""
    before = total(b for b, *_ in subjects)
    return [points(before, total(draw), 'recall')
            for draw in zip(*(hostile[who] for *_, hostile in subjects))]


def worst(changes: Iterable[float | None]) -> float | None:
    """Return the largest loss, 0 when nothing was lost, None when nothing could be compared."""
    known = [change for change in changes if change is not None]
    return min([0.0, *known]) if known else None


def total(counts: Iterable[Count]) -> Count:
    """Return the sum of counts."""
    return sum(counts, Count())


def change(before: Count, after: Count) -> float | None:
    """Return the relative change of false alarms; -0.5 is half of them."""
    return ratio(after.false - before.false, before.false)


def points(before: Count, after: Count, name: str) -> float | None:
    """Return by how many points (per cent) a share has changed."""
    old, new = getattr(before, name), getattr(after, name)
    return None if old is None or new is None else 100.0 * (new - old)


def _both(pairs: list[tuple[Count, Count]], name: str) -> float | None:
    return points(total(before for before, _ in pairs), total(after for _, after in pairs), name)


def bootstrap(members: list, figure: Callable[[list], float | None]
              ) -> tuple[float, float] | None:
    """Return the interval of a figure over members drawn again; None where it is not defined."""
    rng = np.random.default_rng(0)
    found = [figure([members[i] for i in rng.integers(0, len(members), len(members))])
             for _ in range(DRAWS if members else 0)]
    found = [value for value in found if value is not None]
    return tuple(float(np.quantile(found, q)) for q in INTERVAL) if found else None
