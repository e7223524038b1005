"""One table is the source of declaration, ranges, YAML and README, and refuses what is wrong."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from taolora_ros import parameters
from taolora_ros.detector import Settings
from taolora_ros.spec import ECG_BEATS, IMU_FALLS, SPECS

ROOT = Path(__file__).parents[1]
TABLE = {p.name: p for p in (*parameters.NODE, *parameters.STREAM)}


def test_yaml_is_what_the_table_says():
    written = (ROOT / 'config' / 'taolora.yaml').read_text()
    assert written == parameters.yaml_text(), \
        'run: python -m taolora_ros.parameters yaml > config/taolora.yaml'


def test_readme_holds_the_table():
    readme = ROOT / 'README.md'
    if not readme.exists():
        pytest.skip('README.md is not written yet')
    assert parameters.markdown_table() in readme.read_text(), \
        'put what python -m taolora_ros.parameters table prints into README.md'


@pytest.mark.parametrize('what, text', [('table', parameters.markdown_table()),
                                        ('yaml', parameters.yaml_text())])
def test_the_module_prints_both(what, text):
    done = subprocess.run([sys.executable, '-m', 'taolora_ros.parameters', what],
                          capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == text


def test_yaml_means_the_defaults():
    yaml = pytest.importorskip('yaml', reason='PyYAML is not installed')
    read = yaml.safe_load(parameters.yaml_text())['/**']['ros__parameters']
    assert read['streams'] == list(parameters.EXAMPLES)
    for p in parameters.NODE:
        value = p.checked(read[p.name])
        assert value == (list(p.default) if p.kind is list else p.default)
    for stream in read['streams']:
        assert parameters.checked_stream(stream, read[stream]) \
            == parameters.checked_stream(stream, {})


def test_yaml_shows_the_models_own_values():
    yaml = pytest.importorskip('yaml', reason='PyYAML is not installed')
    text = parameters.yaml_text().replace('      #', '      ').splitlines()
    names = tuple(f'      {name}:' for name in parameters.TUNABLE)
    for stream, spec in SPECS.items():
        start = next(i for i, line in enumerate(text) if line.startswith(f'    {stream}:'))
        shown = {}
        for line in text[start:]:
            if line.startswith(names) and len(shown) < len(names):
                shown.update(yaml.safe_load(line))
        assert shown == dataclasses.asdict(Settings.default(spec))


def test_live_parameters_are_the_detectors_settings():
    assert parameters.TUNABLE == tuple(field.name for field in dataclasses.fields(Settings))


def test_engines_are_those_there_are():
    engine = pytest.importorskip('taolora_ros.engine', reason='torch is not installed')
    assert TABLE['engine'].choices == engine.ENGINES


@pytest.mark.parametrize('name, value, right', [
    ('event_threshold', 1.01, '0 to 1'), ('event_threshold', float('nan'), '0 to 1'),
    ('event_threshold', 'high', '0 to 1'), ('event_threshold', True, '0 to 1'),
    ('hop', 0, '0.001 to 60 s'), ('gate', 'ajar', 'auto, open, closed'),
    ('gate', 1, 'auto, open, closed'), ('topic', 3, 'text'), ('streams', 'imu', 'names'),
    ('device', 'tpu', 'auto, cpu, cuda')])
def test_wrong_value_is_refused_with_name_value_and_what_is_right(name, value, right):
    with pytest.raises(ValueError) as error:
        TABLE[name].checked(value, f'imu.{name}')
    assert str(error.value).startswith(f'imu.{name}: {value!r}')
    assert right in str(error.value)


def test_whole_number_is_good_for_a_floating_point_one():
    value = TABLE['hop'].checked(1)
    assert value == 1.0 and isinstance(value, float)


@pytest.mark.parametrize('names, wrong', [
    ([], r'\[\]'), (['imu', 'imu'], "'imu' is there twice"), (['a.b'], "'a.b'"), ([''], "''"),
    (['device'], "'device' is what another parameter"), (['2nd'], "'2nd'")])
def test_impossible_stream_names_are_refused(names, wrong):
    with pytest.raises(ValueError, match=f'^streams: {wrong}'):
        parameters.checked_streams(names)


@pytest.mark.parametrize('missing', ['topic', 'type', 'model'])
def test_stream_without_a_default_needs_its_structure(missing):
    given = {'topic': 't', 'type': 'std_msgs/Float32', 'model': 'm'}
    assert parameters.checked_stream('emg', given)['topic'] == 't'
    for value in (None, ''):
        with pytest.raises(ValueError, match=rf'^emg\.{missing}: not given'):
            parameters.checked_stream('emg', {**given, missing: value})


def test_changes_are_judged_together_and_alter_nothing():
    before = Settings.default(IMU_FALLS)
    copy = dataclasses.replace(before)
    after = parameters.changed('imu', before, IMU_FALLS, {'event_threshold': 0.7, 'hop': 1})
    assert (after.event_threshold, after.hop) == (0.7, 1.0)
    for changes in ({'event_threshold': 0.7, 'hop': 0.0001}, {'hop': 0.011}):
        with pytest.raises(ValueError, match=r'^imu\.hop: 0\.0'):
            parameters.changed('imu', before, IMU_FALLS, changes)
    assert before == copy


@pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS])
def test_the_models_own_settings_are_within_the_ranges(spec):
    own = Settings.default(spec)
    assert parameters.changed('s', own, spec, dataclasses.asdict(own)) == own


def test_unknown_parameter_names_the_most_similar_one():
    names = ['imu.event_treshold', 'imu.hop', 'use_sim_time', 'streams', 'ecg.hop',
             'qos_overrides./imu/data.subscription.depth']
    told = parameters.unknown(names, ['imu'])
    assert [sentence.split(':')[0] for sentence in told] == ['imu.event_treshold', 'ecg.hop']
    assert 'did you mean imu.event_threshold?' in told[0]
