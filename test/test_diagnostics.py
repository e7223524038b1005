"""What the node says about streams that are not as they should be."""

import time

import numpy as np
import pytest
from playing import SECOND, blocks, imu_messages, status
from running_node import NodeProcess, wait_for

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Imu
from taolora_msgs.msg import Anomaly, Biosignal

from taolora_ros.conversions import nanoseconds

RATE, SECONDS = 100, 14
STREAMS = ('well', 'slow', 'stuck', 'ahead', 'jumpy', 'holey', 'late', 'unworn', 'bursty')
DEADLINE = 100_000_000  # ns


@pytest.fixture(scope='module')
def node():
    """A node with a stream for each kind of trouble, most of them of an IMU at 100 Hz."""
    parameters = {'streams': f'[{", ".join(STREAMS)}]'}
    for stream in STREAMS:
        parameters |= {f'{stream}__topic': stream, f'{stream}__type': 'sensor_msgs/msg/Imu',
                       f'{stream}__model': 'imu_falls', f'{stream}__sample_rate': float(RATE)}
    parameters |= {'unworn__type': 'taolora_msgs/msg/Biosignal', 'unworn__model': 'ecg_beats',
                   'unworn__sample_rate': 0.0}
    # Reliable, so that a busy machine loses none.
    reliable = [part for stream in STREAMS for part in (
        '-p', f'qos_overrides./{stream}.subscription.reliability:=reliable')]
    with NodeProcess('-p', f'qos_overrides./late.subscription.deadline:={DEADLINE}', *reliable,
                     **parameters) as process:
        yield process.ready()


def carried(rng):
    """Return (N, 6) of an IMU that is carried about, SECONDS long."""
    t = np.arange(SECONDS * RATE) / RATE
    values = np.sin(2 * np.pi * rng.uniform(0.5, 1.5, 6) * t[:, None] + rng.uniform(0, 6, 6))
    values[:, 2] += 9.81
    return values + rng.normal(0, 0.05, values.shape)


def troubles(rng, start):
    """Return for each stream its messages, None where one is left out."""
    values = {stream: carried(rng) for stream in STREAMS if stream != 'unworn'}
    values['stuck'][2 * RATE:, 1] = values['stuck'][2 * RATE, 1]
    values['holey'][::5, 0] = np.nan
    ahead = {'ahead': 30 * SECOND}
    played = {stream: list(imu_messages(rows, RATE, start + ahead.get(stream, 0)))
              for stream, rows in values.items()}
    for i, message in enumerate(played['bursty']):
        message.header.stamp = played['bursty'][i - i % 7].header.stamp
    played['slow'][::2] = [None] * (SECONDS * RATE // 2)
    for i in range(RATE, SECONDS * RATE, 2 * RATE):
        played['jumpy'][i].header.stamp.sec -= 5
    pause = slice(8 * RATE, 8 * RATE + RATE // 2)
    played['late'][pause] = [None] * (RATE // 2)
    line = 0.4 + 0.001 * rng.normal(size=SECONDS * 360)
    flat = list(blocks(line, 360, start, size=36))
    played['unworn'] = [flat[i // 10] if i % 10 == 9 else None for i in range(SECONDS * RATE)]
    return played


@pytest.fixture(scope='module')
def told(node, talker):
    """Play all troubles at once in real time; return all statuses by stream, and anomalies."""
    arrays, anomalies = (talker.listen(kind, topic) for kind, topic in (
        (DiagnosticArray, '/diagnostics'), (Anomaly, '/taolora/anomalies')))
    qos = {stream: QoSProfile(depth=1000) for stream in STREAMS}
    qos['late'].deadline = Duration(nanoseconds=DEADLINE)
    publishers = {stream: talker.publisher(Biosignal if stream == 'unworn' else Imu, f'/{stream}',
                                           qos[stream]) for stream in STREAMS}
    began = time.time()
    played = troubles(np.random.default_rng(), round(began * SECOND))
    for i, row in enumerate(zip(*(played[stream] for stream in STREAMS))):
        for stream, message in zip(STREAMS, row):
            if message is not None:
                publishers[stream].publish(message)
        time.sleep(max(0.0, began + (i + 1) / RATE - time.time()))
    ended = time.time()
    wait_for(lambda: {a.stream: a.is_anomalous for a in list(anomalies)
                      if a.channel_names == ['silence']} == dict.fromkeys(STREAMS, True), 60)
    statuses = {stream: [s for array in arrays for s in array.status
                         if s.name == f'taolora: {stream}' and
                         nanoseconds(array.header.stamp) < ended * SECOND] for stream in STREAMS}
    return statuses, anomalies, ended


def problems(told, stream):
    """Return all that was said of a stream while it was played, and the last values."""
    statuses = told[0][stream]
    return '\n'.join(s.message for s in statuses), {v.key: v.value for v in statuses[-1].values}


def test_a_good_stream_is_running_and_its_rate_is_known(told, talker):
    text, values = problems(told, 'well')
    assert 'expected' not in text and 'stuck' not in text and 'arrival' not in text
    assert float(values['sample_rate_hz']) == pytest.approx(RATE, rel=0.1)
    assert float(values['expected_rate_hz']) == RATE
    assert values['model'] == 'imu_falls' and float(values['missing_fraction']) == 0.0
    assert int(status(talker, 'well')[2]['messages']) == SECONDS * RATE


@pytest.mark.parametrize('stream, said', [
    ('slow', 'samples a second, 100.0 expected'), ('stuck', 'acc_y stuck at'),
    ('ahead', 's ahead of the clock'), ('late', 'deadlines missed'), ('unworn', 'lead off'),
    ('jumpy', 'lately'), ('holey', 'lately'), ('bursty', 'set bursty.stamps to arrival')])
def test_each_trouble_is_a_warning_in_words(told, stream, said):
    assert said in problems(told, stream)[0]
    levels = {s.level for s in told[0][stream] if said in s.message}
    assert levels <= {DiagnosticStatus.WARN, DiagnosticStatus.ERROR}


def test_stamps_in_bursts_are_told_to_the_log_once(told, node):
    assert node.output.count('set bursty.stamps to arrival') == 1
    assert node.output.count('.stamps to arrival') == 1


def test_figures_stand_beside_the_words(told):
    assert problems(told, 'stuck')[1]['flat_channels'] == 'acc_y'
    assert float(problems(told, 'ahead')[1]['stamp_skew_s']) == pytest.approx(-30.0, abs=5.0)
    assert int(problems(told, 'late')[1]['deadlines_missed']) >= 1
    assert float(problems(told, 'slow')[1]['sample_rate_hz']) == pytest.approx(50, rel=0.1)
    assert float(problems(told, 'holey')[1]['missing_fraction']) == pytest.approx(
        0.2 / 6, abs=0.01)
    counts = {name: problems(told, stream)[1] for stream, name in (
        ('jumpy', 'count.late'), ('holey', 'count.nonfinite'))}
    assert all(int(values[name]) > 0 for name, values in counts.items()), counts


def test_a_stream_that_stops_is_an_anomaly_within_a_second_with_its_reason(told, talker):
    _, anomalies, ended = told
    for stream in STREAMS:
        last = [a for a in anomalies if a.stream == stream and a.channel_names == ['silence']][-1]
        assert last.is_anomalous and last.reason.startswith('no message for ')
        silent = last.header.stamp.sec + 1e-9 * last.header.stamp.nanosec - (
            last.start.sec + 1e-9 * last.start.nanosec)
        assert 0.4 < silent < 1.0, (stream, silent)
    level, text, values = status(talker, 'well')
    assert level == DiagnosticStatus.ERROR and text.startswith('no message on /well for ')
    assert float(values['silent_s']) >= 0.5
