"""The node as a process, over real DDS: what it hears, finds, says and refuses."""

import time

import numpy as np
import pytest
from playing import (PAUSES, SECOND, blocks, cpu_seconds, excerpt, imu_messages, play, quiet,
                     status)
from running_node import COMMAND, NodeProcess, reliable, wait_for

from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Imu
from std_msgs.msg import Float32
from std_srvs.srv import Trigger
from taolora_msgs.msg import Biosignal, Event, Feedback, ModelInfo

from taolora_ros import synthetic
from taolora_ros.conversions import nanoseconds
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope='module')
def node():
    """One node for all tests that leave it as they found it; what is lost is lost by the node."""
    with NodeProcess(*reliable('/imu/data', '/ecg'), max_lag=60.0) as process:
        yield process.ready()


@pytest.fixture
def restored(talker):
    """The parameters of the shared node, put back afterwards."""
    names = [f'{stream}.{name}' for stream in ('imu', 'ecg')
             for name in ('event_threshold', 'hop', 'delay', 'gate')]
    before = dict(zip(names, talker.get(*names)))
    yield before
    assert talker.set_together(**before).successful


# what it finds

def test_heartbeats_arrive_with_the_time_of_their_header(node, talker):
    record = excerpt()
    events = talker.listen(Event, '/taolora/events')
    publisher = talker.publisher(Biosignal, '/ecg')
    start, length = 1_000 * SECOND, 30
    play(publisher, blocks(record.values[:length * 360, 0], 360, start))
    found = [e for e in quiet(events, length) if e.stream == 'ecg']
    times = np.array([nanoseconds(e.header.stamp) - start for e in found]) / SECOND
    true = record.beat_times_s[record.beat_times_s < length - 2]
    near = [np.abs(times - t).min() <= 0.15 for t in true]
    assert np.mean(near) > 0.9
    assert {e.label for e in found} == {'beat', 'veb'}
    assert len({e.id for e in found}) == len(found)
    assert {e.header.frame_id for e in found} == {'chest'}
    assert {e.phase for e in found} == {Event.START}
    # played in about a second: a busy machine falls behind
    assert all(0.0 <= e.latency < 300.0 and e.model == 'ecg_beats' for e in found)
    assert {'rr_s', 'heart_rate_bpm'} <= {v.key for v in found[-1].values}


def test_two_streams_at_once_do_not_disturb_each_other(node, talker):
    record = excerpt()
    scene = synthetic.imu_scene(('stand', 'walk', 'fall', 'stand'), seed=3)
    events = talker.listen(Event, '/taolora/events')
    ecg, imu = talker.publisher(Biosignal, '/ecg'), talker.publisher(Imu, '/imu/data')
    start = 5_000 * SECOND
    beats = list(blocks(record.values[:20 * 360, 0], 360, start))
    steps = list(imu_messages(scene.values, scene.rate, start))
    for i, message in enumerate(steps):
        imu.publish(message)
        if i * len(beats) // len(steps) != (i + 1) * len(beats) // len(steps):
            ecg.publish(beats[i * len(beats) // len(steps)])
        time.sleep(0.001)
    found = quiet(events, 17)
    falls = [e for e in found if e.label == 'fall']
    assert [e.phase for e in falls] == [Event.START, Event.END]
    assert falls[0].id == falls[1].id and falls[0].severity == Event.CRITICAL
    impact = (nanoseconds(falls[0].header.stamp) - start) / SECOND
    assert abs(impact - scene.falls_s[0]) < 0.3
    assert falls[0].header.frame_id == 'imu_link'
    assert sum(e.stream == 'ecg' for e in found) > 15


def test_models_are_announced_to_whoever_comes_late(node, talker):
    heard = talker.listen(ModelInfo, '/taolora/model_info', LATCHED)
    wait_for(lambda: len(heard) == 2, 60)
    by_stream = {info.stream: info for info in heard}
    for stream, spec in (('imu', IMU_FALLS), ('ecg', ECG_BEATS)):
        info = by_stream[stream]
        assert info.name == spec.name and tuple(info.labels) == spec.labels
        assert tuple(info.channels) == spec.channels and tuple(info.units) == spec.units
        assert info.rate == spec.rate and info.bytes > 10_000 and info.bits in (4, 32)


def test_bad_messages_are_counted_and_reported_and_do_no_harm(node, talker):
    publisher = talker.publisher(Biosignal, '/ecg')
    before = status(talker, 'ecg')[2]
    bad = list(blocks(np.zeros(36), 360, 9_000 * SECOND))[0]
    bad.channels = 7
    unstamped = list(blocks(np.zeros(36), 360, 0))[0]
    nan = list(blocks(np.full(36, np.nan), 360, 9_001 * SECOND))[0]
    play(publisher, [bad, unstamped, nan])

    def counted():
        after = status(talker, 'ecg')[2]
        return [int(after.get(name, 0)) - int(before.get(name, 0)) for name in (
            'messages', 'count.unreadable', 'count.invalid_stamp', 'count.nonfinite')]
    wait_for(lambda: counted() == [3, 1, 36, 36], 60)
    wait_for(lambda: '36 values do not divide into 7 channels' in node.output, 60)
    assert 'Traceback' not in node.output


def test_diagnostics_say_who_is_silent(node, talker):
    wait_for(lambda: 'no message on /imu/data' in status(talker, 'imu')[1], 60)
    level, text, values = status(talker, 'imu')
    assert level in (b'\x01', b'\x02')  # never heard, or heard and stopped
    assert values['topic'] == '/imu/data' and values['model'] == 'imu_falls'
    assert {'message_rate_hz', 'gate_fraction', 'latency_p99_ms', 'engine'} <= set(values)
    assert float(values['intake_break_ms']) > 0 and int(values['windows_decided']) >= 0


def test_diagnostics_say_why_nothing_can_come(talker):
    with NodeProcess(*reliable('/deaf', '/mute'), streams='[deaf, mute]', deaf__topic='deaf',
                     deaf__type='sensor_msgs/Imu', deaf__model='imu_falls', mute__topic='mute',
                     mute__type='sensor_msgs/Imu', mute__model='imu_falls') as node:
        node.ready()
        talker.node.create_publisher(Imu, '/deaf', qos_profile_sensor_data)
        talker.node.create_publisher(Float32, '/mute', 10)
        wait_for(lambda: 'RELIABLE' in status(talker, 'deaf')[1].upper(), 60)
        wait_for(lambda: 'published as std_msgs/msg/Float32, not as sensor_msgs/msg/Imu'
                 in status(talker, 'mute')[1], 60)


def test_listening_to_an_imu_leaves_the_processor_to_others(talker):
    with NodeProcess(streams='[imu]', imu__topic='idle') as node:
        node.ready()
        publisher = talker.publisher(Imu, '/idle', qos_profile_sensor_data)
        before, began = cpu_seconds(node), time.monotonic()
        play(publisher, imu_messages(np.tile([0, 0, 9.81, 0, 0, 0], (400, 1)), 100, SECOND), 0.01)
        assert cpu_seconds(node) - before < 0.3 * (time.monotonic() - began)


# live parameters

def test_thresholds_change_live(node, talker, restored):
    assert talker.set(imu__event_threshold=0.7)[0].successful
    assert talker.get('imu.event_threshold') == [0.7]
    together = {'ecg__event_threshold': 1.0, 'ecg__hop': 0.1}
    assert talker.set_together(**together).successful
    events = talker.listen(Event, '/taolora/events')
    publisher = talker.publisher(Biosignal, '/ecg')
    record = excerpt()
    play(publisher, blocks(record.values[:15 * 360, 0], 360, 20_000 * SECOND))
    assert not [e for e in quiet(events) if e.score < 1.0]
    assert talker.set(ecg__event_threshold=0.5)[0].successful
    play(publisher, blocks(record.values[15 * 360:30 * 360, 0], 360, 20_015 * SECOND))
    quiet(events, 9)


def test_whole_number_is_good_enough_for_a_threshold(node, talker, restored):
    assert talker.set(imu__hop=1)[0].successful
    assert talker.get('imu.hop') == [1.0]


@pytest.mark.parametrize('change, reason', [
    ({'imu__event_threshold': 1.5}, 'imu.event_threshold'),
    ({'imu__hop': 0.011}, 'imu.hop: 0.011 s'),
    ({'imu__hop': 4.0}, 'together are longer than a window'),
    ({'imu__gate': 'ajar'}, "imu.gate: 'ajar' is not one of: auto, open, closed"),
    ({'imu__topic': 'elsewhere'}, 'read-only'),
    ({'imu__model': 'other'}, 'read-only'),
    ({'imu__event_threshold': 'high'}, 'Wrong parameter type'),
    ({'imu__evnt_threshold': 0.5}, 'undeclared')])
def test_bad_parameter_is_refused_with_its_reason(node, talker, change, reason):
    before = talker.get('imu.event_threshold', 'imu.hop', 'imu.gate', 'imu.topic')
    result = talker.set(**change)[0]
    assert not result.successful and reason in result.reason
    assert talker.get('imu.event_threshold', 'imu.hop', 'imu.gate', 'imu.topic') == before


def test_of_parameters_set_together_all_or_none_hold(node, talker, restored):
    result = talker.set_together(ecg__event_threshold=0.9, imu__gate='open', imu__hop=0.011)
    assert not result.successful and 'imu.hop: 0.011 s' in result.reason
    assert talker.get(*restored) == list(restored.values())


def test_what_is_right_only_together_can_be_set_together(node, talker, restored):
    assert talker.set_together(imu__hop=4.0, imu__delay=0.5).successful
    assert talker.get('imu.hop', 'imu.delay') == [4.0, 0.5]


# services and feedback

def test_calibrating_needs_data_and_says_so(talker):
    with NodeProcess('-r', '__ns:=/fresh', *reliable('/fresh/ecg'), streams='[ecg]',
                     max_lag=60.0) as fresh:
        fresh.ready()
        told = talker.call(Trigger, '/fresh/taolora/calibrate')
        assert not told.success and told.message.startswith('ecg: ')
        publisher = talker.publisher(Biosignal, '/fresh/ecg')
        events = talker.listen(Event, '/fresh/taolora/events')
        play(publisher, blocks(excerpt().values[:60 * 360, 0], 360, 100 * SECOND))
        quiet(events, 40)
        told = talker.call(Trigger, '/fresh/taolora/calibrate')
        assert told.success and told.message == 'ecg: calibrated'


@pytest.mark.parametrize('service', ['save_adaptation', 'reset_adaptation'])
def test_adaptation_that_is_not_enabled_is_refused(node, talker, service):
    told = talker.call(Trigger, f'/taolora/{service}')
    assert not told.success and 'adaptation is not enabled' in told.message


def test_feedback_is_heard_and_said_to_be_unused(node, talker):
    talker.publisher(Feedback, '/taolora/feedback').publish(Feedback(event_id='imu-17'))
    said = "feedback on 'imu-17': not used: adaptation.enabled is false"
    wait_for(lambda: said in node.output, 60)


# other inputs, other ROS versions

def test_headerless_numbers_are_stamped_by_arrival_and_warned_about_once(talker):
    with NodeProcess(*reliable('/numbers'), streams='[emg]', emg__topic='numbers',
                     emg__type='std_msgs/msg/Float32', emg__model='ecg_beats',
                     emg__sample_rate=200) as node:
        node.ready()
        publisher = talker.publisher(Float32, '/numbers')
        play(publisher, [Float32(data=float(np.sin(i / 20))) for i in range(600)], 0.005)
        assert node.output.count('has no header') == 1
        wait_for(lambda: int(status(talker, 'emg')[2]['messages']) == 600, 60)
        counts = {name for name in status(talker, 'emg')[2] if name.startswith('count.')}
        assert counts <= PAUSES


def test_simulated_time_that_stands_still_holds_nothing_up(talker):
    # reliable: a lost message restarts the segment, and then too few beats are decided
    with NodeProcess('-r', '__ns:=/sim', *reliable('/sim/ecg'), max_lag=60.0, streams='[heart]',
                     use_sim_time='true', heart__topic='ecg',
                     heart__type='taolora_msgs/msg/Biosignal', heart__model='ecg_beats') as node:
        node.ready()
        events = talker.listen(Event, '/sim/taolora/events')
        publisher = talker.publisher(Biosignal, '/sim/ecg')
        play(publisher, blocks(excerpt().values[:15 * 360, 0], 360, 100 * SECOND))
        assert all(nanoseconds(e.header.stamp) < 116 * SECOND for e in quiet(events, 9))
        assert int(status(talker, 'heart', 2)[2]['messages']) > 100


def test_reliable_subscription_can_be_asked_for(talker):
    with NodeProcess(*reliable('/sure'), streams='[ecg]', ecg__topic='sure') as node:
        node.ready()
        wait_for(lambda: talker.node.get_subscriptions_info_by_topic('/sure'), 60)
        quality = talker.node.get_subscriptions_info_by_topic('/sure')[0].qos_profile
        assert quality.reliability.name == 'RELIABLE'


def test_live_parameters_where_ros_has_no_pre_and_post_set_callbacks(talker):
    humble = ('import sys, rclpy.node as n\n'
              'del n.Node.add_pre_set_parameters_callback\n'
              'del n.Node.add_post_set_parameters_callback\n'
              'from taolora_ros.node import main\nsys.exit(main())')
    with NodeProcess('-r', '__ns:=/humble', *reliable('/humble/ecg'), streams='[ecg]', max_lag=60.0,
                     command=(COMMAND[0], '-c', humble)) as node:
        node.ready()
        there = '/humble/taolora'
        assert talker.set(there, ecg__event_threshold=1.0)[0].successful
        assert not talker.set(there, ecg__hop=0.0011)[0].successful
        events = talker.listen(Event, f'{there}/events')
        publisher = talker.publisher(Biosignal, '/humble/ecg')
        record = excerpt()
        play(publisher, blocks(record.values[:15 * 360, 0], 360, 100 * SECOND))
        assert not [e for e in quiet(events) if e.score < 1.0]
        assert talker.set(there, ecg__event_threshold=0.5)[0].successful
        play(publisher, blocks(record.values[15 * 360:30 * 360, 0], 360, 115 * SECOND))
        quiet(events, 9)
