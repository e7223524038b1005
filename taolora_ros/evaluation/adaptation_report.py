"""Figures of an evaluation of adaptation as tables for the terminal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich import box
from rich.table import Table

from taolora_ros.evaluation.detection import Candidate
from taolora_ros.evaluation.outcomes import Count, total
from taolora_ros.evaluation.report import percent

GROUPS = (('', 'subjects that no constant was chosen on'),
          ('chosen_on', 'subjects that constants were chosen on'), ('all', 'all subjects'))


def find_candidates(folder: str | None, candidate: Candidate) -> list[Candidate]:
    """Return the models of folds in ``folder``, run like ``candidate``, or that one alone.

    Raise ValueError when the folder holds none of its name.
    """
    from taolora_ros.model_file import BESIDE
    if folder is None:
        return [candidate]
    name = candidate.describe()['name']
    paths = [path for path in sorted(Path(folder).glob(f'{name}.*.safetensors'))
             if not path.name.endswith(BESIDE)]
    if not paths:
        raise ValueError(f'{folder}: no {name}.*.safetensors, as taolora train --folds writes them')
    return [dataclasses.replace(candidate, model=path) for path in paths]


def tables(result: dict) -> list[Table]:
    """Return the tables of what ``adaptation.evaluate`` returned."""
    table = Table(title=f'After {result["feedbacks"]} feedbacks, with 95 % intervals',
                  title_justify='left', box=box.SIMPLE_HEAD)
    for heading in ('', 'before', 'after', 'change', 'interval'):
        table.add_column(heading, justify='right' if heading else 'left')
    for key, title in GROUPS:
        figures = result if not key else result[key]
        if figures:
            if not key and result['constants_chosen_on_these']:
                title = GROUPS[1][1]
            _add(table, figures, title)
    return [table, _sites(result['sites'])]


def _add(table: Table, figures: dict, title: str) -> None:
    table.add_section()
    table.add_row(f'{title}: {figures["subjects"]}, {figures["hours"]:.2f} h judged')
    table.add_row('  false alarms', str(figures['false_alarms_before']),
                  str(figures['false_alarms_after']),
                  _percent(figures['false_alarms_change'], '%'),
                  _interval(figures['false_alarms_change_interval'], 100.0))
    table.add_row(f'  recall of {figures["events"]} events, %', percent(figures['recall_before']),
                  percent(figures['recall_after']), _points(figures['recall_change']),
                  _interval(figures['recall_change_interval']))
    for name, change in figures['others_change'].items():
        table.add_row(f'  others: {name}, points', '', '', _points(change),
                      _interval(figures['others_interval'][name]))
    for who, change in figures['hostile_change'].items():
        table.add_row(f'  {who} feedback: recall, points', '', '', _points(change),
                      _interval(figures['hostile_interval'][who]))
        table.add_row('    false alarms', '', '',
                      _percent(figures['hostile_false_alarms_change'][who], '%'))
        for name, moved in figures['hostile_others_change'][who].items():
            table.add_row(f'    others: {name}, points', '', '', _points(moved))


def _sites(sites: list[dict]) -> Table:
    table = Table(title='Where feedback was given', title_justify='left', box=box.SIMPLE_HEAD)
    for heading in ('who', 'rejected', 'confirmed', 'missed', 'false alarms', 'after', 'events',
                    'found', 'after', 'rolled back'):
        table.add_column(heading, justify='left' if heading == 'who' else 'right')
    for site in sites:
        if any(site['given'].values()):
            before, after = total(site['before']), total(site['after'])
            table.add_row('+'.join(site['subjects']), *(
                str(site['given'][kind]) for kind in ('rejected', 'confirmed', 'missed')),
                str(before.false), str(after.false), str(before.events), str(before.found),
                str(after.found), str(site['status']['rolled_back']))
    return table


def plain(value):
    """Return ``value`` with all counts in it as tables of names and numbers, for JSON."""
    if isinstance(value, Count):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def notes(result: dict) -> list[str]:
    """Return what has to be said besides the tables, a line each."""
    lines = [f'worst change on others {_points(result["others_worst_change"])} points, by one site '
             f'alone {_points(result["others_worst_site"])}, of a single subject '
             + ', '.join(f'{name} {_points(change)}'
                         for name, change in result['others_worst_subject'].items()),
             f'worst by hostile feedback {_points(result["hostile_worst_change"])}, at one site '
             + ', '.join(f'{who} {_points(change)}'
                         for who, change in result['hostile_worst_site'].items())
             + f'; on others {_points(result["hostile_others_worst_change"])}',
             f'{result["sites_that_learnt"]} of {result["site_count"]} sites changed anything; '
             'intervals are of sites drawn again']
    draws = ', '.join(f'{who} {_points(min(changes))} .. {_points(max(changes))}'
                      for who, changes in result['hostile_draws'].items() if None not in changes)
    lines.append(f'recall by single draws of hostile feedback: {draws or "-"}; above are means')
    if result['trained_on_these']:
        lines.append('the model was trained on these subjects: nothing follows for other people')
    if result['constants_chosen_on_these']:
        lines.append("adaptation's constants were chosen on these subjects")
    if not result['false_alarms_before']:
        lines.append('there was no false alarm in what is judged')
    return lines


def _percent(share: float | None, unit: str) -> str:
    return '-' if share is None else f'{100 * share:+.1f} {unit}'


def _points(value: float | None) -> str:
    return '-' if value is None else f'{value:+.2f}'


def _interval(interval: tuple[float, float] | None, scale: float = 1.0) -> str:
    return '-' if interval is None else f'{scale * interval[0]:+.2f} .. {scale * interval[1]:+.2f}'
