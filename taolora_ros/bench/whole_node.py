"""The node as it is, fed over DDS and watched from outside."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from taolora_ros.anomaly import SUSTAIN
from taolora_ros.bench.processes import PATIENCE, Process
from taolora_ros.feed import SILENCE
from taolora_ros.parameters import NODE
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import IMU_FALLS

# s of messages until windows are full and scores have lasted long enough to be published
WARM_UP = IMU_FALLS.window / IMU_FALLS.rate + SUSTAIN + 1.0
SETTLE = 2.5   # s after the last message until the node has told what it counted
IDLE = 5.0     # s of calls before the first message
CALLS = 20.0   # of the parameter service, a second
DROPS = ('unreadable', 'refused', 'invalid_stamp', 'nonfinite', 'out_of_range', 'repeated', 'late',
         'jump')  # counts of samples that the detector did not take


class State(NamedTuple):
    """What the node had done by ``time`` (s, monotonic), as one message of diagnostics says.

    ``cpu`` in s, ``messages`` by stream, ``counts`` and ``decided`` windows added up over streams,
    ``intake_break`` in ms, ``arrival`` the system time in ns.
    """

    time: float
    cpu: float
    messages: dict[str, int]
    counts: dict[str, int]
    decided: int = 0
    intake_break: float = 0.0
    arrival: int = 0


@dataclass
class Heard:
    """What the node said, and how it was fed.

    ``results`` are (stream, end of its window in ns, arrival in ns); ``calls`` of the parameter
    service (system time in ns, ms until the answer), ``idle`` those before there were messages.
    """

    results: list[tuple[str, int, int]] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    idle: list[tuple[int, float]] = field(default_factory=list)
    calls: list[tuple[int, float]] = field(default_factory=list)
    sent: int = 0  # messages on all topics
    late: float = 0.0  # s the publisher was behind at worst
    engine: str = ''   # 'native on cpu'
    reason: str = ''   # how the node picked it, in its words


def run_node(streams: int, rate: float, seconds: float, hop: float | None = None,
             every_window: bool = True, call: bool = False,
             parameters: Mapping[str, str] | None = None) -> Heard:
    """Feed ``streams`` Imu topics at ``rate`` Hz each; return what the node said meanwhile.

    With ``every_window`` the threshold of anomalies is next to 0, so that each window is published;
    with ``call``, its parameter service is called all the while. ``parameters`` are those of the
    node itself, such as device.
    """
    names = stream_names(streams)
    with running_node(names, hop, every_window, parameters) as (node, process):
        heard = Heard()
        heard.engine, heard.reason = engine_of(process.output())
        with (Process('taolora_ros.bench.caller', '/taolora', str(CALLS)) if call
              else nullcontext()) as caller:
            if caller:
                caller.wait_for('calling')
                time.sleep(IDLE)
            began = time.time_ns()
            _listen(node, process, names, rate, seconds, heard)
            if caller:
                caller.interrupt()
                calls = json.loads(caller.result(PATIENCE))
                heard.idle = [one for one in calls if one[0] < began]
                heard.calls = [one for one in calls if one[0] >= began]
        return heard


def stream_names(streams: int) -> list[str]:
    """Return so many names of streams; the topic of a stream is ``/NAME/imu``."""
    return [f's{i}' for i in range(streams)]


@contextmanager
def running_node(names: Sequence[str], hop: float | None = None, every_window: bool = False,
                 parameters: Mapping[str, str] | None = None) -> Iterator[tuple[object, Process]]:
    """Run the node as a process; give an rclpy node to listen with, and the process."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('bench_listener', context=context)
    try:
        with Process('taolora_ros.node', '--ros-args', '-p', f'streams:=[{",".join(names)}]',
                     *_parameters(names, hop, every_window, parameters or {})) as process:
            process.wait_for('ready:')
            yield node, process
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def publisher(names: Sequence[str], rate: float, seconds: float, troubled: bool = False) -> Process:
    """Return a process that feeds the streams."""
    topics = ','.join(f'/{name}/imu' for name in names)
    return Process('taolora_ros.bench.publisher', topics, str(rate), str(seconds),
                   *['trouble'] * troubled)


def engine_of(said: str) -> tuple[str, str]:
    """Return which engine runs on which device, and why, of what a node that is ready has said."""
    engines = '|'.join(next(p.choices for p in NODE if p.name == 'engine'))
    return re.search(rf'\b((?:{engines}) on \w+): (.+)', said).groups()


def _parameters(names: Sequence[str], hop: float | None, every_window: bool,
                own: Mapping[str, str]) -> list[str]:
    values = {'type': 'sensor_msgs/msg/Imu', 'model': 'imu_falls'}
    if hop is not None:
        values['hop'] = str(float(hop))
    if every_window:
        values['anomaly_threshold'] = '0.000001'  # 0 is not allowed
    given = {f'{name}.{key}': value for name in names
             for key, value in {'topic': f'/{name}/imu', **values}.items()}
    return [part for name, value in {**own, **given}.items() for part in ('-p', f'{name}:={value}')]


def _listen(node, process: Process, names: list[str], rate: float, seconds: float,
            heard: Heard) -> None:
    """Feed the node; write down what it says."""
    from taolora_ros.intake import Intake
    anomalies = Intake(node, '/taolora/anomalies', 'taolora_msgs/msg/Anomaly')
    diagnostics = Intake(node, '/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray')
    with publisher(names, rate, WARM_UP + seconds) as source:
        end, over = time.monotonic() + PATIENCE + WARM_UP + seconds, None
        while over is None or time.monotonic() < over:
            time.sleep(0.02)
            for result, arrival in zip(*anomalies.take()[:2]):
                if decided(result):
                    heard.results.append((result.stream, _nanoseconds(result.header.stamp),
                                          arrival))
            heard.states += read_states(diagnostics, process, names)
            if over is None and (not source.runs() or time.monotonic() > end):
                over = time.monotonic() + SETTLE
            check_runs(process)
        said = json.loads(source.result(0.1))
    heard.sent, heard.late = said['sent'], said['late_s']


def decided(anomaly) -> bool:
    """Return whether an Anomaly is about a window, not about a stream that stopped or came back."""
    return list(anomaly.channel_names) != [SILENCE]


def check_runs(process: Process) -> None:
    """Raise RuntimeError with what the node said when it has ended."""
    if not process.runs():
        raise RuntimeError(f'the node ended: {process.output().strip()}')


def read_states(diagnostics, process: Process, names: Sequence[str]) -> list[State]:
    """Return what the node has said on ``diagnostics``, an Intake, since the last time."""
    states = []
    for array, arrival in zip(*diagnostics.take()[:2]):
        state = _state(array, process.cpu(), arrival)
        if set(state.messages) == set(names):  # others may say something there too
            states.append(state)
    return states


def _state(array, cpu: float, arrival: int) -> State:
    """Return what a DiagnosticArray says."""
    messages, counts, windows, pause = {}, {}, 0, 0.0
    for status in array.status:
        values = {item.key: item.value for item in status.values}
        if 'messages' in values:
            messages[status.name.split(': ')[-1]] = int(values['messages'])
            windows += int(values['windows_decided'])
            pause = max(pause, float(values['intake_break_ms']))
        for key, value in values.items():
            if key.startswith('count.'):
                name = key[len('count.'):]
                counts[name] = counts.get(name, 0) + int(value)
    return State(time.monotonic(), cpu, messages, counts, windows, pause, arrival)


def cost(heard: Heard) -> tuple[float, int, float]:
    """Return CPU s, messages and s between two times at which messages came all the while."""
    totals = [sum(state.messages.values()) for state in heard.states]
    going = [i for i in range(1, len(totals)) if totals[i] > totals[i - 1] > 0]
    if not going:
        raise RuntimeError(f'the node read no messages of {heard.sent} sent')
    last = going[-2] if len(going) > 2 else going[-1]  # messages end during the last interval
    began = heard.states[going[0]].time
    first = next((i for i in going if heard.states[i].time - began >= WARM_UP and i < last),
                 going[0] - 1)
    one, other = heard.states[first], heard.states[last]
    return other.cpu - one.cpu, totals[last] - totals[first], other.time - one.time


def _nanoseconds(stamp) -> int:
    return stamp.sec * NANOSECONDS + stamp.nanosec
