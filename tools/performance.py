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
from taolora_ros.bench import gpu, gpu_cases, orin
from taolora_ros.bench.boards import BOARDS, Assumptions
from taolora_ros.bench.cpu import OURS
from taolora_ros.bench.gpu_layers import OURS as OUR_LAYER
from taolora_ros.bench.gpu_layers import WAYS

# heads of columns of networks, see taolora_ros/bench/timing.py
TIMES = {'p50_us': 'p50, µs', 'p99_us': 'p99', 'device_us': 'on the device in a row, p50',
         'device_single_us': 'alone, p50', 'device_p99_us': 'p99'}
JITTERS = {'jitter_us': 'jitter, µs', 'device_jitter_us': '... on the device'}
GATES = ('gate closed', 'gate a quarter open', 'gate open')
NARROWER = {'AVX-512 VNNI': 'bench_cpu.json', 'AVX-VNNI': 'bench_cpu_avxvnni.json',
            'AVX2': 'bench_cpu_avx2.json'}
SHOWN_ROWS = (1, 64, 1024)  # M of the layers whose times are told
RESULTS = Path(__file__).resolve().parents[1] / 'docs' / 'results'


def one_core() -> str:
    """Return what `taolora bench cpu` measured."""
    told = json.loads((RESULTS / 'bench_cpu.json').read_text())
    ours = next(way['us'] for way in told['ways'] if way['name'] == OURS)
    rows = [['one window', 'µs', 'p99, µs', 'times ours', 'weights, kB', 'moved, kB', 'start, s']]
    rows += [[way['name'], f'{way["us"]:.0f}', f'{way["p99_us"]:.0f}', f'{way["us"] / ours:.2f}',
              f'{way["weight_bytes"] / 1e3:.0f}', f'{way["bytes"] / 1e3:.0f}',
              f'{way["start_s"]:.2f}'] for way in told['ways']]
    return as_markdown(rows)


def narrower() -> str:
    """Return what `taolora bench cpu` measured of our engine compiled for other processors."""
    rows = [['native by, µs (p99)', *GATES, 'p99 more: a quarter open, ms', 'open, ms',
             'onnxruntime fp32 takes times ours', 'int8']]
    for name, file in NARROWER.items():
        ways = {way['name']: way for way in json.loads((RESULTS / file).read_text())['ways']}
        closed, quarter, wide = (ways[f'native, {gate}'] for gate in GATES)
        rows.append([name, *(f'{way["us"]:.0f} ({way["p99_us"]:.0f})'
                             for way in (closed, quarter, wide)),
                     *(f'{(way["p99_us"] - closed["p99_us"]) / 1e3:.2f}'
                       for way in (quarter, wide)),
                     *(f'{ways[other]["us"] / quarter["us"]:.2f}'
                       for other in ('onnxruntime fp32', 'onnxruntime int8, dynamic'))])
    return as_markdown(rows)


def compiled(target: str) -> str:
    """Return what `taolora bench compile` found for a target."""
    told = json.loads((RESULTS / f'compile_{target}.json').read_text())
    return as_markdown([['kernel', *compiling.COLUMNS], *compiling.summary(told)])


def gpu_networks() -> str:
    """Return what `taolora bench gpu --part networks` measured."""
    result = json.loads((RESULTS / 'bench_gpu_networks.json').read_text())
    told, rate = result['networks'], result['copy_gb_s']
    heads = [*TIMES.values(), 'times faster, of rounds', *JITTERS.values(), '% of the copy rate',
             'peak, MB']
    rows = [['network, windows, way', *heads]]
    for row in sorted(told, key=lambda row: (row['model'], row.get('batch', 0))):
        if 'note' in row:  # what was not measured is told, too
            rows.append([gpu_cases.said(row), *[''] * len(heads)])
            continue
        moved, time = row.get('bytes'), row.get('device_us')
        rows.append([f'{row["model"]}, {row["batch"]}, {row["way"]}',
                     *(gpu.number(row.get(name)) for name in TIMES),
                     gpu.faster(row), *(gpu.number(row.get(name)) for name in JITTERS),
                     gpu.number(share_of_copies(moved, time, rate) if moved and time else None),
                     gpu.number(row['peak_bytes'] / 1e6)])
    return as_markdown(rows)


def share_of_copies(moved: int, time: float, rate: float) -> float:
    """Return bytes a time (µs) in per cent of the rate (GB/s) at which copies move them."""
    return 100 * moved / time / 1e3 / rate


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


def shown_layers() -> list[tuple[str, dict]]:
    """Return the layers of rank 16 whose times are told, and their ways."""
    return [(f'{size}, {count}', ways) for (size, rank, count), ways in sorted(
        measured_layers().items()) if rank == 16 and count in SHOWN_ROWS]


def layer_ways() -> list[str]:
    """Return the ways that layers were measured in."""
    return [way for way in WAYS if any(way in ways for _, ways in shown_layers())]


def two(row: dict | None, first: str, second: str) -> str:
    """Return a median and, in brackets, its p99; nothing for a way that was not measured."""
    return f'{row[first]:.1f} ({row[second]:.1f})' if row and second in row else gpu.number(
        row and row.get(first))


def gpu_layers() -> str:
    """Return times of layers on the device."""
    rows = [['K = N, M', *map(short, layer_ways()), 'times faster', '% of the copy rate',
             'peak, MB (fp16 + LoRA)', 'how']]
    for name, ways in shown_layers():
        ours = ways[OUR_LAYER]
        rows.append([name, *(two(ways.get(way), 'device_us', 'device_p99_us')
                             for way in layer_ways()), times_faster(ways), gpu.number(
            share_of_copies(ours['bytes'], ours['device_us'], ways['rate'])),
            memory(ours, ways['fp16 + LoRA']), ours['shape']])
    return as_markdown(rows)


def memory(ours: dict, peer: dict) -> str:
    """Return the peak of memory of our layer and, in brackets, of the peer's."""
    our, other = (gpu.number(row['peak_bytes'] / 1e6) for row in (ours, peer))
    return f'{our} ({other})'


def gpu_layers_host() -> str:
    """Return times of layers from host to host."""
    found = [way for way in layer_ways()
             if any('p50_us' in ways.get(way, {}) for _, ways in shown_layers())]
    rows = [['K = N, M, host to host', *map(short, found)]]
    rows += [[name, *(two(ways.get(way), 'p50_us', 'p99_us') for way in found)]
             for name, ways in shown_layers()]
    return as_markdown(rows)


def gpu_shapes() -> str:
    """Return times on the device of our layer done otherwise; one shape changed in one thing."""
    rows = [['K = N, M, our layer', 'best', 'a plain shape', '... both paths apart',
             '... one after the other', 'two kernels', 'few rows', 'bit planes']]
    for name, ways in shown_layers():
        tried = {shape: time for shape, time in ways[OUR_LAYER]['tried'].items()
                 if isinstance(time, float)}
        apart = next((shape for shape in tried if shape.endswith(', apart')), '')
        plain = apart.replace(', apart', ', zipper')
        kinds = (min((time for shape, time in tried.items() if shape.startswith(kind)),
                     default=None) for kind in ('two kernels', 'few rows', 'bit planes'))
        rows.append([name, *map(gpu.number, (
            ways[OUR_LAYER]['device_us'], tried.get(plain), tried.get(apart),
            tried.get(f'{plain}, one by one'), *kinds))])
    return as_markdown(rows)


def short(way: str) -> str:
    """Return a way's name as the head of a narrow column."""
    return 'ours' if way == OUR_LAYER else way


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
    print('\n'.join([one_core(), narrower(), gpu_networks(), gpu_ratios(), gpu_layers(),
                     gpu_layers_host(), gpu_shapes(), compiled('sm_87'),
                     compiled('sm_90'), counted(), projected()]), end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
