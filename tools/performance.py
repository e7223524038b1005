#!/usr/bin/env python3
"""
Print the tables of docs/performance.md: one window on a core and what kernels take, as kept in
docs/results/, and the projection on Jetson Orins with its default assumptions.

    tools/performance.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from taolora_ros.bench import compile as compiling
from taolora_ros.bench import orin
from taolora_ros.bench.cpu import OURS
from taolora_ros.bench.boards import BOARDS, Assumptions

RESULTS = Path(__file__).resolve().parents[1] / 'docs' / 'results'


def one_core() -> str:
    """Return what `taolora bench cpu` measured."""
    told = json.loads((RESULTS / 'bench_cpu.json').read_text())
    ours = next(way['us'] for way in told['ways'] if way['name'] == OURS)
    rows = [['one window', 'µs', 'p99, µs', 'times ours', 'weights, kB', 'start, s']]
    rows += [[way['name'], f'{way["us"]:.0f}', f'{way["p99_us"]:.0f}', f'{way["us"] / ours:.2f}',
              f'{way["weight_bytes"] / 1e3:.0f}', f'{way["start_s"]:.2f}'] for way in told['ways']]
    return as_markdown(rows)


def compiled(target: str) -> str:
    """Return what `taolora bench compile` found for a target."""
    told = json.loads((RESULTS / f'compile_{target}.json').read_text())
    return as_markdown([['kernel', *compiling.COLUMNS], *compiling.summary(told)])


def counted() -> str:
    """Return what a window costs whatever the machine, per network and engine."""
    rows = [['network', 'engine', 'launches', 'weights, bytes', 'in and out, bytes',
             'between kernels, bytes', 'INT8, operations', '16 bits, operations']]
    result = orin.measure(BOARDS[:1], Assumptions())
    rows += [[row['model'], row['engine'], *(f'{row[name]:,}' for name in (
        'launches', 'weight_bytes', 'end_bytes', 'between_bytes', 'int8_ops', 'half_ops'))]
        for row in result['rows']]
    return as_markdown(rows)


def projected() -> str:
    """Return the projection of the ECG network."""
    result = orin.measure(BOARDS, Assumptions())
    rows = [['board', 'engine', 'floor, µs', 'memory, µs', 'arithmetic, µs', 'launches, µs',
             'projected, µs']]
    rows += [[row['board'], row['engine'], *(f'{row[name]:.1f}' for name in (
        'floor_us', 'memory_us', 'arithmetic_us', 'launches_us', 'total_us'))]
        for board in BOARDS for row in result['rows']
        if row['board'] == board.name and row['model'] == 'ecg_beats']
    return as_markdown(rows)


def as_markdown(rows: list[list[str]]) -> str:
    """Return a Markdown table, its first row the heading."""
    lines = [f'| {" | ".join(row)} |' for row in rows]
    ruler = '| --- |' + ' ---: |' * (len(rows[0]) - 1)
    return '\n'.join([lines[0], ruler, *lines[1:]]) + '\n'


def main() -> int:
    """Print all tables; return the exit status."""
    print('\n'.join([one_core(), compiled('sm_87'), compiled('sm_90'), counted(), projected()]),
          end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
