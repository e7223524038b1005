"""Engines and kernels on the GPU of this machine, beside their peers, in one run."""

from __future__ import annotations

import platform
from importlib import metadata

from rich.console import Group
from rich.table import Table

from taolora_ros.bench.origin import commit

PARTS = ('networks', 'layers')
NETWORK_SHARE = 0.5  # of the time, for networks; layers get what is left
PACKAGES = ('torch', 'triton', 'bitsandbytes', 'torchao', 'gemlite')


def measure(seconds: float, parts, sizes, rows, ranks, batches, report) -> dict:
    """Measure what there is time for; raise ValueError without a CUDA device."""
    import torch
    if not torch.cuda.is_available():
        raise ValueError('torch finds no CUDA device: nothing can be measured here')
    from taolora_ros.bench import gpu_layers, gpu_networks
    from taolora_ros.bench.timing import Deadline, copy_bandwidth
    whole = Deadline(seconds)
    result = {'what': 'one run of taolora bench gpu; medians, microseconds',
              'provenance': provenance(), 'copy_gb_s': copy_bandwidth()}
    if 'networks' in parts:
        share = NETWORK_SHARE if 'layers' in parts else 1.0
        result['networks'] = gpu_networks.measure(Deadline(seconds * share), batches, report)
    if 'layers' in parts:
        result['layers'] = gpu_layers.measure(whole, sizes, rows, ranks, report)
    result['copy_gb_s_after'] = copy_bandwidth()
    return result


def provenance() -> dict:
    """Return what made the figures: GPU, driver's CUDA, versions, commit."""
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
            'python': platform.python_version(), 'commit': commit(),
            **versions}


def table(result: dict) -> Group:
    """Return networks by way, layers by size, each beside fp16 + LoRA of the same run."""
    about = result['provenance']
    head = (f'{about["gpu"]}, torch {about["torch"]}, triton {about["triton"]}, commit '
            f'{about["commit"]}; copies {result["copy_gb_s"]:.0f} GB/s before, '
            f'{result["copy_gb_s_after"]:.0f} after')
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
    for name in ('p50', 'p99', 'device', 'times faster', 'jitter', 'peak MB'):
        shown.add_column(name, justify='right')
    for row in sorted(rows, key=lambda row: (row['model'], row.get('batch', 0))):
        batch = str(row.get('batch', ''))
        if 'note' in row:
            shown.add_row(row['model'], batch, row['way'], row['note'], *[''] * 5)
            continue
        peer = peers.get((row['model'], row['batch']))
        shown.add_row(
            row['model'], batch, row['way'], number(row['p50_us']), number(row['p99_us']),
            number(row.get('device_us')), number(peer and peer['p50_us'] / row['p50_us'], 2),
            number(row.get('jitter_us')), number(row['peak_bytes'] / 1e6))
    return shown


def layer_table(rows: list[dict], copy_gb_s: float) -> Table:
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
            number(100 * moved / time / 1e3 / copy_gb_s if moved and time else None),
            row.get('note', row.get('shape', '')))
    return shown


def number(value: float | None, places: int = 1) -> str:
    """Return a number as text, nothing for None."""
    return '' if value is None else f'{value:.{places}f}'
