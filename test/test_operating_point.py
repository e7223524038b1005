"""The tool that chooses the operating point of beats, on counts made by hand."""

import json
import sys
from collections import Counter

import pytest

from taolora_ros.model_file import load_model
from taolora_ros.shipped import find_model
from taolora_ros.spec import ECG_BEATS
from conftest import ROOT


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
