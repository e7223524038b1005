"""``taolora bench soak``: memory, threads, CPU and losses of the node over a long time."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from rich.table import Table

from taolora_ros.bench.processes import PATIENCE, Process, load, machine
from taolora_ros.bench.provenance import provenance
from taolora_ros.bench.whole_node import SETTLE, State, check_runs, publisher, read_states
from taolora_ros.bench.whole_node import running_node, stream_names

SAMPLES = 180            # looks at the node, at most one a second
WARM_UP = (120.0, 0.2)   # s, or part of the time if that is less: growth counts from there
EDGE = 0.05              # part of the looks whose median is the memory at the beginning and end
ROWS = 16                # of the table


@dataclass
class Look:
    """The node at one time: ``state`` is what it says, the rest is seen from outside."""

    state: State
    rss_mb: float
    threads: int


@dataclass
class Soak:
    """All looks; ``events`` that began by label; ``sent`` messages; ``late`` as in ``Heard``."""

    looks: list[Look] = field(default_factory=list)
    events: Counter = field(default_factory=Counter)
    sent: int = 0
    late: float = 0.0


def measure(minutes: float, streams: int, rate: float,
            report: Callable[[int, int, str], None] = lambda *_: None) -> dict:
    """Return figures of the node fed by ``streams`` IMUs at ``rate`` Hz, with trouble now and then.
    """
    before, names, origin = load(), stream_names(streams), provenance('rclpy')
    with running_node(names) as (node, process):
        soak = _watch(node, process, names, rate, 60.0 * minutes, report)
    return {'minutes': minutes, 'streams': streams, 'rate': rate, **judged(soak),
            'provenance': origin, 'machine': machine(), 'load': [before, load()]}


def _watch(node, process: Process, names: list[str], rate: float, seconds: float,
           report: Callable[[int, int, str], None]) -> Soak:
    """Feed the node and look at it."""
    from taolora_msgs.msg import Event
    from taolora_ros.intake import Intake
    events = Intake(node, '/taolora/events', 'taolora_msgs/msg/Event')
    diagnostics = Intake(node, '/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray')
    soak, pause = Soak(), max(1.0, seconds / SAMPLES)
    with publisher(names, rate, seconds, troubled=True) as source:
        end, over, due = time.monotonic() + PATIENCE + 1.5 * seconds, None, 0.0
        while over is None or time.monotonic() < over:
            time.sleep(0.1)
            soak.events.update(event.label for event in events.take()[0]
                               if event.phase == Event.START)
            for state in read_states(diagnostics, process, names):
                # The clock of diagnostics may be a little early.
                if any(state.messages.values()) and state.time >= due - 0.5:
                    soak.looks.append(Look(state, *process.memory()))
                    due = (due or state.time) + pause
                    passed = state.time - soak.looks[0].state.time
                    report(int(passed / 60), max(round(seconds / 60), 1), '')
            if over is None and (not source.runs() or time.monotonic() > end):
                over, due = time.monotonic() + SETTLE, 0.0  # the last words count
            check_runs(process)
        said = json.loads(source.result(0.1))
    soak.sent, soak.late = said['sent'], said['late_s']
    return soak


def judged(soak: Soak) -> dict:
    """Return the figures of a soak; raise RuntimeError when it was too short for any."""
    looks = soak.looks
    if len(looks) < 3:
        raise RuntimeError(f'the node was seen at work {len(looks)} times, too few to measure')
    time_s = [look.state.time - looks[0].state.time for look in looks]
    rss, last = [look.rss_mb for look in looks], looks[-1].state
    warm_up = min(WARM_UP[0], WARM_UP[1] * time_s[-1])
    warm = [mb for t, mb in zip(time_s, rss) if t >= warm_up]
    edge = max(round(EDGE * len(warm)), 1)
    begins, ends = median(warm[:edge]), median(warm[-edge:])
    cpu = [100 * (b.state.cpu - a.state.cpu) / (b.state.time - a.state.time)
           for a, b in zip(looks, looks[1:])]
    return {'time_s': [round(t, 1) for t in time_s], 'rss_mb': [round(mb, 2) for mb in rss],
            'threads': [look.threads for look in looks],
            'cpu_percent': [None, *(round(percent, 1) for percent in cpu)],
            'decisions': [look.state.decided for look in looks],
            'skipped': [look.state.counts.get('skipped_windows', 0) for look in looks],
            'delivered': [sum(look.state.messages.values()) for look in looks],
            'warm_up_s': round(warm_up, 1), 'growth_mb': round(ends - begins, 2),
            'peak_growth_mb': round(max(warm) - begins, 2),
            'samples_sent': soak.sent, 'samples_lost': soak.sent - sum(last.messages.values()),
            'windows_decided': last.decided,
            'windows_skipped': last.counts.get('skipped_windows', 0),
            'events': dict(soak.events), 'counts': last.counts,
            'publisher_late_ms': round(1e3 * soak.late, 1)}


def table(result: dict) -> Table:
    """Return the figures as a table over time."""
    threads = result['threads'][1:]
    shown = Table(
        title=f'The node for {result["minutes"]:g} min, fed by {result["streams"]} IMUs at '
              f'{result["rate"]:g} Hz, with trouble now and then',
        caption=f'{result["machine"]}; load {result["load"][0]} before, {result["load"][1]} after\n'
                f'{result["growth_mb"]:+.2f} MB from {result["warm_up_s"]:g} s on (at most '
                f'{result["peak_growth_mb"]:+.2f}), {min(threads)} to {max(threads)} threads, '
                f'{result["samples_lost"]} of {result["samples_sent"]} samples lost, '
                f'{result["windows_skipped"]} windows skipped, events: '
                f'{", ".join(f"{n} {name}" for name, n in result["events"].items()) or "none"}')
    for column in ('min', 'RSS, MB', 'threads', 'CPU, % of a core', 'samples', 'decisions',
                   'skipped'):
        shown.add_column(column, justify='right')
    count = len(result['time_s'])
    rows = sorted({round(i * (count - 1) / (ROWS - 1)) for i in range(ROWS)})
    for i in rows:
        cpu = result['cpu_percent'][i]
        shown.add_row(f'{result["time_s"][i] / 60:.1f}', f'{result["rss_mb"][i]:.1f}',
                      str(result['threads'][i]), '' if cpu is None else f'{cpu:.1f}',
                      *(str(result[name][i]) for name in ('delivered', 'decisions', 'skipped')))
    return shown
