#!/usr/bin/env python3
"""
Print the tables of docs/performance.md: one window on a core, networks and layers on a GPU and what
kernels take, as kept in docs/results/, and the projection on Jetson Orins with its default
assumptions.

    tools/performance.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from taolora_ros.bench import compile as compiling
from taolora_ros.bench import gpu, orin
from taolora_ros.bench.boards import BOARDS, Assumptions
from taolora_ros.bench.cpu import OURS
from taolora_ros.bench.gpu_layers import OURS as OUR_LAYER
from taolora_ros.bench.gpu_networks import PEERS
from taolora_ros.bench.peers import LAYER_PEERS

SHOWN_ROWS = (1, 64, 1024)  # M of the layers whose times are told
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


def gpu_networks() -> str:
    """Return what `taolora bench gpu --part networks` measured."""
    told = json.loads((RESULTS / 'bench_gpu_networks.json').read_text())['networks']
    peers = {(row['model'], row['batch']): row['p50_us'] for row in told
             if row['way'] == PEERS[0] and 'p50_us' in row}
    rows = [['network, windows, way', 'p50, µs', 'p99, µs', 'on the device, µs', 'times faster',
             'jitter, µs', 'peak, MB']]
    for row in sorted((row for row in told if 'p50_us' in row),
                      key=lambda row: (row['model'], row['batch'])):
        rows.append([f'{row["model"]}, {row["batch"]}, {row["way"]}', *(
            gpu.number(row.get(name)) for name in ('p50_us', 'p99_us', 'device_us')),
            gpu.number(peers[row['model'], row['batch']] / row['p50_us'], 2),
            gpu.number(row.get('jitter_us')), gpu.number(row['peak_bytes'] / 1e6)])
    return as_markdown(rows)


def measured_layers() -> dict[tuple, dict]:
    """Return what `taolora bench gpu --part layers` measured: by K, rank and M the ways.

    A later file adds only ways that the ones before have not.
    """
    cases: dict[tuple, dict] = {}
    for file in sorted(RESULTS.glob('bench_gpu_layers*.json')):
        told = json.loads(file.read_text())
        for row in told['layers']:
            ways = cases.setdefault((row['size'], row['rank'], row['rows']),
                                    {'rate': told['copy_gb_s']})
            if 'device_us' in row:
                ways.setdefault(row['way'], row)
    return cases


def times_faster(ways: dict) -> str:
    """Return how many times faster ours is than fp16 with LoRA."""
    return gpu.number(ways['fp16 + LoRA']['device_us'] / ways[OUR_LAYER]['device_us'], 2)


def gpu_ratios() -> str:
    """Return how many times faster layers are, a line a width and rank."""
    cases = measured_layers()
    counts = sorted({count for *_, count in cases})
    rows = [['K = N, rank', *(f'M = {count}' for count in counts)]]
    for size, rank in sorted({(size, rank) for size, rank, _ in cases}):
        rows.append([f'{size}, {rank}',
                     *(times_faster(cases[size, rank, count]) for count in counts)])
    return as_markdown(rows)


def gpu_layers() -> str:
    """Return the times of layers of rank 16, a line a layer."""
    cases = measured_layers()
    peers = [way for way in LAYER_PEERS if any(way in ways for ways in cases.values())]
    rows = [['K = N, M', *peers, 'ours', 'times faster', '% of the copy rate', 'how']]
    for (size, rank, count), ways in sorted(cases.items()):
        if rank != 16 or count not in SHOWN_ROWS:
            continue
        ours = ways[OUR_LAYER]
        share = 100 * ours['bytes'] / ours['device_us'] / 1e3 / ways['rate']
        rows.append([f'{size}, {count}', *(
            gpu.number(ways.get(way, {}).get('device_us')) for way in (*peers, OUR_LAYER)),
            times_faster(ways), gpu.number(share), ours['shape']])
    return as_markdown(rows)


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
    print('\n'.join([one_core(), gpu_networks(), gpu_ratios(), gpu_layers(), compiled('sm_87'),
                     compiled('sm_90'), counted(), projected()]), end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
