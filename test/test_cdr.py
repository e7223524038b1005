"""Serialised Imu messages are read as rclpy reads them; broken ones are left out and counted."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taolora_ros.cdr import read_imu
from taolora_ros.conversions import ImuConverter, nanoseconds
from taolora_ros.spec import IMU_FALLS

RNG = np.random.default_rng()
FRAMES = ('', 'i', 'imu', 'imu_li', 'imu_link', 'base/imu_link_of_the_left_wrist', 'Gelenk-\u00e4')
GYRO, GYRO_COVARIANCE, ACC, ACC_COVARIANCE = 13, 16, 25, 28


def serialised(sec, nanosec, numbers, frame=b'imu\0', order='<'):
    """Write an Imu message by hand: the origin of alignment lies behind the first four bytes."""
    body = struct.pack(f'{order}iII', sec, nanosec, len(frame)) + frame
    body += bytes(-len(body) % 8)
    return bytes((0, order == '<', 0, 0)) + body + struct.pack(f'{order}37d', *numbers)


def written(n):
    """Return (message, stamp in ns, numbers) of ``n`` random messages of every kind."""
    for i in range(n):
        sec, nanosec = int(RNG.integers(-2**31, 2**31)), int(RNG.integers(0, 10**9))
        numbers = RNG.normal(size=37)
        frame = FRAMES[i % len(FRAMES)].encode() + b'\0'
        yield (serialised(sec, nanosec, numbers, frame, '<>'[RNG.integers(2)]),
               sec * 10**9 + nanosec, numbers)


def test_both_byte_orders_and_any_frame_id_are_read_in_one_batch():
    messages, stamps, numbers = zip(*written(1 + 61))
    batch = read_imu(messages)
    assert batch.stamps.dtype == np.int64 and batch.stamps.tolist() == list(stamps)
    numbers = np.array(numbers)
    assert np.array_equal(batch.values[:, :3], numbers[:, ACC:ACC + 3])
    assert np.array_equal(batch.values[:, 3:], numbers[:, GYRO:GYRO + 3])
    assert batch.frame_id == FRAMES[61 % len(FRAMES)]
    assert batch.unreadable == batch.no_acceleration == 0


@pytest.mark.parametrize('order', '<>')
def test_what_is_not_reported_is_missing(order):
    numbers = np.zeros((3, 37))
    numbers[1, GYRO_COVARIANCE] = numbers[2, ACC_COVARIANCE] = -1.0
    batch = read_imu([serialised(1, 0, row, order=order) for row in numbers])
    assert np.isnan(batch.values).tolist() == [
        [False] * 6, [False] * 3 + [True] * 3, [True] * 3 + [False] * 3]
    assert batch.no_acceleration == 1


def test_no_messages_are_an_empty_batch():
    batch = read_imu([])
    assert batch.stamps.shape == (0,) and batch.values.shape == (0, 6) and not batch.unreadable


def test_messages_of_a_wrong_length_are_left_out_and_counted():
    good = serialised(5, 6, range(37), b'imu_link\0')
    long_frame = bytearray(good)
    long_frame[12:16] = struct.pack('<I', 2**32 - 1)
    other_encoding = b'\0\7' + good[2:]
    parameter_list = b'\1' + good[1:]
    bad = [b'', good[:3], good[:-1], good[:-8], good + b'\0', good + bytes(8), good[:160],
           bytes(long_frame), other_encoding, parameter_list]
    batch = read_imu([bad[0], good, *bad[1:], good])
    assert batch.stamps.tolist() == [5 * 10**9 + 6] * 2
    assert batch.values[0].tolist() == [25, 26, 27, 13, 14, 15]
    assert batch.unreadable == len(bad)
    assert batch.frame_id == 'imu_link'
    assert read_imu(bad).values.shape == (0, 6)


@given(st.lists(st.one_of(st.binary(max_size=700), st.binary(min_size=300, max_size=330))))
def test_any_bytes_are_read_or_counted(messages):
    batch = read_imu(messages)
    assert len(batch.stamps) == len(batch.values) == len(messages) - batch.unreadable


def test_converter_counts_what_it_cannot_read():
    numbers = np.arange(37.0)
    numbers[ACC_COVARIANCE] = -1.0
    converter = ImuConverter(IMU_FALLS)
    samples = converter.convert([b'short', serialised(1, 2, numbers, b'wrist\0')], [0, 0])
    assert samples.stamps.tolist() == [10**9 + 2]
    assert converter.counts == {'unreadable': 1, 'no_acceleration': 1}
    assert converter.frame_id == 'wrist'


def test_random_messages_are_read_as_rclpy_reads_them():
    serialization = pytest.importorskip('rclpy.serialization', reason='rclpy is not installed')
    from sensor_msgs.msg import Imu
    messages = []
    for i in range(200):
        message = Imu()
        message.header.stamp.sec = int(RNG.integers(-2**31, 2**31))
        message.header.stamp.nanosec = int(RNG.integers(0, 2**32))
        message.header.frame_id = ''.join(RNG.choice(list('imu_/\u00e4'), RNG.integers(0, 40)))
        for part in (message.orientation, message.angular_velocity, message.linear_acceleration):
            part.x, part.y, part.z = RNG.choice([1.0, 1e300, 1e-300], 3) * RNG.normal(size=3)
        for covariance in (message.orientation_covariance, message.angular_velocity_covariance,
                           message.linear_acceleration_covariance):
            covariance[:] = RNG.normal(size=9)
            covariance[0] = RNG.choice([-1.0, 0.5])
        messages.append(serialization.serialize_message(message))
    expected, found = ImuConverter(IMU_FALLS), ImuConverter(IMU_FALLS)
    theirs = expected.convert([serialization.deserialize_message(m, Imu) for m in messages],
                              [0] * 200)
    ours = found.convert(messages, [0] * 200)
    assert np.array_equal(ours.stamps, theirs.stamps)
    assert np.array_equal(ours.values, theirs.values, equal_nan=True)
    assert found.counts == expected.counts and found.frame_id == expected.frame_id
    last = serialization.deserialize_message(messages[-1], Imu)
    assert ours.stamps[-1] == nanoseconds(last.header.stamp)


def test_other_byte_order_is_read_as_rclpy_reads_it():
    serialization = pytest.importorskip('rclpy.serialization', reason='rclpy is not installed')
    from sensor_msgs.msg import Imu
    serialized = serialised(7, 8, RNG.normal(size=37), b'imu_link\0', '>')
    message = serialization.deserialize_message(serialized, Imu)
    batch = read_imu([serialized])
    acc, gyro = message.linear_acceleration, message.angular_velocity
    assert batch.stamps.tolist() == [nanoseconds(message.header.stamp)]
    assert batch.values[0].tolist() == [acc.x, acc.y, acc.z, gyro.x, gyro.y, gyro.z]
    assert batch.frame_id == message.header.frame_id
