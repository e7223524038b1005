#!/usr/bin/env python3
"""
Put the comparison of methods into docs/comparators.md: its tables, and docs/comparators.png.

    .venv/bin/python tools/comparators.py --data DIR [ecg|imu]
    .venv/bin/python tools/comparators.py

The first measures all rows anew, as `taolora evaluate comparators ecg|imu --ablation` does on
DIR/ecg/mitdb and DIR/imu_falls, and keeps them in docs/results/comparators_ecg.json and
comparators_imu.json with where they come from. Without --data those kept are drawn again.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from kept import RESULTS, as_text, origin, percent, rounded, rows_of, table  # noqa: E402

PAGE = RESULTS.parent / 'comparators.md'
PICTURE = RESULTS.parent / 'comparators.png'
DATA = {'ecg': 'ecg/mitdb', 'imu': 'imu_falls'}  # in DIR
KINDS = {'ecg': 'ECG, ventricular beats', 'imu': 'IMU, falls'}
MIXED = 'mixed precision'
ABLATION = 'clip all, LoRA none'  # the first row of the second table
HEADING = ['KB', 'saved %', 'error steady', 'transient', 'recall %', 'precision %', 'M multiplies',
           'INT4 %', 'gated %']
GROUPS = (  # of the picture: marker, colour, label, and what its rows begin with
    ('s', '#7a7f87', '16 or 32 bits', ('FP', 'mixed', 'R-Sparse')),
    ('^', '#c98a1b', '4-bit weights, 8 or 16-bit activations',
     ('RTN W4A8', 'RTN W4A16', 'QLoRA', 'LoftQ', 'L2QER W4A8', 'EoRA W4A16')),
    ('D', '#2a6fb0', 'W4A4, branch always on or none', ('RTN W4A4', 'L2QER W4A4', 'EoRA W4A4',
                                                       'SVDQuant')),
    ('o', '#b3261e', 'TAO-LoRA', ('TAO-LoRA',)))
NAMED = {  # rows that the picture names: what to call them, and where (points from the mark)
    'SVDQuant W4A4': ('SVDQuant', (7, -3)), 'RTN W4A4': ('RTN W4A4', (-48, -3)),
    'RTN W4A4, scale per token': ('... scale per token', (7, -3)),
    'RTN W4A8': ('RTN W4A8', (-48, -3)), 'R-Sparse (A16)': ('R-Sparse', (-48, -3)),
    'LoftQ (NF4, A16)': ('LoftQ', (7, -3)), 'EoRA W4A16': ('EoRA W4A16', (7, -6)),
    'EoRA W4A4': ('EoRA, L2QER W4A4', (7, -3)),
    'TAO-LoRA W4A4, no LoRA': ('no LoRA', (-38, 2)),
    'TAO-LoRA W4A4, gate closed': ('gate closed', (7, 1)),
    'TAO-LoRA W4A4': ('gated', (7, -7)),
    'TAO-LoRA W4A4, 4-bit LoRA': ('gated, 4-bit LoRA', (-48, -14)),
    'TAO-LoRA W4A4, 4-bit LoRA, always on': ('always on', (-44, -11))}
DRAWN = 2e-3  # least error that is drawn: 16 bits have a tenth of it


def measure(kind: str, data: Path, told: dict) -> None:
    """Measure all rows and keep them, with their origin and what the command says of them."""
    from taolora_ros.comparators.command import notes
    from taolora_ros.comparators.rows import ablation, comparators
    from taolora_ros.comparators.study import Amount, prepare, run
    from taolora_ros.progress import progress
    from taolora_ros.shipped import find_model
    from taolora_ros.spec import SPECS
    started = time.monotonic()
    study = prepare(find_model(SPECS[kind].name), kind, data / DATA[kind], Amount())
    with progress('comparing', 'methods') as report:
        found = run(study, [*comparators(), *ablation()], progress=report)
    told = {**told, 'device': 'cpu', 'seconds': round(time.monotonic() - started)}
    (RESULTS / f'comparators_{kind}.json').write_text(as_text(rounded({
        'what': 'methods of quantization beside ours, then ours with one thing changed',
        'provenance': told, 'notes': notes(study, found), 'rows': found})))


def rows(kind: str) -> tuple[list[dict], list[dict]]:
    """Return the rows of the comparison and of the ablation."""
    found = rows_of(f'comparators_{kind}')
    at = next((i for i, row in enumerate(found) if row['method'] == ABLATION), len(found))
    return found[:at], found[at:]


def tables() -> dict[str, str]:
    """Return all tables in Markdown by their names."""
    made = {}
    for kind in KINDS:
        compared, ablation = rows(kind)
        against = next(row['bytes'] for row in compared if row['method'].startswith(MIXED))
        for name, group in (('methods', compared), ('ablation', ablation)):
            made[f'{name}-{kind}'] = table(['method', *HEADING],
                                           *(_cells(row, against) for row in group))
    return made


def _cells(row: dict, against: int) -> list[str]:
    share = row['macs_by_kind'].get('int4', 0) / row['macs']
    return [row['method'], f'{row["bytes"] / 1000:.0f}',
            f'{100 * (1 - row["bytes"] / against):.1f}',
            f'{row["error_steady"]:.4f}', f'{row["error_transient"]:.4f}',
            *('-' if row[key] is None else percent(row[key]) for key in ('recall', 'precision')),
            f'{row["macs"] / 1e6:.1f}', f'{100 * share:.0f}',
            '-' if row['open_share'] is None else f'{100 * row["open_share"]:.0f}']


def draw(path: Path = PICTURE) -> None:
    """Draw memory against error, steady tokens above, transient ones below."""
    import matplotlib
    matplotlib.use('Agg')  # a file is all that is wanted, on machines without a screen too
    from matplotlib import pyplot
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 8), dpi=100, sharex=True)
    for column, (kind, title) in enumerate(KINDS.items()):
        for axes, which in zip(grid[:, column], ('steady', 'transient')):
            _panel(axes, rows(kind)[0], f'error_{which}')
            axes.set_title(f'{title}: {which} tokens', loc='left', fontsize=10)
        grid[1, column].set_xlabel('KB, everything counted')
    for axes in grid[:, 0]:
        axes.set_ylabel('relative logit error')
    figure.legend(*grid[0, 0].get_legend_handles_labels(), fontsize=8, loc='upper center', ncol=4)
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    figure.savefig(path, metadata={'Software': None})


def _panel(axes, compared: list[dict], key: str) -> None:
    for marker, colour, label, names in GROUPS:
        group = [row for row in compared if row['method'].startswith(names) and row[key] > DRAWN]
        axes.scatter([row['bytes'] / 1000 for row in group], [row[key] for row in group],
                     marker=marker, c=colour, label=label, s=34, alpha=0.85)
    axes.set(xscale='log', yscale='log', xlim=(290, 2000))
    ticks = (400, 500, 600, 800, 1000, 1500)
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_xticks((), minor=True)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    for row in compared:
        if row['method'] in NAMED:
            name, place = NAMED[row['method']]
            axes.annotate(name, (row['bytes'] / 1000, row[key]), fontsize=7, xytext=place,
                          textcoords='offset points')


def filled(page: str) -> str:
    """Return the page with the tables of today between its marks."""
    for name, text in tables().items():
        page = re.sub(rf'(<!-- {name} -->\n).*?(<!-- end -->)', lambda m: m[1] + text + m[2], page,
                      flags=re.DOTALL)
    return page


def main(arguments: list[str]) -> None:
    """Measure, if asked to; write tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__.strip().partition('\n')[0])
    parser.add_argument('--data', type=Path, metavar='DIR', help='measure anew on what is there')
    parser.add_argument('kinds', nargs='*', metavar='ecg|imu', help='only of this one')
    args = parser.parse_args(arguments)
    if set(args.kinds) - set(KINDS):
        parser.error(f'{" ".join(args.kinds)}: ecg or imu')
    told = origin('tools/comparators.py --data DIR') if args.data else {}  # files change below
    for kind in (args.kinds or KINDS) if args.data else ():
        measure(kind, args.data, told)
    PAGE.write_text(filled(PAGE.read_text()))
    draw()
    print(f'wrote {PAGE} and {PICTURE}')


if __name__ == '__main__':
    main(sys.argv[1:])
