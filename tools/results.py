#!/usr/bin/env python3
"""
Keep results of long evaluations in docs/results, and print the tables of the documentation.

    tools/results.py keep RAW.json docs/results/NAME.json [KEY]   what was measured anew
    tools/results.py figures                                      the tables of README.md
    tools/results.py details                                      the tables of docs/models.md
    tools/results.py adaptation                                   the tables of docs/adaptation.md
    tools/results.py detection                                    the tables of docs/detection.md

RAW.json is what `taolora train --folds` or `taolora evaluate peers` (noise, signals, delay) wrote
with --json, or, with the KEY it goes under, what `taolora evaluate` wrote. All else in NAME.json
stays: correct by hand what it says of its origin (`what`, `provenance`) where RAW.json does not say
it. RAW.json of one table does not: it goes under `rows`, with the commit, day and versions of when
it is kept, so keep it where and when it was measured. tools/comparators.py keeps its own.
Recordings of an IMU without errors are dropped, they are thousands.

cross_validation_KIND.json is of what ships, seed 0, cross_validation_ecg_alikeS.json of other
seeds. The table of teachers shows means, lowest and highest of version 4:
cross_validation_ecg_taughtS.json is with teachers, cross_validation_ecg_seedS.json of single
networks without. untaught_imu.json is of falls without teachers, operating_point_ecg.json what
tools/operating_point.py wrote (KEYs int4, fp32, and int4_seedS of other seeds),
operating_point_imu.json what operating_point_falls.py did.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import adaptation_tables
import cross_validation
import operating_point_tables
from kept import RESULTS, as_text, load, origin, percent, rounded, rows_of, table

FORMATS = {'fp32': 'FP32', 'rank_8_16_bits': 'INT4, LoRA of rank 8 in 16 bits (earlier)',
           'untaught': 'INT4, LoRA of rank 16 in 4 bits, without teachers',
           'shipped': 'INT4, LoRA of rank 16 in 4 bits (shipped)',
           'left_out': '... calibrated and tuned (200 steps) without these subjects'}
TABLES = ('figures', 'details', 'detection', 'adaptation')


def keep(raw: Path, out: Path, key: str | None = None) -> None:
    """Write the results in ``raw`` to ``out``, shortened, under the origin told there."""
    old = json.loads(out.read_text()) if out.exists() else {'what': '', 'provenance': ''}
    new = json.loads(raw.read_text())
    if isinstance(new, list):  # one table
        told = old['provenance'] if isinstance(old['provenance'], dict) else {}
        out.write_text(as_text({'what': old['what'], 'provenance': origin(told.get('command', '')),
                                'rows': rounded(new)}))
        return
    new = {key: new} if key else new
    out.write_text(as_text({**old, **{name: rounded(shortened(result) if 'recordings' in result
                                                    else result)
                                      for name, result in new.items()}}))


def shortened(result: dict) -> dict:
    """Return a result without what repeats and, for an IMU, without faultless recordings."""
    result = {key: value for key, value in result.items()
              if key not in ('model', 'data', 'seconds', 'skipped_files', 'seen_in_training',
                             'namesakes', 'not_judged')}
    if 'fall' in result:
        wrong = [{key: value for key, value in r.items()
                  if key not in ('subject', 'duration_s', 'transient_fraction', 'counts')}
                 for r in result['recordings']
                 if r['false_alarms'] or (r['is_fall'] and not r['found'])]
        result = {**result, 'recordings_judged': len(result['recordings']), 'recordings': wrong}
    return result


def figures() -> str:
    """Return the README's tables."""
    return cross_validation.figures()


def details() -> str:
    """Return the tables of docs/models.md: mining, seeds, VEB, falls, formats."""
    return '\n'.join(table(*rows) for rows in (
        cross_validation.by_mining(), operating_point_tables.by_bias(),
        operating_point_tables.by_bias_and_seed(), operating_point_tables.by_veb_bias(),
        operating_point_tables.by_fall_point(), operating_point_tables.by_alike(),
        cross_validation.as_shipped(), cross_validation.by_seed(),
        cross_validation.by_record(), cross_validation.by_teachers(), cross_validation.by_run(),
        cross_validation.by_activity(), *_quantization()))


def _quantization() -> list[list[list[str]]]:
    """Return what each format changes of the events, for an ECG and for falls."""
    ecg, imu = load('quantization_ecg'), load('quantization_imu')
    beats = [['ECG', 'Se %', 'PPV %', 'VEB Se %', 'PPV %', 'F1 %', 'of FP32 %']]
    falls = [['falls', 'falls', 'found', 'of FP32 %', 'false alarms', 'hours']]
    for key, name in FORMATS.items():
        if key in ecg:
            beat, veb = ecg[key]['beat'], ecg[key]['veb']
            beats.append([name, *map(percent, (beat['se'], beat['ppv'], veb['se'], veb['ppv'],
                                               veb['f1'], veb['tp'] / ecg['fp32']['veb']['tp']))])
        if key in imu:
            fall = imu[key]['fall']
            falls.append([name, str(fall['falls']), str(fall['found']),
                          percent(fall['found'] / imu['fp32']['fall']['found']),
                          str(fall['false_alarms']), f'{fall["hours"]:.2f}'])
    return [beats, falls]


BEATS = {'beats': ('beat', 'n'), '150 ms: Se %': ('beat', 'se'), 'PPV %': ('beat', 'ppv'),
         '50 ms: Se %': ('beat_50ms', 'se'), 'PPV % ': ('beat_50ms', 'ppv')}
VEB = {'VEB': ('veb', 'n'), 'Se %': ('veb', 'se'), 'PPV %  ': ('veb', 'ppv')}
FALLS = {'falls': ('fall', 'falls'), 'Se %': ('fall', 'se'),
         'per hour': ('fall', 'false_alarms_per_hour'),
         **{f'{place}: {name}': ('fall', 'sources', source, key)
            for source, place in (('sisfall', 'waist'), ('weda', 'wrist'))
            for name, key in (('Se %', 'se'), ('per hour', 'false_alarms_per_hour'),
                              ('at most', 'false_alarms_per_hour_upper_95'))}}
DETECTION = {  # file of results: first column, and the others
    'peers_ecg': ('detector', {**BEATS, 'CPU s per hour': ('cpu_s_per_hour',)}),
    'delay_ecg': ('delay', {**BEATS, **VEB, 'with fusion': ('veb', 'ppv_strict'),
                            'wait s': ('wait_mean_s',), '99 %': ('wait_p99_s',)}),
    'signals_ecg': ('signal', {**BEATS, **VEB}),
    'delay_imu': ('delay', {**FALLS, 'wait s': ('wait_mean_s',), '99 %': ('wait_p99_s',)}),
    'signals_imu': ('signal', FALLS),
    'noise_ecg': ('detector, noise', BEATS)}


def detection() -> str:
    """Return the tables of docs/detection.md."""
    tables = []
    for name, (first, columns) in DETECTION.items():
        if not (RESULTS / f'{name}.json').exists():  # not measured yet
            continue
        rows = [[row['name'], *(_cell(row, path) for path in columns.values())]
                for row in rows_of(name)]
        tables.append(table([first, *(heading.strip() for heading in columns)], *rows))
    return '\n'.join([*tables, table(*cross_validation.by_place())])


def _cell(row: dict, path: tuple[str, ...]) -> str:
    """Return what lies at ``path`` in a row: a count, a time, or a fraction as per cent."""
    for key in path:
        row = row[key]
    if len(path) == 1 or 'per_hour' in path[-1]:
        return f'{row:.2f}'
    return str(row) if isinstance(row, int) else percent(row)


def adaptation() -> str:
    """Return the tables of docs/adaptation.md."""
    return adaptation_tables.tables()


def main(arguments: list[str]) -> int:
    """Do what the arguments say; return the exit status."""
    if len(arguments) in (3, 4) and arguments[0] == 'keep':
        keep(Path(arguments[1]), Path(arguments[2]), *arguments[3:])
    elif len(arguments) == 1 and arguments[0] in TABLES:
        print(globals()[arguments[0]](), end='')
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
