"""Whatever clocks, players and networks do with time, a recording gives the same events."""

import time

import numpy as np
import pytest
from playing import SECOND, blocks, excerpt, play, quiet, status
from running_node import NodeProcess, wait_for

from rosgraph_msgs.msg import Clock
from taolora_msgs.msg import Anomaly, Biosignal, Event

from taolora_ros.conversions import nanoseconds

LENGTH = 15  # s of the recording
ECG = {'streams': '[ecg]', 'max_lag': 60.0}


@pytest.fixture(scope='module')
def node():
    # Reliable, so that whatever is lost is lost by the node.
    with NodeProcess('-p', 'qos_overrides./ecg.subscription.reliability:=reliable',
                     **ECG) as process:
        yield process.ready()


def recorded(start):
    """Return the messages of a recording that begins at ``start`` ns."""
    return list(blocks(excerpt().values[:LENGTH * 360, 0], 360, start))


def found(events, start):
    """Return what of the recording was found, without ids, and let go of it."""
    listed = [(nanoseconds(e.header.stamp) - start, e.label, e.phase, round(e.score, 5))
              for e in quiet(events, 10, 5.0)]  # the last ones are decided when it is silent
    ids = [e.id for e in events]
    assert len(ids) == len(set(ids))
    events.clear()
    return listed, set(ids)


def test_the_same_events_at_any_speed_again_and_again(node, talker):
    events = talker.listen(Event, '/taolora/events')
    publisher = talker.publisher(Biosignal, '/ecg')
    results, start = [], 1_000 * SECOND
    for pause in (0.02, 0.002, 0.0):  # 5, 50 times real time, and at once
        play(publisher, recorded(start), pause)
        results.append(found(events, start))
    assert len(results[0][0]) >= 12
    assert results[0][0] == results[1][0] == results[2][0]
    assert not results[0][1] & results[1][1] and not results[1][1] & results[2][1]


def test_a_bag_that_is_looped_without_a_break_gives_its_events_in_each_round(node, talker):
    events = talker.listen(Event, '/taolora/events')
    publisher = talker.publisher(Biosignal, '/ecg')
    start = 5_000 * SECOND
    rounds = recorded(start) * 3
    play(publisher, rounds, 0.002)
    listed, ids = found(events, start)
    times = [round(stamp / SECOND, 2) for stamp, *_ in listed]
    again = np.flatnonzero(np.diff(times) < -1.0) + 1
    assert len(again) == 2 and len(ids) == len(listed)
    first, second, third = np.split(times, again)
    assert first.tolist() == second.tolist() == third.tolist()


def test_stamps_that_step_back_or_are_zero_cost_no_event_elsewhere(node, talker):
    events = talker.listen(Event, '/taolora/events')
    publisher = talker.publisher(Biosignal, '/ecg')
    start = 9_000 * SECOND
    play(publisher, recorded(start), 0.002)
    wanted, _ = found(events, start)
    disturbed = recorded(start)
    odd = np.random.default_rng().integers(20, len(disturbed) - 20)
    disturbed.insert(odd, recorded(0)[0])
    disturbed.insert(odd + 5, recorded(start - 7 * SECOND)[odd])
    play(publisher, disturbed, 0.002)
    assert found(events, start)[0] == wanted
    assert int(status(talker, 'ecg')[2]['count.late']) > 0


def tick(publisher, now):
    """Tell simulated time, in s."""
    message = Clock()
    message.clock.sec, message.clock.nanosec = divmod(round(now * SECOND), SECOND)
    publisher.publish(message)


def test_a_clock_that_pauses_is_no_silence_and_one_that_goes_on_is(talker):
    anomalies = talker.listen(Anomaly, '/sim/taolora/anomalies')
    with NodeProcess('-r', '__ns:=/sim', '-p',
                     'qos_overrides./sim/ecg.subscription.reliability:=reliable',
                     use_sim_time='true', **ECG) as node:
        node.ready()
        publisher = talker.publisher(Biosignal, '/sim/ecg')
        clock = talker.publisher(Clock, '/clock')
        for i, message in enumerate(recorded(100 * SECOND)[:60]):  # 6 s of signal in 3 s
            tick(clock, 100 + 0.1 * i)
            publisher.publish(message)
            time.sleep(0.05)
        time.sleep(4.0)  # paused: `ros2 bag play` with its clock
        assert [a for a in anomalies if a.channel_names == ['silence']] == []
        for i in range(100):
            tick(clock, 106 + 0.1 * i)
            time.sleep(0.02)
        wait_for(lambda: [a for a in anomalies if a.channel_names == ['silence']], 60)
        assert anomalies[-1].is_anomalous and anomalies[-1].header.stamp.sec in (106, 107)
