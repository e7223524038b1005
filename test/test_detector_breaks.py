"""A detector where its data is cut, broken, out of order or begins anew."""

import dataclasses

import numpy as np
import pytest
from detecting import SECOND, SPECS, START_NS, Peaks, detect, found, recording
from hypothesis import given, settings as hypothesis_settings, strategies as st

from taolora_ros.decode import END, START
from taolora_ros.detector import Detector, Event, Settings
from taolora_ros.samples import Samples
from taolora_ros.spec import IMU_FALLS
from taolora_ros.window import gap_margin


@st.composite
def troubled(draw, spec):
    """A recording with events and every kind of trouble at random places."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rate = draw(st.sampled_from([50.0, 104.0, 250.0]))
    seconds = draw(st.floats(0.1, 25))
    samples = recording(spec, seconds, rate, rng.uniform(0, seconds, 12))
    stamps, values = samples.stamps.copy(), samples.values.copy()
    for _ in range(draw(st.integers(0, 8))):
        at = int(rng.integers(len(stamps) or 1))
        end = at + int(rng.choice([1, 1, 5, 40]))
        match draw(st.sampled_from(['nan', 'wild', 'zero', 'back', 'gap', 'gap'])):
            case 'nan':
                values[at:end] = np.nan
            case 'wild':
                values[at:end, 0] = 1e30
            case 'zero':
                stamps[at:end] = 0
            case 'back':
                stamps[at:end] -= int(rng.choice([3e7, 1.2e9, 1e12]))
            case 'gap':
                stamps[at:] += int(rng.choice([3e8, 9e8, 1.1e9, 5e9]))
    return Samples(stamps, values)


@SPECS
@pytest.mark.parametrize('size', [1, 7, 1000, None])
def test_any_chunks_give_the_same_events(spec, size):
    @hypothesis_settings(deadline=None, max_examples=8 if size == 1 else 15)
    @given(troubled(spec), st.lists(st.integers(0, 6000), max_size=9),
           st.sampled_from([None, 1, 3, 16]), st.sampled_from([None, 0.05, 0.1, 0.5]))
    def check(samples, cuts, limit, hop):
        own = Settings.default(spec)
        settings = dataclasses.replace(own, hop=hop or own.hop, anomaly_threshold=1.3)
        whole = detect(spec, samples, settings=settings)
        if size is not None:
            cuts = np.arange(size, len(samples), size)
        cuts = np.minimum(sorted(cuts), len(samples))
        assert detect(spec, samples, cuts, settings, limit) == whole
    check()


@SPECS
def test_trouble_in_the_data_does_not_hide_or_move_events(spec):
    clean = recording(spec, 30, 200.0, [8.0, 17.0, 26.0])
    stamps, values = clean.stamps.copy(), clean.values.copy()
    rng = np.random.default_rng(3)
    bad = 1 + rng.permutation(len(stamps) - 1)[:300].reshape(6, 50)
    values[bad[0]] = np.nan
    values[bad[1], 0] = np.inf
    values[bad[2], 0] = -1e30
    stamps[bad[3]] = 0
    stamps[bad[4]] -= rng.integers(1, 10**12, 50)
    stamps[bad[5]] += rng.integers(2 * SECOND, 10**15, 50)
    results, counts = detect(spec, Samples(stamps, values))
    expected, _ = detect(spec, clean)
    np.testing.assert_allclose(found(results), found(expected), atol=0.02)
    assert counts['nonfinite'] == 100 and counts['out_of_range'] == 50
    assert counts['invalid_stamp'] == counts['jump'] == 50
    assert counts['late'] + counts.pop('repeated', 0) == 50
    assert counts.keys() == {'nonfinite', 'out_of_range', 'invalid_stamp', 'late', 'jump'}


@SPECS
def test_heavy_trouble_is_survived(spec):
    """A third of the samples is unusable and the rest is out of order in pairs."""
    clean = recording(spec, 30, 400.0, [8.0, 17.0, 26.0])
    stamps, values = clean.stamps.copy(), clean.values.copy()
    rng = np.random.default_rng(8)
    values[rng.random(len(values)) < 0.2] = np.nan
    stamps[rng.random(len(values)) < 0.15] = 0
    order = np.arange(len(stamps)).reshape(-1, 2)[:, ::-1].ravel()
    results, counts = detect(spec, Samples(stamps[order], values[order]))
    np.testing.assert_allclose(found(results), [8.0, 17.0, 26.0], atol=0.04)
    assert set(counts) == {'nonfinite', 'invalid_stamp', 'late'}


@SPECS
@pytest.mark.parametrize('silence', [0.4, 0.95, 1.5, 30.0])
def test_no_event_is_invented_from_a_gap(spec, silence):
    samples = recording(spec, 20, 200.0, [10.0])
    values = samples.values.copy()
    if spec.kind == 'imu':
        values[2100:] += 0.3  # after the gap all is different
    else:
        values[2100:] *= 2  # (to this engine the tail of a step in an ECG is a beat)
    keep = np.r_[0:1900, 2100:4000]  # the event falls into the gap
    stamps = samples.stamps[keep]
    stamps[1900:] += round((silence - 1.0) * SECOND)
    results, counts = detect(spec, Samples(stamps, values[keep]))
    assert found(results) == []
    assert counts == ({'gap': 1} if silence < 1 else {'gap_restart': 1})


@SPECS
def test_tokens_in_a_gap_and_next_to_it_are_not_valid(spec):
    samples = recording(spec, 10, 100.0)
    keep = np.r_[0:620, 680:1000]
    detector = Detector(spec)
    detector.push(Samples(samples.stamps[keep], samples.values[keep]))
    window = detector.due()[-1]
    start = (window.end - spec.window + np.arange(spec.tokens) * spec.patch) / spec.rate  # s
    stop = start + spec.patch / spec.rate
    touched = (stop > np.floor(6.19 * spec.rate) / spec.rate + 1e-9) & (start < 6.8 - 1e-9)
    away = np.flatnonzero(touched)
    assert np.flatnonzero(~window.valid).tolist() == list(
        range(away[0] - gap_margin(spec), away[-1] + 1 + gap_margin(spec)))


@SPECS
def test_events_keep_a_fifth_of_a_second_from_a_bridged_gap(spec):
    margin = gap_margin(spec) * spec.patch / spec.rate  # s
    assert margin == pytest.approx(0.2, abs=0.51 * spec.patch / spec.rate)


def test_a_gap_ends_a_fall_that_is_on():
    samples = recording(IMU_FALLS, 20, 100.0, [9.8])
    stamps = samples.stamps.copy()
    stamps[1000:] += 7 * SECOND
    results, _ = detect(IMU_FALLS, Samples(stamps, samples.values))
    start, end = [e for e in results if isinstance(e, Event)]
    assert (start.phase, end.phase, start.id) == (START, END, end.id)
    assert end.stop_ns <= START_NS + 10.1 * SECOND


def test_a_fall_ends_even_when_the_last_windows_of_its_segment_failed():
    samples = recording(IMU_FALLS, 40, events=np.arange(15, 19, 0.2))
    stamps = samples.stamps.copy()
    stamps[1800:] += 30 * SECOND
    detector = Detector(IMU_FALLS, Peaks(IMU_FALLS))
    detector.push(Samples(stamps, samples.values))
    windows = [window for window in detector.due() if not window.final]
    scores = detector.engine.run(np.stack([w.features for w in windows]), None)
    start, end = [e for e in detector.absorb(windows, scores) if isinstance(e, Event)][:2]
    assert (start.phase, end.phase, start.id) == (START, END, end.id)
    assert START_NS + 16.2 * SECOND < end.stop_ns < START_NS + 18.1 * SECOND


@SPECS
def test_ids_stay_unique_when_a_recording_plays_again(spec):
    samples = recording(spec, 12, 100.0, [3.0, 9.0])
    twice = Samples(np.tile(samples.stamps, 2), np.tile(samples.values, (2, 1)))
    results, counts = detect(spec, twice)
    starts = [e for e in results if isinstance(e, Event) and e.phase == START]
    assert len(starts) == 4 == len({e.id for e in starts})
    assert counts == {'restart': 1}


@SPECS
def test_a_new_segment_knows_nothing_of_the_one_before(spec):
    samples, calm = recording(spec, 20, events=np.arange(1, 20, 0.7)), recording(spec, 20, seed=1)
    later = Samples(calm.stamps + 60 * SECOND, calm.values)
    both, alone = Detector(spec), Detector(spec)
    for part in (samples, later):
        both.push(part)
    alone.push(later)
    windows = [w for w in both.due() if w.start_ns > START_NS]
    expected = alone.due()
    assert len(windows) == len(expected)
    for one, other in zip(windows, expected):
        assert np.array_equal(one.features, other.features)
        assert np.array_equal(one.gate, other.gate) and one.end == other.end


def test_a_restart_is_noticed_while_samples_come_one_by_one():
    detector, samples = Detector(IMU_FALLS), recording(IMU_FALLS, 20)
    detector.push(samples)
    detector.due()
    for i in range(80):
        detector.push(samples[i:i + 1])
        windows = detector.due()
        if windows:
            break
    assert windows[0].final and i < 60
