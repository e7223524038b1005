"""Messages to play to the node, and what it then says."""

import os
import time
from pathlib import Path

import numpy as np
from running_node import wait_for

from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Imu
from taolora_msgs.msg import Biosignal

from taolora_ros import recordings, shipped

SECOND = 1_000_000_000
# What may be counted of messages that are stamped by arrival, where a busy machine pauses.
PAUSES = {f'count.{name}' for name in ('gap', 'gap_restart', 'late', 'repeated')}


def blocks(values, rate, start, size=36, unit='mV', first=0):
    """Yield Biosignal messages of an ECG (N,), stamped from ``start`` ns on."""
    for number, i in enumerate(range(0, len(values), size)):
        part = np.asarray(values[i:i + size], np.float32)
        message = Biosignal(modality=Biosignal.ECG, sample_rate=float(rate), unit=unit,
                            channels=1, sequence=first + number, data=part.tolist())
        stamp = start + round(i / rate * SECOND)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, SECOND)
        message.header.frame_id = 'chest'
        yield message


def imu_messages(values, rate, start):
    """Yield Imu messages of (N, 6) m/s^2 and rad/s, stamped from ``start`` ns on."""
    for i, row in enumerate(values.tolist()):
        message = Imu()
        stamp = start + round(i / rate * SECOND)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, SECOND)
        message.header.frame_id = 'imu_link'
        acc, gyro = message.linear_acceleration, message.angular_velocity
        acc.x, acc.y, acc.z, gyro.x, gyro.y, gyro.z = row
        yield message


def play(publisher, messages, pause=0.001):
    """Publish faster than real time, but not so fast that best effort loses any."""
    for message in messages:
        publisher.publish(message)
        time.sleep(pause)


def excerpt():
    """Return the ECG that is shipped for the demo."""
    return next(recordings.read_npz(shipped.shipped('config/demo/mitdb_119_excerpt.npz')))


def quiet(heard, least=0, seconds=2.5):
    """Wait until ``least`` messages have arrived in ``heard``, and then no more; return them."""
    wait_for(lambda: len(heard) >= least, 60)
    last = -1
    while len(heard) != last:
        last = len(heard)
        time.sleep(seconds)
    return list(heard)


def status(talker, stream, rounds=1, node='taolora'):
    """Return level, message and values of a stream's status after ``rounds`` more of them."""
    heard = talker.listen(DiagnosticArray, '/diagnostics')

    def found():
        return [s for array in heard for s in array.status if s.name == f'{node}: {stream}']
    wait_for(lambda: len(found()) >= rounds, 60 + rounds)
    return found()[-1].level, found()[-1].message, {v.key: v.value for v in found()[-1].values}


def cpu_seconds(node):
    """Return the processor time that a node has used."""
    fields = Path(f'/proc/{node.process.pid}/stat').read_text().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
