"""Whole evaluations of synthetic recordings through the detector, with rules as the network."""

import json

import pytest

from rule_engine import RuleCandidate
from taolora_ros.evaluation.evaluate import evaluate
from taolora_ros.synthetic import write_dataset

IMU = RuleCandidate('rules', kind='imu', trained_on=['S2'])
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
    assert result['skipped_files'] == {'holds ecg recordings': 2}


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


def test_settings_reach_the_detector(data):
    deaf = RuleCandidate('rules', kind='imu', settings={'event_threshold': 0.999})
    assert evaluate('imu', data, deaf, 1)['fall']['found'] == 0
    with pytest.raises(ValueError, match='hop'):
        evaluate('imu', data, RuleCandidate('rules', settings={'hop': 0.001}), 1)


@pytest.mark.parametrize('processes', [1, 2])
def test_errors_in_the_data_come_through_as_they_are(tmp_path, processes):
    write_dataset(tmp_path, subjects=1, records=2)
    path = tmp_path / 'ecg' / 'E2.npz'
    content = path.read_bytes()
    broken = bytearray(content)
    broken[200:400] = bytes(200)
    path.write_bytes(broken)
    with pytest.raises(ValueError, match='E2.npz: '):
        evaluate('ecg', tmp_path, ECG, processes)


def test_a_model_of_the_other_kind_is_refused(data):
    with pytest.raises(ValueError, match='rules is for ecg, not imu'):
        evaluate('imu', data, ECG, 1)
