"""Stamps of arrival become the even times at which samples were taken, plus the mean delay."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from taolora_ros.arrival_clock import ArrivalClock
from taolora_ros.timeline import Timeline

SECOND = 1_000_000_000
START = 1_764_000_000 * SECOND


def bursts(rng, rate, count, every=0.1, jitter=0.003, start=START):
    """Return when ``count`` samples were taken and when they arrived, ns, in bursts."""
    taken = np.arange(count) / rate  # float64 s
    phase = rng.uniform(0, every)
    arrived = np.ceil((taken - phase) / every) * every + phase + rng.normal(0, jitter, count)
    return start + np.rint(taken * 1e9).astype(np.int64), start + np.rint(
        arrived * 1e9).astype(np.int64)


def placed(stamps, rate=0.0):
    clock = ArrivalClock()
    return np.array([clock.place(stamp, rate) for stamp in stamps.tolist()])


def believed(stamps):
    """Return how many runs and which stamps a timeline believes, and what it counts."""
    counts = Counter()
    timeline = Timeline(counts)
    runs = timeline.push(stamps, np.zeros((len(stamps), 1))) + timeline.finish()
    return sum(run.fresh for run in runs), np.concatenate([run.stamps for run in runs]), +counts


@pytest.mark.parametrize('declared', [False, True])
@pytest.mark.parametrize('rate, every', [(49.7, 0.1), (39.8, 0.1), (104.3, 0.07), (1003.0, 0.2)])
def test_the_even_grid_is_found_in_bursts(rate, every, declared):
    taken, arrived = bursts(np.random.default_rng(), rate, round(13.7 * rate), every)
    times = placed(arrived, rate if declared else 0.0)
    error = (times - taken) / 1e9
    late = slice(round((1 if declared else 2) * rate), None)
    assert (np.diff(arrived) <= 0).any() and (np.diff(times) > 0).all()
    assert error[late].std() < 0.3 * ((arrived - taken) / 1e9).std()
    assert 0.3 * every < error[late].mean() < 0.7 * every  # the mean delay is half a burst
    assert np.abs(np.diff(times)[late] * rate / 1e9 - 1).max() < 0.3


def test_true_stamps_come_out_unchanged():
    taken = START + np.rint(np.arange(3001) * (1e9 / 101.0)).astype(np.int64)
    assert np.abs(placed(taken) - taken).max() <= 1000
    assert np.abs(placed(taken, 101.0) - taken).max() <= 1000


@pytest.mark.parametrize('error', [-0.01, 0.01])
def test_a_declared_rate_that_is_off_is_followed(error):
    rng = np.random.default_rng()
    rate = rng.uniform(40, 220)
    taken, arrived = bursts(rng, rate, round(307 * rate))
    late = (placed(arrived, rate * (1 + error)) - taken) / 1e9
    assert np.abs(late - 0.05).max() < 0.1  # 3 s would be what runs away
    settled = late[-round(100 * rate):]
    assert settled.std() < 0.006
    right = ((placed(arrived, rate) - taken) / 1e9)[-len(settled):]
    assert abs(settled.mean() - right.mean()) < 0.005  # 25 ms if the line had kept the wrong rate


def test_a_source_whose_rate_drifts_is_followed():
    rng = np.random.default_rng()
    taken, arrived = bursts(rng, 53.0, 53 * 400)
    slower = 1e9 * np.arange(len(taken))**2 * 1e-2 / 2 / len(taken) / 53.0  # up to 1 % in 400 s
    late = (placed(arrived + np.rint(slower).astype(np.int64), 53.0) - taken - slower) / 1e9
    assert np.abs(late - 0.05).max() < 0.07 and late[53 * 5:].std() < 0.01


@pytest.mark.parametrize('gap, segments', [(1.7, 2), (11.3, 2), (0.6, 1)])
def test_a_real_gap_stays_where_it_was(gap, segments):
    rng = np.random.default_rng()
    taken, arrived = bursts(rng, 61.0, 1501)
    taken, arrived = (np.concatenate([t[:777], t[777:] + round(gap * 1e9)])
                      for t in (taken, arrived))
    times = placed(arrived)
    runs, stamps, counts = believed(times)
    assert runs == segments and len(stamps) == 1501 and set(counts) <= {'gap_restart'}
    assert stamps[777] - stamps[776] == pytest.approx(gap * 1e9, abs=0.15e9)
    error = (times - taken) / 1e9
    assert error[777 + 31:].std() < 0.01  # the rate is still known


def test_samples_further_apart_than_arrivals_may_be_off_go_on_after_a_gap():
    taken = START + np.arange(83) * SECOND // 2 + 100 * SECOND * (np.arange(83) > 40)
    arrived = taken + np.random.default_rng().integers(0, 50_000_000, 83)
    late = (placed(arrived, 2.0) - taken) / 1e9
    assert (late > 0).all() and (late < 0.05).all() and late[50:].std() < 0.01


def test_a_clock_set_back_by_much_starts_anew():
    rng = np.random.default_rng()
    taken, arrived = bursts(rng, 50.0, 1013)
    back = np.where(np.arange(1013) < 500, 0, 3600 * SECOND)
    times = placed(arrived - back)
    runs, stamps, counts = believed(times)
    assert runs == 2 and len(stamps) == 1013 and counts == {'restart': 1}
    assert ((times - taken + back)[600:] / 1e9).std() < 0.01


def test_a_few_wrong_stamps_cost_themselves_alone():
    rng = np.random.default_rng()
    _, arrived = bursts(rng, 50.0, 1013)
    wrong = arrived.copy()
    wrong[[300, 555, 810]] += np.array([-5, 40, -1]) * SECOND
    _, stamps, counts = believed(placed(wrong))
    assert len(stamps) == 1010 and counts == {'late': 2, 'jump': 1}
    assert np.abs(np.delete(placed(arrived), [300, 555, 810]) - stamps).max() < 2_000_000


def test_a_declared_rate_that_is_wrong_by_far_gives_way_to_the_one_there_is():
    taken, arrived = bursts(np.random.default_rng(), 39.8, 1201)
    late = (placed(arrived, 50.0) - taken) / 1e9
    assert late[600:].std() < 0.01


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(-2**62, 2**62) | st.integers(0, 10**9), min_size=1, max_size=60),
       st.sampled_from([0.0, 0.01, 50.0, 1e6]))
def test_any_stamps_are_taken(stamps, rate):
    clock = ArrivalClock()
    for stamp in stamps:
        assert abs(clock.place(stamp, rate)) < 2**63


def test_arrivals_of_a_watch_become_nearly_even(shared_data):
    raw, even = [], []
    for path in sorted((shared_data / 'imu_falls' / 'weda').glob('U0[1-4].npz')):
        data = np.load(path)
        for start, stop in zip(data['offset'][:-1], data['offset'][1:]):
            stamps = START + data['t_ms'][0, start:stop].astype(np.int64) * 1_000_000
            index = np.arange(stop - start)
            grid = np.polyval(np.polyfit(index, stamps - stamps[0], 1), index)
            raw.append(np.std(stamps - stamps[0] - grid))
            even.append(np.std(placed(stamps) - stamps[0] - grid))
    assert len(raw) > 100
    assert np.median(even) < 0.33 * np.median(raw) and np.mean(np.less(even, raw)) > 0.95
