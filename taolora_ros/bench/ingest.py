"""``taolora bench ingest``: what one Imu message costs, beside a plain rclpy subscriber."""

from __future__ import annotations

import json
from collections.abc import Callable
from statistics import median

from rich.table import Table

from taolora_ros.bench.processes import PATIENCE, Process, load, machine
from taolora_ros.bench.provenance import provenance
from taolora_ros.bench.subscriber import WARM_UP
from taolora_ros.bench.whole_node import cost, run_node

TOPIC = '/bench/imu'
WAYS = {'plain': 'plain rclpy subscriber', 'ours': 'our intake alone',
        'node': 'whole node, inference at the default hop'}


def measure(rate: float, seconds: float, runs: int,
            report: Callable[[int, int, str], None] = lambda *_: None) -> dict:
    """Return µs of CPU per message, the median of ``runs`` that take turns."""
    found, before, origin = {way: [] for way in WAYS}, load(), provenance('rclpy')
    for run in range(runs):
        for i, way in enumerate(WAYS):
            report(run * len(WAYS) + i, runs * len(WAYS), WAYS[way])
            found[way].append(_node(rate, seconds) if way == 'node'
                              else _subscriber(way, rate, seconds))
    us = {way: round(median(values), 1) for way, values in found.items()}
    return {'us_per_message': {way: us[way] for way in ('plain', 'ours')},
            'node_us_per_message': us['node'],
            'ratio': {way: round(us[way] / us['plain'], 3) for way in ('ours', 'node')},
            'runs_us': {way: [round(value, 1) for value in values]
                        for way, values in found.items()},
            'rate_hz': rate, 'seconds': seconds, 'provenance': origin, 'machine': machine(),
            'load': [before, load()]}


def table(result: dict) -> Table:
    """Return the figures as a table."""
    plain = result['us_per_message']['plain']
    rows = {**result['us_per_message'], 'node': result['node_us_per_message']}
    shown = Table(title=f'CPU per Imu message at {result["rate_hz"]:g} Hz, best effort',
                  caption=f'{result["machine"]}; load {result["load"][0]} before, '
                          f'{result["load"][1]} after; {len(result["runs_us"]["plain"])} runs of '
                          f'{result["seconds"]:g} s')
    for column in ('', 'µs per message', 'from - to', 'of the plain one'):
        shown.add_column(column, justify='right' if column else 'left')
    for way, us in rows.items():
        runs = result['runs_us'][way]
        shown.add_row(WAYS[way], f'{us:.1f}', f'{min(runs):.1f} - {max(runs):.1f}',
                      f'{us / plain:.2f}')
    return shown


def _subscriber(way: str, rate: float, seconds: float) -> float:
    """Return µs per message of a subscriber process."""
    with Process('taolora_ros.bench.subscriber', way, TOPIC, str(seconds)) as subscriber:
        with Process('taolora_ros.bench.publisher', TOPIC, str(rate),
                     str(WARM_UP + seconds + 1.0)):
            said = json.loads(subscriber.result(2 * PATIENCE + seconds))
    if not said['messages']:
        raise RuntimeError(f'{WAYS[way]}: no messages came')
    return 1e6 * said['cpu_s'] / said['messages']


def _node(rate: float, seconds: float) -> float:
    """Return µs per message of the node."""
    cpu, messages, _ = cost(run_node(1, rate, seconds, every_window=False))
    return 1e6 * cpu / messages
