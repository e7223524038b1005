"""Events and anomalies become messages that keep every figure."""

from types import SimpleNamespace as Fields

import pytest

from taolora_ros.conversions import nanoseconds
from taolora_ros.decode import Anomaly, Event
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

pytest.importorskip('taolora_msgs.msg', reason='taolora_msgs is not built')

from taolora_ros.event_messages import (  # noqa: E402
    anomaly_message, event_message, time_message)

SECOND = 1_000_000_000


def test_event_keeps_every_figure():
    event = Event(id='ecg-1', label='veb', score=0.75, severity=1, phase=0,
                  stamp_ns=5 * SECOND + 123, start_ns=5 * SECOND, stop_ns=6 * SECOND,
                  transient_fraction=0.25, values={'heart_rate_bpm': 71.25})
    message = event_message(event, 'ecg', 'chest', ECG_BEATS, 0.012)
    assert nanoseconds(message.header.stamp) == event.stamp_ns
    assert (message.header.frame_id, message.stream) == ('chest', 'ecg')
    assert (message.id, message.label, message.severity, message.phase) == ('ecg-1', 'veb', 1, 0)
    assert (message.score, message.transient_fraction) == (0.75, 0.25)
    assert nanoseconds(message.start) == event.start_ns and nanoseconds(message.stop) == 6 * SECOND
    assert (message.model, message.model_version) == ('ecg_beats', ECG_BEATS.version)
    assert message.latency == 0.012
    assert [(v.key, v.value) for v in message.values] == [('heart_rate_bpm', '71.25')]


def test_anomaly_keeps_every_figure():
    anomaly = Anomaly(stamp_ns=9 * SECOND, start_ns=8 * SECOND, stop_ns=9 * SECOND, score=1.5,
                      threshold=1.25, is_anomalous=True,
                      channel_scores={'acc_x': 1.5, 'acc_y': 0.5})
    message = anomaly_message(anomaly, 'imu', 'imu_link', IMU_FALLS)
    assert nanoseconds(message.header.stamp) == anomaly.stamp_ns
    assert (message.score, message.threshold, message.is_anomalous) == (1.5, 1.25, True)
    assert list(message.channel_names) == ['acc_x', 'acc_y']
    assert list(message.channel_scores) == [1.5, 0.5]


def test_times_a_message_cannot_hold_become_the_nearest():
    assert nanoseconds(time_message(-1)) == -1
    assert nanoseconds(time_message(2**62)) == 2**31 * SECOND - 1
    assert nanoseconds(Fields(sec=1, nanosec=5)) == SECOND + 5
