"""What ``taolora evaluate peers``, ``noise``, ``signals`` and ``delay`` do with their arguments."""

from __future__ import annotations

import argparse

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from taolora_ros.evaluation.delays import DELAYS
from taolora_ros.evaluation.detection import Candidate
from taolora_ros.evaluation.evaluate import Choice
from taolora_ros.evaluation.panel import Panel, find_folds
from taolora_ros.evaluation.peers import Peer
from taolora_ros.evaluation.report import percent
from taolora_ros.evaluation.studies import Study, beside, run
from taolora_ros.progress import progress
from taolora_ros.recordings import find_files

SHORTEST = 0.1  # minutes of a record


def study(args: argparse.Namespace, candidate: Candidate, console: Console) -> list[dict]:
    """Measure a table, print it and return its rows; raise ValueError for bad arguments."""
    kinds = ('imu', 'ecg') if args.kind in ('delay', 'signals') else ('ecg',)
    if args.signal not in kinds:
        raise ValueError(f'{args.kind}: of what? {" or ".join(kinds)} goes behind it')
    if args.minutes is not None and (args.minutes < SHORTEST or args.signal != 'ecg'):
        raise ValueError(f'--minutes: {args.minutes:g}, at least {SHORTEST}, and of ECG records')
    model = candidate.describe()
    if model['kind'] != args.signal:
        raise ValueError(f'{candidate.model}: {model["name"]} is for {model["kind"]}, '
                         f'not {args.signal}')
    folds = find_folds(args.models, args.signal) if args.models else None
    only = frozenset(args.only.split(',')) if args.only else None
    peers, faulty = beside(args.kind)
    task = Study(args.kind, Panel(candidate, folds),
                 Choice(only, model['trained_on'], args.unseen), args.minutes,
                 _delays(args.delays, args.signal), peers)
    files = find_files(args.data, args.signal)
    with progress('evaluating', 'files') as report:
        rows = run(task, files, args.processes, report) + faulty
    console.print(table(rows, f'{args.kind}, {args.signal}'))
    for line in notes(rows, folds, peers):
        console.print(line, highlight=False, markup=False)
    return rows


def _delays(listed: str | None, kind: str) -> tuple[float, ...]:
    if listed is None:
        return DELAYS[kind]
    try:
        return tuple(float(text) for text in listed.split(','))
    except ValueError as error:
        raise ValueError(f'--delays: {listed!r} is not a list of seconds') from error


def table(rows: list[dict], title: str) -> Table:
    """Return ``rows`` as a table."""
    made = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD)
    headings = HEADINGS['fall' if 'fall' in rows[0] else 'beat']
    for heading in ('', *headings, *(text for key, text in MEASURED if key in rows[0])):
        made.add_column(heading, justify='right' if heading else 'left')
    for row in rows:
        made.add_row(escape(row['name']), *cells(row))
    return made


MEASURED = (('cpu_s_per_hour', 'CPU s per hour'), ('wait_mean_s', 'wait s'),
            ('wait_p99_s', 'wait s, 99 %'))
HEADINGS = {'beat': ('beats', 'Se % 150 ms', 'PPV %', 'Se % 50 ms', 'PPV %', 'VEB', 'Se %',
                     'PPV %', 'PPV % with fusion'),
            'fall': ('falls', 'Se %', 'false alarms', 'hours', 'per hour', '≤ (95 %)')}


def cells(row: dict) -> list[str]:
    """Return what the table shows of one row behind its name."""
    if 'error' in row:
        return [row['error']]
    if 'fall' in row:
        fall = row['fall']
        shown = [str(fall['falls']), percent(fall['se']), str(fall['false_alarms']),
                 f'{fall["hours"]:.2f}', f'{fall["false_alarms_per_hour"]:.2f}',
                 f'{fall["false_alarms_per_hour_upper_95"]:.2f}']
    else:
        shown = [str(row['beat']['n']), *(percent(row[key][part]) for key in ('beat', 'beat_50ms')
                                          for part in ('se', 'ppv'))]
        veb = row['veb']
        shown += [str(veb['n']), *(percent(veb[key]) for key in ('se', 'ppv', 'ppv_strict'))]
    return shown + [f'{row[key]:.2f}' for key, _ in MEASURED if key in row]


def notes(rows: list[dict], folds: dict | None, peers: tuple[Peer, ...] = ()) -> list[str]:
    """Return what has to be said besides the table."""
    judged = (f'each was judged by the one of {len(set(folds.values()))} models that never saw it'
              if folds else 'the model may have been trained on them (--models DIR judges each by '
              'the fold that was not)')
    lines = [f'{rows[0]["recordings"]} recordings, {rows[0]["hours"]:.2f} hours a row; {judged}']
    if peers:
        versions = sorted({f'{peer.package} {peer.version}' for peer in peers})
        lines.append(f'the other detectors ({", ".join(versions)}) are as they are by default and '
                     'see whole records at once')
    if 'cpu_s_per_hour' in rows[0]:
        lines.append('CPU: seconds of one core for one hour of signal')
    if 'wait_mean_s' in rows[0]:
        lines.append('wait: from the event to the last sample needed to publish it; computing '
                     'comes to that')
    return lines
