#!/usr/bin/env python3
"""
Keep results of long evaluations in docs/results, and print the tables of the documentation.

    tools/results.py keep RAW.json docs/results/NAME.json [KEY]   what was measured anew
    tools/results.py figures                                      the tables of README.md
    tools/results.py details                                      the tables of docs/models.md

RAW.json is what `taolora train --folds` or `taolora evaluate comparators` wrote with --json, or,
with the KEY it goes under, what `taolora evaluate` wrote. All else in NAME.json stays: correct
what it says of its origin (`what`, `provenance`) by hand. Recordings of an IMU without errors are
dropped, they are thousands.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / 'docs' / 'results'
PLACES = 6     # decimals kept
NOTABLE = 10   # wrong VEB decisions from which a record is listed
SOURCES = {'sisfall': 'SisFall, waist', 'weda': 'WEDA-FALL, wrist'}


def keep(raw: Path, out: Path, key: str | None = None) -> None:
    """Write the results in ``raw`` to ``out``, shortened, under the origin told there."""
    old = json.loads(out.read_text()) if out.exists() else {'what': '', 'provenance': ''}
    new = json.loads(raw.read_text())
    if isinstance(new, list):  # of `taolora evaluate comparators`
        rows = [json.dumps(rounded(row)) for row in new]
        out.write_text('[\n' + ',\n'.join(rows) + '\n]\n')
        return
    new = {key: new} if key else new
    out.write_text(as_text({**old, **{name: rounded(shortened(result))
                                      for name, result in new.items()}}))


def shortened(result: dict) -> dict:
    """Return a result without what repeats and, for an IMU, without faultless recordings."""
    result = {key: value for key, value in result.items()
              if key not in ('model', 'data', 'seconds', 'skipped_files', 'seen_in_training')}
    if 'fall' in result:
        wrong = [{key: value for key, value in r.items()
                  if key not in ('subject', 'duration_s', 'transient_fraction', 'counts')}
                 for r in result['recordings']
                 if r['false_alarms'] or (r['is_fall'] and not r['found'])]
        result = {**result, 'recordings_judged': len(result['recordings']), 'recordings': wrong}
    return result


def rounded(value):
    """Return ``value`` with all floats in it rounded."""
    if isinstance(value, float):
        return round(value, PLACES)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def as_text(results: dict) -> str:
    """Return JSON with one line for each recording."""
    lines: list[str] = []

    def number(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == 'recordings':
                    value[key] = [f'@{len(lines) + i}@' for i in range(len(inner))]
                    lines.extend(json.dumps(entry) for entry in inner)
                else:
                    number(inner)

    number(results)
    text = json.dumps(results, indent=2)
    for i, line in enumerate(lines):
        text = text.replace(f'"@{i}@"', line)
    return text + '\n'


def load(name: str) -> dict | list:
    """Return one file of results."""
    return json.loads((RESULTS / f'{name}.json').read_text())


def figures() -> str:
    """Return the README's tables."""
    return '\n'.join(table(*rows) for rows in (_beats(), _falls()))


def _beats() -> list[list[str]]:
    ecg = load('cross_validation_ecg')
    rows = [['ECG', 'annotated', 'INT4 Se %', 'PPV %', 'F1 %', 'FP32 Se %', 'PPV %', 'F1 %']]
    for key, name in (('beat', 'R peaks within 150 ms'), ('beat_50ms', 'R peaks within 50 ms'),
                      ('veb', 'ventricular beats (VEB)')):
        rows.append([name, str(ecg['int4'][key]['n'])]
                    + [percent(ecg[precision][key][part]) for precision in ('int4', 'fp32')
                       for part in ('se', 'ppv', 'f1')])
    return rows


def _falls() -> list[list[str]]:
    imu = load('cross_validation_imu')
    unseen = load('unseen_source_imu')
    rows = [['falls', 'network', 'falls', 'found', 'Se %', 'false alarms', 'hours', 'per hour',
             'at most (95 %)']]
    for precision in ('int4', 'fp32'):
        fall = imu[precision]['fall']
        rows += [_fall_row(name, precision, row) for name, row in (
            ('unseen subjects', fall),
            *((f'... {SOURCES[s]}', row) for s, row in fall['sources'].items()))]
    rows += [_fall_row(f'unseen source: {name}', 'int4', unseen[f'trained_without_{s}']['fall'])
             for s, name in SOURCES.items()]
    return rows


def _fall_row(name: str, precision: str, fall: dict) -> list[str]:
    rates = (fall['hours'], fall['false_alarms_per_hour'], fall['false_alarms_per_hour_upper_95'])
    return [name, precision.upper(), str(fall['falls']), str(fall['found']), percent(fall['se']),
            str(fall['false_alarms']), *(f'{rate:.2f}' for rate in rates)]


def details() -> str:
    """Return the tables of docs/models.md: VEB by record, errors of falls by activity."""
    records = load('cross_validation_ecg')['int4']['recordings']
    rows = [['record', 'VEB', 'found', 'missed', 'false', 'Se %', 'PPV %']]
    groups = [(r['name'], [r]) for r in sorted(records, key=lambda r: -_wrong(r))
              if _wrong(r) >= NOTABLE]
    rest = [r for r in records if _wrong(r) < NOTABLE]
    for name, group in (*groups, (f'the other {len(rest)}', rest)):
        n, tp, fn, fp = (sum(r['veb'][key] for r in group) for key in ('n', 'tp', 'fn', 'fp'))
        rows.append([name, *map(str, (n, tp, fn, fp)), percent(tp / n), percent(tp / (tp + fp))])
    return '\n'.join(table(*rows) for rows in (rows, _activities()))


def _wrong(record: dict) -> int:
    return record['veb']['fp'] + record['veb']['fn']


def _activities() -> list[list[str]]:
    """Return missed falls and false alarms by what was done, INT4."""
    counts: dict[tuple[str, str], list[int]] = {}
    for r in load('cross_validation_imu')['int4']['recordings']:
        row = counts.setdefault((SOURCES[r['source']], r['label']), [0, 0])
        row[0] += r['is_fall'] and not r['found']
        row[1] += r['false_alarms']
    order = sorted(counts.items(), key=lambda item: (-sum(item[1]), item[0]))
    return [['source', 'what was done', 'falls missed', 'false alarms'],
            *([*what, *map(str, row)] for what, row in order)]


def percent(share: float) -> str:
    """Return a fraction as per cent."""
    return f'{100 * share:.2f}'


def table(*rows: list[str]) -> str:
    """Return a Markdown table, its first row the heading."""
    lines = [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join([lines[0], '| --- |' + ' ---: |' * (len(rows[0]) - 1), *lines[1:]]) + '\n'


def main(arguments: list[str]) -> int:
    """Do what the arguments say; return the exit status."""
    if len(arguments) in (3, 4) and arguments[0] == 'keep':
        keep(Path(arguments[1]), Path(arguments[2]), *arguments[3:])
    elif arguments in (['figures'], ['details']):
        print(figures() if arguments == ['figures'] else details(), end='')
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
