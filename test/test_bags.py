"""Bags: sqlite3 and mcap, message by message, the right topic, faults in one line."""

from pathlib import Path

import numpy as np
import pytest

rosbags = pytest.importorskip('rosbags', reason='rosbags is not installed')

from rosbags.rosbag2 import StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: E402

from taolora_ros.bags import BIOSIGNAL_DEFINITION, Bag  # noqa: E402
from taolora_ros.conversions import BIOSIGNAL, IMU  # noqa: E402
from taolora_ros.spec import ECG_BEATS, IMU_FALLS  # noqa: E402

START = 1_700_000_000_000_000_000
ARRAY = 'std_msgs/msg/Float32MultiArray'


@pytest.fixture(scope='module')
def store():
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(BIOSIGNAL_DEFINITION, BIOSIGNAL))
    return store


def imu(types, ns, acc, gyro, gyro_covariance=0.0):
    vector = types['geometry_msgs/msg/Vector3']
    zero, first = np.zeros(9), np.zeros(9)
    first[0] = gyro_covariance
    return types[IMU](
        header=header(types, ns), orientation=types['geometry_msgs/msg/Quaternion'](0., 0., 0., 1.),
        orientation_covariance=zero, angular_velocity=vector(*gyro),
        angular_velocity_covariance=first, linear_acceleration=vector(*acc),
        linear_acceleration_covariance=zero)


def header(types, ns):
    stamp = types['builtin_interfaces/msg/Time'](ns // 10**9, ns % 10**9)
    return types['std_msgs/msg/Header'](stamp, 'sensor')


def write(path, store, topics, plugin=StoragePlugin.MCAP):
    """Write {topic: (type, [(arrival ns, message)])}."""
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        for name, (kind, messages) in topics.items():
            connection = writer.add_connection(name, kind, typestore=store)
            for ns, message in messages:
                writer.write(connection, ns, store.serialize_cdr(message, kind))
    return path


def biosignal(types, i, values):
    return types[BIOSIGNAL](
        header=header(types, START + i * 10**8), modality=1, sample_rate=100.0, unit='uV',
        channel_names=['V1', 'ecg'], sequence=i, channels=2,
        data=np.float32(values).ravel(), quality=np.zeros(0, np.float32))


@pytest.mark.parametrize('plugin', list(StoragePlugin))
def test_imu_messages_come_back_as_samples(tmp_path, store, plugin):
    rows = np.random.default_rng().normal(0, 5, (1100, 6))
    path = write(tmp_path / 'bag', store, {'/imu': (IMU, [
        (START + i, imu(store.types, START + i * 10**7, row[:3], row[3:],
                        -1.0 if i >= 1000 else 0.0))
        for i, row in enumerate(rows)])}, plugin)
    with Bag(path) as bag:
        topic = bag.choose()
        assert (topic.name, topic.type, topic.count) == ('/imu', IMU, 1100)
        converter = bag.converter(topic, IMU_FALLS)
        pieces = [converter.convert(*piece) for piece in bag.messages(topic)]
    assert [len(piece) for piece in pieces] == [512, 512, 76]
    stamps = np.concatenate([piece.stamps for piece in pieces])
    values = np.concatenate([piece.values for piece in pieces])
    np.testing.assert_array_equal(stamps, START + np.arange(1100) * 10**7)
    np.testing.assert_array_equal(values[:1000], rows[:1000])
    assert np.isnan(values[1000:, 3:]).all() and (values[1000:, :3] == rows[1000:, :3]).all()


def test_a_single_mcap_file_is_read_too(tmp_path, store):
    write(tmp_path / 'bag', store, {'/imu': (IMU, [
        (START, imu(store.types, START, (1., 2., 3.), (4., 5., 6.)))])})
    with Bag(next((tmp_path / 'bag').glob('*.mcap'))) as bag:
        ((messages, arrivals),) = bag.messages(bag.choose('imu'))
    assert arrivals == [START] and messages[0].linear_acceleration.z == 3.0


def test_biosignal_blocks_are_converted_to_the_model_s_channel_and_unit(tmp_path, store):
    data = np.random.default_rng(1).normal(0, 1000, (4, 10, 2)).astype(np.float32)
    path = write(tmp_path / 'bag', store, {'/ecg': (BIOSIGNAL, [
        (START + i, biosignal(store.types, i, values)) for i, values in enumerate(data)])})
    with Bag(path) as bag:
        topic = bag.choose(kind='ecg')
        (piece,) = bag.messages(topic)
        samples = bag.converter(topic, ECG_BEATS).convert(*piece)
    np.testing.assert_allclose(samples.values[:, 0], data[..., 1].ravel() / 1000, rtol=1e-6)
    assert samples.stamps[-1] - samples.stamps[0] == 39 * 10**7


def test_arrays_without_header_are_stamped_by_arrival(tmp_path, store):
    types = store.types
    empty = types['std_msgs/msg/MultiArrayLayout']([], 0)
    path = write(tmp_path / 'bag', store, {'/ecg': (ARRAY, [
        (START + i * 10**8, types[ARRAY](empty, np.arange(25, dtype=np.float32)))
        for i in range(5)])})
    with Bag(path) as bag:
        topic = bag.choose()
        with pytest.raises(ValueError, match='sample_rate: 0 Hz'):
            bag.converter(topic, ECG_BEATS)
        converter = bag.converter(topic, ECG_BEATS, sample_rate=250.0)
        (piece,) = bag.messages(topic)
    samples = converter.convert(*piece)
    assert len(samples) == 125 and not converter.stamped
    assert (np.diff(samples.stamps) == 4_000_000).all()


def test_topic_must_be_named_when_several_fit(tmp_path, store):
    message = imu(store.types, START, (0., 0., 9.8), (0., 0., 0.))
    path = write(tmp_path / 'bag', store, {
        '/a/imu': (IMU, [(START, message)]), '/b/imu': (IMU, [(START, message)]),
        '/other': ('std_msgs/msg/Bool', [(START, store.types['std_msgs/msg/Bool'](True))])})
    with Bag(path) as bag:
        with pytest.raises(ValueError, match=r'2 topics could be read, name one; topics: /a/imu'):
            bag.choose()
        with pytest.raises(ValueError, match='no topic /c; topics: /a/imu'):
            bag.choose('/c')
        with pytest.raises(ValueError, match='no topic of type taolora_msgs/msg/Biosignal or'):
            bag.choose(kind='ecg')
        assert bag.choose('b/imu').name == '/b/imu'
        with pytest.raises(ValueError, match='boolean|1 values'):
            converter = bag.converter(bag.choose('/other'), IMU_FALLS)
            converter.one(next(bag.messages(bag.choose('/other')))[0][0], START)


@pytest.mark.parametrize('make', [
    lambda path: None, lambda path: path.mkdir(),
    lambda path: (path.mkdir(), (path / 'metadata.yaml').write_text('nothing: here')),
    lambda path: path.write_bytes(b'no bag')], ids=['missing', 'empty', 'metadata', 'file'])
def test_what_is_no_bag_is_said_in_one_line(tmp_path, make):
    make(tmp_path / 'bag')
    with pytest.raises(ValueError, match='bag: not a readable rosbag2 recording') as error:
        Bag(tmp_path / 'bag')
    assert '\n' not in str(error.value)


def test_the_built_in_definition_is_that_of_the_message():
    path = Path(__file__).parents[1] / 'taolora_msgs' / 'msg' / 'Biosignal.msg'
    assert (get_types_from_msg(path.read_text(), BIOSIGNAL)
            == get_types_from_msg(BIOSIGNAL_DEFINITION, BIOSIGNAL))
