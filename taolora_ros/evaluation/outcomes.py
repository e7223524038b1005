"""Counts of an evaluation of adaptation, and what they say together, with intervals.

Intervals are percentiles of a bootstrap: sites are drawn again, with replacement, each with all its
counts, for who shares a model shares what it learnt. Of few sites they are only a hint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from taolora_ros.evaluation.beats import ratio

DRAWS = 2000
INTERVAL = (0.025, 0.975)
SHARES = ('recall', 'specificity')


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
    """Return the figures over the rows of sites; changes are in points (per cent).

    *others* are all subjects judged with a site's model who gave it no feedback, summed over sites;
    ``others_worst_subject`` is the worst of a single one. ``hostile_change`` is the mean over draws
    of all sites together, ``hostile_worst_site`` the worst mean of a single one. Worst changes are
    0 when nothing was lost.
    """
    before = total(count for site in sites for count in site['before'])
    after = total(count for site in sites for count in site['after'])
    kinds = list(sites[0]['hostile'])
    moved = {name: _others(sites, name) for name in SHARES}
    hostile = {who: _draws(sites, who, _recall) for who in kinds}
    means = {who: mean(draws) for who, draws in hostile.items()}
    hurt = {who: {name: mean(_draws(sites, who, partial(points, name=name), 'others_'))
                  for name in SHARES} for who in kinds}
    return {
        'site_count': len(sites), 'subjects': sum(len(site['before']) for site in sites),
        'sites_with_feedback': sum(any(site['given'].values()) for site in sites),
        'sites_that_learnt': sum(site['status']['norm'] > 0 for site in sites),
        'given': {kind: sum(site['given'][kind] for site in sites)
                  for kind in ('rejected', 'confirmed', 'missed')},
        'false_alarms_before': before.false, 'false_alarms_after': after.false,
        'false_alarms_change': change(before, after),
        'false_alarms_change_interval': bootstrap(sites, lambda drawn: change(*_judged(drawn))),
        'recall_before': before.recall, 'recall_after': after.recall,
        'recall_change': _recall(before, after),
        'recall_change_interval': bootstrap(sites, lambda drawn: _recall(*_judged(drawn))),
        'events': before.events, 'found_before': before.found, 'found_after': after.found,
        'hours': before.hours, 'others_change': moved,
        'others_interval': {name: bootstrap(sites, lambda drawn, name=name: _others(drawn, name))
                            for name in SHARES},
        'others_worst_change': worst(moved.values()),
        'others_worst_site': worst(_others([site], name) for site in sites for name in SHARES),
        'others_worst_subject': {name: worst(
            points(*pair, name) for site in sites
            for pair in zip(site['others_before'], site['others_after'])) for name in SHARES},
        'hostile_change': means, 'hostile_draws': hostile,
        'hostile_interval': {who: bootstrap(sites, lambda drawn, who=who: mean(
            _draws(drawn, who, _recall))) for who in kinds},
        'hostile_worst_change': worst(means.values()),
        'hostile_worst_draw': worst(change for draws in hostile.values() for change in draws),
        'hostile_worst_site': {who: worst(mean(_draws([site], who, _recall)) for site in sites)
                               for who in kinds},
        'hostile_false_alarms_change': {who: mean(_draws(sites, who, change)) for who in kinds},
        'hostile_others_change': hurt,
        'hostile_others_worst_change': worst(change for changes in hurt.values()
                                             for change in changes.values())}


def _judged(sites: list[dict]) -> tuple[Count, Count]:
    return (total(count for site in sites for count in site['before']),
            total(count for site in sites for count in site['after']))


def _others(sites: list[dict], name: str) -> float | None:
    return points(total(count for site in sites for count in site['others_before']),
                  total(count for site in sites for count in site['others_after']), name)


def _recall(before: Count, after: Count) -> float | None:
    return points(before, after, 'recall')


def _draws(sites: list[dict], who: str, figure: Callable[[Count, Count], float | None],
           of: str = '') -> list[float | None]:
    """Return a change over all sites by each draw of one kind of hostile operator.

    ``of`` is '' for who gave the feedback, 'others_' for all others.
    """
    before = total(count for site in sites for count in site[f'{of}before'])
    return [figure(before, total(count for draw in draws for count in draw[f'{of}after']))
            for draws in zip(*(site['hostile'][who] for site in sites))]


def mean(changes: list[float | None]) -> float | None:
    """Return the mean, None when nothing could be compared."""
    return None if None in changes else float(np.mean(changes))


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


def bootstrap(members: list, figure: Callable[[list], float | None]
              ) -> tuple[float, float] | None:
    """Return the interval of a figure over members drawn again; None where it is not defined."""
    rng = np.random.default_rng(0)
    found = [figure([members[i] for i in rng.integers(0, len(members), len(members))])
             for _ in range(DRAWS if members else 0)]
    found = [value for value in found if value is not None]
    return tuple(float(np.quantile(found, q)) for q in INTERVAL) if found else None
