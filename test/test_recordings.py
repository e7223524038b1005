"""Recordings in .npz files: decoded exactly, tolerant of missing keys, clear about faults."""

import numpy as np
import pytest
from packed import delta, ecg_arrays, imu_arrays

from taolora_ros.beat_symbols import AAMI
from taolora_ros.recordings import Recording, load_recordings, read_npz, save_ecg, save_imu


def test_imu_counts_that_wrap_are_decoded_exactly(tmp_path):
    rng = np.random.default_rng()
    counts, arrays = imu_arrays(rng)
    np.savez(tmp_path / 'S1.npz', **arrays)
    recordings = list(load_recordings(tmp_path, 'imu'))
    assert [r.name for r in recordings] == ['a', 'b', 'c']
    values = np.concatenate([r.values for r in recordings])
    np.testing.assert_array_equal(values[:, :3], counts[0].T * 0.01)
    np.testing.assert_array_equal(values[:, 3:], counts[1].T * 0.001)
    fall = recordings[1]
    assert fall.is_fall and fall.fall_time_s == 25 / 50 and fall.code == 'F01'
    assert fall.source == tmp_path.name and fall.subject == 'S1' and fall.duration_s == 40 / 50
    assert recordings[0].fall_time_s is None


def test_measured_rate_is_used_where_it_is_given(tmp_path):
    _, arrays = imu_arrays(np.random.default_rng(1))
    np.savez(tmp_path / 'S1.npz', **arrays, fs_eff=np.float32([49.7, 39.8, np.nan]))
    rates = [r.rate for r in read_npz(tmp_path / 'S1.npz')]
    assert rates == pytest.approx([49.7, 39.8, 50.0])


def test_accelerometer_alone_with_the_fewest_keys(tmp_path):
    counts = np.zeros((3, 300), np.int16)
    counts[2] = 981
    counts[2, 120] = 3000
    np.savez(tmp_path / 'phone.npz', acc_delta=delta(counts), acc_scale=0.01, fs=100.0,
             is_fall=np.array([True]))
    (recording,) = load_recordings(tmp_path, 'imu')
    assert np.isnan(recording.values[:, 3:]).all() and recording.values[0, 2] == 9.81
    assert recording.fall_time_s == 1.2  # the largest acceleration, as nothing says otherwise
    assert recording.name == 'phone-0' and recording.subject == 'phone'


def test_fall_without_a_peak_is_looked_for_between_start_and_end(tmp_path):
    counts = np.zeros((3, 300), np.int16)
    counts[0, [50, 200]] = 3000, 2000
    np.savez(tmp_path / 'w.npz', acc_delta=delta(counts), acc_scale=0.01, fs=100.0,
             is_fall=np.array([True]), fall_start=np.array([150]), fall_end=np.array([250]))
    (recording,) = read_npz(tmp_path / 'w.npz')
    assert recording.fall_time_s == 2.0


def test_ecg_in_millivolts_with_beats_and_lead_choice(tmp_path):
    counts, arrays = ecg_arrays()
    np.savez(tmp_path / '999.npz', **arrays)
    (record,) = load_recordings(tmp_path, 'ecg')
    np.testing.assert_allclose(record.values[:, 0], (counts[0] - 1024.0) / 200)
    np.testing.assert_allclose(record.values[:, 1], counts[1] / 100)
    np.testing.assert_allclose(record.beat_times_s, [0.5, 1.0, 1.5])
    assert list(record.beat_aami) == ['N', 'V', 'N'] and not record.paced
    assert record.lead() == 1 and record.lead(('V9',)) == 0


@pytest.mark.parametrize('symbols, paced', [('N/N', True), ('NfN', False), ('LVN', False)])
def test_paced_beats_make_a_paced_record(tmp_path, symbols, paced):
    np.savez(tmp_path / '1.npz', **ecg_arrays(symbols)[1])
    assert next(read_npz(tmp_path / '1.npz')).paced == paced


@pytest.mark.parametrize('missing', ['beat_aami', 'beat_symbol'])
def test_beats_may_be_annotated_in_either_way(tmp_path, missing):
    arrays = ecg_arrays('LaEF')[1]
    aami = list('NSVF')
    arrays['beat_aami'] = np.array(aami)
    del arrays[missing]
    np.savez(tmp_path / '1.npz', **arrays)
    (record,) = load_recordings(tmp_path, 'ecg')
    assert list(record.beat_aami) == aami and not record.paced


def test_every_symbol_of_a_beat_has_its_group(tmp_path):
    arrays = ecg_arrays('NLRBejnAaJSVErF/fQ?', beat_sample=np.arange(19) * 40)[1]
    del arrays['beat_aami']
    np.savez(tmp_path / '1.npz', **arrays)
    (record,) = load_recordings(tmp_path, 'ecg')
    assert ''.join(record.beat_aami) == 'NNNNNNNSSSSVVVFQQQQ'


def test_symbols_are_grouped_as_in_the_recordings_of_mit_bih(shared_data):
    for path in sorted((shared_data / 'ecg' / 'mitdb').rglob('*.npz')):
        arrays = dict(np.load(path))
        assert [AAMI[s] for s in arrays['beat_symbol']] == list(arrays['beat_aami'])


def test_flutter_episodes_and_noise_are_told(tmp_path):
    np.savez(tmp_path / '1.npz', **ecg_arrays(
        ann_sample=np.array([36, 72, 90, 360]), ann_symbol=np.array(['[', '!', ']', '[']),
        snr_db=6)[1])
    record = next(read_npz(tmp_path / '1.npz'))
    assert record.flutter_s == ((0.1, 0.25), (1.0, 2.5)) and record.snr_db == 6


def test_other_kinds_and_files_without_annotation_are_left_out_and_named(tmp_path):
    (tmp_path / 'sub').mkdir()
    np.savez(tmp_path / 'sub' / 'good.npz', **imu_arrays(np.random.default_rng(3))[1])
    np.savez(tmp_path / 'ecg.npz', **ecg_arrays()[1])
    arrays = imu_arrays(np.random.default_rng(4))[1]
    del arrays['is_fall']
    np.savez(tmp_path / 'bare.npz', **arrays)
    np.savez(tmp_path / 'else.npz', x=np.zeros(3))
    skipped = {}
    assert len(list(load_recordings(tmp_path, 'imu', skipped))) == 3
    assert skipped == {str(tmp_path / 'ecg.npz'): 'holds ecg recordings',
                       str(tmp_path / 'bare.npz'): 'no annotations',
                       str(tmp_path / 'else.npz'): 'holds no recordings'}
    assert not next(read_npz(tmp_path / 'bare.npz')).annotated


def test_saved_imu_recordings_come_back(tmp_path):
    rng = np.random.default_rng()
    written = [Recording(name=f'r{i}', subject='S', source='', kind='imu', rate=50.0,
                         values=rng.normal(0, 20, (50 + i, 6)), is_fall=i == 1,
                         fall_time_s=0.5 if i == 1 else None, code='X', label='x')
               for i in range(3)]
    save_imu(tmp_path / 's.npz', written)
    for before, after in zip(written, load_recordings(tmp_path, 'imu'), strict=True):
        np.testing.assert_allclose(after.values, before.values, atol=2e-3)
        assert (after.is_fall, after.fall_time_s, after.name) == (
            before.is_fall, before.fall_time_s, before.name)


def test_saved_recording_without_gyro_and_annotation_comes_back(tmp_path):
    values = np.hstack([np.random.default_rng(7).normal(0, 9, (30, 3)), np.full((30, 3), np.nan)])
    save_imu(tmp_path / 's.npz', [Recording('r', 'S', '', 'imu', 50.0, values)])
    (back,) = read_npz(tmp_path / 's.npz')
    np.testing.assert_allclose(back.values, values, atol=1e-3)
    assert back.is_fall is None


def test_saved_ecg_comes_back(tmp_path):
    values = np.random.default_rng(8).normal(0, 1, (500, 2))
    save_ecg(tmp_path / 'e.npz', Recording(
        'e', 'e', '', 'ecg', 250.0, values, leads=('MLII', 'V1'), snr_db=12.0,
        beat_times_s=np.array([0.4, 1.2]), beat_aami=np.array(['N', 'V'])))
    (back,) = load_recordings(tmp_path / 'e.npz', 'ecg')
    np.testing.assert_allclose(back.values, values, atol=1e-3)
    np.testing.assert_allclose(back.beat_times_s, [0.4, 1.2])
    assert back.leads == ('MLII', 'V1') and back.snr_db == 12
