"""A cheap source of Imu messages: serialised beforehand, only their stamps are written live.

    python -m taolora_ros.bench.publisher TOPICS RATE SECONDS [trouble]

prints one line of JSON at the end: messages ``sent`` on all topics and ``late_s``, how far the
worst one was published behind its stamp. With ``trouble`` it is a sensor as in ``trouble.py``.
"""

from __future__ import annotations

import json
import struct
import sys
import time

import numpy as np

from taolora_ros.bench.processes import PATIENCE
from taolora_ros.bench.trouble import SHIFT, VALUES, trouble
from taolora_ros.cdr import ACC, GYRO, NUMBERS, TAIL
from taolora_ros.samples import NANOSECONDS
from taolora_ros.synthetic import imu_scene


def main(topics: list[str], rate: float, seconds: float, troubled: bool = False) -> int:
    """Publish ``seconds`` of a scene with falls on every topic, each message at its time."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Imu
    rclpy.init()
    node = rclpy.create_node('bench_publisher')
    publishers = [node.create_publisher(Imu, topic, QoSProfile(
        depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)) for topic in topics]
    scene = Scene(rate)
    end = time.monotonic() + PATIENCE
    while not all(publisher.get_subscription_count() for publisher in publishers):
        if time.monotonic() > end:
            raise RuntimeError(f'nobody subscribes to {", ".join(topics)}')
        time.sleep(0.05)
    time.sleep(1.0)  # the other side's half of discovery
    sent, late = _publish([publisher.publish for publisher in publishers], scene, rate, seconds,
                          troubled)
    print(json.dumps({'sent': sent, 'late_s': round(late, 4)}), flush=True)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def _publish(publish: list, scene: Scene, rate: float, seconds: float, troubled: bool
             ) -> tuple[int, float]:
    """Send each message at its time; return how many, and the s of the latest one."""
    sent, late, start = 0, 0.0, time.time_ns()
    for i in range(round(seconds * rate)):
        stamp = start + round(i * NANOSECONDS / rate)
        wait = (stamp - time.time_ns()) / NANOSECONDS
        if wait > 0:
            time.sleep(wait)
        late = max(late, -wait)
        message = scene.message(i, stamp)
        for stream, send in enumerate(publish):
            kind = trouble(i / rate, stream) if troubled else ''
            if kind in ('gap', 'pause'):
                continue
            send(scene.message(i, stamp, kind) if kind else message)
            sent += 1
    return sent, late


class Scene:
    """A scene of falls, played again and again, as serialised messages without their stamps."""

    def __init__(self, rate: float):
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
        self._head, middle = template[:4], template[12:-TAIL]
        self._bodies = [middle + row.tobytes() for row in numbers]
        self._odd = {}
        for kind, value in VALUES.items():
            row = numbers[0].copy()
            row[ACC:ACC + 3] = row[GYRO:GYRO + 3] = value
            self._odd[kind] = middle + row.tobytes()

    def message(self, i: int, stamp: int, kind: str = '') -> bytes:
        """Return message number ``i`` for a time in ns, with trouble of a ``kind`` in it."""
        stamp += round(SHIFT.get(kind, 0.0) * NANOSECONDS)
        body = self._odd.get(kind) or self._bodies[i % len(self._bodies)]
        return self._head + struct.pack('<iI', *divmod(stamp, NANOSECONDS)) + body


if __name__ == '__main__':
    sys.exit(main(sys.argv[1].split(','), float(sys.argv[2]), float(sys.argv[3]),
                  sys.argv[4:] == ['trouble']))
