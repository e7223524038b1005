"""A cheap source of Imu messages: serialised beforehand, only their stamps are written live.

    python -m taolora_ros.bench.publisher TOPICS RATE SECONDS

prints one line of JSON at the end: messages ``sent`` on each topic and ``late_s``, how far the
worst one was published behind its stamp.
"""

from __future__ import annotations

import json
import struct
import sys
import time

import numpy as np

from taolora_ros.bench.processes import PATIENCE
from taolora_ros.cdr import ACC, GYRO, NUMBERS, TAIL
from taolora_ros.samples import NANOSECONDS
from taolora_ros.synthetic import imu_scene


def main(topics: list[str], rate: float, seconds: float) -> int:
    """Publish ``seconds`` of a scene with falls on every topic, each message at its time."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Imu
    rclpy.init()
    node = rclpy.create_node('bench_publisher')
    publishers = [node.create_publisher(Imu, topic, QoSProfile(
        depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)) for topic in topics]
    head, bodies = serialised_scene(rate)
    end = time.monotonic() + PATIENCE
    while not all(publisher.get_subscription_count() for publisher in publishers):
        if time.monotonic() > end:
            raise RuntimeError(f'nobody subscribes to {", ".join(topics)}')
        time.sleep(0.05)
    time.sleep(1.0)  # the other side's half of discovery
    sent, late = 0, 0.0
    start = time.time_ns()
    while sent < seconds * rate:
        stamp = start + round(sent * NANOSECONDS / rate)
        wait = (stamp - time.time_ns()) / NANOSECONDS
        if wait > 0:
            time.sleep(wait)
        late = max(late, -wait)
        message = head + struct.pack('<iI', *divmod(stamp, NANOSECONDS)) + bodies[
            sent % len(bodies)]
        for publisher in publishers:
            publisher.publish(message)
        sent += 1
    print(json.dumps({'sent': sent, 'late_s': round(late, 4)}), flush=True)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def serialised_scene(rate: float) -> tuple[bytes, list[bytes]]:
    """Return what comes before the stamp of a message, and for each of them what comes after."""
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import Imu
    message = Imu()
    message.header.frame_id = 'imu_link'
    message.orientation_covariance[0] = -1.0  # REP 145: not reported
    template = serialize_message(message)
    values = imu_scene(rate=rate).values  # (N, 6)
    numbers = np.tile(np.frombuffer(template[-TAIL:], '<f8'), (len(values), 1))  # (N, 37)
    assert numbers.shape[1] == NUMBERS and template[1] == 1
    numbers[:, ACC:ACC + 3], numbers[:, GYRO:GYRO + 3] = values[:, :3], values[:, 3:]
    return template[:4], [template[12:-TAIL] + row.tobytes() for row in numbers]


if __name__ == '__main__':
    sys.exit(main(sys.argv[1].split(','), float(sys.argv[2]), float(sys.argv[3])))
