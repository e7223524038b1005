import time

import numpy as np
import pytest

from taolora_ros.anomaly import SUSTAIN, AnomalyMonitor, statistics
from taolora_ros.features import feature_names
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

SECOND = 10**9
LENGTHS = {IMU_FALLS: 64, ECG_BEATS: 256}


def push_all(monitor, scores, start=10, threshold=1.0):
    """Push one network score a second; return what was told after each."""
    return [monitor.push(i * SECOND, np.array([score]), threshold)
            for i, score in enumerate(scores, start)]


def windows(spec, count, seed=0, change=lambda rows: rows):
    """Return statistics of ``count`` stretches of a moving stream, ``change`` applied to each."""
    rng = np.random.default_rng(seed)
    f = len(feature_names(spec))
    for _ in range(count):
        loud = rng.uniform(0.05, 0.5)  # all channels get louder and quieter together
        rows = rng.normal(0, loud, (LENGTHS[spec], f)) + np.arange(f) / 8
        yield statistics(change(rows))


def calibrated(spec, seed=0):
    """Return a monitor that calibrated on a minute of windows, and when that ended (ns)."""
    monitor, now = AnomalyMonitor(spec), 10 * SECOND
    for stats in windows(spec, 190, seed):
        now += SECOND // 3
        monitor.push(now, np.zeros(len(monitor.names)), 1.0, stats)
    monitor.calibrate()
    return monitor, now


def judge(spec, change, seconds=8, seed=1):
    """Return what a calibrated monitor tells of a stream that ``change`` happened to."""
    monitor, now = calibrated(spec)
    told = []
    for i, stats in enumerate(windows(spec, seconds * 3, seed, change), 1):
        told += monitor.push(now + i * SECOND // 3, np.zeros(len(monitor.names)), 1.0, stats)
    return told, now


def test_anomalies_are_told_while_they_last_and_once_after():
    told = push_all(AnomalyMonitor(ECG_BEATS), [0.2, 1.5, 1.0, 1.4, 1.2, 1.1, 0.9, 0.3, 2.0])
    assert [len(t) for t in told] == [0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert [t[0].is_anomalous for t in told if t] == [True, True, False]
    first = told[4][0]
    assert (first.score, first.threshold, first.channel_scores) == (1.0, 1.0, {'ecg': 1.0})
    assert first.stamp_ns == first.stop_ns == 14 * SECOND
    length = ECG_BEATS.window / ECG_BEATS.rate
    assert first.stop_ns - first.start_ns == round(length * SECOND)


def test_what_passes_within_the_sustained_time_is_not_told():
    scores = np.tile([3.0] * int(SUSTAIN) + [0.5], 4)
    assert not any(push_all(AnomalyMonitor(ECG_BEATS), scores))


def test_a_silence_is_no_evidence():
    monitor = AnomalyMonitor(ECG_BEATS)
    push_all(monitor, [2.0, 2.0])
    assert not any(push_all(monitor, [2.0, 2.0, 2.0], start=100))
    assert push_all(monitor, [2.0], start=103)[0]


def test_the_score_is_that_of_the_worst_channel():
    scores, monitor = np.arange(8) / 4, AnomalyMonitor(IMU_FALLS)
    *_, (anomaly,) = [monitor.push(i * SECOND, scores, 1.0) for i in range(5, 9)]
    assert anomaly.score == 1.75 and list(anomaly.channel_scores.values()) == scores.tolist()
    worst = ', '.join(list(anomaly.channel_scores)[:3:-1])  # those from the threshold of 1 on
    assert anomaly.reason == f'unlike what is usual: {worst}'


@pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS], ids=lambda spec: spec.kind)
def test_more_of_the_same_is_no_anomaly(spec):
    assert judge(spec, lambda rows: rows, seconds=60)[0] == []


def stuck(rows):
    rows[:, 4] = rows[0, 4]
    return rows


def vibrating(rows):
    rows[:, 2] += 2.0 * np.sin(2.5 * np.arange(len(rows)))
    return rows


def tilted(rows):
    rows[:, 1] += 1.0
    return rows


@pytest.mark.parametrize('fault, channel', [(stuck, 4), (vibrating, 2), (tilted, 1)])
def test_a_fault_is_told_soon_and_points_at_its_channel(fault, channel):
    told, since = judge(IMU_FALLS, fault)
    assert told and SUSTAIN - 1 < (told[0].stamp_ns - since) / SECOND < SUSTAIN + 1
    for anomaly in told:
        scores = anomaly.channel_scores
        assert max(scores, key=scores.get) == feature_names(IMU_FALLS)[channel]


@pytest.mark.parametrize('fault', [lambda rows: rows * 0 + 5.0, lambda rows: rows * 0,
                                   lambda rows: rows + 2 * np.sin(2.5 * np.arange(256))[:, None]],
                         ids=['rail', 'flat', 'hum'])
def test_a_lead_that_is_off_or_hums_is_told(fault):
    assert judge(ECG_BEATS, fault)[0]


def test_after_calibration_what_was_usual_lies_below_one():
    monitor, rng = AnomalyMonitor(IMU_FALLS), np.random.default_rng(0)
    usual = rng.uniform(2, 3, (100, 8)) * np.array([1, 1, 1, 5, 1, 1, 1, 0.01])
    for i, scores in enumerate(usual):
        monitor.push(i * SECOND // 3, scores, 1.0)
    monitor.calibrate()
    later = [monitor.push((100 + i) * SECOND // 3, scores, 1.0) for i, scores in enumerate(usual)]
    assert sum(bool(t) and t[0].is_anomalous for t in later) == 0
    assert [monitor.push(i * SECOND, usual.max(0) * 1.2, 1.0) for i in range(70, 75)][-1]
    assert monitor.usual.scale[7] == 0.25, 'silence does not make everything else an anomaly'


def test_calibration_needs_ten_seconds():
    monitor = AnomalyMonitor(ECG_BEATS)
    with pytest.raises(ValueError, match='calibrate: windows of the last 0.0 s are known, 10 s'):
        monitor.calibrate()
    for i in range(30):
        monitor.push(i * SECOND // 3, np.ones(1), 1.0)
    with pytest.raises(ValueError, match=r'last 9\.7 s'):
        monitor.calibrate()


def test_only_the_last_five_minutes_count_and_memory_is_bounded():
    monitor = AnomalyMonitor(ECG_BEATS)
    for i in range(100_000):  # a window every 10 ms
        monitor.push(i * SECOND // 100, np.array([9.0 if i < 65_000 else 1.0]), 100.0)
    monitor.calibrate()
    assert monitor.usual.scale[0] == pytest.approx(1.1)
    assert len(monitor._recent) <= 1201


def test_a_window_that_comes_twice_is_told_once():
    monitor = AnomalyMonitor(ECG_BEATS)
    assert push_all(monitor, [1.0] * 5, start=1)[-1]
    assert monitor.push(5 * SECOND, np.ones(1), 1.0) == []


def test_a_clock_set_back_starts_the_memory_again():
    monitor = AnomalyMonitor(ECG_BEATS)
    for stamp in [*range(100, 160), *range(10, 15)]:
        monitor.push(stamp * SECOND, np.ones(1), 9.0)
    with pytest.raises(ValueError, match=r'last 4\.0 s'):
        monitor.calibrate()


def test_scores_that_are_no_numbers_are_told_as_large_ones():
    monitor = AnomalyMonitor(ECG_BEATS)
    told = push_all(monitor, [np.nan, np.inf, np.nan, 1e300, np.nan])
    assert told[-1][0].score == 1e6
    push_all(monitor, [np.nan] * 60, start=20)
    monitor.calibrate()
    assert np.isfinite(monitor.usual.scale).all()


@pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS], ids=lambda spec: spec.kind)
def test_a_window_costs_little(spec):
    monitor, now = calibrated(spec)
    rows = np.random.default_rng(2).normal(size=(LENGTHS[spec], len(monitor.names)))
    errors, best = np.zeros(len(monitor.names)), np.inf
    for i in range(300):
        started = time.perf_counter()
        monitor.push(now + (i + 1) * SECOND // 3, errors, 1.0, statistics(rows))
        best = min(best, time.perf_counter() - started)
    assert best < 500e-6, 'tens of microseconds; this bound only catches a blunder'
    print(f'{best * 1e6:.0f} us')
