"""The demo: the node as its own process, recordings played to it over DDS, its events printed.

Time is accelerated: messages carry the stamps of the recordings but are published ``SPEED`` times
as fast. Nothing of the node is imported here; it is only talked to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taolora_ros.evaluation.beats import TOLERANCE, match
from taolora_ros.own_domain import own_domain
from taolora_ros.recordings import Recording, read_npz
from taolora_ros.samples import NANOSECONDS
from taolora_ros.shipped import shipped
from taolora_ros.spec import SPECS
from taolora_ros.synthetic import Scene, imu_scene

SPEED = 8.0             # times real time
ECG = 'config/demo/mitdb_119_excerpt.npz'
SCENE = 5               # seed of the IMU scene, one that shows what it is meant to show
BLOCK = 36              # ECG samples in one message: ten messages a second
FALL_WINDOW = (-2.0, 4.0)  # s around an annotated fall in which an alarm finds it
START_UP = 60.0         # s the node may take to be ready
SILENCE = 2.0           # s without a message read or an event after which all is done
PATIENCE = 30.0         # s to wait for that, on a machine that cannot keep up
STYLES = ('', 'yellow', 'bold red')  # by severity
COLUMNS = f'{"time s":>8}  {"stream":<7}{"event":<7}{"phase":<8}{"score":>6}  values'
PHASES = ('start', 'ongoing', 'end')


def main(node_arguments: Sequence[str] = ()) -> int:
    """Run the demo; return 0 when events arrived, 1 with the reason when none did.

    ``node_arguments`` are further ROS arguments for the node.
    """
    console = Console(highlight=False)
    try:
        import rclpy  # noqa: F401
        import taolora_msgs.msg  # noqa: F401
    except ImportError as error:
        console.print(f'taolora demo: {error}: run `make setup`, or source ROS 2 and a workspace '
                      'with taolora_msgs', markup=False)
        return 1
    chosen = 'ROS_DOMAIN_ID' in os.environ
    with own_domain():
        return _show(node_arguments, console,
                     '' if chosen else f'ROS_DOMAIN_ID={os.environ["ROS_DOMAIN_ID"]} ')


def _show(node_arguments: Sequence[str], console: Console, alone: str) -> int:
    """Play both recordings to a node and tell what it found; return the exit status.

    ``alone`` goes in front of a command that is to hear it.
    """
    ecg, scene = next(read_npz(shipped(ECG))), imu_scene(seed=SCENE)
    console.print(
        f'ECG: {ecg.duration_s:.0f} s of record 119 of the MIT-BIH Arrhythmia Database (ODC-By '
        '1.0, see config/demo), on which the shipped model was trained too\n'
        f'IMU: {len(scene.values) / scene.rate:.0f} s with {len(scene.falls_s)} falls, synthetic '
        '(taolora_ros/synthetic.py)\n'
        'So this is a demonstration, not a measurement: that is what `taolora evaluate` is for.\n'
        f'Played {SPEED:g} times as fast as recorded. To listen in: '
        f'{alone}ros2 topic echo /taolora/events\n', markup=False, soft_wrap=True)
    with tempfile.TemporaryFile('w+') as log:
        node = _start(node_arguments, log)
        try:
            events = _play(node, ecg, scene, console)
        finally:
            status = _stop(node)
        log.seek(0)
        said = [line for line in log.read().splitlines() if ' ready: ' not in line]
    if said:
        console.print('The node said:', *said, sep='\n', markup=False)
    if not events or status:
        console.print(f'taolora demo: {len(events)} events arrived, the node ended with {status}',
                      style='bold red')
        return 1
    console.print(_summary(events, ecg, scene))
    return 0


def _start(arguments: Sequence[str], log) -> subprocess.Popen:
    """Start the node; both topics reliable, because accelerated time knows no patience."""
    reliable = [f'qos_overrides./{topic}.subscription.reliability:=reliable'
                for topic in ('imu/data', 'ecg')]
    return subprocess.Popen(
        [sys.executable, '-m', 'taolora_ros.node', '--ros-args', '--params-file',
         str(shipped('config/taolora.yaml')), '-p', reliable[0], '-p', reliable[1], *arguments],
        stdout=log, stderr=subprocess.STDOUT)


def _stop(node: subprocess.Popen) -> int:
    """End the node as Ctrl-C does; return its exit status."""
    if node.poll() is None:
        node.send_signal(signal.SIGINT)
    try:
        return node.wait(10)
    except subprocess.TimeoutExpired:
        node.kill()
        return node.wait()


def _play(node: subprocess.Popen, ecg: Recording, scene: Scene, console: Console) -> list:
    """Publish both recordings and print what comes back; return the events."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Imu
    from taolora_msgs.msg import Biosignal, Event
    start = time.time_ns() - round(ecg.duration_s * NANOSECONDS)
    events, read = [], {}

    def count(array):
        for status in array.status:
            read[status.name] = [v.value for v in status.values if v.key == 'messages']

    def hear(event):
        if not events:
            console.print(COLUMNS, style='bold')
        events.append((_seconds(event.header.stamp, start), event))
        console.print(_line(*events[-1]), soft_wrap=True)

    context = rclpy.Context()
    rclpy.init(args=[], context=context,
               signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    player = rclpy.create_node('taolora_demo', context=context)
    player.create_subscription(Event, '/taolora/events', hear, 1000)
    player.create_subscription(DiagnosticArray, '/diagnostics', count, 10)
    publishers = {Imu: player.create_publisher(Imu, '/imu/data', 4000),
                  Biosignal: player.create_publisher(Biosignal, '/ecg', 1000)}
    with _spinning(player):
        ready = _wait(node, lambda: player.count_publishers('/taolora/events')
                      and all(p.get_subscription_count() for p in publishers.values()))
        if ready:
            _publish(node, publishers, _messages(ecg, scene, start))
            last, end = None, time.monotonic() + PATIENCE
            while last != (state := (len(events), str(read))) and time.monotonic() < end:
                last = state
                time.sleep(SILENCE)
    return events


@contextmanager
def _spinning(player) -> Iterator[None]:
    """Let a thread call back a node of ours; in the end take it and its context down."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    executor = SingleThreadedExecutor(context=player.context)
    executor.add_node(player)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join()
        player.destroy_node()
        rclpy.shutdown(context=player.context)


def _wait(node: subprocess.Popen, ready) -> bool:
    """Wait until ``ready()``; return False when the node ended or took too long."""
    end = time.monotonic() + START_UP
    while not ready():
        if node.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.05)
    time.sleep(0.5)  # the other side's half of discovery
    return True


def _publish(node: subprocess.Popen, publishers: dict, messages: Iterator[tuple]) -> None:
    """Publish (time in s, message) ``SPEED`` times as fast as the times say."""
    began = time.monotonic()
    for seconds, message in messages:
        wait = began + seconds / SPEED - time.monotonic()
        if wait > 0.002:
            time.sleep(wait)
            if node.poll() is not None:
                return
        publishers[type(message)].publish(message)


def _messages(ecg: Recording, scene: Scene, start: int) -> Iterator[tuple]:
    """Yield (time in s, message) of both recordings in the order in which they were complete."""
    from sensor_msgs.msg import Imu
    from taolora_msgs.msg import Biosignal
    lead, row = ecg.values[:, ecg.lead()], 0
    for number, first in enumerate(range(0, len(lead), BLOCK)):
        block = Biosignal(modality=Biosignal.ECG, sample_rate=ecg.rate, unit='mV', channels=1,
                          channel_names=[ecg.leads[ecg.lead()]], sequence=number,
                          data=lead[first:first + BLOCK].astype(np.float32))
        _stamp(block, start, first / ecg.rate, 'chest')
        done = (first + BLOCK) / ecg.rate
        while row < len(scene.values) and row / scene.rate <= done:
            message = Imu()
            acc, gyro = message.linear_acceleration, message.angular_velocity
            acc.x, acc.y, acc.z, gyro.x, gyro.y, gyro.z = scene.values[row].tolist()
            message.orientation_covariance[0] = -1.0  # REP 145: not reported
            _stamp(message, start, row / scene.rate, 'imu_link')
            yield row / scene.rate, message
            row += 1
        yield done, block


def _stamp(message, start: int, seconds: float, frame_id: str) -> None:
    stamp = start + round(seconds * NANOSECONDS)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, NANOSECONDS)
    message.header.frame_id = frame_id


def _seconds(stamp, start: int) -> float:
    return (stamp.sec * NANOSECONDS + stamp.nanosec - start) / NANOSECONDS


def _line(seconds: float, event) -> Text:
    values = ', '.join(f'{v.key} {v.value}' for v in event.values)
    return Text(f'{seconds:8.2f}  {event.stream:<7}{event.label:<7}{PHASES[event.phase]:<8}'
                f'{event.score:6.2f}  {values}', STYLES[min(event.severity, 2)])


def _summary(events: list, ecg: Recording, scene: Scene) -> Table:
    """Return found, annotated and false events by kind."""
    settled = ecg.duration_s - SPECS['ecg'].delay - 0.1  # what came later could not be decided
    true = ecg.beat_times_s < settled
    starts = [(t, e.label) for t, e in events if e.phase == 0]
    found = {label: np.sort([t for t, of in starts if of in of_label])
             for label, of_label in (('beat', ('beat', 'veb')), ('veb', ('veb',)),
                                     ('fall', ('fall',)))}
    table = Table(title=f'{len(events)} events')
    for column in ('', 'found', 'annotated', 'false'):
        table.add_column(column, justify='right' if column else 'left')
    falls = [any(fall + FALL_WINDOW[0] <= t <= fall + FALL_WINDOW[1] for t in found['fall'])
             for fall in scene.falls_s]
    table.add_row('falls (synthetic)', str(sum(falls)), str(len(falls)),
                  str(len(found['fall']) - sum(falls)))
    for name, label, of_label in (('heart beats', 'beat', true),
                                  ('ventricular beats', 'veb', true & (ecg.beat_aami == 'V'))):
        times = found[label][found[label] < settled]
        pairs = len(match(ecg.beat_times_s[of_label], times, TOLERANCE)[0])
        table.add_row(name, str(pairs), str(of_label.sum()), str(len(times) - pairs))
    return table


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
