"""``taolora bench adaptation``: what one feedback costs at 768 inputs and outputs, rank 2, batch 1.

The budget is the reference text's (METHOD section 6); it counts gradient (15 µs), momentum (10)
and bookkeeping (10) apart, all of which are in ``update`` here, as is the bound of the norm.
"""

from __future__ import annotations

import json

from rich.console import Group
from rich.table import Table
from rich.text import Text

from taolora_ros.bench.processes import PATIENCE, Process, load, machine
from taolora_ros.bench.provenance import provenance

PARTS = ('signal', 'update', 'forward', 'total')
BUDGET = {'signal': 10.0, 'update': 50.0, 'forward': 30.0, 'total': 100.0}  # µs, reference text
AIM = {'signal': 5.0, 'update': 25.0, 'forward': 6.0, 'total': 40.0}        # µs, ours
AMORTISED_BUDGET = 30.0                                                     # µs, in batches
ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')
ROWS = {'signal': 'signal: feedback to gradient', 'forward': 'forward: both tiers, ranks 8 and 2',
        'update': 'update: gradient, momentum, step, bound',
        'total': 'total: the three in a row'}


def measure(calls: int, updates: int, windows: int) -> dict:
    """Return µs of each part, PyTorch's beside, growth of memory, and inference while saving."""
    before, limit, origin = load(), 20 * PATIENCE, provenance()
    with Process('taolora_ros.bench.adaptation_process', str(calls), str(updates), str(windows),
                 **ONE_THREAD) as process:
        found = json.loads(process.result(limit))
    ours, torch = found['numpy'], found['torch']
    return {'us': {part: ours[part][0] for part in PARTS},
            'p99_us': {part: ours[part][1] for part in PARTS},
            'torch_us': {part: torch[part][0] for part in PARTS},
            'torch_p99_us': {part: torch[part][1] for part in PARTS},
            'budget_us': BUDGET, 'aim_us': AIM,
            'update_at_limit_us': ours['update_at_limit'],
            'amortised_us': {'numpy': ours['together'][0], 'torch': torch['together'][0],
                             'budget': AMORTISED_BUDGET, 'batch': 32},
            'growth_bytes': found['growth_bytes'], 'updates': updates, 'saving': found['saving'],
            'storage': found['storage'], 'node': found['node'],
            'width': 768, 'rank': 2, 'batch': 1, 'threads': 1, 'calls': calls,
            'provenance': origin, 'machine': machine(), 'load': [before, load()]}


def table(result: dict) -> Group:
    """Return the figures as a table, with what it does not hold below."""
    shown = Table(title=f'One feedback, {result["width"]} inputs and outputs, rank '
                        f'{result["rank"]}, batch 1, one CPU thread',
                  caption=f'{result["machine"]}; load {result["load"][0]} before, '
                          f'{result["load"][1]} after; {result["calls"]} calls each')
    for column in ('median in µs (p99)', 'NumPy: used', 'PyTorch', 'aim', 'reference text'):
        shown.add_column(column, justify='left' if column.startswith('median') else 'right')
    for part in PARTS:
        shown.add_row(ROWS[part], f'{result["us"][part]:.1f} ({result["p99_us"][part]:.1f})',
                      f'{result["torch_us"][part]:.1f} ({result["torch_p99_us"][part]:.1f})',
                      f'{result["aim_us"][part]:g}', f'{result["budget_us"][part]:g}')
    batch = result['amortised_us']
    shown.add_row(f'update, {batch["batch"]} feedbacks at once, each', f'{batch["numpy"]:.2f}',
                  f'{batch["torch"]:.2f}', '', f'{batch["budget"]:g}')
    at_limit, saving, kept = (result[key] for key in ('update_at_limit_us', 'saving', 'storage'))
    node = result['node']
    return Group(shown, Text(
        f'in the node, ecg_beats: a feedback moves the next decision after '
        f'{node["feedback_us"][0]:.0f} µs (p99 {node["feedback_us"][1]:.0f}), and is settled '
        f'{node["settle_ms"][0]:.1f} ms later (p99 {node["settle_ms"][1]:.1f}); '
        f'{node["feedbacks"]} feedbacks\n'
        f'with few others waiting to be settled a feedback is taken in {node["waiting_us"][0]:.0f} '
        f'µs, with {node["waiting"]} in {node["waiting_us"][1]:.0f} µs\n'
        f'update while the norm is at its limit: {at_limit[0]:.1f} µs (p99 {at_limit[1]:.1f})\n'
        f'memory after {result["updates"]} feedbacks: {result["growth_bytes"]:+d} bytes\n'
        f'factors of rank 8: float32 {kept["float32_bytes"]} bytes'
        + ''.join(f', {name} {kept[name]["bytes"]} (error of A {kept[name]["error_a"]:.2%}, of A B '
                  f'{kept[name]["error"]:.2%})' for name in ('float16', 'q4')) + '\n'
        f'inference of imu_falls in ms, less the time of waiting for a core, and as it passed:\n'
        f'  alone {_both(saving["alone"])}\n  states handed over after every window, saved every '
        f'{saving["pause_s"]:g} s {_both(saving["while_saving"])}\n  saved without a pause '
        f'{_both(saving["without_pause"])}\n  beside another process that flushes a file to the '
        f'same disk {_both(saving["beside_flusher"])}\n  {saving["windows"]} windows each; handing '
        f'over takes {saving["hand_over_us"]:.0f} µs'))


def _both(took: dict[str, list[float]]) -> str:
    """Return medians and p99."""
    (own, own_99), (passed, passed_99) = took['own_ms'], took['ms']
    return f'{own:.2f} (p99 {own_99:.2f}), {passed:.2f} (p99 {passed_99:.2f})'
