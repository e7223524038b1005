"""Header stamps that tell arrival are evened out where that is said, and only there."""

import numpy as np
import pytest

serialization = pytest.importorskip('rclpy.serialization', reason='rclpy is not installed')

from taolora_ros.conversions import make_converter  # noqa: E402
from taolora_ros.spec import ECG_BEATS, IMU_FALLS  # noqa: E402
from test_conversions import RNG, SECOND, biosignal, convert, imu, stamped  # noqa: E402


def on_arrival(rate, count):
    """Return the times of samples and of their arrival in bursts of 0.1 s, ns."""
    taken = 9 * SECOND + np.rint(np.arange(count) / rate * 1e9).astype(np.int64)
    return taken, -(-taken // 100_000_000) * 100_000_000 + RNG.integers(0, 5_000_000, count)


def test_stamps_are_believed_unless_they_are_said_to_tell_arrival():
    arrived = on_arrival(50.0, 203)[1]
    messages = list(map(imu, arrived.tolist(), RNG.normal(size=(203, 6))))
    for given in ({}, {'stamps': 'sampling'}):
        converter = make_converter('sensor_msgs/Imu', IMU_FALLS, sample_rate=50.0, **given)
        assert np.array_equal(convert(converter, *messages).stamps, arrived)


@pytest.mark.parametrize('rate', [0.0, 50.0])
def test_imu_stamps_of_arrival_are_evened_out_however_messages_are_cut(rate):
    taken, arrived = on_arrival(49.7, 611)
    values = RNG.normal(size=(611, 6))
    messages = list(map(imu, arrived.tolist(), values))

    def read(messages, cuts):
        converter = make_converter('sensor_msgs/Imu', IMU_FALLS, sample_rate=rate, stamps='arrival')
        parts = [converter.convert(part.tolist(), RNG.integers(0, 10**18, len(part)).tolist())
                 for part in np.split(np.array(messages, object), cuts)]
        assert np.array_equal(np.concatenate([part.values for part in parts]), values)
        return np.concatenate([part.stamps for part in parts])
    stamps = read(messages, [])
    assert (np.diff(stamps) > 0).all() and np.std((stamps - taken)[150:]) < 0.008 * SECOND
    assert np.array_equal(stamps, read(messages, np.sort(RNG.integers(0, 611, 40))))
    serialised = [serialization.serialize_message(message) for message in messages]
    assert np.array_equal(stamps, read(serialised, np.sort(RNG.integers(0, 611, 40))))


def test_stamps_that_are_not_set_stay_so():
    converter = make_converter('sensor_msgs/Imu', IMU_FALLS, stamps='arrival')
    stamps = [0, 3 * SECOND, 0, 3 * SECOND + 20_000_000]
    assert convert(converter, *[imu(ns, np.ones(6)) for ns in stamps]).stamps.tolist() == stamps


def test_a_declared_rate_holds_from_the_first_sample_on():
    converter = make_converter('sensor_msgs/Imu', IMU_FALLS, sample_rate=50.0, stamps='arrival')
    samples = convert(converter, *[imu(SECOND, np.ones(6))] * 5)
    assert np.diff(samples.stamps).tolist() == pytest.approx([1e7] * 4, rel=1e-3)  # half of 20 ms


def test_vectors_with_a_header_are_evened_out_likewise():
    geometry_msgs = pytest.importorskip('geometry_msgs.msg')
    taken, arrived = on_arrival(101.0, 613)
    stamps = {name: convert(make_converter(f'{package}/{name}', IMU_FALLS, field,
                                           stamps='arrival'), *messages).stamps
              for package, name, field, messages in (
        ('sensor_msgs', 'Imu', '', [imu(ns, np.ones(6)) for ns in arrived.tolist()]),
        ('geometry_msgs', 'Vector3Stamped', 'vector.x, vector.y, vector.z',
         [stamped(geometry_msgs.Vector3Stamped(), ns) for ns in arrived.tolist()]))}
    assert np.array_equal(stamps['Imu'], stamps['Vector3Stamped'])
    assert np.std((stamps['Imu'] - taken)[300:]) < 0.005 * SECOND


def test_blocks_stamped_on_arrival_follow_each_other_though_they_come_in_bursts():
    starts = 9 * SECOND + 20_000_000 * np.arange(301)
    arrived = -(-starts // 100_000_000) * 100_000_000
    for stamps in ('arrival', 'sampling'):
        converter = make_converter('taolora_msgs/Biosignal', ECG_BEATS, stamps=stamps)
        blocks = [biosignal(ns, RNG.normal(size=5), 250.0) for ns in arrived.tolist()]
        found = np.diff(convert(converter, *blocks).stamps)
        assert (found.min() > 0) == (stamps == 'arrival')
        assert found.max() < 8_000_000 or stamps == 'sampling'


@pytest.mark.parametrize('given, said', [
    ({'stamps': 'arrivals'}, "^stamps: 'arrivals' is none of sampling, arrival$"),
    ({'sample_rate': 1e-300, 'stamps': 'arrival'}, '^sample_rate: sample rate 1e-300 Hz: outside'),
])
def test_what_cannot_be_evened_out_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        make_converter('sensor_msgs/Imu', IMU_FALLS, **given)
