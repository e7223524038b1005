"""The tools that choose operating points: of beats on counts made by hand, and of falls."""

import dataclasses
import json
import math
import sys
from collections import Counter

import pytest
import torch

from taolora_ros.evaluation.detection import Candidate
from taolora_ros.evaluation.evaluate import evaluate
from taolora_ros.evaluation.falls import FallCount
from taolora_ros.model_file import load_model, save_model
from taolora_ros.network import TaoNetwork
from taolora_ros.shipped import find_model
from taolora_ros.spec import ECG_BEATS, IMU_FALLS
from taolora_ros.synthetic import write_dataset
from conftest import ROOT
from tiny import tiny_spec

KEYS = ('falls', 'found', 'false_alarms', 'hours')


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import operating_point
    return operating_point


def counts(missed, false, beats=1000):
    return Counter(beat_tp=beats - missed, beat_fn=missed, beat_fp=false, beat_50ms_tp=beats,
                   veb_tp=1)


def test_the_smaller_of_sensitivity_and_ppv_decides(tool):
    errors = {0.0: (9, 1), 1.0: (4, 5), 2.0: (1, 8)}
    two = {(bias, name): counts(*errors[bias]) for bias in errors for name in 'ab'}
    assert tool.chosen(two, ['a', 'b']) == 1.0
    two[0.0, 'b'] = counts(0, 0)  # a record that is easy there
    assert tool.chosen(two, ['b']) == 0.0
    assert tool.chosen(two, ['a']) == 1.0


def test_ventricular_beats_are_chosen_by_another_rule_and_without_the_record(tool):
    def vebs(found, missed, false):
        return Counter(beat_tp=1, beat_50ms_tp=1, veb_tp=found, veb_fn=missed, veb_fp=false)

    three = {(0.0, 'a'): vebs(90, 10, 2), (-1.0, 'a'): vebs(92, 8, 5),
             (0.0, 'b'): vebs(90, 10, 2), (-1.0, 'b'): vebs(92, 8, 5),
             (0.0, 'c'): vebs(50, 50, 0), (-1.0, 'c'): vebs(0, 100, 0)}  # it alone wants 0
    assert tool.chosen(three, 'ab', 'veb', tool.f1) == 0.0
    assert tool.chosen(three, 'ab', 'veb', tool.smaller) == -1.0
    told = tool.without(three, 'veb', tool.smaller)
    assert told['biases'] == {'a': 0.0, 'b': 0.0, 'c': -1.0}
    assert told['veb']['tp'] == 180 and told['veb']['fn'] == 120
    assert [row['veb']['tp'] for row in tool.by_bias(three)] == [230, 184]
    alone = {key: vebs(1, 2, 3) for key in three}
    assert tool.by_record(three, alone, -1.0)['c'] == {
        'alone': {'tp': 1, 'fn': 2, 'fp': 3}, 'together': {'tp': 0, 'fn': 100, 'fp': 0}}
    text = tool.shown('VEB', 'veb', tool.by_bias(three), {'smaller': told})
    assert '| 0.50 | 76.67 |' in text and '| 0.73 | 61.33 |' in text
    assert text.count('\n') == 5


def test_what_ships_has_the_operating_point_of_the_table(tool):
    kept = json.loads((ROOT / 'docs' / 'results' / 'operating_point_ecg.json').read_text())
    for precision in ('int4', 'fp32'):
        assert load_model(find_model('ecg_beats'), precision).spec.bias == ECG_BEATS.bias
        beats = {row['bias']: row['beat'] for row in kept[precision]['biases']}
        best = max(beats, key=lambda bias: min(beats[bias]['se'], beats[bias]['ppv']))
        assert best == ECG_BEATS.bias[0]
    assert 'operating_point' in sys.modules


@pytest.fixture
def falls_tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import operating_point_falls
    return operating_point_falls


def test_falls_are_chosen_without_the_wearer_by_the_fewest_errors(falls_tool):
    def of(found, false):
        return [FallCount('w', True, 60.0, True, 0)] * found + (
            [FallCount('w', True, 60.0, False, 0)] * (9 - found)) + (
            [FallCount('w', False, 60.0, False, 1)] * false)

    counts = {(0.5, 'a'): of(9, 3), (0.9, 'a'): of(7, 0), (0.5, 'b'): of(9, 3),
              (0.9, 'b'): of(7, 0), (0.5, 'c'): of(9, 0), (0.9, 'c'): of(2, 0)}
    assert falls_tool.chosen(counts, 'ab') == 0.9 and falls_tool.chosen(counts, 'abc') == 0.5
    assert falls_tool.chosen({**counts, (0.6, 'c'): of(9, 0), (0.5, 'c'): of(9, 0)}, 'c') == 0.5
    told = falls_tool.without(counts)
    assert told['probabilities'] == {'a': 0.5, 'b': 0.5, 'c': 0.9}
    assert (told['found'], told['falls'], told['false_alarms']) == (20, 27, 6)
    rows = falls_tool.as_rows({'probabilities': [{'probability': 0.5, **told}],
                               'chosen_without': told})
    assert rows[0][-1] == 'w: per hour'
    assert rows[1][:4] == ['0.50', '20', '74.07', '6'] == rows[1][:1] + rows[2][5:8]


def test_falls_at_an_operating_point_are_those_of_a_model_that_has_it(
        falls_tool, monkeypatch, tmp_path, capsys):
    probabilities = (0.35, 0.45, 0.5, 0.55, 0.65)
    data, folds = tmp_path / 'data', tmp_path / 'folds'
    write_dataset(data, seed=7, subjects=2, records=0)
    folds.mkdir()
    monkeypatch.setattr(falls_tool, 'PROBABILITIES', probabilities)
    wanted = Counter()
    for number, subject in enumerate(sorted(path.stem for path in data.rglob('*.npz'))):
        torch.manual_seed(number)
        network = TaoNetwork(tiny_spec(IMU_FALLS)).eval()
        path = folds / f'imu_falls.fold{number}.safetensors'
        for at in probabilities:
            spec = dataclasses.replace(tiny_spec(IMU_FALLS), bias=(math.log((1 - at) / at),))
            save_model(path, spec, network, torch.ones(network.features), {'left_out': [subject]},
                       {})
            told = evaluate('imu', data, Candidate(path, 'fp32', device='cpu'), 1,
                            only=frozenset([subject]))['fall']
            wanted.update({(at, key): told[key] for key in KEYS})
    assert falls_tool.main([str(data), str(folds), str(tmp_path / 'told.json'), 'fp32']) == 0
    told = json.loads((tmp_path / 'told.json').read_text())
    assert {(row['probability'], key): row[key] for row in told['probabilities']
            for key in KEYS} == pytest.approx(dict(wanted))
    assert len({wanted[at, 'found'] + wanted[at, 'false_alarms'] for at in probabilities}) > 1
    assert '| 0.35 | ' in capsys.readouterr().out
