"""Figures of an evaluation as tables for the terminal."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.markup import escape
from rich.table import Table

from taolora_ros.evaluation.falls import EARLIEST, LATEST

WORST = 8  # recordings listed one by one


def percent(value: float | None) -> str:
    """Return a fraction as per cent with two places, or a dash where there is none."""
    return '-' if value is None else f'{100 * value:.2f}'


def tables(result: dict) -> list[Table]:
    """Return the tables of what ``evaluate`` returned."""
    return _fall_tables(result) if 'fall' in result else _beat_tables(result)


def _fall_tables(result: dict) -> list[Table]:
    table = Table(title=f'Falls (alarm {EARLIEST:+g} to {LATEST:+g} s around the peak)',
                  title_justify='left', box=box.SIMPLE_HEAD)
    for heading in ('recordings', 'falls', 'found', 'Se %', 'false alarms', 'hours', 'per hour',
                    '≤ per hour (95 %)'):
        table.add_column(heading, justify='left' if heading == 'recordings' else 'right')
    fall = result['fall']
    rows = [('all', fall), ('activities only', fall['activities'])]
    for source, row in fall['sources'].items():
        rows += [(source, row), (f'{source}, activities only', row['activities'])]
    for name, row in rows:
        rates = [row['false_alarms_per_hour'], row['false_alarms_per_hour_upper_95']]
        table.add_row(escape(name), *(str(row.get(key, '')) for key in ('falls', 'found')),
                      percent(row['se']) if 'se' in row else '', str(row['false_alarms']),
                      f'{row["hours"]:.2f}', *('-' if r is None else f'{r:.2f}' for r in rates))
    recordings = result['recordings']
    wrong = [r for r in recordings if r['false_alarms'] or (r['is_fall'] and not r['found'])]
    wrong.sort(key=lambda r: -r['false_alarms'])
    details = Table(title=f'Recordings with errors: {len(wrong)} of {len(recordings)}'
                    + (f', the first {WORST}' if len(wrong) > WORST else ''),
                    title_justify='left', box=box.SIMPLE_HEAD)
    for heading in ('recording', 'source', 'what', 'fall', 'false alarms'):
        details.add_column(heading)
    for r in wrong[:WORST]:
        fall = ('found' if r['found'] else 'missed') if r['is_fall'] else ''
        details.add_row(*(escape(r[key]) for key in ('name', 'source', 'label')), fall,
                        str(r['false_alarms']))
    return [table, details] if wrong else [table]


def _beat_tables(result: dict) -> list[Table]:
    total = Table(title=f'Beats of {result["records"]} records, {result["hours"]:.2f} hours',
                  title_justify='left', box=box.SIMPLE_HEAD)
    for heading in ('', 'n', 'Se %', 'PPV %', 'F1 %', 'PPV % strict'):
        total.add_column(heading, justify='right' if heading else 'left')
    groups = [('', result), *result['apart'].items()]
    for reason, figures in groups:
        if reason:
            total.add_section()
        for key, name in (('beat', 'R peaks, 150 ms'), ('beat_50ms', 'R peaks, 50 ms'),
                          ('veb', 'ventricular beats')):
            row = figures[key]
            total.add_row(f'{name} ({reason}: not in the totals)' if reason else name,
                          str(row['n']), *(percent(row[k]) for k in ('se', 'ppv', 'f1')),
                          percent(row['ppv_strict']) if 'ppv_strict' in row else '')
    records = Table(title='Per record', title_justify='left', box=box.SIMPLE_HEAD)
    for heading in ('record', 'lead', 'beats', 'Se', 'PPV', 'Se 50 ms', 'PPV 50 ms', 'VEB',
                    'VEB Se', 'VEB PPV', ''):
        records.add_column(heading, justify='left' if heading in ('record', 'lead', '')
                           else 'right')
    for r in result['recordings']:
        records.add_row(
            escape(r['name']), escape(r['lead']), str(r['beat']['n']), percent(r['beat']['se']),
            percent(r['beat']['ppv']), percent(r['beat_50ms']['se']),
            percent(r['beat_50ms']['ppv']), str(r['veb']['n']), percent(r['veb']['se']),
            percent(r['veb']['ppv']), r['left_out'])
    return [records, total]


def notes(result: dict) -> list[str]:
    """Return what has to be said besides the tables, a line each.

    ``result`` is that of ``evaluate``, or of ``summarise`` alone.
    """
    skipped = result.get('skipped_files', {'not_of_kind': {}, 'damaged': {}})
    lines = [f'damaged, left out: {path}: {reason}' for path, reason in skipped['damaged'].items()]
    lines += [f'{count} files left out: {reason}'
              for reason, count in sorted(Counter(skipped['not_of_kind'].values()).items())]
    if result.get('not_judged'):
        lines.append(f'asked for with --only and not judged: {", ".join(result["not_judged"])}')
    if folds := result.get('model', {}).get('folds'):
        lines.append(f'each subject or record was judged by the one of {len(folds)} models that '
                     'never saw it; those that no model left out were not judged')
    if result.get('seen_in_training'):
        lines.append(f'{result["seen_in_training"]} of {len(result["recordings"])} recordings are '
                     'of subjects or records that the model was trained on: these figures do not '
                     'show how it does on others (--unseen leaves them out)')
    lines += [f'{source} has subjects or records of the same names as {", ".join(others)}, on '
              'which the model was trained: they count as others; if they are the same, give the '
              f'folder a name that has {" or ".join(others)} in it'
              for source, others in result.get('namesakes', {}).items()]
    if result.get('flutter_left_out'):
        lines.append(f'{result["flutter_left_out"]} detections inside annotated ventricular '
                     'flutter are not scored (AAMI EC57)')
    lines.append(f'transient path open for {percent(result["transient_fraction"])} % of the time')
    hours = sum(entry['duration_s'] for entry in result['recordings']) / 3600
    lines.append(f'{hours:.2f} hours evaluated'
                 + (f' in {result["seconds"]:.0f} s' if 'seconds' in result else ''))
    return lines
