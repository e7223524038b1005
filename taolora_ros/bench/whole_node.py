"""The node as it is, fed over DDS and watched from outside."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from taolora_ros.anomaly import SUSTAIN
from taolora_ros.bench.processes import PATIENCE, Process
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import IMU_FALLS

# s of messages until windows are full and scores have lasted long enough to be published
WARM_UP = IMU_FALLS.window / IMU_FALLS.rate + SUSTAIN + 1.0
SETTLE = 2.5   # s after the last message until the node has told what it counted
DROPS = ('unreadable', 'refused', 'invalid_stamp', 'nonfinite', 'out_of_range', 'repeated', 'late',
         'jump')  # counts of samples that the detector did not take


@dataclass
class Heard:
    """What the node said: results of windows, and at times what it had read and used of CPU.

    ``results`` are (stream, end of its window in ns, arrival in ns); ``states`` (time in s, CPU in
    s, messages by stream, counts added up over streams).
    """

    results: list[tuple[str, int, int]] = field(default_factory=list)
    states: list[tuple[float, float, dict, dict]] = field(default_factory=list)
    sent: int = 0  # messages on each topic
    late: float = 0.0  # s the publisher was behind at worst


def run_node(streams: int, rate: float, seconds: float, hop: float | None = None,
             every_window: bool = True) -> Heard:
    """Feed ``streams`` Imu topics at ``rate`` Hz each; return what the node said meanwhile.

    With ``every_window`` the threshold of anomalies is next to 0, so that each window is published.
    """
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('bench_listener', context=context)
    try:
        names = [f's{i}' for i in range(streams)]
        with Process('taolora_ros.node', '--ros-args', '-p', f'streams:=[{",".join(names)}]',
                     *_parameters(names, hop, every_window)) as process:
            process.wait_for('ready:')
            return _listen(node, process, names, rate, seconds)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def _parameters(names: list[str], hop: float | None, every_window: bool) -> list[str]:
    values = {'type': 'sensor_msgs/msg/Imu', 'model': 'imu_falls'}
    if hop is not None:
        values['hop'] = str(float(hop))
    if every_window:
        values['anomaly_threshold'] = '0.000001'  # 0 is not allowed
    return [part for name in names for key, value in {'topic': f'/{name}/imu', **values}.items()
            for part in ('-p', f'{name}.{key}:={value}')]


def _listen(node, process: Process, names: list[str], rate: float, seconds: float) -> Heard:
    from taolora_ros.intake import Intake
    heard = Heard()
    anomalies = Intake(node, '/taolora/anomalies', 'taolora_msgs/msg/Anomaly')
    diagnostics = Intake(node, '/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray')
    topics = ','.join(f'/{name}/imu' for name in names)
    with Process('taolora_ros.bench.publisher', topics, str(rate),
                 str(WARM_UP + seconds)) as publisher:
        end, over = time.monotonic() + PATIENCE + WARM_UP + seconds, None
        while over is None or time.monotonic() < over:
            time.sleep(0.02)
            for result, arrival in zip(*anomalies.take()[:2]):
                heard.results.append((result.stream, _nanoseconds(result.header.stamp), arrival))
            for array in diagnostics.take()[0]:
                state = _counted(array)
                if set(state[0]) == set(names):  # others may say something there too
                    heard.states.append((time.monotonic(), process.cpu(), *state))
            if over is None and (not publisher.runs() or time.monotonic() > end):
                over = time.monotonic() + SETTLE
            if not process.runs():
                raise RuntimeError(f'the node ended: {process.output().strip()}')
        said = json.loads(publisher.result(0.1))
    heard.sent, heard.late = said['sent'], said['late_s']
    return heard


def _counted(array) -> tuple[dict[str, int], dict[str, int]]:
    """Return messages by stream, and counts by name over all streams, of a DiagnosticArray."""
    messages, counts = {}, {}
    for status in array.status:
        for item in status.values:
            if item.key == 'messages':
                messages[status.name.split(': ')[-1]] = int(item.value)
            elif item.key.startswith('count.'):
                name = item.key[len('count.'):]
                counts[name] = counts.get(name, 0) + int(item.value)
    return messages, counts


def cost(heard: Heard) -> tuple[float, int, float]:
    """Return CPU s, messages and s between two times at which messages came all the while."""
    totals = [sum(messages.values()) for _, _, messages, _ in heard.states]
    going = [i for i in range(1, len(totals)) if totals[i] > totals[i - 1] > 0]
    if not going:
        raise RuntimeError(f'the node read no messages of {heard.sent} sent')
    last = going[-2] if len(going) > 2 else going[-1]  # messages end during the last interval
    began = heard.states[going[0]][0]
    first = next((i for i in going if heard.states[i][0] - began >= WARM_UP and i < last),
                 going[0] - 1)
    (t0, cpu0, *_), (t1, cpu1, *_) = heard.states[first], heard.states[last]
    return cpu1 - cpu0, totals[last] - totals[first], t1 - t0


def _nanoseconds(stamp) -> int:
    return stamp.sec * NANOSECONDS + stamp.nanosec
