"""What ``taolora evaluate comparators`` does with its arguments."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console

from taolora_ros.comparators.report import table
from taolora_ros.comparators.rows import ablation, comparators
from taolora_ros.comparators.study import Amount, Study, prepare, run
from taolora_ros.comparators.variants import spread_of_inputs
from taolora_ros.progress import progress
from taolora_ros.shipped import find_model
from taolora_ros.spec import SPECS


def compare(args: argparse.Namespace, console: Console) -> list[dict]:
    """Measure the rows asked for, print them and return them; ValueError for bad arguments."""
    if args.signal is None:
        raise ValueError('comparators: of which model? imu or ecg goes behind it')
    amount, groups = _amount(args), [('Comparators', comparators())]
    if args.ablation:
        groups.append(('Ablation', ablation()))
    if args.methods:
        names = wanted(args.methods, [row.method for _, rows in groups for row in rows])
        groups = [(title, [row for row in rows if any(_is(name, row.method) for name in names)])
                  for title, rows in groups]
    model = find_model(args.model or SPECS[args.signal].name)
    only = frozenset(args.only.split(',')) if args.only else None
    study = prepare(model, args.signal, Path(args.data), amount, only)
    with progress('comparing', 'methods') as report:
        results = run(study, [row for _, rows in groups for row in rows], args.processes, report)
    at = 0
    for title, rows in groups:
        if rows:
            console.print(table(results[at:at + len(rows)], f'{title}, {args.signal}'))
        at += len(rows)
    for line in notes(study, results):
        console.print(line, highlight=False, markup=False)
    return results


def _amount(args: argparse.Namespace) -> Amount:
    changes = {'calibration': args.windows, 'tune_steps': args.tune, 'hours': args.hours}
    for name, least in (('windows', 8), ('tune', 0), ('hours', 0.01)):
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise ValueError(f'--{name}: {value}, at least {least} is needed')
    amount = Amount(**{name: value for name, value in changes.items() if value is not None})
    if args.full:
        if args.hours is not None:
            raise ValueError('--full and --hours: one of them')
        amount = dataclasses.replace(amount, hours=None)
    return amount


def wanted(texts: list[str], methods: list[str]) -> list[str]:
    """Return the parts of names that ``texts`` ask for; raise ValueError for what no method has.

    Names have commas in them: a text is split at its own only when no method has the whole of it.
    """
    found = []
    for text in texts:
        whole = any(_is(text, method) for method in methods)
        for part in [text] if whole else [part.strip() for part in text.split(',')]:
            if not part or not any(_is(part, method) for method in methods):
                raise ValueError(f'--methods: no row is called {part!r}; there are '
                                 f'{"; ".join(methods)}')
            found.append(part)
    return found


def _is(text: str, method: str) -> bool:
    return text.lower() in method.lower()


def notes(study: Study, results: list[dict]) -> list[str]:
    """Return what has to be said besides the tables."""
    calibration, first = study.calibration, results[0]
    gates = study.judged.gates
    judged = {r.subject: study.trained_on.has(r) for r in study.recordings}
    spread = sorted(spread_of_inputs(calibration).values())
    what = 'falls' if study.kind == 'imu' else 'ventricular beats'
    return [
        f'network: full precision of {study.model.name}, which was trained on '
        f'{sum(judged.values())} of the {len(judged)} judged subjects; no method was '
        'calibrated on them',
        f'calibrated on {len(calibration.batch.windows)} windows, rank {calibration.options.rank};'
        f' tuned rows: {calibration.tuning.steps} steps of {calibration.tuning.batch} windows',
        f'errors: {len(gates)} windows, {100 * gates.float().mean():.0f} % of their tokens '
        'transient; recall and precision: '
        f'{first["events"]} {what} in {first["hours"]:.2f} hours of {len(study.recordings)} '
        f'recordings of {", ".join(sorted(judged))}',
        'rms of what the layers read, transient over steady tokens: '
        f'{spread[0]:.2f} to {spread[-1]:.2f}, median {spread[len(spread) // 2]:.2f}']
