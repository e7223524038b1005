"""The worker: several streams of one model in one engine call, faults kept to themselves."""

import threading
import time
from collections import Counter

import numpy as np
import pytest

from taolora_ros.converter import Converter
from taolora_ros.detector import Detector, Settings
from taolora_ros.engine.interface import Scores
from taolora_ros.features import feature_names
from taolora_ros.feed import Feed
from taolora_ros.samples import Samples
from taolora_ros.spec import ECG_BEATS, IMU_FALLS
from taolora_ros.worker import TOGETHER, WINDOWS, Worker, split

SECOND = 1_000_000_000
START = 1_000 * SECOND


class SpikeEngine:
    """Calls a token an event when the last feature is large in it; remembers its calls."""

    name, device, changes = 'rule', 'cpu', 0

    def __init__(self, spec, broken=False, seconds=0.0):
        self.spec, self.broken, self.seconds, self.batches = spec, broken, seconds, []

    def run(self, windows, gates):
        if self.broken:
            raise RuntimeError('the device is gone')
        time.sleep(self.seconds)
        spec, batch = self.spec, len(windows)
        self.batches.append(batch)
        patches = np.abs(windows[..., -1:]).reshape(batch, spec.tokens, -1).max(-1)
        probability = np.zeros((batch, spec.tokens, len(spec.classes)), np.float32)
        probability[..., 1] = patches > 0.5
        probability[..., 0] = 1 - probability[..., 1]
        return Scores(probability, np.full((batch, spec.tokens), 0.5, np.float32),
                      np.zeros((batch, len(feature_names(spec))), np.float32))


class HeldEngine(SpikeEngine):
    """Waits in each call until it is let go on; ``begun`` counts the calls."""

    def __init__(self, spec):
        super().__init__(spec)
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, windows, gates):
        self.begun.release()
        self.go_on.acquire(timeout=30)
        return super().run(windows, gates)


class Ready(Converter):
    """Messages that already are samples."""

    def one(self, message, arrival):
        if message is None:
            raise ValueError('nothing in it')
        return message


def recording(spec, seconds, events=()):
    """Return faint noise with a pulse in every channel at each of ``events`` (s)."""
    n = round(seconds * spec.rate)
    values = 0.002 * np.random.default_rng().normal(size=(n, len(spec.channels)))
    width, height = (10, 60.0) if spec.kind == 'imu' else (2, 5.0)
    for event in events:
        values[round(event * spec.rate):][:width] += height
    return Samples.uniform(START, spec.rate, values)


def make_feed(name, spec, engine, samples, size=25):
    """Return a feed that delivers ``samples`` in messages of ``size``, all at once."""
    waiting = [samples[i:i + size] for i in range(0, len(samples), size)]

    def take():
        messages, waiting[:] = list(waiting), []
        return messages, [0] * len(messages), time.time_ns() if messages else 0
    return Feed(name, Ready(spec), Detector(spec, engine, name=name), engine, take), waiting


def make_worker(feeds, publish, report=None, max_lag=60.0, **options):
    """Return a worker that fails the test where nobody expects an error."""
    return Worker(feeds, publish, report or pytest.fail, 0.01, max_lag, **options)


def run(feeds, report=None):
    """Run the feeds until nothing is due; return (feed name, result) in order."""
    results = []
    worker = make_worker(feeds, lambda feed, result, latency: results.append((feed.name, result)),
                         report)
    worker.collect()
    while worker.decide():
        pass
    return results


@pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS])
def test_worker_gives_what_the_detector_alone_gives(spec):
    samples = recording(spec, 40, (12.3, 21.7, 30.1))
    alone = Detector(spec, SpikeEngine(spec), name='a').process(samples)
    assert alone
    feed, _ = make_feed('a', spec, SpikeEngine(spec), samples)
    assert [result for _, result in run([feed])] == alone


def test_a_detector_is_told_of_weights_that_changed_before_its_scores_were_made(monkeypatch):
    engine, told = SpikeEngine(ECG_BEATS), []
    feed, _ = make_feed('a', ECG_BEATS, engine, recording(ECG_BEATS, 40, (12.3,)))
    monkeypatch.setattr(feed.detector, 'absorb', lambda windows, scores, changes: (
        told.append(changes), setattr(engine, 'changes', engine.changes + 1), [])[-1])
    run([feed])
    assert told == sorted(told) and told[0] == 0 and len(set(told)) > 1
    assert told[1] == 0, 'of one call of the engine'


def test_streams_of_one_model_share_engine_calls_and_keep_their_events():
    engine = SpikeEngine(IMU_FALLS)
    times = {'a': (10.0,), 'b': (14.0, 22.0), 'c': ()}
    feeds = [make_feed(name, IMU_FALLS, engine, recording(IMU_FALLS, 30, events))[0]
             for name, events in times.items()]
    results = run(feeds)
    assert WINDOWS % TOGETHER == 0 and set(engine.batches[:3 * WINDOWS // TOGETHER]) == {TOGETHER}
    for name, events in times.items():
        starts = [r for n, r in results if n == name and r.label == 'fall' and r.phase == 0]
        assert len(starts) == len(events)
        assert all(r.id.startswith(name) for r in starts)
        for result, event in zip(starts, events):
            assert abs((result.stamp_ns - START) / SECOND - event) < 0.2


def test_windows_due_at_the_same_time_are_one_call_of_bounded_size():
    engine = SpikeEngine(IMU_FALLS)
    size = IMU_FALLS.window
    feeds = [make_feed(str(i), IMU_FALLS, engine, recording(IMU_FALLS, size / IMU_FALLS.rate))[0]
             for i in range(TOGETHER + 3)]
    worker = make_worker(feeds, lambda *result: None)
    worker.collect()
    worker.decide()
    assert max(engine.batches) == TOGETHER
    assert len(engine.batches) == -(-sum(engine.batches) // TOGETHER)
    assert sum(engine.batches) >= len(feeds)


def test_an_engine_is_run_once_on_its_largest_batch_before_the_first_window():
    engines = SpikeEngine(IMU_FALLS), SpikeEngine(ECG_BEATS, broken=True)
    feeds = [make_feed(str(i), engine.spec, engine, recording(engine.spec, 1))[0]
             for i, engine in enumerate((*engines, engines[0]))]
    make_worker(feeds, lambda *result: None).warm_up()
    assert engines[0].batches == [TOGETHER] and engines[1].batches == []
    assert not feeds[1].counts()


def test_a_slow_network_is_given_few_windows_at_a_time(monkeypatch):
    monkeypatch.setattr('taolora_ros.worker.BUDGET', 0.001)
    engine = SpikeEngine(IMU_FALLS, seconds=0.02)
    feed, _ = make_feed('a', IMU_FALLS, engine, recording(IMU_FALLS, 30, (10.0,)))
    results = run([feed])
    assert sum(engine.batches[:2]) == WINDOWS and max(engine.batches[3:]) <= 2
    assert len([r for _, r in results if r.label == 'fall' and r.phase == 0]) == 1


def test_streams_of_different_models_use_their_own_engines():
    engines = SpikeEngine(IMU_FALLS), SpikeEngine(ECG_BEATS)
    feeds = [make_feed(spec.kind, spec, engine, recording(spec, 20, (10.0,)))[0]
             for spec, engine in zip((IMU_FALLS, ECG_BEATS), engines)]
    assert {name for name, _ in run(feeds)} == {'imu', 'ecg'}
    assert all(engine.batches for engine in engines)


def test_a_broken_engine_or_message_is_counted_and_stops_nobody_else():
    broken, _ = make_feed('broken', IMU_FALLS, SpikeEngine(IMU_FALLS, broken=True),
                          recording(IMU_FALLS, 20, (10.0,)))
    healthy, waiting = make_feed('healthy', ECG_BEATS, SpikeEngine(ECG_BEATS),
                                 recording(ECG_BEATS, 20, (10.0,)))
    waiting.insert(0, None)
    reported = []
    results = run([broken, healthy], lambda feed, error: reported.append((feed.name, str(error))))
    assert {name for name, _ in results} == {'healthy'}
    assert set(reported) == {('broken', 'the device is gone')}
    assert broken.counts()['errors'] == len(reported)
    assert broken.problem == 'RuntimeError: the device is gone'
    assert healthy.counts() == Counter(unreadable=1) and healthy.problem == 'nothing in it'


def test_samples_of_a_wrong_width_are_counted():
    feed, waiting = make_feed('a', IMU_FALLS, SpikeEngine(IMU_FALLS), recording(ECG_BEATS, 1))
    count = sum(map(len, waiting))
    run([feed])
    assert feed.counts() == Counter(refused=count) and 'channels' in feed.problem


def test_new_settings_hold_while_it_runs():
    samples = recording(ECG_BEATS, 60, np.arange(5.0, 60.0))
    feed, waiting = make_feed('a', ECG_BEATS, SpikeEngine(ECG_BEATS), samples[:30 * 125])
    before = run([feed])
    assert len(before) > 20
    settings = Settings.default(ECG_BEATS)
    feed.apply(type(settings)(**{**settings.__dict__, 'hop': 1.0}))
    assert feed.detector.settings.hop == 1.0
    feed.engine.batches.clear()
    waiting.append(samples[30 * 125:])
    run([feed])
    assert sum(feed.engine.batches) <= 31


def test_nothing_waits_for_the_network():
    engine = HeldEngine(IMU_FALLS)
    feed, _ = make_feed('a', IMU_FALLS, engine, recording(IMU_FALLS, 60))
    worker = make_worker([feed], lambda *result: None)
    worker.start()
    try:
        assert engine.begun.acquire(timeout=60)  # the call that warms up
        engine.go_on.release()
        assert engine.begun.acquire(timeout=60)
        feed.apply(feed.detector.settings)
        feed.counts(), feed.gate_fraction(), feed.latency(0.99)
        assert len(engine.batches) == 1, 'the second call was over before'
    finally:
        engine.go_on.release(1000)
        worker.stop(60.0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('taolora-')]


def test_longest_break_of_intake_is_told_once():
    samples = recording(IMU_FALLS, 60)
    feed, _ = make_feed('a', IMU_FALLS, SpikeEngine(IMU_FALLS), samples)
    take, looks = feed.take, threading.Semaphore(0)

    def slow():
        time.sleep(0.15)
        looks.release()
        return take()
    feed.take = slow
    worker = make_worker([feed], lambda *result: None)
    worker.start()
    for _ in range(3):
        looks.acquire()
    worker.stop()
    assert worker.longest_break() >= 0.15
    assert worker.longest_break() == 0.0
    assert feed.decided == sum(feed.engine.batches[1:]) > 0  # after the one that warms up


def test_split_takes_the_same_rows_of_every_score():
    rows = np.arange(12, dtype=np.float32)
    scores = Scores(rows.reshape(6, 2, 1), rows.reshape(6, 2), rows.reshape(6, 2))
    part = split(scores, 2, 5)
    assert part.probability.shape == (3, 2, 1)
    assert part.offset.tolist() == part.anomaly.tolist() == [[4, 5], [6, 7], [8, 9]]
