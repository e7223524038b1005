"""Every kind of message that the node reads, published to it; and what is said of wrong ones."""

import time

import numpy as np
import pytest
from playing import PAUSES, SECOND, blocks, excerpt, imu_messages, quiet, status
from running_node import NodeProcess

from geometry_msgs.msg import AccelStamped, Vector3Stamped
from sensor_msgs.msg import Imu
from std_msgs.msg import Float32, Float32MultiArray, MultiArrayDimension
from taolora_msgs.msg import Biosignal, Event

from taolora_ros import synthetic
from taolora_ros.conversions import nanoseconds

RATE, SECONDS = 100, 18  # of the fall
IMU, ECG = {'model': 'imu_falls'}, {'model': 'ecg_beats'}
STREAMS = {
    'imu': {**IMU, 'type': 'sensor_msgs/msg/Imu'},
    'accel': {**IMU, 'type': 'geometry_msgs/msg/AccelStamped',
              'field': 'accel.linear.x, accel.linear.y, accel.linear.z'},
    'vector': {**IMU, 'type': 'geometry_msgs/Vector3Stamped', 'unit': 'g',
               'field': 'vector.x, vector.y, vector.z'},
    'no_gyro': {**IMU, 'type': 'sensor_msgs/msg/Imu'},
    'watch': {**IMU, 'type': 'sensor_msgs/msg/Imu', 'stamps': 'arrival'},
    'array': {**IMU, 'type': 'std_msgs/msg/Float32MultiArray', 'sample_rate': float(RATE)},
    'biosignal': {**ECG, 'type': 'taolora_msgs/msg/Biosignal'},
    'number': {**ECG, 'type': 'std_msgs/msg/Float32', 'sample_rate': 360.0, 'unit': 'uV'},
    'numbers': {**ECG, 'type': 'std_msgs/msg/Float32MultiArray', 'sample_rate': 360.0},
}
FALLS = [stream for stream, given in STREAMS.items() if given['model'] == 'imu_falls']


@pytest.fixture(scope='module')
def node():
    """One node that reads all kinds at once."""
    parameters = {f'{stream}__{name}': value for stream, given in STREAMS.items()
                  for name, value in {**given, 'topic': f'in/{stream}'}.items()}
    reliable = [part for stream in STREAMS for part in (
        '-p', f'qos_overrides./in/{stream}.subscription.reliability:=reliable')]
    with NodeProcess(*reliable, streams=f'[{", ".join(STREAMS)}]', max_lag=60.0,
                     **parameters) as process:
        yield process.ready()


def fall():
    """Return (N, 6) of somebody who stands, walks, falls and lies."""
    values = synthetic.imu_scene(('stand', 'walk', 'fall', 'stand'), rate=RATE, seed=3).values
    peak = int(np.linalg.norm(values[:, :3], axis=1).argmax())
    return values[peak - (SECONDS - 6) * RATE:peak + 6 * RATE]


def stamped(kind, fill, values, start):
    """Yield messages of ``kind`` with a header, ``fill`` puts a row of ``values`` into each."""
    for i, row in enumerate(values.tolist()):
        message = kind()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(
            start + round(i / RATE * SECOND), SECOND)
        fill(message, row)
        yield message


def no_gyro(played):
    """Yield Imu messages that say, as sensor_msgs/Imu asks for, that turn rates are missing."""
    for message in played:
        message.angular_velocity_covariance[0] = -1.0
        message.angular_velocity.x = message.angular_velocity.y = message.angular_velocity.z = 0.0
        yield message


def on_arrival(played):
    """Yield Imu messages stamped as by a driver that gets them in bursts of 0.13 s, some later."""
    every, rng = 130_000_000, np.random.default_rng()
    for message in played:
        stamp = -(-nanoseconds(message.header.stamp) // every) * every + int(rng.normal(0, 3e6))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, SECOND)
        yield message


def accel(message, row):
    a = message.accel.linear
    a.x, a.y, a.z = row[:3]


def vector(message, row):
    v = message.vector
    v.x, v.y, v.z = np.divide(row[:3], 9.80665).tolist()


def arrays(values, size):
    """Yield Float32MultiArray messages of ``size`` rows of ``values`` (N, C)."""
    for i in range(0, len(values), size):
        part = values[i:i + size]
        message = Float32MultiArray(data=part.astype(np.float32).ravel().tolist())
        message.layout.dim = [MultiArrayDimension(label=label, size=n, stride=part.size)
                              for label, n in zip(('sample', 'channel'), part.shape)]
        yield message


def messages(stream, start):
    """Return the type and the messages of a recording with events as ``stream`` reads them."""
    ecg = excerpt().values[:SECONDS * 360, :1]
    return {
        'imu': (Imu, imu_messages(fall(), RATE, start)),
        'accel': (AccelStamped, stamped(AccelStamped, accel, fall(), start)),
        'vector': (Vector3Stamped, stamped(Vector3Stamped, vector, fall(), start)),
        'no_gyro': (Imu, no_gyro(imu_messages(fall(), RATE, start))),
        'watch': (Imu, on_arrival(imu_messages(fall(), RATE, start))),
        'array': (Float32MultiArray, arrays(fall(), 7)),
        'biosignal': (Biosignal, blocks(ecg[:, 0], 360, start)),
        'number': (Float32, (Float32(data=1000 * float(v)) for v in ecg[:, 0])),
        'numbers': (Float32MultiArray, arrays(ecg, 36)),
    }[stream]


@pytest.fixture(scope='module')
def played(node, talker):
    """Play all of them at once, in real time: return events, and the messages sent by stream."""
    events = talker.listen(Event, '/taolora/events')
    start = time.time()
    sent, publishers = {}, {}
    for stream in STREAMS:
        kind, made = messages(stream, round(start * SECOND))
        sent[stream] = list(made)
        publishers[stream] = talker.publisher(kind, f'/in/{stream}', 10_000)
    due = sorted((i / len(made) * SECONDS, stream, i) for stream, made in sent.items()
                 for i in range(len(made)))
    start = time.time()
    for after, stream, i in due:
        time.sleep(max(0.0, start + after - time.time()))
        publishers[stream].publish(sent[stream][i])
    return quiet(events, seconds=5.0), sent


@pytest.mark.parametrize('stream', STREAMS)
def test_events_are_found_in_every_kind_of_message(played, talker, stream):
    events, sent = played
    kind, least = ({'fall'}, 1) if stream in FALLS else ({'beat', 'veb'}, 12)
    found = [e for e in events if e.stream == stream and e.phase == Event.START]
    assert len(found) >= least and {e.label for e in found} == kind
    values = status(talker, stream)[2]
    assert int(values['messages']) == len(sent[stream])
    counts = {name for name in values if name.startswith('count.')}
    assert counts <= (PAUSES if 'sample_rate' in STREAMS[stream] else set()), values


def test_a_fall_stamped_on_arrival_has_its_time_but_for_the_mean_delay(played):
    stamps = {e.stream: nanoseconds(e.header.stamp) for e in played[0]
              if e.stream in ('imu', 'watch') and e.phase == Event.START}
    starts = {stream: nanoseconds(played[1][stream][0].header.stamp) for stream in stamps}
    delay = (stamps['watch'] - starts['watch'] - stamps['imu'] + starts['imu']) / SECOND
    assert abs(delay) < 0.15  # half a burst, and where in one the first sample lay


@pytest.mark.parametrize('given, said', [
    ({'type': 'sensor_msgs/msg/Imu', 'stamps': 'arrivals'},
     ('imu.stamps', 'arrivals', 'sampling, arrival')),
    ({'type': 'geometry_msgs/msg/AccelStamped', 'field': 'accel.linear.w'},
     ('imu.field', 'accel.linear.w', 'x, y, z')),
    ({'type': 'geometry_msgs/msg/AccelStamped'}, ('imu.field', 'not given', 'accel.linear.x')),
    ({'type': 'geometry_msgs/msg/AccelStamped', 'field': 'header.frame_id'},
     ('imu.field', 'header.frame_id', 'string')),
    ({'type': 'geometry_msgs/msg/Accel_Stamped'}, ('imu.type', 'Accel_Stamped', 'AccelStamped')),
    ({'type': 'geometry/msg/AccelStamped'}, ('imu.type', 'geometry', 'geometry_msgs')),
    ({'type': 'sensor_msgs/msg/MagneticField', 'field': 'magnetic_field.x'},
     ('imu.field', '1 values', 'acc_x, acc_y, acc_z')),
    ({'type': 'std_msgs/msg/Float32MultiArray'}, ('imu.sample_rate', '0 Hz', 'must be given')),
])
def test_a_wrong_field_or_type_is_one_line_that_names_the_alternatives(given, said):
    with NodeProcess(streams='[imu]', imu__topic='imu', imu__model='imu_falls',
                     **{f'imu__{name}': value for name, value in given.items()}) as node:
        code = node.process.wait(60)
    lines = [line for line in node.output.splitlines() if line]
    assert code == 1 and len(lines) == 1, node.output
    assert all(word in lines[0] for word in said), lines[0]
