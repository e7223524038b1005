"""A detector decides every moment once, in time, with the settings that hold."""

import dataclasses

import numpy as np
import pytest
from detecting import SECOND, SPECS, START_NS, Peaks, detect, found, recording, run

from taolora_ros.decode import START
from taolora_ros.detector import Anomaly, Detector, Event, Settings
from taolora_ros.samples import Samples
from taolora_ros.spec import ECG_BEATS, IMU_FALLS


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


@SPECS
def test_a_window_stays_as_it_was_cut_whatever_comes_after_it(spec):
    detector, samples = Detector(spec), recording(spec, 150.0, events=[10.0, 19.0], seed=3)
    detector.push(samples[:2000])
    windows = detector.due()
    kept = [(w.features.copy(), w.trace.copy()) for w in windows]
    for i in range(2000, len(samples), 37):
        detector.push(samples[i:i + 37])
        detector.due()
    for window, (features, trace) in zip(windows, kept, strict=True):
        assert (window.features == features).all() and (window.trace == trace).all()


def test_a_fall_tells_how_hard_its_impact_was():
    samples = recording(IMU_FALLS, 20, rate=50.0, events=[8.01])
    results, _ = detect(IMU_FALLS, samples)
    peak = np.linalg.norm(samples.values[:, :3], axis=1).max() / 9.80665
    (event,) = [e for e in results if isinstance(e, Event) and e.phase == START]
    assert event.values['peak_g'] == pytest.approx(peak, rel=0.02)


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
