"""What a detector tells a recorder: everything, whatever the chunks, and events as without it."""

import numpy as np
import pytest

from rule_engine import RuleEngine
from taolora_ros.detector import Detector
from taolora_ros.recorder import Recorder
from taolora_ros.samples import Samples
from taolora_ros.spec import ECG_BEATS, IMU_FALLS
from taolora_ros.synthetic import ecg_record, imu_scene

SPECS = pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS], ids=lambda spec: spec.kind)


def source(spec, seed=3):
    """Return samples with a bridged gap and, further on, a break."""
    recording = (imu_scene(('walk', 'fall', 'walk', 'fall'), seed) if spec.kind == 'imu'
                 else ecg_record(40.0, seed, veb_share=0.2))
    samples = Samples.uniform(10**9, recording.rate, recording.values[:, :len(spec.channels)])
    rate, count = recording.rate, len(samples)
    keep = np.ones(count, bool)
    keep[count // 5:count // 5 + round(0.6 * rate)] = False
    stamps = samples.stamps + np.where(np.arange(count) > 2 * count // 3, 3 * 10**9, 0)
    return Samples(stamps[keep], samples.values[keep])


def play(spec, samples, chunk, recorder=None):
    detector = Detector(spec, RuleEngine(spec), name='x', recorder=recorder)
    found = []
    for first in range(0, len(samples), chunk):
        found += detector.process(samples[first:first + chunk])
    return found + detector.flush(), detector


@SPECS
def test_a_recorder_changes_no_event_and_hears_the_same_in_any_chunks(spec):
    samples = source(spec)
    plain, _ = play(spec, samples, 1000)
    told = []
    for chunk in (977, 16384):
        recorder = Recorder(spec)
        found, detector = play(spec, samples, chunk, recorder)
        assert found == plain and plain
        assert sum(len(gate) for _, _, gate in recorder.tokens()) == detector.tokens
        assert sum(gate.sum() for _, _, gate in recorder.tokens()) == detector.open_tokens
        told.append([array for part in (recorder.samples(), recorder.tokens(),
                                        recorder.windows()) for row in part for array in row])
    for one, other in zip(*told):
        np.testing.assert_array_equal(one, other)


@SPECS
def test_what_is_recorded_lies_on_the_time_of_the_source(spec):
    samples = source(spec)
    recorder = Recorder(spec)
    found, _ = play(spec, samples, 5000, recorder)
    (start, values), (second, _) = recorder.samples()
    times = start + np.arange(len(values)) * 1e9 / spec.rate
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    inside = rows[(rows > 2) & (rows < len(values) - 2)]
    truth = np.interp(times[inside], samples.stamps, samples.values[:, 0])
    assert np.corrcoef(truth, values[inside, 0])[0, 1] > 0.95
    assert second - start > (len(values) - 1) * 1e9 / spec.rate + 2.9e9
    hole = times[np.isnan(values[:, 0])]  # the bridged gap and nothing else
    widest = np.argmax(np.diff(samples.stamps[:len(samples) // 2]))
    assert samples.stamps[widest] - 1e8 < hole.min() < hole.max() < samples.stamps[widest + 1] + 1e8
    for times, scores, gate in recorder.tokens():
        assert (np.diff(times) > 0).all() and len(times) == len(scores) == len(gate) > 0
    ends, anomaly = recorder.windows()[0]
    assert (np.diff(ends) > 0).all() and anomaly.shape[0] == len(ends) > 0
    assert samples.stamps[0] < ends[0] and ends[-1] <= times_of_end(samples)


def times_of_end(samples):
    return samples.stamps[-1] + 10**8


@SPECS
def test_scores_reach_the_threshold_where_events_are(spec):
    recorder = Recorder(spec)
    found, _ = play(spec, source(spec), 4096, recorder)
    times = np.concatenate([times for times, _, _ in recorder.tokens()])
    scores = np.concatenate([scores for _, scores, _ in recorder.tokens()])
    starts = [event for event in found if event.phase == 0]
    assert {event.label for event in starts} == set(spec.labels)
    for event in starts:
        near = np.abs(times - event.stamp_ns) < 1.6e9 if spec.kind == 'imu' else (
            np.abs(times - event.stamp_ns) < 0.1e9)
        assert scores[near, spec.labels.index(event.label)].max() >= 0.5
    assert (scores.max(axis=1) < 0.5).mean() > 0.4
