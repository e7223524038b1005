"""Tables beside the plain evaluation, with rules or tiny networks as the models."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from rule_engine import RuleCandidate
from taolora_ros.cli import main
from taolora_ros.evaluation.delays import Replay, by_delay
from taolora_ros.evaluation.detection import Candidate, detect
from taolora_ros.evaluation.evaluate import Choice, evaluate
from taolora_ros.evaluation.excerpts import excerpt
from taolora_ros.evaluation.panel import Panel, find_folds
from taolora_ros.evaluation.peers import PEERS, Peer
from taolora_ros.evaluation.signals import CHANGES, Change, changed
from taolora_ros.evaluation.report import percent
from taolora_ros.evaluation.studies import Study, run
from taolora_ros.evaluation.studies_command import cells
from taolora_ros.model_file import save_model
from taolora_ros.network import TaoNetwork
from taolora_ros.recordings import find_files, load_recordings, read_npz
from taolora_ros.spec import ECG_BEATS
from taolora_ros.synthetic import write_dataset
from taolora_ros.trained_on import TrainedOn
from tiny import tiny_models, tiny_spec

ECG = RuleCandidate('rules', kind='ecg')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    write_dataset(folder, seed=11, subjects=2, records=2)
    return folder


@pytest.fixture(scope='module')
def record(data):
    return next(load_recordings(data, 'ecg'))


def fold(folder, number, left_out, spec=tiny_spec(ECG_BEATS), name='m'):
    """Write a model that says whom it left out."""
    torch.manual_seed(number)
    network = TaoNetwork(spec).eval()
    path = folder / f'{name}.fold{number}.safetensors'
    save_model(path, spec, network, torch.ones(network.features), {'left_out': left_out}, {})
    return path


def test_what_all_folds_left_out_is_judged_by_none(tmp_path):
    paths = [fold(tmp_path, 0, ['E1', 'other']), fold(tmp_path, 1, ['E2', 'other']),
             fold(tmp_path, 2, [])]
    assert find_folds(tmp_path, 'ecg') == {'E1': paths[0], 'E2': paths[1]}
    fold(tmp_path, 3, ['other'])  # one that is no fold of theirs
    with pytest.raises(ValueError, match='other was left out by m.fold0.* and by m.fold1'):
        find_folds(tmp_path, 'ecg')


@pytest.mark.parametrize('source, taken', [('ecg', False), ('elsewhere', True)])
def test_a_study_of_the_unseen_goes_by_source_and_name(record, source, taken):
    trained_on = TrainedOn({source: frozenset([record.subject])})
    study = Study('delay', Panel(ECG), Choice(None, trained_on, unseen=True))
    assert study._takes(record) == taken


def test_each_record_has_the_fold_that_left_it_out(tmp_path, record):
    paths = [fold(tmp_path, 0, ['E1']), fold(tmp_path, 1, ['E2', '118'])]
    fold(tmp_path, 2, ['E1'], spec=tiny_spec(), name='falls')
    folds = find_folds(tmp_path, 'ecg')
    assert folds == {'E1': paths[0], 'E2': paths[1], '118': paths[1]}
    panel = Panel(Candidate(tmp_path / 'no', device='cpu'), folds)
    noisy = dataclasses.replace(record, subject='118e06', snr_db=6.0)
    weights = [panel.load(one)[1]._network.embed.weight for one in (record, noisy, record)]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
    stranger = dataclasses.replace(record, subject='118e06')  # no noise was added: a name
    assert not panel.knows(stranger)
    with pytest.raises(ValueError, match='no model of the folds has left it out'):
        panel.load(stranger)
    fold(tmp_path, 3, ['E2'])
    with pytest.raises(ValueError, match='E2 was left out by m.fold1.* and by m.fold3'):
        find_folds(tmp_path, 'ecg')
    with pytest.raises(ValueError, match='no .* of imu that has left somebody out'):
        find_folds(tmp_path / 'empty', 'imu')


def test_evaluation_by_folds_is_that_of_each_model_on_its_own(tmp_path, data):
    paths = [fold(tmp_path, 0, ['E1']), fold(tmp_path, 1, ['E2'])]
    settings = {'event_threshold': 0.2}  # they are untrained
    together = evaluate('ecg', data, Candidate(paths[0], settings=settings), 1,
                        folds=find_folds(tmp_path, 'ecg'))
    alone = [evaluate('ecg', data, Candidate(path, settings=settings), 1, frozenset([name]))
             for path, name in zip(paths, ('E1', 'E2'))]
    assert together['recordings'] == [one['recordings'][0] for one in alone]
    assert together['model']['folds'] == [path.name for path in paths]


def test_peers_are_scored_like_ours(data):
    beats = {r.values[0, r.lead()]: r.beat_times_s for r in load_recordings(data, 'ecg')}

    def exact(lead, rate):
        return np.round(beats[lead[0]] * rate).astype(int)

    def late(lead, rate):
        return exact(lead, rate) + round(0.1 * rate)

    peers = (Peer('exact', 'numpy', lambda: exact), Peer('late', 'numpy', lambda: late))
    rows = run(Study('peers', Panel(ECG), peers=peers), find_files(data, 'ecg'), 1)
    assert [row['name'] for row in rows] == ['ours', 'exact', 'late']
    plain = evaluate('ecg', data, ECG, 1)
    assert all(rows[0][key] == plain[key] for key in ('beat', 'beat_50ms', 'veb', 'hours'))
    assert [row['beat_50ms']['se'] for row in rows[1:]] == [1.0, 0.0]
    assert all(row['veb'] == {**dict.fromkeys(plain['veb']), 'n': plain['veb']['n']}
               for row in rows[1:]) and plain['veb']['n'] > 0
    assert cells(rows[1])[5:9] == [str(plain['veb']['n']), '-', '-', '-']
    assert cells(rows[0])[6] == percent(plain['veb']['se']) != '-'
    assert rows[2]['beat']['se'] > 0.99 and rows[0]['cpu_s_per_hour'] > rows[1]['cpu_s_per_hour']


def test_a_peer_that_is_not_there_says_so():
    assert Peer('x', 'no_such_package', None).fault == 'no_such_package is not installed'

    def broken():
        import no_such_dependency  # noqa: F401
    assert 'numpy does not import' in Peer('x', 'numpy', broken).fault
    assert len({peer.name for peer in PEERS}) == len(PEERS)


def test_only_what_comes_after_the_noise_began_is_scored(tmp_path, data):
    path = next(path for path in find_files(data, 'ecg'))
    arrays = dict(np.load(path))
    start = round(10.1 * float(arrays['fs']))
    np.savez(tmp_path / 'n.npz', **{**arrays, 'snr_db': 6.0, 'noise_start': start,
                                    'record': 'E1e06'})
    record = next(read_npz(tmp_path / 'n.npz'))
    rows = run(Study('noise', Panel(ECG)), [tmp_path / 'n.npz'], 1)
    assert [row['name'] for row in rows] == ['ours, 6 dB']
    assert rows[0]['beat']['n'] == int((record.beat_times_s >= 10.1).sum()) > 5
    assert rows[0]['beat']['fp'] <= 1
    assert rows[0]['hours'] == pytest.approx((record.duration_s - 10.1) / 3600, rel=1e-3)
    with pytest.raises(ValueError, match='noise: no recording left to judge'):
        run(Study('noise', Panel(ECG)), [path], 1)


@pytest.mark.parametrize('change', [Change('over', sign=-1.0), Change('slow', rate=125.0),
                                    Change('odd', rate=501.3)])
def test_a_changed_signal_has_its_beats_where_they_were(record, change):
    other = changed(record, change)
    lead = record.values[:, record.lead()]
    assert other.rate == (change.rate or record.rate) and other.values.shape[1] == 1
    assert other.duration_s == pytest.approx(record.duration_s, abs=2 / other.rate)
    time = np.arange(len(other.values)) / other.rate
    wanted = change.sign * np.interp(time, np.arange(len(lead)) / record.rate, lead)
    inner = slice(len(time) // 20, -len(time) // 20)
    assert np.corrcoef(wanted[inner], other.values[inner, 0])[0, 1] > 0.97
    assert np.array_equal(other.beat_times_s, record.beat_times_s)


def test_a_changed_sensor_reads_what_its_name_says(data):
    recording = next(r for r in load_recordings(data, 'imu') if r.is_fall)
    acc, gyro = recording.values[:, :3], recording.values[:, 3:]
    made = {change.name: changed(recording, change) for change in CHANGES['imu']}
    assert np.array_equal(made['as recorded'].values, recording.values)
    assert np.isnan(made['acceleration only'].values[:, 3:]).all()
    assert np.array_equal(made['acceleration only'].values[:, :3], acc)
    turned = made['turned at random'].values
    assert not np.allclose(turned, recording.values, atol=1.0)
    for before, after in ((acc, turned[:, :3]), (gyro, turned[:, 3:])):
        assert np.allclose(np.linalg.norm(before, axis=1), np.linalg.norm(after, axis=1))
    product = (turned[:, :3] * turned[:, 3:]).sum(1)  # both turned alike
    assert np.allclose(product, (acc * gyro).sum(1))
    other = changed(dataclasses.replace(recording, name='other'), Change('x', turned=True))
    assert not np.allclose(other.values, turned, atol=1.0)
    railed = changed(recording, Change('x', rail=1.1)).values
    assert np.abs(railed[:, :3]).max() == pytest.approx(1.1 * 9.80665)
    assert np.abs(acc).max() > 1.5 * 9.80665
    assert np.array_equal(railed[:, 3:], gyro)
    for rate in (40, 50, 200):
        one = made[f'{rate} Hz']
        assert one.rate == rate and one.duration_s == pytest.approx(recording.duration_s, abs=0.1)
        peak = np.linalg.norm(one.values[:, :3], axis=1).argmax() / rate
        assert peak == pytest.approx(one.fall_time_s, abs=0.1)
    stamps = made['in bursts of 0.1 s'].stamps / 1e9
    assert len(stamps) == len(acc) and (np.diff(stamps) > 0).all()
    assert np.isclose(np.diff(stamps), 0.001).mean() == pytest.approx(0.9, abs=0.02)
    late = stamps - np.arange(1, len(acc) + 1) / recording.rate
    assert (late > -1e-6).all() and late.max() < 0.1
    even = made['in bursts of 0.1 s, evened out'].stamps / 1e9
    settled = even[2 * round(recording.rate):]
    assert np.diff(settled) == pytest.approx(1 / recording.rate, rel=0.15)  # in bursts 1 ms
    assert np.abs(even - stamps).max() < 0.1
    phone = next(values for name, values in made.items() if 'phone' in name).values
    assert np.isnan(phone[:, 3:]).all() and np.abs(phone[:, :3]).max() <= 2 * 9.80665
    assert np.array_equal(phone[:, :3], turned[:, :3].clip(-2 * 9.80665, 2 * 9.80665))


def test_falls_are_judged_as_a_sensor_without_its_gyroscope_sees_them(data):
    rows = run(Study('signals', Panel(RuleCandidate('rules', kind='imu'))),
               find_files(data, 'imu'), 1)
    assert [row['name'] for row in rows] == [change.name for change in CHANGES['imu']]
    plain = evaluate('imu', data, RuleCandidate('rules', kind='imu'), 1)
    assert rows[0]['fall'] == rows[1]['fall'] == plain['fall']  # the rules read no gyroscope
    assert plain['fall']['found'] > 0
    blunt = next(row for row in rows if row['name'] == 'range of 4 g')
    assert blunt['recordings'] == rows[0]['recordings'] == len(plain['recordings'])


def test_waits_grow_with_the_delay_and_events_are_those_of_the_detector(record):
    runs = []

    class Counted:
        def run(self, windows, gates):
            runs.append(len(windows))
            return engine.run(windows, gates)

    spec, engine, settings = ECG.load()
    waits, windows = {}, []
    for delay, found in by_delay(record, spec, Counted(), settings, (0.3, 0.96, 1.5)):
        plain = detect(record, spec, engine, dataclasses.replace(settings, delay=delay))
        assert tuple((label, time) for label, time, _ in found) == plain.events
        each = np.array([wait for *_, wait in found])
        waits[delay] = np.median(each[np.isfinite(each)])
        windows.append(sum(runs))
        assert np.isnan(each).sum() <= 6  # those that the end of the recording brings
        assert (each[np.isfinite(each)] > delay).all()
    assert windows[0] > 0 and len(set(windows)) == 1, 'the engine ran once'
    assert np.allclose(np.diff(list(waits.values())), [0.66, 0.54], atol=0.13)
    replay = Replay(engine)
    shape = (2, spec.window, 1)
    replay.run(np.zeros(shape, np.float32), np.zeros((2, spec.tokens), bool))
    replay.rewind()
    with pytest.raises(ValueError, match='replay'):
        replay.run(np.ones(shape, np.float32), np.zeros((2, spec.tokens), bool))


def test_excerpt_holds_the_annotations_in_it(record):
    part = excerpt(record, 20.0)
    begin = max(min(300.0, record.duration_s - 20.0), 0.0)
    inside = (record.beat_times_s >= begin) & (record.beat_times_s < begin + 20.0)
    assert part.duration_s == pytest.approx(20.0, abs=0.01)
    assert np.allclose(part.beat_times_s + begin, record.beat_times_s[inside], atol=0.01)
    assert list(part.beat_aami) == list(record.beat_aami[inside])


def test_commands_print_and_write_their_rows(tmp_path, data, capsys):
    model, out = tiny_models(tmp_path), tmp_path / 'rows.json'
    always = ['--data', str(data), '--model', str(model), '--processes', '1']
    assert main(['evaluate', 'delay', 'imu', *always, '--delays', '0.24', '--only', 'S1',
                 '--json', str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [row['name'] for row in rows] == ['0.24 s', '0.4 s (default)']
    assert {'fall', 'hours', 'recordings'} <= set(rows[0])
    said = capsys.readouterr().out
    assert '0.4 s (default)' in said and 'may have been trained on them' in said
    for arguments, message in ((['peers', 'imu'], 'peers: of what? ecg goes behind it'),
                               (['delay'], 'delay: of what? imu or ecg'),
                               (['delay', 'imu', '--delays', 'x'], '--delays: '),
                               (['delay', 'imu', '--minutes', '3'], '--minutes: 3'),
                               (['signals', 'ecg'], 'is for imu, not ecg')):
        assert main(['evaluate', *arguments, *always]) == 2
        assert message in capsys.readouterr().err
