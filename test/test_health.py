"""Sensors that are stuck, at a rail, off or missing are told from those that are quiet."""

import numpy as np
import pytest

from taolora_ros.health import Health
from taolora_ros.samples import Samples
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

SECOND = 10**9


def watch(spec, values, rate, health=None):
    """Let values (N, C) through, a report each second; return the reports."""
    health, reports = health or Health(spec), []
    size = round(rate)
    for first in range(0, len(values) - size + 1, size):
        samples = Samples.uniform(first * SECOND, rate, values[first:first + size])
        health.push(samples, samples.stamps[-1])
        reports.append(health.judge(health.take(), 1.0))
    return reports


def moving_imu(seconds, rate, rng):
    """Return (N, 6): a sensor that is carried around, in steps of 0.01."""
    t = np.arange(round(seconds * rate)) / rate
    values = 3 * np.sin(2 * np.pi * rng.uniform(0.5, 2.5, 6) * t[:, None] + rng.uniform(0, 6, 6))
    values[:, 2] += 9.81
    return np.round(values + rng.normal(0, 0.2, values.shape), 2)


def ecg(seconds, rate, rng):
    """Return (N, 1): pulses of 1 mV at 72 a minute, with noise, in steps of 5 uV."""
    t = np.arange(round(seconds * rate)) / rate
    values = np.exp(-((t % 0.83 - 0.4) / 0.02) ** 2) + rng.normal(0, 0.01, t.shape)
    return (np.round(values / 0.005) * 0.005)[:, None]


def test_a_healthy_sensor_is_not_complained_of():
    rng = np.random.default_rng()
    assert not [r for r in watch(IMU_FALLS, moving_imu(60, 97, rng), 97) if r.problems]
    assert not [r for r in watch(ECG_BEATS, ecg(60, 251, rng), 251) if r.problems]


@pytest.mark.parametrize('axis', [0, 4])
def test_a_stuck_axis_is_named_with_its_value(axis):
    rng = np.random.default_rng()
    values = moving_imu(20, 103, rng)
    values[7 * 103:, axis] = round(rng.uniform(-1, 1), 2)  # not where its range ends
    reports = watch(IMU_FALLS, values, 103)
    assert not any(r.problems for r in reports[:9])
    name = IMU_FALLS.channels[axis]
    assert all(r.flat == (name,) for r in reports[11:])
    assert f'{name} stuck at {values[-1, axis]:.4g}' in reports[-1].problems[0]


def test_one_axis_of_a_sensor_that_lies_still_is_not_stuck():
    values = np.tile([0.0, 0.0, 9.81, 0.0, 0.0, 0.0], (30 * 50, 1))
    values[:, 2] += 0.01 * (np.random.default_rng().random(len(values)) < 0.3)
    assert not [r.problems for r in watch(IMU_FALLS, values, 50) if r.problems]


def test_a_sensor_of_which_nothing_changes_is_said_to_be_so():
    values = np.tile([0.1, 0.2, 9.81, 0.0, 0.0, 0.0], (20 * 50, 1))
    reports = watch(IMU_FALLS, values, 50)
    assert not any(r.problems for r in reports[:9])
    assert 'nothing has changed' in reports[-1].problems[0]


def test_a_lead_that_is_off_is_said_to_be_so_and_comes_back():
    rng = np.random.default_rng()
    values = ecg(30, 250, rng)
    values[10 * 250:20 * 250] = 0.8 + rng.normal(0, 0.002, (10 * 250, 1))
    reports = watch(ECG_BEATS, values, 250)
    assert any('lead off' in p for r in reports[13:20] for p in r.problems)
    assert not any(r.problems for r in reports[:10] + reports[22:])


def test_values_at_a_rail_are_said_to_be_so():
    rng = np.random.default_rng()
    values = np.clip(4 * (moving_imu(20, 100, rng) - [0, 0, 9.81, 0, 0, 0]), -8.0, 8.0)
    reports = watch(IMU_FALLS, values, 100)
    assert reports[-1].railed > 0.1
    assert any('at the end of its range (-8 or 8)' in p for p in reports[-1].problems)


@pytest.mark.parametrize('count, said', [(3, False), (6, True)])
def test_a_few_equal_values_at_the_end_of_a_range_are_chance(count, said):
    values = moving_imu(20, 100, np.random.default_rng())
    values[1950:1950 + count, 0] = 7.77
    problems = '; '.join(watch(IMU_FALLS, values, 100)[-1].problems)
    assert ('acc_x at the end of its range' in problems) == said


def test_a_spike_hides_no_rail():
    values = moving_imu(20, 100, np.random.default_rng())
    values[:, 0] = np.minimum(4 * values[:, 0], 8.0)
    values[3, 0] = 1e30
    said = [p for report in watch(IMU_FALLS, values, 100) for p in report.problems]
    assert any('acc_x at the end of its range' in problem for problem in said)


def test_missing_values_are_counted_and_spikes_are_no_range():
    values = moving_imu(10, 100, np.random.default_rng())
    values[::4, 1] = np.nan
    values[500, 0] = 1e30
    report = watch(IMU_FALLS, values, 100)[-1]
    assert report.missing == pytest.approx(0.25 / 6, abs=0.01) and report.problems == ()
    assert report.samples == 100


def test_a_question_nobody_asks_costs_bounded_memory():
    health, values = Health(IMU_FALLS), np.zeros((1000, 6))
    for i in range(2000):
        health.push(Samples.uniform(i * SECOND, 1000.0, values), 0)
    assert sum(map(len, health.take())) <= 2**18 + 1000


def bunched(stamps):
    """Return what part of the steps between stamps (N,) ns is said to lie inside bursts."""
    health = Health(IMU_FALLS)
    health.push(Samples(stamps, np.zeros((len(stamps), 6))), 0)
    return health.judge(health.take(), 1.0).bunched


def test_stamps_in_bursts_are_told_from_those_that_jitter_repeat_or_leave_gaps():
    rng = np.random.default_rng()
    even = 5 * SECOND + np.arange(53) * 20_000_000
    assert bunched(even - even % 100_000_000 + rng.integers(0, 3_000_000, 53)) > 0.7
    assert bunched(even + rng.normal(0, 3e6, 53).astype(int)) < 0.1
    assert bunched(np.repeat(even, 2)) < 0.55  # each message twice
    for gap in (SECOND // 5, 40 * SECOND):
        assert bunched(even + gap * (np.arange(53) > 31)) == 0.0
    assert bunched(even[:9] // SECOND * SECOND) == bunched(np.zeros(53, np.int64)) == 0.0
