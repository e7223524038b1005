"""Healthy streams, faults in them, and what the table says; no network is needed for that."""

import json

import numpy as np
import pytest

from rule_engine import RuleCandidate
from taolora_ros import cli
from taolora_ros.evaluation import anomaly_report
from taolora_ros.evaluation.anomalies import evaluate, judge, summarise
from taolora_ros.evaluation.faults import FAULTS, inject
from taolora_ros.evaluation.trials import APART, find_trials, read_trial
from taolora_ros.recordings import save_ecg, save_imu
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import SPECS
from taolora_ros.synthetic import ecg_record, imu_recording
from taolora_ros.trained_on import TrainedOn


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Give a folder with four walks and a fall of one subject, and one ECG record."""
    folder = tmp_path_factory.mktemp('anomalies')
    save_imu(folder / 'S1.npz', [imu_recording(part, seed, subject='S1') for seed, part in
                                 enumerate(['walk', 'walk', 'fall', 'walk', 'walk', 'sit'])])
    save_ecg(folder / 'E1.npz', ecg_record(120.0, 1, veb_share=0.0, name='E1'))
    return folder


@pytest.fixture(scope='module')
def result(data):
    return evaluate(data, {kind: RuleCandidate(None, kind=kind) for kind in SPECS}, 1)


@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: fault.name)
def test_a_fault_changes_its_channel_from_its_start_on(fault):
    rng, columns = np.random.default_rng(), len(SPECS[fault.kind].channels)
    stamps, values = np.arange(1, 801) * 10**7, rng.normal(size=(800, columns))
    column = int(rng.integers(columns))
    faulty = inject(fault, column, stamps, values, int(stamps[301]), rng)
    others = np.arange(columns) != column
    assert np.array_equal(faulty[:301], values[:301])
    assert np.array_equal(faulty[:, others], values[:, others])
    assert (faulty[302:, column] != values[302:, column]).mean() > 0.95
    if 'stuck' in fault.name:
        assert (faulty[301:, column] == values[300, column]).all()


def test_activities_of_a_subject_become_one_stream_cut_in_time(data):
    trial = read_trial(data / 'S1.npz', SPECS)
    stamps = trial.samples.stamps
    lengths = [len(imu_recording(part, seed).values)
               for seed, part in enumerate(['walk', 'walk', 'fall', 'walk', 'walk', 'sit'])]
    healthy = [n for i, n in enumerate(lengths) if i != 2]
    assert len(stamps) == sum(healthy), 'the fall is left out'
    assert (np.diff(stamps) > 0).all()
    borders = np.flatnonzero(np.diff(stamps) > NANOSECONDS)
    assert len(borders) == len(healthy) - 1
    assert np.diff(stamps)[borders] == pytest.approx(APART * NANOSECONDS)
    # walking and sitting carry one code: the first recording of it is for calibrating
    assert (stamps < trial.split_ns).sum() == healthy[0]


def test_an_ecg_record_is_cut_in_the_middle(data):
    trial = read_trial(data / 'E1.npz', SPECS)
    assert (trial.split_ns - trial.samples.stamps[0]) / NANOSECONDS == pytest.approx(60)
    assert read_trial(data / 'E1.npz', {'imu': SPECS['imu']}) is None


def test_bags_are_cut_in_the_middle(shared_data):
    bag = next(path for path in find_trials(shared_data / 'bags', ('imu',)))
    trial = read_trial(bag, SPECS)
    stamps = trial.samples.stamps
    assert (trial.name, trial.source) == (bag.name, 'bags')
    assert trial.split_ns == pytest.approx((stamps[0] + stamps[-1]) / 2)


def test_faults_of_an_ecg_are_found_and_health_is_not(result):
    stream, = [s for s in result['streams'] if s['kind'] == 'ecg']
    assert stream['false_alarms'] == 0 and stream['hours'] > 30 / 3600
    found = {trial['fault']: trial for trial in stream['faults']}
    assert len(stream['faults']) == 2 * len(found)
    for name in ('lead off, input floats', 'lead off, input at the rail'):
        assert 2.0 < found[name]['delay_s'] < 7.0
        assert found[name]['blamed'] == found[name]['channel'] == 'ecg'
        assert found[name]['uncalibrated_delay_s'] is None, 'this engine has no opinion'


def test_totals_are_those_of_the_streams(result):
    assert [group['kind'] for group in result['groups']] == ['ecg', 'imu']
    for group in result['groups']:
        assert group['streams'] == 1 and not group['chosen_on']
        for row in group['faults']:
            assert 0 <= row['blamed_rightly'] <= row['found'] <= row['n']
            assert (row['delay_s_median'] is None) == (row['found'] == 0)
    assert summarise(result['streams']) == result['groups']
    json.dumps(result)


def test_the_tables_hold_every_fault(result):
    from rich.console import Console
    console = Console(width=200, record=True, file=open('/dev/null', 'w'))
    console.print(*anomaly_report.tables(result))
    text = console.export_text()
    assert all(fault.name in text for fault in FAULTS)
    assert anomaly_report.notes({**result, 'seen_in_training': 1})[-1].startswith('1 of 2 streams')


@pytest.mark.parametrize('source, seen', [('anomalies', 1), ('elsewhere', 0)])
def test_a_stream_was_seen_where_its_source_was(data, source, seen):
    trained_on = TrainedOn({source: frozenset(['E1', 'S1'])})
    told = evaluate(data, {'ecg': RuleCandidate(None, kind='ecg', trained_on=trained_on)}, 1)
    assert told['seen_in_training'] == seen and 'trained_on' not in told['models']['ecg']


def test_what_cannot_be_judged_says_why(data, tmp_path):
    with pytest.raises(ValueError, match='neither bags nor'):
        evaluate(tmp_path, {}, 1)
    with pytest.raises(ValueError, match='no stream to judge'):
        evaluate(data, {'ecg': RuleCandidate(None, kind='ecg')}, 1, frozenset(['nobody']))
    save_ecg(tmp_path / 'short.npz', ecg_record(12.0))
    with pytest.raises(ValueError, match='calibrate: windows of the last'):
        evaluate(tmp_path, {'ecg': RuleCandidate(None, kind='ecg')}, 1)


def test_a_stream_with_a_fault_from_the_start_raises_false_alarms(data):
    """The judge has to count alarms: a stream that changes after its calibration has some."""
    trial = read_trial(data / 'E1.npz', SPECS)
    trial.samples.values[trial.samples.stamps > trial.split_ns + 20 * NANOSECONDS] *= 8
    loaded = RuleCandidate(None, kind='ecg').load()
    told = judge(trial, *loaded)
    assert told['false_alarms'] >= 1 and told['anomalous_fraction'] > 0.3
    assert told['uncalibrated_false_alarms'] == 0


def test_the_command_writes_what_it_prints(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, '_candidate', lambda args, kind: RuleCandidate(None, kind=kind))
    out = tmp_path / 'a.json'
    args = ['evaluate', 'anomalies', '--data', str(data), '--processes', '1', '--only', 'E1']
    assert cli.main([*args, '--json', str(out)]) == 0
    assert 'Faults injected' in capsys.readouterr().out
    assert json.loads(out.read_text())['streams'][0]['name'] == 'E1'
    assert cli.main([*args, '--unseen']) == cli.BAD_INPUT


def test_a_stream_without_gyroscope_has_no_gyroscope_faults(data):
    trial = read_trial(data / 'S1.npz', SPECS)
    trial.samples.values[:, 3:] = np.nan
    told = judge(trial, *RuleCandidate(None, kind='imu').load())
    assert told['faults'] and not any('gyro' in f['fault'] for f in told['faults'])
