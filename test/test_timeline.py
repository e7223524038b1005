from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from taolora_ros.timeline import Timeline

MS = 1_000_000


def judge(stamps_ms, cuts=()):
    """Run stamps in ms through a timeline; return the segments, in ms, and the counts."""
    stamps = np.array(stamps_ms, np.int64) * MS
    values = np.arange(len(stamps), dtype=float)[:, None]
    counts, runs = Counter(), []
    timeline = Timeline(counts)
    for s, v in zip(np.split(stamps, cuts), np.split(values, cuts)):
        runs += timeline.push(s, v)
    runs += timeline.finish()
    segments = []
    for run in runs:
        assert len(run.stamps) == len(run.values)
        assert np.array_equal(stamps[run.values[:, 0].astype(int)], run.stamps)
        if run.fresh:
            segments.append([])
        segments[-1] += (run.stamps // MS).tolist()
    return segments, +counts


def even(start, stop, step=10):
    return list(range(start, stop, step))


def test_even_time_passes_whole():
    assert judge(even(1000, 3000)) == ([even(1000, 3000)], {})


def test_repeated_and_late_stamps_are_dropped():
    stamps = even(1000, 2000) + [1990, 1990, 1500, 1700] + even(2000, 3000)
    assert judge(stamps) == ([even(1000, 3000)], {'repeated': 2, 'late': 2})


def test_a_late_burst_ends_where_time_goes_on():
    assert judge(even(1000, 2000) + even(1500, 2500)) == (
        [even(1000, 2500)], {'late': 49, 'repeated': 1})


def test_one_sample_far_ahead_is_dropped():
    stamps = even(1000, 2000) + [900_000] + even(2000, 3000)
    assert judge(stamps) == ([even(1000, 3000)], {'jump': 1})


@pytest.mark.parametrize('ahead', [300, 500, 990, 1010])
def test_one_sample_a_little_ahead_is_dropped_and_time_goes_on(ahead):
    stamps = even(1000, 2000) + [1990 + ahead] + even(2000, 3000)
    assert judge(stamps) == ([even(1000, 3000)], {'jump': 1})


def test_a_slow_source_has_steps_not_gaps():
    stamps = even(1000, 20_000, 400)
    assert judge(stamps) == ([stamps], {})
    timeline = Timeline(Counter())
    runs = [timeline.push(np.array([t]) * MS, np.zeros((1, 1))) for t in stamps]
    assert all(len(run) == 1 for run in runs[4:]), 'nothing is held back once the rate is known'


def test_a_message_of_samples_far_ahead_is_dropped():
    stamps = even(1000, 2000) + even(900_000, 900_400) + even(2000, 3000)
    assert judge(stamps) == ([even(1000, 3000)], {'jump': 40})


def test_a_few_samples_far_behind_are_dropped():
    stamps = even(5000, 6000) + even(1000, 1400) + [17, 2000] + even(6000, 7000)
    assert judge(stamps) == ([even(5000, 7000)], {'late': 42})


def test_a_gap_starts_a_segment_and_loses_nothing():
    stamps = even(1000, 2000) + even(3001, 5000)
    assert judge(stamps) == ([even(1000, 2000), even(3001, 5000)], {'gap_restart': 1})


def test_the_longest_bridged_gap_is_a_second():
    stamps = even(1000, 2000) + even(2990, 5000)
    assert judge(stamps) == ([stamps], {})


def test_a_gap_with_an_outlier_at_its_end_is_still_a_gap():
    stamps = even(1000, 2000) + [77_000] + even(4000, 5000)
    assert judge(stamps) == ([even(1000, 2000), even(4000, 5000)], {'gap_restart': 1, 'jump': 1})


def test_a_bag_that_starts_again_restarts_the_stream():
    stamps = even(1000, 9000) + even(1000, 4000)
    assert judge(stamps) == ([even(1000, 9000), even(1000, 4000)], {'restart': 1})


def test_a_clock_set_back_that_catches_up_at_once_is_late():
    stamps = even(1000, 2000) + [890, 1290, 2190] + even(2200, 3000)
    for cuts in ((), range(1, len(stamps))):
        assert judge(stamps, list(cuts)) == (
            [even(1000, 2000) + [2190] + even(2200, 3000)], {'late': 2})


def test_a_first_stamp_far_in_the_future_does_not_block_the_stream():
    segments, counts = judge([10**9] + even(1000, 4000))
    assert segments == [[10**9], even(1000, 4000)] and counts == {'restart': 1}


def test_two_clocks_in_turn_keep_the_first():
    stamps = [t for pair in zip(even(1000, 4000), even(70_000, 73_000)) for t in pair]
    segments, counts = judge(stamps)
    assert segments == [even(1000, 4000)] and counts == {'jump': 300}


def test_a_short_tail_after_a_gap_is_believed_at_the_end():
    stamps = even(1000, 2000) + even(5000, 5100)
    assert judge(stamps) == ([even(1000, 2000), even(5000, 5100)], {'gap_restart': 1})
    assert judge(even(1000, 2000) + [5000])[1] == {'jump': 1}


@st.composite
def troubled_times(draw):
    """Stretches of even time joined by small and large steps both ways."""
    now, stamps = draw(st.integers(5000, 20_000)), []
    for _ in range(draw(st.integers(1, 12))):
        length = draw(st.sampled_from([1, 1, 2, 3, 20, 90, 130]))
        step = draw(st.sampled_from([4, 10, 300]))
        stamps += even(now, now + length * step, step)
        now = stamps[-1] + draw(st.sampled_from(
            [-7000, -3000, -1400, -1001, -1000, -950, -300, -20, 0, 10, 700, 1000, 1001, 6000]))
        now = max(now, 1)
    return stamps


@settings(deadline=None, max_examples=400)
@example([5000, 3999, 4003, *range(3403, 4700, 10)], [])
@example([*range(1000, 2000, 10), 890, 1290, 2190, *range(2200, 3000, 10)], [])
@given(troubled_times(), st.lists(st.integers(0, 1000), max_size=9))
def test_any_chunks_give_the_same_segments_and_counts(stamps, cuts):
    whole = judge(stamps)
    assert judge(stamps, sorted(min(c, len(stamps)) for c in cuts)) == whole
    assert judge(stamps, np.arange(1, len(stamps))) == whole


@settings(deadline=None, max_examples=200)
@given(troubled_times())
def test_every_sample_is_kept_once_or_counted(stamps):
    segments, counts = judge(stamps)
    dropped = sum(counts[name] for name in ('repeated', 'late', 'jump'))
    assert sum(map(len, segments)) + dropped == len(stamps)
    for segment in segments:
        steps = np.diff(segment)
        assert ((steps > 0) & (steps <= 1000)).all()
