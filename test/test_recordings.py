"""Recordings in .npz files: decoded exactly, tolerant of missing keys, clear about faults."""

import numpy as np
import pytest

from taolora_ros.beat_symbols import AAMI
from taolora_ros.recordings import (
    Recording, find_files, load_recordings, read_npz, save_ecg, save_imu)


def delta(counts):
    """Delta-code int16 counts (channels, N); differences wrap."""
    return np.diff(counts, axis=1, prepend=np.int16(0)).astype(np.int16)


def imu_arrays(rng, lengths=(13, 40, 7)):
    counts = rng.integers(-32768, 32768, (2, 3, sum(lengths))).astype(np.int16)
    return counts, {
        'acc_delta': delta(counts[0]), 'acc_scale': 0.01, 'gyro_delta': delta(counts[1]),
        'gyro_scale': 0.001, 'fs': 50.0, 'offset': np.cumsum([0, *lengths]),
        'name': np.array(['a', 'b', 'c']), 'code': np.array(['D01', 'F01', 'D02']),
        'label': np.array(['walking', 'slip', 'sitting']), 'subject': 'S1',
        'is_fall': np.array([False, True, False]), 'peak_index_derived': np.array([3, 25, 2])}


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


def ecg_arrays(symbols='NVN', **extra):
    counts = np.random.default_rng(2).integers(-2000, 2000, (2, 900)).astype(np.int16)
    aami = np.array([{'/': 'Q', 'f': 'Q', 'L': 'N'}.get(s, s) for s in symbols])
    return counts, {
        'sig_delta': delta(counts), 'gain': np.array([200.0, 100.0]), 'zero': np.array([1024, 0]),
        'fs': 360.0, 'lead': np.array(['V5', 'MLII']), 'record': '999',
        'beat_sample': np.arange(1, len(symbols) + 1) * 180,
        'beat_symbol': np.array(list(symbols)), 'beat_aami': aami, **extra}


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


def test_faults_are_named(tmp_path):
    with pytest.raises(ValueError, match='nowhere: no such file or folder'):
        find_files(tmp_path / 'nowhere', 'imu')
    with pytest.raises(ValueError, match='no .npz file with annotated ecg recordings'):
        find_files(tmp_path, 'ecg')
    (tmp_path / 'cut.npz').write_bytes(b'PK\x03\x04 and then nothing')
    with pytest.raises(ValueError, match='cut.npz: not a readable .npz file'):
        find_files(tmp_path, 'imu')


@pytest.mark.parametrize('key, value, message', [
    ('offset', [0, 13, 99], 'offset must rise from 0 to at most 60'),
    ('is_fall', [True], r'is_fall has shape \(1,\), expected \(3,\)'),
    ('fs', 0.0, 'fs is 0.0, it must be a rate in Hz, 5 to 10000 for imu'),
    ('fs', 0.05, r'fs is 0.05, it must be a rate in Hz'),
    ('fs_eff', [50.0, np.inf, 50.0], 'fs_eff is inf, it must be a rate in Hz'),
    ('fs_eff', [50.0, np.nan, -50.0], 'fs_eff is -50.0, it must be a rate in Hz'),
    ('acc_scale', np.nan, 'acc_scale is nan, it must be a positive number'),
    ('acc_scale', 0.0, 'acc_scale is 0.0, it must be'),
    ('acc_scale', -0.01, 'acc_scale is -0.01, it must be'),
    ('acc_scale', np.inf, 'acc_scale is inf, it must be'),
    ('gyro_scale', np.nan, 'gyro_scale is nan, it must be a positive number'),
    ('gyro_scale', -0.001, 'gyro_scale is -0.001, it must be'),
    ('peak_index_derived', [3, 40, 2], r'peak_index_derived\[1\] is 40, it must be a sample of the '
     'recording, 0 to 39, or -1 for none'),
    ('peak_index_derived', [3, -2, 1], r'peak_index_derived\[1\] is -2, it must be'),
    ('peak_index_derived', [3, 2.5, 2], r'peak_index_derived\[1\] is 2.5, it must be'),
    ('is_fall', ['no', 'yes', 'no'], r"is_fall\[0\] is .*'no'.*, it must be True or False"),
    ('is_fall', [0.0, np.nan, 0.0], r'is_fall\[1\] is .*nan.*, it must be True or False'),
    ('acc_delta', np.zeros((3, 60)), r'acc_delta is float64 \(3, 60\), not int16'),
    ('gyro_delta', np.zeros((3, 9), np.int16), r'must both be \[3, N\]')])
def test_inconsistent_imu_files_are_refused(tmp_path, key, value, message):
    arrays = imu_arrays(np.random.default_rng(5))[1]
    np.savez(tmp_path / 'bad.npz', **{**arrays, key: np.asarray(value)})
    with pytest.raises(ValueError, match=message):
        list(read_npz(tmp_path / 'bad.npz'))


def test_a_fall_that_ends_before_it_starts_is_refused(tmp_path):
    arrays = imu_arrays(np.random.default_rng(5))[1]
    arrays['peak_index_derived'] = np.array([np.nan, np.nan, np.nan])
    np.savez(tmp_path / 'bad.npz', **arrays, fall_start=[-1, 30, -1], fall_end=[-1, 20, -1])
    with pytest.raises(ValueError, match=r'bad.npz: fall_end\[1\] is 20, before fall_start, 30'):
        list(read_npz(tmp_path / 'bad.npz'))
    np.savez(tmp_path / 'bad.npz', **arrays, fall_start=[-1, 40, -1], fall_end=[-1, 50, -1])
    with pytest.raises(ValueError, match=r'bad.npz: fall_start\[1\] is 40, it must be .* 0 to 39'):
        list(read_npz(tmp_path / 'bad.npz'))


def test_what_no_figure_depends_on_refuses_nothing(tmp_path):
    arrays = imu_arrays(np.random.default_rng(5))[1]
    np.savez(tmp_path / 'whole.npz', **arrays)
    times = [r.fall_time_s for r in read_npz(tmp_path / 'whole.npz')]
    np.savez(tmp_path / 'odd.npz', **arrays, fall_start=[np.nan, 99, 7], fall_end=[3, 400, 1])
    assert [r.fall_time_s for r in read_npz(tmp_path / 'odd.npz')] == times
    arrays['peak_index_derived'] = np.array([-1, -1, -1])
    np.savez(tmp_path / 'end.npz', **arrays, fall_start=[-1, 20, -1], fall_end=[-1, 400, -1])
    fall = [r for r in read_npz(tmp_path / 'end.npz') if r.is_fall][0]
    size = np.linalg.norm(fall.values[:, :3], axis=1)
    assert fall.fall_time_s * 50 == 20 + size[20:].argmax()


def test_annotations_as_conversions_write_them_are_read(tmp_path):
    arrays = ecg_arrays('NVN', beat_sample=np.array([180, 180, 900]), lead=np.array(['V5', 'II']),
                        ann_sample=np.array([-3, 700, 400, 901]),
                        ann_symbol=np.array(['+', ']', '[', '~']))[1]
    np.savez(tmp_path / 'plain.npz', **arrays)
    as_bytes = {key: value.astype('S') if value.dtype.kind == 'U' else value
                for key, value in ((k, np.asarray(v)) for k, v in arrays.items())}
    np.savez(tmp_path / 'bytes.npz', **as_bytes)
    for name in ('plain', 'bytes'):
        record = next(read_npz(tmp_path / f'{name}.npz'))
        assert (record.beat_times_s * 360).tolist() == [180, 180, 899] and record.lead() == 1
        assert record.beat_aami.tolist() == ['N', 'V', 'N']
        assert record.flutter_s == ((400 / 360, 700 / 360),)


def test_no_index_at_all_is_minus_one(tmp_path):
    arrays = imu_arrays(np.random.default_rng(5))[1]
    arrays['peak_index_derived'] = np.array([-1, -1, -1])
    np.savez(tmp_path / 'good.npz', **arrays, fall_start=[-1, -1, -1], fall_end=[-1, 40, -1])
    _, fall, _ = read_npz(tmp_path / 'good.npz')
    assert fall.fall_time_s * 50 == np.linalg.norm(fall.values[:, :3], axis=1).argmax()


@pytest.mark.parametrize('size, unit', [(1 / 9.80665, 'g'), (1000 / 9.80665, 'mg')])
def test_acceleration_that_is_not_in_si_units_is_refused(tmp_path, size, unit):
    rng = np.random.default_rng()
    acc = rng.normal(0, 1, (3, 500)) + [[0], [-9.81], [0]]
    for name, factor in (('si', 1.0), ('else', size)):
        counts = np.round(acc / 0.004).astype(np.int16)
        np.savez(tmp_path / f'{name}.npz', acc_delta=delta(counts), acc_scale=0.004 * factor,
                 fs=100.0)
    assert next(read_npz(tmp_path / 'si.npz')).values.shape == (500, 6)
    with pytest.raises(ValueError, match=rf'else.npz: acc_scale: the median .* in {unit}; .* m/s'):
        list(read_npz(tmp_path / 'else.npz'))


@pytest.mark.parametrize('key, value, message', [
    ('gain', [200.0, np.nan], r'gain\[1\] is nan, it must be a positive number'),
    ('gain', [0.0, 100.0], r'gain\[0\] is 0.0, it must be'),
    ('gain', -200.0, r'gain\[0\] is -200.0, it must be'),
    ('zero', [0.0, np.inf], r'zero\[1\] is inf, it must be'),
    ('fs', 0.36, 'fs is 0.36, it must be a rate in Hz, 20 to 20000 for ecg'),
    ('fs', 360e3, 'fs is 360000.0, it must be'),
    ('beat_sample', [180, 360, 901], r'beat_sample\[2\] is 901, it must be .* 0 to 899'),
    ('beat_sample', [-1, 360, 540], r'beat_sample\[0\] is -1, it must be a sample'),
    ('beat_sample', [180, np.nan, 540], r'beat_sample\[1\] is nan, it must be a sample'),
    ('beat_sample', [180, 540, 360], r'beat_sample\[2\] is 360 after 540, samples must rise'),
    ('beat_sample', np.uint64([180, 540, 360]), 'beat_sample.* must rise'),
    ('beat_sample', np.array([180, 360, 540], complex), 'beat_sample is complex128 .3,., expected'),
    ('beat_aami', ['N', 'v', 'N'], r"beat_aami\[1\] is 'v', it must be one of N S V F Q"),
    ('beat_symbol', ['N', '+', 'N'], r"beat_symbol\[1\] is '\+', it must be one of N L R"),
    ('ann_sample', [500], r'ann_sample is int64 \(1,\), expected numbers \(2,\)'),
    ('ann_sample', [500, np.nan], r'ann_sample\[1\] is nan, it must be a number'),
    ('snr_db', np.nan, 'snr_db is nan, it must be a number'),
    ('noise_start', 900, 'noise_start is 900.0, it must be a sample of the signal, 0 to 899')])
def test_an_ecg_that_cannot_be_right_is_refused(tmp_path, key, value, message):
    arrays = ecg_arrays(ann_sample=np.array([100, 200]), ann_symbol=np.array(['[', ']']), snr_db=6)
    if key == 'beat_symbol':  # which decide only where no groups are given
        del arrays[1]['beat_aami']
    np.savez(tmp_path / 'bad.npz', **{**arrays[1], key: np.asarray(value)})
    with pytest.raises(ValueError, match='bad.npz: ' + message):
        list(read_npz(tmp_path / 'bad.npz'))


def test_brackets_without_their_samples_are_refused(tmp_path):
    arrays = ecg_arrays(ann_sample=np.array([100, 100]), ann_symbol=np.array(['+', '[']))[1]
    np.savez(tmp_path / 'good.npz', **arrays)
    assert next(read_npz(tmp_path / 'good.npz')).flutter_s == ((100 / 360, 2.5),)
    samples = arrays.pop('ann_sample')
    np.savez(tmp_path / 'bad.npz', **arrays)
    with pytest.raises(ValueError, match="bad.npz: key 'ann_sample' is missing"):
        list(read_npz(tmp_path / 'bad.npz'))
    del arrays['ann_symbol']
    np.savez(tmp_path / 'none.npz', **arrays, ann_sample=samples)
    assert next(read_npz(tmp_path / 'none.npz')).flutter_s == ()



def test_no_recording_at_hand_is_refused(shared_data):
    files = sorted(shared_data.rglob('*.npz'))
    assert len(files) > 70 and all([list(read_npz(path)) for path in files])


def test_a_missing_scale_is_named(tmp_path):
    arrays = imu_arrays(np.random.default_rng(6))[1]
    del arrays['acc_scale']
    np.savez(tmp_path / 'bad.npz', **arrays)
    with pytest.raises(ValueError, match="bad.npz: key 'acc_scale' is missing"):
        list(read_npz(tmp_path / 'bad.npz'))


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
