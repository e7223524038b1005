"""Made-up recordings: physically consistent, annotated exactly, the same for the same seed."""

import numpy as np
import pytest

from taolora_ros.recordings import load_recordings
from taolora_ros.synthetic import (
    ACTIVITIES, DEMO_SCENE, GRAVITY, ecg_record, imu_recording, imu_scene, write_dataset)


def size_g(values):
    return np.linalg.norm(values[:, :3], axis=1) / GRAVITY


def tilt(before, after):
    """Return the angle in degrees between the mean accelerations of two stretches."""
    a, b = before[:, :3].mean(0), after[:, :3].mean(0)
    return np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))


@pytest.mark.parametrize('seed', range(20))
def test_fall_drops_hits_turns_and_lies_still(seed):
    recording = imu_recording('fall', seed)
    peak = round(recording.fall_time_s * recording.rate)
    size = size_g(recording.values)
    assert recording.is_fall and size[peak] == size.max() and 2.5 < size[peak] < 20
    assert size[peak - 70:peak].min() < 0.5
    assert size[-150:].std() < 0.05
    assert 60 < tilt(recording.values[:50], recording.values[-150:]) < 120


@pytest.mark.parametrize('seed', range(10))
def test_jump_falls_freely_and_lands_hard_but_stays_upright(seed):
    scene = imu_scene(('stand', 'jump', 'stand'), seed)
    size = size_g(scene.values)
    assert size.min() < 0.2 and size.max() > 2.0 and scene.falls_s == ()
    assert tilt(scene.values[:200], scene.values[-200:]) < 10


@pytest.mark.parametrize('part', [name for name in ACTIVITIES if name != 'jump'])
def test_quiet_activities_have_no_impact(part):
    for seed in range(5):
        scene = imu_scene((part,), seed)
        assert size_g(scene.values).max() < 2.2
        assert not imu_recording(part, seed).is_fall


def test_lying_down_turns_as_far_as_a_fall():
    scene = imu_scene(('stand', 'lie_down'), 3)
    assert tilt(scene.values[:100], scene.values[-100:]) > 60


def test_gyro_turns_gravity_as_the_accelerometer_sees_it():
    scene = imu_scene(('stand', 'lie_down', 'get_up', 'stand'), 4, rate=400.0)
    down = scene.values[:80, :3].mean(0)
    for gyro in scene.values[80:, 3:] / scene.rate:  # d(down)/dt = -w x down
        down = down - np.cross(gyro, down)
    assert tilt(down[None], scene.values[-80:]) < 6


def test_scene_is_continuous_and_its_falls_are_at_the_peaks():
    scene = imu_scene()
    assert tuple(name for *_, name in scene.parts) == DEMO_SCENE
    assert len(scene.falls_s) == DEMO_SCENE.count('fall')
    assert scene.parts[-1][1] == len(scene.values) / scene.rate <= 130
    for (_, stop, _), (start, _, _) in zip(scene.parts, scene.parts[1:]):
        assert stop == start
    for start, stop, name in scene.parts:
        assert sum(start <= fall < stop for fall in scene.falls_s) == (name == 'fall')


def test_same_seed_same_signal():
    np.testing.assert_array_equal(imu_scene(seed=5).values, imu_scene(seed=5).values)
    assert not np.array_equal(ecg_record(9, 1).values, ecg_record(9, 2).values)


def test_unknown_part_is_named():
    with pytest.raises(ValueError, match="part: 'fly' is none of stand, walk"):
        imu_scene(('walk', 'fly'))


def test_gyro_can_be_missing():
    assert np.isnan(imu_recording('walk', 1, gyro=False).values[:, 3:]).all()


@pytest.mark.parametrize('seed', range(5))
def test_ecg_beats_peak_where_annotated_and_ventricular_ones_are_early_and_broad(seed):
    record = ecg_record(120, seed, veb_share=0.15, noise=0.005)
    mv, times, veb = record.values[:, 0], record.beat_times_s, record.beat_aami == 'V'
    at = np.round(times * record.rate).astype(int)
    assert (np.diff(times) > 0.3).all() and 5 < veb.sum() < len(times) / 2
    assert (mv[at] > 0.6).all()
    beside = np.minimum(mv[at - 10], mv[at + 10]) / mv[at]  # 28 ms from the peak
    assert beside[veb].min() > beside[~veb].max()
    alone = veb[1:-1] & ~veb[:-2] & ~veb[2:]
    rr = np.diff(times)
    assert (rr[:-1][alone] < rr[1:][alone]).all()


def test_dataset_is_readable_and_annotated(tmp_path):
    write_dataset(tmp_path, seed=1)
    imu = list(load_recordings(tmp_path, 'imu'))
    assert {r.subject for r in imu} == {'S1', 'S2'} and sum(r.is_fall for r in imu) == 4
    assert len({r.values.tobytes() for r in imu}) == len(imu)
    ecg = list(load_recordings(tmp_path, 'ecg'))
    assert len(ecg) == 2 and all((r.beat_aami == 'V').any() for r in ecg)
