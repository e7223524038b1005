"""One stream: what happens when decisions come late, and when messages stop."""

import time

import numpy as np
import pytest
from test_worker import SECOND, SpikeEngine, make_feed, make_worker, recording

from taolora_ros.decode import Anomaly
from taolora_ros.spec import ECG_BEATS, IMU_FALLS


def decided(feed, max_lag, late=0.0, limit=16):
    """Decide all that waits, as if ``late`` s later; return windows and events."""
    feed.collect(0)
    feed.windows(0, max_lag)  # from now on they wait
    feed._behind -= late
    windows, results = [], []
    while batch := feed.windows(limit, max_lag):
        for window, due in batch:
            scores = feed.engine.run(window.features[None], window.gate[None])
            windows.append(window)
            results += feed.absorb(window, due, scores, 0)
    return windows, results


@pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS], ids=lambda spec: spec.kind)
def test_late_decisions_skip_windows_but_leave_no_token_undecided(spec):
    times = 8.0 + np.cumsum(np.random.default_rng().uniform(7.0, 12.0, 6))
    samples = recording(spec, times[-1] + 10, times)
    calm, _ = make_feed('a', spec, SpikeEngine(spec), samples)
    late, _ = make_feed('a', spec, SpikeEngine(spec), samples)
    some, wanted = decided(calm, 60.0)
    few, found = decided(late, 60.0, 90.0)
    assert len(few) < 0.5 * len(some)
    assert late.counts()['skipped_windows'] == len(some) - len(few)
    assert 'skipped_windows' not in calm.counts() and 'windows are skipped' in late.problem
    assert late.detector.tokens == calm.detector.tokens
    starts = [[r.stamp_ns for r in results if r.phase == 0] for results in (wanted, found)]
    assert len(starts[0]) == len(times) and len(starts[1]) == len(times)
    assert np.abs(np.subtract(*starts)).max() <= 0.3 * SECOND


def test_a_backlog_that_cannot_be_made_up_for_is_left_and_counted():
    spec = IMU_FALLS
    feed, waiting = make_feed('a', spec, SpikeEngine(spec), recording(spec, 60, (30.0,)))
    windows, found = decided(feed, 60.0, 300.0)
    assert windows == found == []
    assert abs(feed.counts()['abandoned'] - 60 * spec.rate) <= 2
    assert 'too slow by far' in feed.problem
    samples = recording(spec, 100, (90.0,))[round(70 * spec.rate):]
    waiting += [samples[i:i + 25] for i in range(0, len(samples), 25)]
    assert len([r for r in decided(feed, 60.0)[1] if r.phase == 0]) == 1


def test_latency_counts_from_when_a_window_could_have_been_decided():
    spec, began = IMU_FALLS, time.time()
    feed, waiting = make_feed('a', spec, SpikeEngine(spec), recording(spec, 20, (10.0,)))
    feed.collect(0)
    time.sleep(0.2)
    decided(feed, 60.0)
    assert 0.2 <= feed.latency(0.0) <= feed.latency(1.0) <= time.time() - began


def silences(feed, seconds, begin=0.0):
    """Let time go by; return what the feed says."""
    return [a for i in range(round(seconds / 0.02))
            for a in feed.collect(round((begin + 0.02 * i) * SECOND))]


def test_a_stopped_stream_is_an_anomaly_with_its_reason_once():
    spec = ECG_BEATS
    samples = recording(spec, 10)
    feed, waiting = make_feed('a', spec, SpikeEngine(spec), samples)
    feed.start(feed.take, lambda: 'nobody publishes it')
    first, later = samples[:len(samples) // 2], samples[len(samples) // 2:]
    waiting[:] = [first[:20]]
    feed.collect(0)
    waiting[:] = [first[20:]]
    feed.collect(SECOND // 10)
    said = silences(feed, 5.0, 0.1)
    assert len(said) == 1 and isinstance(said[0], Anomaly) and said[0].is_anomalous
    assert 'no message for 0.5 s, nobody publishes it' == said[0].reason
    assert set(said[0].channel_scores) == {'silence'} and said[0].score >= said[0].threshold
    assert said[0].start_ns == first.stamps[-1]
    waiting[:] = [later]
    back = silences(feed, 0.1, 5.1)
    assert [a.is_anomalous for a in back] == [False] and 'again after 5' in back[0].reason


def test_what_a_stream_said_last_is_decided_when_it_stops():
    spec = IMU_FALLS
    feed, _ = make_feed('a', spec, SpikeEngine(spec), recording(spec, 20, (19.3,)))
    results = []
    worker = make_worker([feed], lambda feed, result, latency: results.append(result),
                         clock=iter(range(0, 10**13, SECOND // 50)).__next__)
    for _ in range(300):
        worker.collect()
        while worker.decide():
            pass
    assert len([r for r in results if not isinstance(r, Anomaly) and r.phase == 0]) == 1
