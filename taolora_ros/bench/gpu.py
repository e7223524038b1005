"""Engines and kernels on the GPU of this machine, beside their peers, in one run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from rich.console import Group
from rich.table import Table

from taolora_ros.bench.isolated import Isolated, Lost
from taolora_ros.bench.processes import machine
from taolora_ros.origin import commit

PARTS = ('networks', 'layers')
NETWORK_SHARE = 0.5   # of the time, for networks; layers get what is left
COMPILE_SHARE = 0.3   # of the time at most, before anything is measured
CASE_SECONDS = {'networks': 60.0, 'layers': 60.0, 'copies': 60.0}  # then a case is given up
SLOW = {'torch.compile reduce-overhead': 150.0}  # ways that may take longer
GIVEN_UP = 2          # cases after which a way that does not answer is not tried again
WORKER = 'taolora_ros.bench.gpu_worker'
SKIPPED = 'skipped: the time was over'
PACKAGES = ('torch', 'triton', 'bitsandbytes', 'torchao', 'gemlite')


def measure(seconds: float, parts, sizes, rows, ranks, batches, ways, report,
            keep: Callable[[dict], None] = lambda result: None) -> dict:
    """Measure what there is time for; raise ValueError without a CUDA device.

    ``ways``: only these, none for all. ``keep`` is given what is known after each row.
    """
    check_ways(ways, parts)
    import torch
    if not torch.cuda.is_available():
        raise ValueError('torch finds no CUDA device: nothing can be measured here')
    from taolora_ros.bench import gpu_layers, gpu_networks
    began = time.monotonic()
    cases = chosen({'networks': gpu_networks.cases(batches),
                    'layers': gpu_layers.cases(sizes, rows, ranks)}, parts, ways)
    todo = chosen({'networks': gpu_networks.to_compile(batches),
                   'layers': gpu_layers.to_compile(sizes, rows)}, parts, ways)
    result = {'what': 'one run of taolora bench gpu; medians, microseconds',
              'provenance': {**provenance(), 'arguments': {
                  'seconds': seconds, 'part': parts, 'size': sizes, 'rows': rows, 'rank': ranks,
                  'batch': batches, 'way': ways or 'all'}}, **{part: [] for part in parts}}
    result['compiling'] = compile_all([case for part in parts for case in todo[part]],
                                      seconds * COMPILE_SHARE, report)
    with Isolated('-m', WORKER) as worker:
        def copies(name: str) -> None:
            result.update({name: row.get('copy_gb_s') for row in run_case(
                worker, {'part': 'copies'}, CASE_SECONDS['copies'])})
            keep(result)

        copies('copy_gb_s')
        for part in parts:
            share = NETWORK_SHARE if part == 'networks' and 'layers' in parts else 1.0
            for row in run_all(worker, cases[part], began + seconds * share, report):
                result[part].append(row)
                keep(result)
        copies('copy_gb_s_after')
    return result


def chosen(cases: dict[str, list[dict]], parts, ways) -> dict[str, list[dict]]:
    """Return the cases of these parts, of these ways alone if any are named."""
    return {part: [case for case in cases[part] if not ways or case['way'] in ways]
            for part in parts}


def check_ways(ways, parts) -> None:
    """Raise ValueError for a way that none of the parts has: nothing would be measured."""
    from taolora_ros.bench import gpu_layers, gpu_networks
    there = {'networks': gpu_networks.WAYS, 'layers': gpu_layers.WAYS}
    known = [way for part in parts for way in there[part]]
    for way in ways:
        if way not in known:
            raise ValueError(f'--way: {way!r} is none of {" and ".join(parts)}: '
                             f'{", ".join(map(repr, known))}')


def compile_all(cases: list[dict], seconds: float, report) -> dict:
    """Fill Triton's cache in as many processes as there are cores: nothing compiles later."""
    began, failed, done = time.monotonic(), [], Counter()
    waiting = iter(cases)  # next() of it is safe among threads

    def work() -> None:
        with Isolated('-m', WORKER) as worker:
            for case in waiting:
                left = began + seconds - time.monotonic()
                if left <= 0:
                    failed.append({**case, 'note': SKIPPED})
                    continue
                failed.extend(run_case(worker, {**case, 'compile': True}, left))
                done['all'] += 1
                report(done['all'], len(cases), '')

    count = min(len(os.sched_getaffinity(0)), len(cases))
    with ThreadPoolExecutor(max(count, 1)) as pool:
        for future in [pool.submit(work) for _ in range(count)]:
            future.result()
    return {'seconds': round(time.monotonic() - began, 1), 'processes': count, 'failed': failed}


def run_all(worker: Isolated, cases: list[dict], until: float, report) -> Iterator[dict]:
    """Yield the rows of cases until the time is over; what is left out says so."""
    lost = Counter()
    for number, case in enumerate(cases):
        left = until - time.monotonic()
        if left <= 0:
            yield {**about(case), 'note': SKIPPED}
            continue
        if lost[case['way']] >= GIVEN_UP:
            yield {**about(case), 'note': 'left out: this way was lost before'}
            continue
        limit = SLOW.get(case['way'], CASE_SECONDS[case['part']])
        for row in run_case(worker, case, min(limit, left + 5.0)):
            lost[case['way']] += row.pop('lost', 0)
            report(number, len(cases), said(row))
            yield row
    report(len(cases), len(cases), '')


def run_case(worker: Isolated, case: dict, seconds: float) -> Iterator[dict]:
    """Yield the rows of a case; one whose process is lost has a note and ``lost``."""
    try:
        for row in worker.run(case, seconds):
            yield {**about(case), **row}
    except Lost as error:
        yield {**about(case), 'note': f'failed: {error}', 'lost': 1}


def about(case: dict) -> dict:
    """Return what rows of a case have in common."""
    return {key: value for key, value in case.items() if key not in ('part', 'batches', 'compile')}


def said(row: dict) -> str:
    """Return a row as one line."""
    what = ', '.join(f'{key} {row[key]}' for key in ('model', 'batch', 'size', 'rows', 'rank')
                     if key in row)
    if 'note' in row:
        return f'{what}, {row["way"]}: {row["note"]}'
    figures = ', '.join(f'{key.removesuffix("_us")} {row[key]:.1f} µs' for key in (
        'p50_us', 'p99_us', 'device_us', 'jitter_us', 'device_jitter_us') if key in row)
    return f'{what}, {row["way"]}: {figures}'


def write(path: str | None, result: dict) -> None:
    """Write what is known, whole or not at all."""
    if path is None:
        return
    part = Path(f'{path}.part')
    part.write_text(json.dumps(result, indent=2, default=str) + '\n')
    part.replace(path)


def provenance() -> dict:
    """Return what made the figures: GPU, driver, CPU, versions, commit."""
    import torch
    device = torch.cuda.get_device_properties(0)
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = 'not installed'
    return {'gpu': device.name, 'capability': f'{device.major}.{device.minor}',
            'multiprocessors': device.multi_processor_count, 'cuda': torch.version.cuda,
            'driver': driver(), 'machine': machine(), 'python': platform.python_version(),
            'commit': commit(), **versions}


def driver() -> str:
    """Return the version of the GPU's driver, or why it is not known."""
    asked = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
        return told.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return f'unknown ({type(error).__name__} of nvidia-smi)'


def table(result: dict) -> Group:
    """Return networks by way, layers by size, each beside fp16 + LoRA of the same run."""
    origin = result['provenance']
    head = (f'{origin["gpu"]}, torch {origin["torch"]}, triton {origin["triton"]}, commit '
            f'{origin["commit"]}; copies {number(result["copy_gb_s"], 0)} GB/s before, '
            f'{number(result["copy_gb_s_after"], 0)} after')
    shown = [head]
    if 'networks' in result:
        shown.append(network_table(result['networks']))
    if 'layers' in result:
        shown.append(layer_table(result['layers'], result['copy_gb_s']))
    return Group(*shown)


def network_table(rows: list[dict]) -> Table:
    """Return whole networks: host to host, on the device, jitter, memory."""
    from taolora_ros.bench.gpu_networks import PEERS
    peers = {(row['model'], row.get('batch')): row for row in rows
             if row['way'] == PEERS[0] and 'p50_us' in row}
    shown = Table(title='Networks: µs a call, host to host')
    for name in ('model', 'batch', 'way'):
        shown.add_column(name)
    for name in ('p50', 'p99', 'device', 'p99', 'times faster', 'jitter', 'on the device',
                 'peak MB'):
        shown.add_column(name, justify='right')
    for row in sorted(rows, key=lambda row: (row['model'], row.get('batch', 0))):
        batch = str(row.get('batch', ''))
        if 'note' in row:
            shown.add_row(row['model'], batch, row['way'], row['note'], *[''] * 7)
            continue
        peer = peers.get((row['model'], row['batch']))
        shown.add_row(
            row['model'], batch, row['way'], number(row['p50_us']), number(row['p99_us']),
            number(row.get('device_us')), number(row.get('device_p99_us')),
            number(peer and peer['p50_us'] / row['p50_us'], 2), number(row.get('jitter_us')),
            number(row.get('device_jitter_us')), number(row['peak_bytes'] / 1e6))
    return shown


def layer_table(rows: list[dict], copy_gb_s: float | None) -> Table:
    """Return layers: time on the device, beside fp16 + LoRA, share of the rate of copies."""
    peers = {(row['size'], row['rows'], row['rank']): row['device_us'] for row in rows
             if row['way'] == 'fp16 + LoRA' and 'device_us' in row}
    shown = Table(title='Layers: µs on the device')
    for name in ('K = N', 'M', 'rank', 'way'):
        shown.add_column(name)
    for name in ('µs', 'times faster', '% of copy rate'):
        shown.add_column(name, justify='right')
    shown.add_column('how')
    for row in rows:
        case = (row['size'], row['rows'], row['rank'])
        time = row.get('device_us')
        peer = peers.get(case)
        moved = row.get('bytes')
        shown.add_row(*map(str, case), row['way'], number(time), number(
            peer / time if peer and time else None, 2),
            number(100 * moved / time / 1e3 / copy_gb_s if moved and time and copy_gb_s else None),
            row.get('note', row.get('shape', '')))
    return shown


def number(value: float | None, places: int = 1) -> str:
    """Return a number as text, nothing for None."""
    return '' if value is None else f'{value:.{places}f}'
