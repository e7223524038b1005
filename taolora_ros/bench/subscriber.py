"""Two ways to read Imu messages, each a process that measures itself.

    python -m taolora_ros.bench.subscriber plain|ours TOPIC SECONDS

``plain`` is what a first rclpy node looks like: a callback that reads stamp and six values;
``ours`` is the node's intake, drained as often as the node does it, and its converter. Prints one
line of JSON: ``messages`` read and ``cpu_s`` of all threads meanwhile.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable

from taolora_ros.bench.processes import PATIENCE

WARM_UP = 1.5  # s of messages before the measurement


def main(way: str, topic: str, seconds: float) -> int:
    """Subscribe, measure, print."""
    import rclpy
    rclpy.init()
    node = rclpy.create_node(f'bench_{way}')
    {'plain': _plain, 'ours': _ours}[way](node, topic, seconds)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


class Watch(threading.Thread):
    """Looks at a count of messages and the process's CPU time before and after ``seconds``."""

    def __init__(self, count: Callable[[], int], seconds: float):
        super().__init__(daemon=True)
        self.count, self.seconds, self.done = count, seconds, threading.Event()
        self.start()

    def run(self) -> None:
        """Wait for messages, measure, print."""
        end = time.monotonic() + PATIENCE
        while not self.count() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(WARM_UP)
        messages, cpu = self.count(), time.process_time()
        time.sleep(self.seconds)
        print(json.dumps({'messages': self.count() - messages,
                          'cpu_s': time.process_time() - cpu}), flush=True)
        self.done.set()


def _plain(node, topic: str, seconds: float) -> None:
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Imu
    read = [0, None]

    def hear(message):
        stamp, acc, gyro = (message.header.stamp, message.linear_acceleration,
                            message.angular_velocity)
        read[1] = (stamp.sec, acc.x, acc.y, acc.z, gyro.x, gyro.y, gyro.z)
        read[0] += 1

    node.create_subscription(Imu, topic, hear, QoSProfile(
        depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    watch = Watch(lambda: read[0], seconds)
    while not watch.done.is_set():
        executor.spin_once(timeout_sec=1.0)


def _ours(node, topic: str, seconds: float) -> None:
    from taolora_ros import parameters
    from taolora_ros.conversions import IMU, make_converter
    from taolora_ros.intake import Intake
    from taolora_ros.spec import IMU_FALLS
    poll_rate = next(p.default for p in parameters.NODE if p.name == 'poll_rate')
    converter = make_converter(IMU, IMU_FALLS)
    intake = Intake(node, topic, IMU, converter.raw)
    read = [0]
    watch = Watch(lambda: read[0], seconds)
    while not watch.done.wait(1.0 / poll_rate):
        messages, arrivals, _ = intake.take()
        if messages:
            read[0] += len(converter.convert(messages, arrivals))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
