"""Messages of every kind become the samples they stand for; what cannot be read is counted."""

import numpy as np
import pytest

from taolora_ros.conversions import make_converter
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

sensor_msgs = pytest.importorskip('sensor_msgs.msg', reason='sensor_msgs is not installed')
taolora_msgs = pytest.importorskip('taolora_msgs.msg', reason='taolora_msgs is not built')
std_msgs = pytest.importorskip('std_msgs.msg', reason='std_msgs is not installed')

SECOND = 1_000_000_000
RNG = np.random.default_rng()


def stamped(message, ns, frame_id='sensor'):
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(ns, SECOND)
    message.header.frame_id = frame_id
    return message


def imu(ns, values):
    message = stamped(sensor_msgs.Imu(), ns, 'imu_link')
    for part, numbers in ((message.linear_acceleration, values[:3]),
                          (message.angular_velocity, values[3:])):
        part.x, part.y, part.z = (float(v) for v in numbers)
    return message


def biosignal(ns, data, rate=360.0, **fields):
    data = np.atleast_2d(np.asarray(data, np.float32).T).T
    message = taolora_msgs.Biosignal(sample_rate=rate, channels=data.shape[1],
                                     data=data.ravel().tolist(), **fields)
    return stamped(message, ns, 'chest')


def convert(converter, *messages, arrivals=None):
    return converter.convert(list(messages), arrivals or [0] * len(messages))


# sensor_msgs/Imu

def test_imu_messages_become_rows_in_si_units():
    values = RNG.normal(size=(5, 6))
    stamps = 7 * SECOND + RNG.integers(0, SECOND, 5)
    converter = make_converter('sensor_msgs/msg/Imu', IMU_FALLS)
    samples = convert(converter, *map(imu, stamps.tolist(), values))
    assert np.array_equal(samples.stamps, stamps)
    assert np.array_equal(samples.values, values)
    assert converter.frame_id == 'imu_link'
    assert not converter.counts


def test_imu_without_gyro_is_missing_and_no_fault():
    converter = make_converter('sensor_msgs/Imu', IMU_FALLS)
    message = imu(SECOND, np.ones(6))
    message.angular_velocity_covariance[0] = -1.0
    samples = convert(converter, message, imu(2 * SECOND, np.ones(6)))
    assert np.isnan(samples.values[0, 3:]).all()
    assert np.array_equal(samples.values[1], np.ones(6))
    assert not converter.counts


def test_imu_without_acceleration_is_counted():
    converter = make_converter('sensor_msgs/Imu', IMU_FALLS)
    message = imu(SECOND, np.ones(6))
    message.linear_acceleration_covariance[0] = -1.0
    assert np.isnan(convert(converter, message).values[0, :3]).all()
    assert converter.counts['no_acceleration'] == 1
    assert 'linear_acceleration_covariance' in converter.problem


def test_no_messages_are_no_samples():
    for name, spec in (('sensor_msgs/Imu', IMU_FALLS), ('taolora_msgs/Biosignal', ECG_BEATS)):
        assert convert(make_converter(name, spec)).values.shape == (0, len(spec.channels))


# taolora_msgs/Biosignal

@pytest.mark.parametrize('unit, size', [('mV', 1.0), ('V', 1e3), ('uV', 1e-3), ('µV', 1e-3),
                                        ('', 1.0)])
def test_biosignal_is_uniform_from_its_stamp_in_the_models_unit(unit, size):
    data = RNG.normal(size=41).astype(np.float32)
    samples = convert(make_converter('taolora_msgs/Biosignal', ECG_BEATS),
                      biosignal(3 * SECOND + 7, data, unit=unit))
    assert np.array_equal(samples.stamps, 3 * SECOND + 7
                          + np.rint(np.arange(41) / 360 * 1e9).astype(np.int64))
    np.testing.assert_allclose(samples.values[:, 0], data.astype(float) * size, rtol=1e-12)


def test_declared_unit_stands_in_for_a_missing_one_only():
    converter = make_converter('taolora_msgs/Biosignal', ECG_BEATS, unit='uV')
    assert convert(converter, biosignal(SECOND, [1000.0])).values[0, 0] == 1.0
    assert convert(converter, biosignal(2 * SECOND, [1000.0], unit='mV')).values[0, 0] == 1000.0


def test_biosignal_unit_of_another_quantity_is_refused():
    converter = make_converter('taolora_msgs/Biosignal', ECG_BEATS)
    assert len(convert(converter, biosignal(SECOND, [1.0], unit='uS'))) == 0
    assert converter.counts['unreadable'] == 1
    assert "'uS'" in converter.problem and 'mV' in converter.problem


@pytest.mark.parametrize('field, column', [('', 0), ('V1', 1), ('2', 2), ('v5', 2)])
def test_biosignal_channel_is_chosen_by_name_or_number(field, column):
    data = RNG.normal(size=(9, 3)).astype(np.float32)
    samples = convert(make_converter('taolora_msgs/Biosignal', ECG_BEATS, field=field),
                      biosignal(SECOND, data, channel_names=['MLII', 'V1', 'V5']))
    assert np.array_equal(samples.values[:, 0], data[:, column])


def test_biosignal_channels_named_as_in_the_model_are_found_in_any_order():
    data = RNG.normal(size=(4, 4)).astype(np.float32)
    samples = convert(make_converter('taolora_msgs/Biosignal', IMU_FALLS),
                      biosignal(SECOND, data, channel_names=['t', 'ACC_Z', 'acc_y', 'acc_x']))
    assert np.array_equal(samples.values[:, :3], data[:, [3, 2, 1]])
    assert np.isnan(samples.values[:, 3:]).all()


def test_biosignal_sequence_gaps_are_counted_and_leave_time_empty():
    converter = make_converter('taolora_msgs/Biosignal', ECG_BEATS)
    numbers = [2**32 - 2, 2**32 - 1, 0, 3]  # wraps, then two are lost
    starts = [SECOND + 100_000_000 * i for i in (0, 1, 2, 5)]
    samples = convert(converter, *[biosignal(s, np.zeros(36), sequence=n)
                                   for s, n in zip(starts, numbers)])
    assert converter.counts == {'lost_messages': 2}
    assert samples.stamps[::36].tolist() == starts


def test_biosignal_blocks_with_jittering_stamps_do_not_overlap():
    converter = make_converter('taolora_msgs/Biosignal', ECG_BEATS)
    starts = SECOND + 100_000_000 * np.arange(50) + RNG.integers(-8_000_000, 8_000_000, 50)
    samples = convert(converter, *[biosignal(int(s), np.zeros(36), sequence=i)
                                   for i, s in enumerate(starts)])
    assert (np.diff(samples.stamps) > 0).all()


def test_unstamped_biosignal_has_no_sample_with_a_believable_stamp():
    samples = convert(make_converter('taolora_msgs/Biosignal', ECG_BEATS),
                      biosignal(0, np.zeros(400)))
    assert len(samples) == 400 and (samples.stamps <= 0).all()


@pytest.mark.parametrize('change, reason', [
    ({'sample_rate': -1.0}, 'sample rate -1.0 Hz'),
    ({'sample_rate': float('nan')}, 'sample rate nan Hz'),
    ({'sample_rate': 1e-300}, 'sample rate 1e-300 Hz'),
    ({'channels': 0}, '0 channels'),
    ({'channels': 7}, '7 channels'),
    ({'channel_names': ['V1'], 'channels': 1, 'unit': 'furlong'}, "'furlong'"),
])
def test_senseless_biosignal_is_counted_with_its_reason(change, reason):
    converter = make_converter('taolora_msgs/Biosignal', ECG_BEATS)
    message = biosignal(SECOND, np.zeros(10))
    for name, value in change.items():
        setattr(message, name, value)
    good = biosignal(2 * SECOND, np.ones(3))
    assert len(convert(converter, message, good)) == 3
    assert converter.counts['unreadable'] == 1
    assert reason in converter.problem


def test_biosignal_without_the_wanted_channel_names_those_it_has():
    converter = make_converter('taolora_msgs/Biosignal', ECG_BEATS, field='MLII')
    assert len(convert(converter, biosignal(SECOND, np.zeros((5, 2)),
                                            channel_names=['V1', 'V2']))) == 0
    assert "'mlii'" in converter.problem and 'v1, v2' in converter.problem


# types without a header

def test_float32_is_stamped_by_arrival_evened_out_at_the_declared_rate():
    converter = make_converter('std_msgs/msg/Float32', ECG_BEATS, sample_rate=250.0)
    assert not converter.stamped
    true = 9 * SECOND + 4_000_000 * np.arange(2000)
    arrivals = true + RNG.integers(0, 20_000_000, 2000)
    values = RNG.normal(size=2000).astype(np.float32)
    samples = convert(converter, *[std_msgs.Float32(data=float(v)) for v in values],
                      arrivals=arrivals.tolist())
    assert np.array_equal(samples.values[:, 0], values)
    steps = np.diff(samples.stamps)
    assert steps.min() > 0 and np.abs(steps - 4_000_000).max() < 100_000
    assert np.abs(samples.stamps - true).max() < 30_000_000


def test_float32_after_silence_is_stamped_anew():
    converter = make_converter('std_msgs/Float32', ECG_BEATS, sample_rate=100.0)
    samples = convert(converter, *[std_msgs.Float32()] * 2, arrivals=[SECOND, 5 * SECOND])
    assert samples.stamps.tolist() == [SECOND, 5 * SECOND]


def test_headerless_type_needs_a_declared_rate():
    with pytest.raises(ValueError, match='^sample_rate: 0 Hz: std_msgs/msg/Float32 has no header'):
        make_converter('std_msgs/Float32', ECG_BEATS)


def multi_array(data, channels=None):
    message = std_msgs.Float32MultiArray(data=np.asarray(data, np.float32).ravel().tolist())
    if channels:
        message.layout.dim = [std_msgs.MultiArrayDimension(label='samples', size=0),
                              std_msgs.MultiArrayDimension(label='channels', size=channels)]
    return message


@pytest.mark.parametrize('layout', [None, 6])
def test_float32_multi_array_is_samples_by_channels(layout):
    data = RNG.normal(size=(13, 6)).astype(np.float32)
    converter = make_converter('std_msgs/Float32MultiArray', IMU_FALLS, sample_rate=104.0)
    samples = convert(converter, multi_array(data, layout), arrivals=[SECOND])
    assert np.array_equal(samples.values, data)
    assert np.abs(np.diff(samples.stamps) - 1e9 / 104.0).max() <= 1


def test_float32_multi_array_of_acceleration_alone_has_no_gyro():
    data = RNG.normal(size=(13, 3)).astype(np.float32)
    converter = make_converter('std_msgs/Float32MultiArray', IMU_FALLS, sample_rate=50.0,
                               unit='g, deg/s')
    samples = convert(converter, multi_array(data, 3), arrivals=[SECOND])
    np.testing.assert_allclose(samples.values[:, :3], data.astype(float) * 9.80665)
    assert np.isnan(samples.values[:, 3:]).all()


def test_float32_multi_array_of_a_wrong_width_is_counted():
    converter = make_converter('std_msgs/Float32MultiArray', IMU_FALLS, sample_rate=50.0)
    assert len(convert(converter, multi_array(np.zeros(13)), arrivals=[SECOND])) == 0
    assert converter.counts['unreadable'] == 1
    assert '13 values do not divide into 6 channels (acc_x' in converter.problem


# any other type

def test_other_type_is_read_by_field_path():
    accel = pytest.importorskip('geometry_msgs.msg').AccelStamped
    converter = make_converter('geometry_msgs/AccelStamped', IMU_FALLS,
                               field='accel.linear.x, accel.linear.y, accel.linear.z')
    message = stamped(accel(), 4 * SECOND, 'base')
    message.accel.linear.x, message.accel.linear.z = 1.5, -2.5
    samples = convert(converter, message)
    assert samples.stamps.tolist() == [4 * SECOND]
    assert samples.values[0, :3].tolist() == [1.5, 0.0, -2.5]
    assert np.isnan(samples.values[0, 3:]).all() and converter.frame_id == 'base'


def test_array_field_of_a_stamped_type_is_uniform_at_the_declared_rate():
    converter = make_converter('sensor_msgs/LaserScan', ECG_BEATS, field='ranges',
                               sample_rate=500.0)
    message = stamped(sensor_msgs.LaserScan(ranges=[1.0, 2.0, 3.0]), SECOND)
    samples = convert(converter, message)
    assert samples.stamps.tolist() == [SECOND, SECOND + 2_000_000, SECOND + 4_000_000]
    assert samples.values[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_element_of_an_array_is_one_sample():
    converter = make_converter('sensor_msgs/JointState', ECG_BEATS, field='effort[1]')
    message = stamped(sensor_msgs.JointState(effort=[1.0, 2.0]), SECOND)
    assert convert(converter, message).values.tolist() == [[2.0]]
    assert len(convert(converter, stamped(sensor_msgs.JointState(), SECOND))) == 0
    assert converter.problem == 'effort[1]: effort has 0 elements'


@pytest.mark.parametrize('name, field, reason', [
    ('sensor_msgs/Temperature', 'temprature', "has no field 'temprature'; numbers in it: "
     'temperature, variance'),
    ('sensor_msgs/Temperature', '', 'field: not given; numbers in sensor_msgs/msg/Temperature: '
     'temperature, variance'),
    ('sensor_msgs/JointState', 'name', 'string is not a number'),
    ('sensor_msgs/MagneticField', 'magnetic_field', 'numbers in it: x, y, z'),
    ('sensor_msgs/Temperature', 'temperature[0]', 'leave [0] out'),
    ('sensor_msgs/Temperature', 'temperature.x', "it has no field 'x'"),
    ('sensor_msgs/Temperature', 'a b', 'write name or name[index]'),
    ('sensor_msgs/JointState', 'effort', 'sample_rate: 0 Hz: sensor_msgs/msg/JointState holds '
     'several samples'),
    ('sensor_msgs/Imuu', '', 'sensor_msgs has no such message; it has sensor_msgs/msg/Imu'),
    ('no_such_msgs/Ecg', '', "no package 'no_such_msgs'"),
    ('Imu', '', 'write package/msg/Name'),
    ('sensor_msgs/Imu', '', 'model ecg_beats reads ecg'),
])
def test_type_or_field_that_cannot_be_read_names_the_alternatives(name, field, reason):
    with pytest.raises(ValueError) as error:
        make_converter(name, ECG_BEATS, field=field)
    assert reason in str(error.value)
    assert str(error.value).split(':')[0] in ('type', 'field', 'sample_rate')
