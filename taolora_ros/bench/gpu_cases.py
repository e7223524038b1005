"""Cases of `taolora bench gpu` one after the other, in a process that may be lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from taolora_ros.bench.isolated import Isolated, Lost

CASE_SECONDS = {'networks': 60.0, 'layers': 60.0, 'copies': 60.0}  # then a case is given up
SLOW = {'torch.compile reduce-overhead': 150.0}  # ways that may take longer
GIVEN_UP = 2  # cases after which a way that does not answer is not tried again
SKIPPED = 'skipped: the time was over'
LEFT_OUT = 'left out: this way was lost before'


def run_all(worker: Isolated, cases: list[dict], until: float, report) -> Iterator[dict]:
    """Yield the rows of cases until the time is over; what is left out says so."""
    lost = Counter()
    for number, case in enumerate(cases):
        left = until - time.monotonic()
        if left <= 0:
            yield {**about(case), 'note': SKIPPED}
            continue
        if lost[case['way']] >= GIVEN_UP:
            yield {**about(case), 'note': LEFT_OUT}
            continue
        for row in run_case(worker, case, min(most_seconds(case), left + 5.0)):
            lost[case['way']] += row.pop('lost', 0)
            report(number, len(cases), said(row))
            yield row
    report(len(cases), len(cases), '')


def most_seconds(case: dict) -> float:
    """Return after how many seconds a case is given up."""
    return SLOW.get(case['way'], CASE_SECONDS[case['part']])


def run_case(worker: Isolated, case: dict, seconds: float) -> Iterator[dict]:
    """Yield the rows of a case; one whose process is lost has a note and ``lost``."""
    try:
        for row in worker.run(case, seconds):
            yield {**about(case), **row}
    except Lost as error:
        yield {**about(case), 'note': f'failed: {error}', 'lost': 1}


def about(case: dict) -> dict:
    """Return what rows of a case have in common."""
    return {key: value for key, value in case.items()
            if key not in ('part', 'batches', 'compile', 'step')}


def said(row: dict) -> str:
    """Return a row as one line."""
    what = ', '.join(f'{key} {row[key]}' for key in ('model', 'batch', 'size', 'rows', 'rank')
                     if key in row)
    if 'note' in row:
        return f'{what}, {row["way"]}: {row["note"]}'
    figures = ', '.join(f'{key.removesuffix("_us")} {row[key]:.1f} µs' for key in (
        'p50_us', 'p99_us', 'device_us', 'jitter_us', 'device_jitter_us') if key in row)
    return f'{what}, {row["way"]}: {figures}'
