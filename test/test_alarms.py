import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from taolora_ros.alarms import AlarmDecoder
from taolora_ros.decode import CRITICAL, END, START, Tokens
from taolora_ros.spec import IMU_FALLS

RATE, PATCH = IMU_FALLS.rate, IMU_FALLS.patch
START_NS = 1_700_000_000_000_000_000
DELAY = 80  # samples


def windows_of(probability, impacts=(), seconds=20.0, hop=16, invalid=(), threshold=0.5,
               refractory=5.0):
    """Yield decided tokens window by window for a probability given as a function of time."""
    magnitude, decided = np.ones(round(seconds * RATE)), 0.0
    for time, peak in impacts:
        magnitude[int(time * RATE)] = peak
    for end in range(128, len(magnitude) + 1, hop):
        last = end + hop > len(magnitude)
        centre = end - 256 + (np.arange(64) + 0.5) * PATCH
        centre = centre[(centre > decided) & (centre <= end - (0 if last else DELAY))]
        decided = centre[-1] if len(centre) else decided
        fall = np.array([probability(c / RATE) for c in centre])
        valid = np.array([not any(a < c / RATE < b for a, b in invalid) for c in centre], bool)
        yield Tokens(START_NS, centre, np.stack([1 - fall, fall], 1).reshape(-1, 2),
                     np.zeros(len(centre)), fall > 0.2, valid, threshold, refractory, end,
                     magnitude[max(end - 256, 0):end])


def decode(windows, spec=IMU_FALLS):
    decoder = AlarmDecoder(spec, 'imu')
    events = [event for tokens in windows for event in decoder.push(tokens)]
    return events + decoder.finish()


def bump(*spans, high=0.95):
    return lambda t: high if any(a <= t < b for a, b in spans) else 0.02


def seconds_of(events):
    return [(event.stamp_ns - START_NS) / 1e9 for event in events]


def test_a_fall_is_one_alarm_with_a_start_and_an_end():
    start, end = decode(windows_of(bump((7.5, 8.75)), [(8.0, 6.5), (12.0, 9.0)]))
    assert (start.phase, end.phase, start.label) == (START, END, 'fall')
    assert start.severity == CRITICAL and start.id == end.id == f'imu-{START_NS}-1'
    assert seconds_of([start, end]) == [8.01, 8.01], 'the impact'
    assert start.values == {'peak_g': 6.5}
    assert end.values['peak_g'] == 6.5 and 0.9 < end.values['duration_s'] < 1.8
    assert start.start_ns <= start.stamp_ns <= start.stop_ns <= end.stop_ns
    assert end.stop_ns == start.start_ns + round(end.values['duration_s'] * 1e9)
    assert start.score >= 0.5 and 0 < end.transient_fraction <= 1


def test_one_sure_token_alone_is_no_alarm():
    assert decode(windows_of(bump((8.0, 8.07)))) == []
    assert decode(windows_of(bump((8.0, 8.3)))) != []


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.floats(4, 12), st.floats(0.4, 2))
def test_the_hop_does_not_matter(hop, at, length):
    found = decode(windows_of(bump((at, at + length)), [(at + 0.4, 5.0)], hop=hop))
    assert [event.phase for event in found] == [START, END]
    assert seconds_of(found)[0] == pytest.approx(at + 0.4, abs=0.021)
    assert found[1].values['duration_s'] == pytest.approx(length + 0.2, abs=0.35)


def test_an_alarm_ends_after_five_seconds_and_needs_a_fresh_rise():
    events = decode(windows_of(bump((5, 18)), [(5.3, 4.0)], seconds=25.0))
    assert [event.phase for event in events] == [START, END]
    assert events[1].values['duration_s'] == pytest.approx(5.3, abs=0.2)
    events = decode(windows_of(bump((5, 11), (13, 14)), seconds=25.0))
    assert [event.phase for event in events] == [START, END, START, END]


def test_a_second_rise_within_the_refractory_time_is_the_same_fall():
    rises = bump((5, 6), (7, 8), (9.5, 12), (14, 15))
    events = decode(windows_of(rises, [(5.5, 4.0), (14.5, 4.0)]))
    assert [event.phase for event in events] == [START, END, START, END]
    assert seconds_of(events)[2] == pytest.approx(14.51)
    events = decode(windows_of(rises, refractory=1.0))
    assert sum(event.phase == START for event in events) == 4


def test_no_alarm_starts_in_a_gap():
    assert decode(windows_of(bump((8, 9)), invalid=[(7.5, 9.5)])) == []
    assert decode(windows_of(bump((8, 9)), invalid=[(7.5, 8.97)])) == [], 'nor from one'


def test_the_end_of_the_segment_ends_an_alarm():
    start, end = decode(windows_of(bump((18, 30))))
    assert (start.phase, end.phase, start.id) == (START, END, end.id)
    decoder = AlarmDecoder(IMU_FALLS)
    assert decoder.finish() == []


def test_the_impact_may_come_before_the_alarm_or_after():
    for impact in (7.2, 8.6):
        start, _ = decode(windows_of(bump((7.7, 8.5)), [(impact, 5.0), (impact + 2.5, 8.0)]))
        assert seconds_of([start])[0] == pytest.approx(impact, abs=0.021)


def test_thresholds_are_on_the_biased_score():
    half = bump((8, 9), high=0.4)
    unbiased = dataclasses.replace(IMU_FALLS, bias=(0.0,))
    assert decode(windows_of(half), unbiased) == []
    assert len(decode(windows_of(half, threshold=0.35), unbiased)) == 2
    assert len(decode(windows_of(half), dataclasses.replace(IMU_FALLS, bias=(1.0,)))) == 2


def test_every_label_has_its_own_alarms():
    spec = dataclasses.replace(IMU_FALLS, labels=('slip', 'fall'), bias=(0.0, 0.0),
                               classes=('none', 'fall', 'slip'))
    windows = [dataclasses.replace(t, probability=np.c_[
        t.probability, np.where(t.centre > 13 * RATE, 0.9, 0.0)]) for t in windows_of(bump((8, 9)))]
    events = decode(windows, spec)
    assert [(e.label, e.phase) for e in events] == [
        ('fall', START), ('fall', END), ('slip', START), ('slip', END)]


def test_what_follows_a_fall_and_hits_less_hard_is_no_other_fall():
    for second, expected in ((3.5, [5.51, 16.51]), (3.7, [5.51, 12.51])):
        events = decode(windows_of(bump((5, 6), (12, 13), (16, 17)),
                                   [(5.5, 4.0), (12.5, second), (16.5, 1.5)]))
        starts = [event for event in events if event.phase == START]
        assert seconds_of(starts) == pytest.approx(expected, abs=0.02)
