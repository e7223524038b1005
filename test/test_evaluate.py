"""Whole evaluations of synthetic recordings through the detector, with rules as the network."""

import json
import shutil

import numpy as np
import pytest

from rule_engine import RuleCandidate
from taolora_ros import cli
from taolora_ros.evaluation.evaluate import evaluate
from taolora_ros.evaluation.report import notes
from taolora_ros.recordings import find_files, load_recordings
from taolora_ros.synthetic import write_dataset
from taolora_ros.trained_on import TrainedOn

IMU = RuleCandidate('rules', kind='imu',
                    trained_on=TrainedOn.of({'subjects': ['S2']}))
ECG = RuleCandidate('rules', kind='ecg')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    write_dataset(folder, seed=7, subjects=2, records=2)
    return folder


def comparable(result):
    return json.dumps({key: value for key, value in result.items() if key != 'seconds'})


def test_falls_are_found_and_the_result_has_the_promised_keys(data):
    result = json.loads(json.dumps(evaluate('imu', data, IMU, processes=1)))
    fall = result['fall']
    assert fall['falls'] == 4 and fall['se'] == 1.0 and fall['false_alarms_per_hour'] == 0.0
    assert fall['hours'] == pytest.approx(
        sum(entry['duration_s'] for entry in result['recordings']) / 3600)
    assert len(result['recordings']) == 14 and result['seen_in_training'] == 7
    assert 0 < result['transient_fraction'] < 1
    assert result['skipped_files'] == {'damaged': {}, 'not_of_kind': {
        str(data / 'ecg' / f'E{i}.npz'): 'holds ecg recordings' for i in (1, 2)}}


def test_beats_are_found_and_the_result_has_the_promised_keys(data):
    result = json.loads(json.dumps(evaluate('ecg', data, ECG, processes=1)))
    for key, least in (('beat', 0.97), ('beat_50ms', 0.97), ('veb', 0.85)):
        figures = result[key]
        assert figures['se'] >= least and figures['ppv'] >= least and figures['n'] > 10, result[key]
    assert [entry['name'] for entry in result['recordings']] == ['E1', 'E2']
    assert result['beat']['n'] == sum(entry['beat']['n'] for entry in result['recordings'])


def test_two_processes_find_what_one_finds(data):
    done = []
    one = evaluate('imu', data, IMU, processes=1)
    two = evaluate('imu', data, IMU, processes=2,
                   progress=lambda *state: done.append(state[:2]))
    assert comparable(one) == comparable(two)
    assert done == [(1, 2), (2, 2)]


def test_subjects_can_be_chosen(data):
    def subjects(**options):
        result = evaluate('imu', data, IMU, 1, **options)
        return {entry['subject'] for entry in result['recordings']}
    assert subjects(only=frozenset(['S2'])) == {'S2'}
    assert subjects(unseen=True) == {'S1'}
    with pytest.raises(ValueError, match='no recording left .* S2 that the model was not trained'):
        subjects(only=frozenset(['S2']), unseen=True)
    partly = evaluate('imu', data, IMU, 1, only=frozenset(['S2', 'S9']))
    assert partly['not_judged'] == ['S9']
    assert 'asked for with --only and not judged: S9' in notes(partly)


def test_somebody_of_the_same_name_elsewhere_is_somebody_else(data, tmp_path):
    def judged(folder, unseen, **sources):
        model = RuleCandidate('rules', kind='imu', trained_on=TrainedOn.of(
            {'subjects': ['S1', 'S2'], 'sources': sources}))
        result = evaluate('imu', folder, model, 1, unseen=unseen)
        subjects = {entry['subject'] for entry in result['recordings']}
        return subjects, result['seen_in_training'], result['namesakes'], notes(result)
    folder = tmp_path / 'IMU-2'
    shutil.copytree(data / 'imu', folder)
    told = 'IMU-2 has subjects or records of the same names as clinic, on which'
    for unseen in (False, True):
        subjects, seen, namesakes, lines = judged(folder, unseen, clinic=['S1'], imu=['S2'])
        assert namesakes == {'IMU-2': ['clinic']} and any(line.startswith(told) for line in lines)
        assert subjects == ({'S1'} if unseen else {'S1', 'S2'}) and seen == (0 if unseen else 7)
    assert judged(folder, False, imu=['S1', 'S2'])[1:3] == (14, {})
    assert judged(folder, False, clinic=['S1'])[1:3] == (7, {'IMU-2': ['clinic']})  # S2: unknown
    assert judged(folder, False, clinic=['S1', 'S2'])[1] == 0


def test_settings_reach_the_detector(data):
    deaf = RuleCandidate('rules', kind='imu', settings={'event_threshold': 0.999})
    assert evaluate('imu', data, deaf, 1)['fall']['found'] == 0
    with pytest.raises(ValueError, match='hop'):
        evaluate('imu', data, RuleCandidate('rules', settings={'hop': 0.001}), 1)


def spoil(path):
    """Damage a signal in a file, so that its keys can still be read."""
    broken = bytearray(path.read_bytes())
    broken[200:400] = bytes(200)
    path.write_bytes(broken)


@pytest.mark.parametrize('processes', [1, 2])
def test_damaged_files_are_left_out_and_named(tmp_path, processes):
    write_dataset(tmp_path, subjects=1, records=3)
    folder = tmp_path / 'ecg'
    spoil(folder / 'E2.npz')
    (folder / 'E0.npz').write_bytes(b'PK and then nothing')
    arrays = dict(np.load(folder / 'E1.npz'))
    np.savez(folder / 'E4.npz', **{**arrays, 'gain': -arrays['gain']})
    result = evaluate('ecg', tmp_path, ECG, processes)
    assert [entry['name'] for entry in result['recordings']] == ['E1', 'E3']
    skipped = result['skipped_files']
    assert list(skipped['damaged']) == [str(folder / f'E{i}.npz') for i in (0, 2, 4)]
    assert [reason.split(':')[0] for reason in skipped['damaged'].values()] == [
        'not a readable .npz file', 'cannot be decoded',
        f'gain[0] is {-arrays["gain"][0]}, it must be a positive number']
    assert list(skipped['not_of_kind'].values()) == ['holds imu recordings']
    assert f'damaged, left out: {folder / "E2.npz"}: cannot be decoded' in '\n'.join(notes(result))


def test_the_exit_code_tells_of_damaged_files(tmp_path, monkeypatch, capsys):
    write_dataset(tmp_path, subjects=1, records=2)
    monkeypatch.setattr(cli, '_candidate', lambda args, kind: ECG)
    call = ['evaluate', 'ecg', '--data', str(tmp_path), '--processes', '1', '--json',
            str(tmp_path / 'result.json')]
    assert cli.main(call) == 0
    spoil(tmp_path / 'ecg' / 'E2.npz')
    assert cli.main(call) == cli.DAMAGED == 1
    assert 'E2.npz: cannot be decoded' in capsys.readouterr().out.replace('\n', '')
    kept = json.loads((tmp_path / 'result.json').read_text())
    assert kept['records'] == 1 and list(kept['skipped_files']['damaged']) == [
        str(tmp_path / 'ecg' / 'E2.npz')]
    call[3] = str(tmp_path / 'ecg' / 'E2.npz')
    assert cli.main(call) == cli.BAD_INPUT


def test_damage_ends_training_and_folds(tmp_path):
    write_dataset(tmp_path, subjects=1, records=2)
    spoil(tmp_path / 'ecg' / 'E2.npz')
    with pytest.raises(ValueError, match='E2.npz: cannot be decoded'):
        list(load_recordings(tmp_path, 'ecg'))
    (tmp_path / 'ecg' / 'E2.npz').write_bytes(b'PK and then nothing')
    with pytest.raises(ValueError, match='E2.npz: not a readable'):
        find_files(tmp_path, 'ecg')


def test_of_a_file_that_is_damaged_further_on_nothing_is_judged(tmp_path):
    write_dataset(tmp_path, subjects=2, records=1)
    arrays = dict(np.load(tmp_path / 'imu' / 'S2.npz'))
    peaks = arrays['peak_index_derived'].copy()
    peaks[-1] = 10**6
    arrays['is_fall'][-1] = True
    np.savez(tmp_path / 'imu' / 'S2.npz', **{**arrays, 'peak_index_derived': peaks})
    result = evaluate('imu', tmp_path, IMU, 1)
    assert {entry['subject'] for entry in result['recordings']} == {'S1'}
    assert list(result['skipped_files']['damaged']) == [str(tmp_path / 'imu' / 'S2.npz')]


@pytest.mark.parametrize('fault', [spoil, lambda path: path.write_bytes(b'PK and then nothing')])
def test_damaged_files_alone_are_an_error(tmp_path, fault):
    write_dataset(tmp_path, subjects=1, records=2)
    fault(tmp_path / 'ecg' / 'E2.npz')
    with pytest.raises(ValueError, match=r'^\S+E2.npz: (cannot be decoded|not a readable)'):
        evaluate('ecg', tmp_path / 'ecg' / 'E2.npz', ECG, 1)
    fault(tmp_path / 'ecg' / 'E1.npz')
    with pytest.raises(ValueError, match='no .*recording.*E1.npz: .*E2.npz: '):
        evaluate('ecg', tmp_path / 'ecg', ECG, 1)


def test_a_model_of_the_other_kind_is_refused(data):
    with pytest.raises(ValueError, match='rules is for ecg, not imu'):
        evaluate('imu', data, ECG, 1)
