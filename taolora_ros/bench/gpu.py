"""Engines and kernels on the GPU of this machine, beside their peers, in one run."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from taolora_ros.bench import turns
from taolora_ros.bench.gpu_cases import CASE_SECONDS, SKIPPED, run_all, run_case, said
from taolora_ros.bench.isolated import Isolated
from taolora_ros.bench.provenance import provenance

PARTS = ('networks', 'layers')
NETWORK_SHARE = 0.5   # of the time, for networks; layers get what is left
COMPILE_SHARE = 0.3   # of the time at most, before anything is measured
WORKER = 'taolora_ros.bench.gpu_worker'
PACKAGES = ('triton', 'bitsandbytes', 'torchao', 'gemlite')  # beside those of all benches


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
    result = {'what': 'one run of taolora bench gpu; medians, microseconds; networks by turns, '
                      'of rounds',
              'provenance': {**gpu_provenance(), 'arguments': {
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
            until = began + seconds * share
            take_turns = partial(turns.take_turns, WORKER, peer=gpu_networks.PEERS[0],
                                 alone=gpu_networks.TUNED)
            run = take_turns if part == 'networks' else partial(run_all, worker)
            for row in run(cases=cases[part], until=until, report=report):
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


def write(path: str | None, result: dict) -> None:
    """Write what is known, whole or not at all."""
    if path is None:
        return
    part = Path(f'{path}.part')
    part.write_text(json.dumps(result, indent=2, default=str) + '\n')
    part.replace(path)


def gpu_provenance() -> dict:
    """Return what made the figures: GPU and driver beside what all benches tell."""
    import torch
    device = torch.cuda.get_device_properties(0)
    return {'gpu': device.name, 'capability': f'{device.major}.{device.minor}',
            'multiprocessors': device.multi_processor_count, 'cuda': torch.version.cuda,
            'driver': driver(), **provenance(*PACKAGES)}


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
        shown += [network_table(result['networks']), *notes(result['networks'])]
    if 'layers' in result:
        shown.append(layer_table(result['layers'], result['copy_gb_s']))
    return Group(*shown)


def network_table(rows: list[dict]) -> Table:
    """Return whole networks: host to host, on the device, jitter, memory; why some are not there.
    """
    shown = Table(title='Networks: µs a call, host to host; times faster: median of rounds, range')
    for name in ('model', 'batch', 'way'):
        shown.add_column(name)
    for name in ('p50', 'p99', 'device', 'p99', 'times faster', 'jitter', 'on the device',
                 'peak MB'):
        shown.add_column(name, justify='right')
    for row in sorted(rows, key=lambda row: (row['model'], row['batch'])):
        figures = [number(row.get(name)) for name in (
            'p50_us', 'p99_us', 'device_us', 'device_p99_us')] + [
            faster(row), number(row.get('jitter_us')), number(row.get('device_jitter_us')),
            number(row['peak_bytes'] / 1e6) if 'peak_bytes' in row else '']
        if 'note' in row:  # longer than its column: a line of its own is below
            figures = ['see below', *[''] * 7]
        shown.add_row(row['model'], str(row['batch']), row['way'], *figures)
    return shown


def faster(row: dict) -> str:
    """Return how many times faster than the peer a network is, of rounds: median and range."""
    if 'times_faster' not in row:
        return ''
    low, high = row['times_faster_range']
    return f'{row["times_faster"]:.2f} ({low:.2f}..{high:.2f})'


def notes(rows: list[dict]) -> list[Text]:
    """Return a line for each row that has no figures: why."""
    return [Text(said(row)) for row in rows if 'note' in row]


def layer_table(rows: list[dict], copy_gb_s: float | None) -> Table:
    """Return layers: time on the device, beside fp16 + LoRA, share of the rate of copies, memory.
    """
    peers = {(row['size'], row['rows'], row['rank']): row['device_us'] for row in rows
             if row['way'] == 'fp16 + LoRA' and 'device_us' in row}
    shown = Table(title='Layers: µs on the device')
    for name in ('K = N', 'M', 'rank', 'way'):
        shown.add_column(name)
    for name in ('µs', 'times faster', '% of copy rate', 'peak MB'):
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
            number(row['peak_bytes'] / 1e6 if 'peak_bytes' in row else None),
            row.get('note', row.get('shape', '')))
    return shown


def number(value: float | None, places: int = 1) -> str:
    """Return a number as text, nothing for None."""
    return '' if value is None else f'{value:.{places}f}'
