"""Files of recordings that cannot be right are refused, and only these."""

import numpy as np
import pytest
from packed import delta, ecg_arrays, imu_arrays

from taolora_ros.recordings import find_files, read_npz


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
