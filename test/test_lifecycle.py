"""The node as a managed node: what it does in each state, and how it gets there."""

import time

import numpy as np
import pytest
from playing import SECOND, cpu_seconds, imu_messages, play, quiet, status
from running_node import NodeProcess, wait_for

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.duration import Duration
from sensor_msgs.msg import Imu
from std_srvs.srv import Trigger
from taolora_msgs.msg import Event

from taolora_ros import synthetic
from taolora_ros.shipped import find_model
from taolora_ros.spec import IMU_FALLS

STREAM = {'streams': '[imu]', 'imu__sample_rate': 100.0}


@pytest.fixture(scope='module')
def waiting(talker):
    """A node that waits to be told what to do; each test leaves it unconfigured."""
    # Reliable, so that whatever is lost is lost by the node.
    with NodeProcess('-p', 'qos_overrides./imu/data.subscription.reliability:=reliable',
                     autostart='false', max_lag=60.0, **STREAM) as node:
        yield node


@pytest.fixture(autouse=True)
def unconfigured(request):
    """Whatever a test has left behind is cleaned up."""
    yield
    if 'waiting' in request.fixturenames:
        talker = request.getfixturevalue('talker')
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            change(talker, transition)


def state(talker, node='/taolora'):
    return talker.call(GetState, f'{node}/get_state').current_state.id


def change(talker, transition, node='/taolora'):
    return talker.call(ChangeState, f'{node}/change_state', ChangeState.Request(
        transition=Transition(id=transition))).success


def subscriptions(talker):
    """Return the topics that the node listens to, those that every node has left out."""
    names = talker.node.get_subscriber_names_and_types_by_node('taolora', '/')
    return {name for name, _ in names} - {'/parameter_events', '/clock'}


def fall(rate):
    """Return (N, 6) of somebody who stands, falls and lies."""
    return synthetic.imu_scene(('stand', 'walk', 'fall', 'stand'), rate=rate, seed=3).values


def test_it_is_active_by_itself_unless_it_is_told_otherwise(talker):
    with NodeProcess(**STREAM) as node:
        node.ready()
        assert state(talker) == State.PRIMARY_STATE_ACTIVE
        assert change(talker, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert state(talker) == State.PRIMARY_STATE_FINALIZED
        code, output = node.end()
    assert (code, 'Traceback' in output) == (0, False), output


def test_each_state_does_what_it_should_and_no_more(waiting, talker):
    events = talker.listen(Event, '/taolora/events')
    assert status(talker, 'imu')[1] == 'unconfigured'
    assert subscriptions(talker) == set()
    assert not talker.call(Trigger, '/taolora/calibrate').success

    assert change(talker, Transition.TRANSITION_CONFIGURE)
    assert state(talker) == State.PRIMARY_STATE_INACTIVE
    assert subscriptions(talker) == set() and status(talker, 'imu')[1] == 'inactive'
    assert talker.set(imu__event_threshold=0.4)[0].successful

    for _ in range(2):  # what was there before must not linger
        heard = len(events)
        assert change(talker, Transition.TRANSITION_ACTIVATE)
        wait_for(lambda: subscriptions(talker) >= {'/imu/data'}, 60)
        publisher = talker.publisher(Imu, '/imu/data')
        play(publisher, imu_messages(fall(100.0), 100, round(1e9 * time.time())))
        assert len(quiet(events, heard + 1)) > heard
        assert talker.get('imu.event_threshold') == [0.4]

        assert change(talker, Transition.TRANSITION_DEACTIVATE)
        wait_for(lambda: subscriptions(talker) == set(), 60)
        heard = len(events)
        play(publisher, imu_messages(fall(100.0), 100, round(1e9 * time.time())))
        assert len(quiet(events)) == heard
        talker.node.destroy_publisher(publisher)

    assert change(talker, Transition.TRANSITION_CLEANUP)
    assert state(talker) == State.PRIMARY_STATE_UNCONFIGURED
    assert 'Traceback' not in waiting.output


def test_it_uses_no_processor_while_it_is_inactive(waiting, talker):
    assert change(talker, Transition.TRANSITION_CONFIGURE)
    assert change(talker, Transition.TRANSITION_ACTIVATE)
    assert change(talker, Transition.TRANSITION_DEACTIVATE)
    time.sleep(1.0)
    before = cpu_seconds(waiting)
    time.sleep(4.0)
    assert cpu_seconds(waiting) - before < 0.1  # what middleware and 1 Hz diagnostics take


def test_what_has_come_is_decided_when_it_is_deactivated(waiting, talker):
    events = talker.listen(Event, '/taolora/events')
    assert change(talker, Transition.TRANSITION_CONFIGURE)
    assert change(talker, Transition.TRANSITION_ACTIVATE)
    publisher = talker.publisher(Imu, '/imu/data')
    values = fall(100.0)
    peak = np.linalg.norm(values[:, :3], axis=1).argmax()
    play(publisher, imu_messages(values[:peak + 100], 100, 1_000 * SECOND))  # less than delay
    assert publisher.wait_for_all_acked(Duration(seconds=60))
    time.sleep(1.0)  # many times what intake waits between two looks
    assert not [e for e in events if e.label == 'fall']
    assert change(talker, Transition.TRANSITION_DEACTIVATE)
    wait_for(lambda: [e for e in events if e.label == 'fall'], 60)


def test_a_wrong_transition_is_refused_and_changes_nothing(waiting, talker):
    assert not change(talker, Transition.TRANSITION_ACTIVATE)
    assert state(talker) == State.PRIMARY_STATE_UNCONFIGURED
    assert waiting.process.poll() is None


def test_a_model_that_cannot_be_loaded_leaves_it_unconfigured_with_the_reason(talker, tmp_path):
    path = tmp_path / 'broken.safetensors'
    path.write_bytes(b'no model at all')
    with NodeProcess('-r', '__node:=broken', autostart='false', imu__model=path,
                     streams='[imu]') as node:
        assert not change(talker, Transition.TRANSITION_CONFIGURE, '/broken')
        assert state(talker, '/broken') == State.PRIMARY_STATE_UNCONFIGURED
        level, text, _ = status(talker, 'imu', node='broken')
        assert level == b'\x02' and text.startswith('unconfigured: imu.model')
        assert str(path) in text and 'cannot configure: imu.model: ' in node.output
        path.write_bytes(find_model(IMU_FALLS.name).read_bytes())
        assert change(talker, Transition.TRANSITION_CONFIGURE, '/broken')
        assert status(talker, 'imu', node='broken')[:2] == (b'\x00', 'inactive')
        code, output = node.end()
    assert (code, 'Traceback' in output) == (0, False), output
