"""Figures of the anomaly score as tables for the terminal."""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table


def tables(result: dict) -> list[Table]:
    """Return the tables of what ``anomalies.evaluate`` returned."""
    alarms = _table('False alarms on healthy streams', (
        'source', 'streams', 'hours', 'alarms', 'per hour', '≤ per hour (95 %)',
        'per hour uncalibrated'))
    for group in result['groups']:
        alarms.add_row(
            _name(group), str(group['streams']), f'{group["hours"]:.2f}',
            str(group['false_alarms']), *(_number(group[key]) for key in (
                'false_alarms_per_hour', 'false_alarms_per_hour_upper_95',
                'uncalibrated_per_hour')))
    faults = _table('Faults injected', (
        'source', 'fault', 'found', 'delay s', '90 % within s', 'culprit named',
        'found uncalibrated'))
    for group in result['groups']:
        for row in group['faults']:
            if row['n']:
                faults.add_row(
                    _name(group), row['fault'], f'{row["found"]} of {row["n"]}',
                    _number(row['delay_s_median']), _number(row['delay_s_p90']),
                    str(row['blamed_rightly']), str(row['uncalibrated_found']))
        faults.add_section()
    return [alarms, faults]


def notes(result: dict) -> list[str]:
    """Return what has to be said besides the tables, a line each."""
    lines = []
    if any(group['chosen_on'] for group in result['groups']):
        lines.append("(*) the score's constants were chosen on these")
    if result['seen_in_training']:
        lines.append(f'{result["seen_in_training"]} of {len(result["streams"])} streams are of '
                     'subjects or records that the network was trained on')
    return lines + [f'left out: {path}: {reason}' for path, reason in result['skipped'].items()]


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify='left' if heading in ('source', 'fault') else 'right')
    return table


def _name(group: dict) -> str:
    return escape(group['source']) + (' (*)' if group['chosen_on'] else '')


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.1f}'
