import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from taolora_ros.decode import END, START
from taolora_ros.detector import Anomaly, Detector, Event, Settings
from taolora_ros.engine import Scores
from taolora_ros.samples import Samples
from taolora_ros.spec import ECG_BEATS, IMU_FALLS
from taolora_ros.window import gap_margin

START_NS = 1_700_000_000_000_000_000
SECOND = 10**9
SPECS = pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS], ids=lambda spec: spec.kind)


class Peaks:
    """An engine that calls strong acceleration a fall and steep ECG a beat, window by window."""

    name, device = 'peaks', 'cpu'

    def __init__(self, spec):
        self.spec = spec

    def run(self, windows, gates):
        t, k = self.spec.tokens, len(self.spec.classes)
        out = Scores(probability=np.zeros((len(windows), t, k), np.float32),
                     offset=np.zeros((len(windows), t), np.float32),
                     anomaly=np.abs(windows).max(1) / 2)
        for b, window in enumerate(windows):
            size = np.abs(window[:, 3 if self.spec.kind == 'imu' else 0])
            if self.spec.kind == 'ecg':
                size = size / (5 * np.quantile(size, 0.75) + 1e-9)
            peak = size.reshape(t, -1).max(1)
            if self.spec.kind == 'imu':
                peak = np.convolve(peak, np.ones(7), 'same')  # a fall lasts
            sure = np.clip(peak - 2.5, 0.01, 0.99)
            out.probability[b, :, 0] = 1 - sure
            out.probability[b, :, 1:] = sure[:, None] / (k - 1)
            out.offset[b] = size.reshape(t, -1).argmax(1) / self.spec.patch
        return out


def recording(spec, seconds, rate=100.0, events=(), seed=0):
    """Return quiet samples with a pulse at each of ``events`` (s)."""
    rng = np.random.default_rng(seed)
    n = round(seconds * rate)
    values = rng.normal(size=(n, len(spec.channels))) * (0.02 if spec.kind == 'imu' else 0.002)
    t = np.arange(n) / rate
    for time in events:
        width = 0.15 if spec.kind == 'imu' else 0.015
        values[:, 0] += (40.0 if spec.kind == 'imu' else 1.5) * np.exp(-((t - time) / width)**2)
    if spec.kind == 'imu':
        values[:, 2] += 9.81
    return Samples.uniform(START_NS, rate, values)


def found(results, phase=START):
    return [(e.stamp_ns - START_NS) / 1e9 for e in results
            if isinstance(e, Event) and e.phase == phase]


def detect(spec, samples, cuts=(), settings=None, limit=None):
    detector, results = Detector(spec, Peaks(spec), settings, 'one'), []
    for stamps, values in zip(np.split(samples.stamps, cuts), np.split(samples.values, cuts)):
        if limit is None:
            results += detector.process(Samples(stamps, values))
        else:  # as the node does it
            detector.push(Samples(stamps, values))
            results += run(detector, limit)
    return results + detector.flush(), detector.counts


def run(detector, limit):
    windows = detector.due(limit)
    if not windows:
        return []
    scores = detector.engine.run(np.stack([w.features for w in windows]),
                                 np.stack([w.gate for w in windows]))
    return detector.absorb(windows, scores)


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
def test_events_are_found_where_they_are(spec):
    events = [1.3, 8.0, 14.0, 21.5]
    results, counts = detect(spec, recording(spec, 24, events=events))
    starts = [t for t in found(results)]
    np.testing.assert_allclose(starts, events, atol=0.03)
    assert not counts
    ids = [e.id for e in results if isinstance(e, Event)]
    assert ids[0] == f'one-{START_NS}-1' and len(set(ids)) == 4


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


def test_a_gap_ends_a_fall_that_is_on():
    samples = recording(IMU_FALLS, 20, 100.0, [9.8])
    stamps = samples.stamps.copy()
    stamps[1000:] += 7 * SECOND
    results, _ = detect(IMU_FALLS, Samples(stamps, samples.values))
    start, end = [e for e in results if isinstance(e, Event)]
    assert (start.phase, end.phase, start.id) == (START, END, end.id)
    assert end.stop_ns <= START_NS + 10.1 * SECOND


@SPECS
def test_ids_stay_unique_when_a_recording_plays_again(spec):
    samples = recording(spec, 12, 100.0, [3.0, 9.0])
    twice = Samples(np.tile(samples.stamps, 2), np.tile(samples.values, (2, 1)))
    results, counts = detect(spec, twice)
    starts = [e for e in results if isinstance(e, Event) and e.phase == START]
    assert len(starts) == 4 == len({e.id for e in starts})
    assert counts == {'restart': 1}


@SPECS
@pytest.mark.parametrize('hop, delay', [(None, None), (0.05, 0.0), (0.1, 0.3), (1.0, 2.0)])
def test_every_moment_is_decided_once_and_no_later_than_the_delay(spec, hop, delay):
    own = Settings.default(spec)
    settings = dataclasses.replace(own, hop=hop or own.hop,
                                   delay=own.delay if delay is None else delay)
    detector, decided = Detector(spec, Peaks(spec), settings), []
    push = detector._decoder.push
    detector._decoder.push = lambda tokens: decided.append(tokens) or push(tokens)
    detector.process(recording(spec, 15.3))
    for tokens in decided:
        late = tokens.end - tokens.centre
        assert (late >= settings.delay * spec.rate - 1e-6).all()
        assert late.min(initial=0) < (settings.delay + settings.hop) * spec.rate + spec.patch
    detector.flush()
    centre = np.concatenate([tokens.centre for tokens in decided])
    steps = np.diff(centre)
    assert centre[0] <= spec.patch and (steps > 0).all() and (steps <= spec.patch).all()
    assert centre[-1] > 15.3 * spec.rate - spec.patch
    assert detector.tokens == len(centre)
    if round(settings.hop * spec.rate) % spec.patch == 0:
        assert (steps[:-spec.tokens] == spec.patch).all()


@SPECS
def test_windows_are_due_every_hop_from_half_a_window_on(spec):
    detector = Detector(spec)
    detector.push(recording(spec, 10.0))
    windows = detector.due()
    hop = round(spec.hop * spec.rate)
    ends = [window.end for window in windows]
    assert ends == list(range(spec.window // 2, round(10.0 * spec.rate), hop))
    assert not any(window.final for window in windows)
    last = windows[-1]
    assert last.features.shape[0] == spec.window and last.features.dtype == np.float32
    assert last.gate.shape == last.valid.shape == (spec.tokens,)
    assert last.stamp_ns == START_NS + round(last.end * SECOND / spec.rate)
    detector.close()
    final, = detector.due()
    assert final.final and final.end >= ends[-1]
    assert detector.due() == []


def test_due_gives_at_most_the_limit_and_keeps_the_rest():
    detector = Detector(IMU_FALLS)
    detector.push(recording(IMU_FALLS, 60.0))
    parts = [detector.due(7)]
    while parts[-1]:
        parts.append(detector.due(7))
    assert [len(p) for p in parts[:-2]] == [7] * (len(parts) - 2)
    ends = [window.end for part in parts for window in part]
    assert (np.diff(ends) == 16).all() and ends[-1] > 60 * 50 - 32


def test_recordings_shorter_than_half_a_window_give_nothing():
    for seconds in (0.0, 0.01, 0.3, 2.5):
        assert detect(IMU_FALLS, recording(IMU_FALLS, seconds, events=[1.0]))[0] == []
    assert len(found(detect(IMU_FALLS, recording(IMU_FALLS, 2.7, events=[1.0]))[0])) == 1


def test_settings_hold_from_the_next_window_on_and_never_half():
    detector = Detector(IMU_FALLS)
    samples = recording(IMU_FALLS, 30.0)
    detector.push(samples[:1500])
    before = detector.due()
    new = dataclasses.replace(detector.settings, hop=1.0, gate='open', event_threshold=0.9)
    detector.settings = new
    detector.push(samples[1500:])
    after = detector.due()
    assert all(window.settings == Settings.default(IMU_FALLS) for window in before)
    assert all(window.settings == new and window.gate.all() for window in after)
    ends = [window.end for window in before[-1:] + after]
    assert (np.diff(ends) == 50).all()


def test_a_threshold_is_the_one_of_the_window_not_of_the_moment():
    detector = Detector(IMU_FALLS, Peaks(IMU_FALLS))
    detector.push(recording(IMU_FALLS, 12.0, events=[6.0]))
    windows = detector.due()
    detector.settings = dataclasses.replace(detector.settings, event_threshold=1.0,
                                            anomaly_threshold=1e6)
    scores = detector.engine.run(np.stack([w.features for w in windows]), None)
    results = detector.absorb(windows, scores)
    assert len(found(results)) == 1 and any(isinstance(r, Anomaly) for r in results)


def test_bad_settings_are_refused_and_the_old_ones_stay():
    detector = Detector(IMU_FALLS)
    with pytest.raises(ValueError, match='hop: 0.001 s is shorter than one sample'):
        detector.settings = dataclasses.replace(detector.settings, hop=0.001, gate='open')
    assert detector.settings == Settings.default(IMU_FALLS)
    with pytest.raises(ValueError, match='gate: '):
        Detector(IMU_FALLS, settings=dataclasses.replace(detector.settings, gate='ajar'))


@SPECS
def test_the_gate_opens_around_events_and_as_told(spec):
    samples = recording(spec, 40, events=[20.0])
    fractions = {}
    for gate in ('auto', 'open', 'closed'):
        detector = Detector(spec, Peaks(spec), dataclasses.replace(Settings.default(spec),
                                                                   gate=gate))
        starts = [e for e in detector.process(samples) + detector.flush()
                  if isinstance(e, Event) and e.phase == START]
        fractions[gate] = detector.gate_fraction
        assert starts[0].transient_fraction == {'open': 1.0, 'closed': 0.0}.get(
            gate, pytest.approx(0.65, abs=0.35))
    assert fractions['open'] == 1 and fractions['closed'] == 0
    assert 0 < fractions['auto'] < 0.1


def test_tokens_of_a_batch_that_failed_are_decided_by_the_next():
    spec, samples = IMU_FALLS, recording(IMU_FALLS, 20, events=[8.0])
    detector, results, failed = Detector(spec, Peaks(spec)), [], 0
    for i in range(0, len(samples), 50):
        detector.push(samples[i:i + 50])
        if 900 <= i < 1050:
            failed += len(detector.due())  # never absorbed
        else:
            results += run(detector, None)
    assert failed >= 3
    assert len(found(results + detector.flush())) == 1


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


def test_anomalies_are_reported_on_full_windows_without_gaps():
    samples = recording(IMU_FALLS, 40, events=[20.0])
    results, _ = detect(IMU_FALLS, samples)
    anomalies = [r for r in results if isinstance(r, Anomaly)]
    assert anomalies[-1].is_anomalous is False
    assert all(a.is_anomalous for a in anomalies[:-1])
    assert all(a.start_ns < START_NS + 20.4 * SECOND < a.stop_ns for a in anomalies[1:-1])
    early = recording(IMU_FALLS, 4, events=[1.0])  # not one full window
    assert not any(isinstance(r, Anomaly) for r in detect(IMU_FALLS, early)[0])
    stamps = samples.stamps.copy()
    stamps[2000:] += SECOND // 2  # a bridged gap right at the event
    results, _ = detect(IMU_FALLS, Samples(stamps, samples.values))
    assert not any(isinstance(r, Anomaly) for r in results)


def test_calibration_makes_the_recent_past_normal():
    detector = Detector(IMU_FALLS, Peaks(IMU_FALLS))
    rough = recording(IMU_FALLS, 60)
    rough = Samples(rough.stamps, rough.values * 4)
    with pytest.raises(ValueError, match='calibrate: .* 10 s are needed'):
        detector.calibrate()
    assert any(isinstance(r, Anomaly) for r in detector.process(rough[:3000]))
    detector.calibrate()
    later = detector.process(rough[3000:])
    assert sum(r.is_anomalous for r in later) == 0


def test_a_wrong_channel_count_is_refused_at_once_and_harms_nothing():
    detector = Detector(ECG_BEATS, Peaks(ECG_BEATS))
    samples = recording(ECG_BEATS, 10, events=[5.0])
    results = detector.process(samples[:400])
    with pytest.raises(ValueError, match='values: 2 channels, ecg_beats needs 1 .ecg.'):
        detector.push(Samples(samples.stamps, np.zeros((len(samples), 2))))
    results += detector.process(samples[400:]) + detector.flush()
    assert len(found(results)) == 1


def test_counts_hold_what_was_just_pushed():
    detector = Detector(IMU_FALLS)
    samples = recording(IMU_FALLS, 1.0)
    detector.push(samples)
    detector.push(samples[:3])
    assert detector.counts == {'late': 3}
    assert detector.settings == Settings.default(IMU_FALLS)


def test_single_samples_are_read_once_a_hop_and_memory_stays_bounded():
    detector = Detector(IMU_FALLS)
    samples, reads = recording(IMU_FALLS, 120.0), 0
    push = detector._stream.push

    def counted(samples):
        nonlocal reads
        reads += 1
        push(samples)
    detector._stream.push = counted
    for i in range(len(samples)):
        detector.push(samples[i:i + 1])
        detector.due(16)
    assert reads < 120 / 0.32 + 120
    segment = detector._newest.segment
    assert len(segment.features._data) <= 1024 and len(detector._newest.flags._data) <= 256
    assert len(detector._waiting) < 512


def test_a_detector_can_go_on_after_a_flush():
    detector = Detector(IMU_FALLS, Peaks(IMU_FALLS))
    samples = recording(IMU_FALLS, 20, events=[5.0, 15.0])
    results = []
    for part in (samples[:1000], samples[1000:]):
        results += detector.process(part) + detector.flush()
    np.testing.assert_allclose(found(results), [5.0, 15.0], atol=0.03)
    assert detector.flush() == []


def test_samples_may_follow_before_a_closed_segment_was_decided():
    detector = Detector(IMU_FALLS, Peaks(IMU_FALLS))
    samples = recording(IMU_FALLS, 20, events=[5.0, 15.0])
    for part in (samples[:1000], samples[1000:]):
        detector.push(part)
        detector.close()
    windows = detector.due()
    scores = detector.engine.run(np.stack([w.features for w in windows]), None)
    np.testing.assert_allclose(found(detector.absorb(windows, scores)), [5.0, 15.0], atol=0.03)


def test_the_caller_may_reuse_its_arrays():
    samples = recording(IMU_FALLS, 12, events=[6.0])
    detector, results = Detector(IMU_FALLS, Peaks(IMU_FALLS), name='one'), []
    stamps, values = np.zeros(1, np.int64), np.zeros((1, 6))
    for i in range(len(samples)):
        stamps[:], values[:] = samples.stamps[i], samples.values[i]
        results += detector.process(Samples(stamps, values))
    assert results + detector.flush() == detect(IMU_FALLS, samples)[0]


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
def test_events_keep_a_fifth_of_a_second_from_a_bridged_gap(spec):
    margin = gap_margin(spec) * spec.patch / spec.rate  # s
    assert margin == pytest.approx(0.2, abs=0.51 * spec.patch / spec.rate)
