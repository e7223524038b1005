"""Real falls among bad samples, floods of parameters, and topics opened and closed meanwhile."""

import threading
import time

import numpy as np
import pytest
from playing import SECOND, imu_messages, play, quiet, status
from running_node import NodeProcess, wait_for

from sensor_msgs.msg import Imu
from taolora_msgs.msg import Event, Gate, Score

from taolora_ros import synthetic
from taolora_ros.conversions import nanoseconds
from taolora_ros.recordings import read_npz

PART = 0.02  # of the messages that are spoilt in each way


@pytest.fixture(scope='module')
def node():
    with NodeProcess('-p', 'qos_overrides./imu/data.subscription.reliability:=reliable',
                     streams='[imu]', max_lag=60.0) as process:
        yield process.ready()


def spoilt(messages, rng):
    """Yield messages, some of them with NaN, Inf, spikes, zero and backward stamps, some lost."""
    for message in messages:
        trouble = rng.choice(7, p=[1 - 6 * PART] + 6 * [PART])
        acc, stamp = message.linear_acceleration, message.header.stamp
        if trouble == 1:
            acc.x = acc.y = acc.z = float('nan')
        elif trouble == 2:
            acc.y = float('inf')
        elif trouble == 3:
            acc.z = 1e30
        elif trouble == 4:
            stamp.sec = stamp.nanosec = 0
        elif trouble == 5:
            stamp.sec -= int(rng.integers(1, 6))
        elif trouble == 6:
            continue
        yield message


@pytest.mark.parametrize('path', ['sisfall/SA08', 'weda/U02'])
def test_falls_are_found_as_if_nothing_had_happened(node, talker, shared_data, path):
    """The models know these people: it is the way to the network that is tested here."""
    rng = np.random.default_rng()
    recordings = [r for r in read_npz(shared_data / 'imu_falls' / f'{path}.npz') if r.is_fall]
    events = talker.listen(Event, '/taolora/events')
    publisher = talker.publisher(Imu, '/imu/data', 1000)
    missed = []
    for number, i in enumerate(rng.choice(len(recordings), 5, replace=False)):
        recording, start = recordings[i], (1000 + 1000 * number) * SECOND
        play(publisher, spoilt(imu_messages(recording.values, recording.rate, start), rng), 0.0005)
        heard = [(nanoseconds(e.header.stamp) - start) / SECOND for e in quiet(events, 0, 2.5)
                 if e.label == 'fall' and e.phase == Event.START]
        if not any(-2 <= t - recording.fall_time_s <= 4 for t in heard):
            missed.append(recording.name)
    assert len(missed) <= 1, missed
    counts = status(talker, 'imu')[2]
    assert {'count.nonfinite', 'count.invalid_stamp', 'count.late', 'count.out_of_range'} \
        <= set(counts)
    assert 'Traceback' not in node.output


def test_a_flood_of_parameters_is_answered_and_stops_no_decision(node, talker):
    events = talker.listen(Event, '/taolora/events')
    publisher = talker.publisher(Imu, '/imu/data', 1000)
    rng, refused, taken = np.random.default_rng(), [], []
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            low = float(rng.uniform(-1.0, 1.0))
            result, = talker.set(**{'imu.variance_threshold': 50.0 * low})
            (taken if result.successful else refused).append(low)
    thread = threading.Thread(target=flood, daemon=True)
    before = talker.get('imu.variance_threshold')
    thread.start()
    values = synthetic.imu_scene(('stand', 'walk', 'fall', 'stand'), seed=3).values
    play(publisher, imu_messages(values, 100, 50_000 * SECOND), 0.002)
    falls = [e for e in quiet(events, 1) if e.label == 'fall']
    wait_for(lambda: len(taken) > 20 and len(refused) > 20, 60)
    stop.set()
    thread.join()
    assert falls
    assert all(low < 1 / 50 for low in refused) and all(low >= 1 / 50 for low in taken)
    assert talker.get('imu.variance_threshold') == [50.0 * taken[-1]]
    assert talker.set(**{'imu.variance_threshold': before[0]})[0].successful


def test_scores_and_gate_are_published_while_they_are_asked_for(node, talker):
    scores = talker.listen(Score, '/taolora/score/imu')
    gates = talker.listen(Gate, '/taolora/gate/imu')
    publisher = talker.publisher(Imu, '/imu/data', 1000)
    values = synthetic.imu_scene(('stand', 'walk', 'fall', 'stand'), seed=3).values
    play(publisher, imu_messages(values, 100, 60_000 * SECOND), 0.001)
    assert not quiet(scores, 0, 5.0) and not gates
    assert talker.set(publish_scores=True)[0].successful
    for topic in ('score', 'gate'):
        wait_for(lambda: talker.node.count_publishers(f'/taolora/{topic}/imu'), 60)
    time.sleep(1.0)  # the other side's half of discovery cannot be seen from here
    start = 70_000 * SECOND
    play(publisher, imu_messages(values, 100, start), 0.001)
    times = [(nanoseconds(s.header.stamp) - start) / SECOND for s in quiet(scores, 200, 5.0)]
    peak = np.linalg.norm(values[:, :3], axis=1).argmax() / 100
    top = max(scores, key=lambda s: s.scores[0])
    assert top.labels == ['fall'] and top.scores[0] >= top.threshold
    assert abs((nanoseconds(top.header.stamp) - start) / SECOND - peak) < 2.0
    steps = np.diff(times)  # one for each patch; the last window may end between two
    assert np.allclose(steps[:200], 0.08, atol=1e-6) and np.all((0 < steps) & (steps < 0.161))
    assert [g.header.stamp for g in gates] == [s.header.stamp for s in scores]
    opened = np.array([g.is_open for g in gates])
    assert opened[np.abs(np.subtract(times, peak)).argmin()] and 0.0 < opened.mean() < 0.5
    assert talker.set(publish_scores=False)[0].successful
    wait_for(lambda: not talker.node.count_publishers('/taolora/gate/imu'), 60)
