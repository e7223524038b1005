import numpy as np
import pytest

from taolora_ros.anomaly import AnomalyMonitor
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

SECOND = 10**9


def test_anomalies_are_told_while_they_last_and_once_after():
    monitor = AnomalyMonitor(ECG_BEATS)
    told = [monitor.push(i * SECOND, np.array([score]), 1.0)
            for i, score in enumerate([0.2, 1.0, 1.4, 0.9, 0.3, 2.0], 10)]
    assert [len(t) for t in told] == [0, 1, 1, 1, 0, 1]
    assert [t[0].is_anomalous for t in told if t] == [True, True, False, True]
    first = told[1][0]
    assert (first.score, first.threshold, first.channel_scores) == (1.0, 1.0, {'ecg': 1.0})
    assert first.stamp_ns == first.stop_ns == 11 * SECOND
    assert first.stop_ns - first.start_ns == 4.096 * SECOND


def test_the_score_is_that_of_the_worst_channel():
    scores = np.arange(8) / 4
    anomaly, = AnomalyMonitor(IMU_FALLS).push(5 * SECOND, scores, 1.0)
    assert anomaly.score == 1.75 and list(anomaly.channel_scores.values()) == scores.tolist()


def test_after_calibration_what_was_usual_lies_below_one():
    monitor, rng = AnomalyMonitor(IMU_FALLS), np.random.default_rng(0)
    usual = rng.uniform(2, 3, (100, 8)) * np.array([1, 1, 1, 5, 1, 1, 1, 0.01])
    for i, scores in enumerate(usual):
        monitor.push(i * SECOND // 3, scores, 1.0)
    monitor.calibrate()
    later = [monitor.push((100 + i) * SECOND // 3, scores, 1.0) for i, scores in enumerate(usual)]
    assert sum(bool(t) and t[0].is_anomalous for t in later) <= 5
    assert monitor.push(80 * SECOND, usual.max(0) * 1.2, 1.0)[0].is_anomalous
    assert monitor.scale[7] == 0.25, 'silence does not make everything else an anomaly'


def test_calibration_needs_ten_seconds():
    monitor = AnomalyMonitor(ECG_BEATS)
    with pytest.raises(ValueError, match='calibrate: windows of the last 0.0 s are known, 10 s'):
        monitor.calibrate()
    for i in range(30):
        monitor.push(i * SECOND // 3, np.ones(1), 1.0)
    with pytest.raises(ValueError, match=r'last 9\.7 s'):
        monitor.calibrate()


def test_only_the_last_minute_counts():
    monitor = AnomalyMonitor(ECG_BEATS)
    for i in range(200):
        monitor.push(i * SECOND, np.array([9.0 if i < 100 else 1.0]), 100.0)
    monitor.calibrate()
    assert monitor.scale[0] == pytest.approx(1.05)


def test_a_window_that_comes_twice_is_told_once():
    monitor = AnomalyMonitor(ECG_BEATS)
    assert len(monitor.push(5 * SECOND, np.ones(1), 1.0)) == 1
    assert monitor.push(5 * SECOND, np.ones(1), 1.0) == []


def test_a_clock_set_back_starts_the_memory_again():
    monitor = AnomalyMonitor(ECG_BEATS)
    for stamp in [*range(100, 160), *range(10, 15)]:
        monitor.push(stamp * SECOND, np.ones(1), 9.0)
    with pytest.raises(ValueError, match=r'last 4\.0 s'):
        monitor.calibrate()
