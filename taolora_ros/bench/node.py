"""``taolora bench node``: from sample to result, what it costs and whether anything is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.table import Table

from taolora_ros.bench.processes import load, machine
from taolora_ros.bench.provenance import provenance
from taolora_ros.bench.whole_node import DROPS, Heard, cost, run_node
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import IMU_FALLS

CASES = ((1, 100.0), (1, 1000.0), (8, 1000.0))  # streams, Hz of each


def measure(seconds: float, hop: float | None = None, cases: Sequence[tuple[int, float]] = CASES,
            report: Callable[[int, int, str], None] = lambda *_: None,
            parameters: Mapping[str, str] | None = None) -> dict:
    """Return what the node did with each of ``cases``; ``hop`` in s, by default the model's.

    ``parameters`` of the node, such as device and engine.
    """
    found, before, origin = [], load(), provenance('rclpy')
    for i, (streams, rate) in enumerate(cases):
        report(i, len(cases), f'{streams} x {rate:g} Hz')
        heard = run_node(streams, rate, seconds, hop, call=True, parameters=parameters)
        found.append({'streams': streams, 'rate_hz': rate, **_judged(heard, streams, hop)})
    return {'cases': found, 'seconds': seconds, 'machine': machine(), 'load': [before, load()],
            'provenance': origin, 'gpu': _gpu(found)}


def _gpu(cases: list[dict]) -> str | None:
    """Return the GPU and the versions that the node ran on, None where it ran on a CPU."""
    if not any(case['engine'].endswith('cuda') for case in cases):
        return None
    import torch
    import triton
    return (f'{torch.cuda.get_device_name()}, torch {torch.__version__}, '
            f'triton {triton.__version__}')


def _judged(heard: Heard, streams: int, hop: float | None) -> dict:
    """Return the figures of one case."""
    cpu, messages, passed = cost(heard)
    hop = max(round((hop or IMU_FALLS.hop) * IMU_FALLS.rate), 1) / IMU_FALLS.rate
    first = min((arrival for *_, arrival in heard.results), default=0)
    steady = [one for one in heard.results if one[2] >= first + NANOSECONDS]
    if len(steady) < 2:
        raise RuntimeError(f'{len(steady)} windows were decided, too few to measure')
    latency = [(arrival - stamp) / 1e6 for _, stamp, arrival in steady]  # ms
    ends: dict[str, list[int]] = {}
    for stream, stamp, _ in steady:
        ends.setdefault(stream, []).append(stamp)
    due = sum(round((max(e) - min(e)) / (hop * NANOSECONDS)) + 1 for e in ends.values())
    span = max(max(e) - min(e) for e in ends.values()) / NANOSECONDS + hop
    delivered = sum(heard.states[-1].messages.values())
    drops = {name: n for name, n in heard.states[-1].counts.items() if name in DROPS}
    return {'engine': heard.engine, 'engine_reason': heard.reason,
            'hop_s': hop, 'latency_ms': _quantiles(latency),
            **_waits(heard, steady[0][2], max(arrival for *_, arrival in steady)),
            'cpu_percent': round(100 * cpu / passed, 1),
            'us_per_message': round(1e6 * cpu / messages, 1),
            'sent': heard.sent, 'delivered': delivered,
            'taken': delivered - sum(drops.values()), 'drops': drops,
            'decisions': len(steady), 'decisions_due': due + (streams - len(ends)),
            'decisions_per_s': round(len(steady) / span, 2),
            'decisions_per_s_due': round(streams / hop, 2),
            'publisher_late_ms': round(1e3 * heard.late, 1)}


def _waits(heard: Heard, start: int, stop: int) -> dict:
    """Return how long others waited for the node while it decided, from ``start`` to ``stop`` (ns).

    A service, diagnostics and intake: the longest time in which nobody looked for messages.
    """
    states = [state for state in heard.states if start <= state.arrival <= stop]
    off = np.abs(np.diff([state.arrival for state in states]) / 1e6 - 1e3)  # ms
    return {'service_ms': _quantiles([ms for asked, ms in heard.calls if start <= asked <= stop]),
            'idle_service_ms': _quantiles([ms for _, ms in heard.idle]),
            'diagnostics_jitter_ms': round(float(np.quantile(off, 0.99)), 2) if len(off) else None,
            'intake_break_ms': max((state.intake_break for state in states), default=None)}


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return p50, p99 and max; None of nothing."""
    if not values:
        return None
    p50, p99, most = np.quantile(values, (0.5, 0.99, 1.0)).tolist()
    return {'p50': round(p50, 2), 'p99': round(p99, 2), 'max': round(most, 2)}


def table(result: dict) -> Table:
    """Return the figures as a table, a column for each case."""
    shown = Table(title='The node, from the last sample of a window to its result',
                  caption=f'{result["machine"]}; load {result["load"][0]} before, '
                          f'{result["load"][1]} after; {result["seconds"]:g} s each')
    shown.add_column('')
    for case in result['cases']:
        shown.add_column(f'{case["streams"]} x {case["rate_hz"]:g} Hz', justify='right')
    rows = {
        'engine': lambda c: c['engine'],
        'latency p50, p99, max, ms': lambda c: _shown(c['latency_ms']),
        'parameter service p50, p99, max, ms': lambda c: _shown(c['service_ms']),
        '... without messages, ms': lambda c: _shown(c['idle_service_ms']),
        'diagnostics off their second p99, ms': lambda c: _shown(c['diagnostics_jitter_ms']),
        'longest break of intake, ms': lambda c: _shown(c['intake_break_ms']),
        'publisher late at worst, ms': lambda c: f'{c["publisher_late_ms"]:.1f}',
        'CPU, % of a core': lambda c: f'{c["cpu_percent"]:.1f}',
        'CPU, µs per message': lambda c: f'{c["us_per_message"]:.1f}',
        'samples sent': lambda c: str(c['sent']),
        '... delivered by DDS': lambda c: str(c['delivered']),
        '... taken by the detectors': lambda c: str(c['taken']),
        'hop, s': lambda c: f'{c["hop_s"]:g}',
        'decisions (due)': lambda c: f'{c["decisions"]} ({c["decisions_due"]})',
        'decisions per s (due)': lambda c: (f'{c["decisions_per_s"]:.2f} '
                                            f'({c["decisions_per_s_due"]:.2f})')}
    for name, show in rows.items():
        shown.add_row(name, *map(show, result['cases']))
    return shown


def _shown(figure: dict | float | None) -> str:
    if figure is None:
        return '-'
    return ' / '.join(f'{value:.1f}' for value in (
        figure.values() if isinstance(figure, dict) else [figure]))
