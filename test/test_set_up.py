"""tools/set_up.py: what is done again and when; tools/ros_environment.py: what is completed."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def set_up(tmp_path, monkeypatch):
    """Give the module with its state in a temporary folder."""
    module = load('set_up')
    monkeypatch.setattr(module, 'STATE', tmp_path)
    return module


@pytest.fixture
def wheels_machine(monkeypatch):
    """Pretend to be where the wheels are for, with no ROS 2 sourced."""
    monkeypatch.delenv('ROS_DISTRO', raising=False)
    monkeypatch.setattr('platform.system', lambda: 'Linux')
    monkeypatch.setattr('platform.machine', lambda: 'x86_64')


def make_step(set_up, inputs):
    """Make a step that depends on inputs['value']; return it and the list of its calls."""
    calls = []

    @set_up.depends_on(lambda ros: inputs['value'])
    def invented(ros):
        """Do it for {ros}"""
        if inputs['value'] == 'bad':
            raise set_up.SetUpError('broken')
        calls.append(ros)

    return invented, calls


def test_step_is_done_once_and_again_when_its_inputs_change(set_up):
    inputs = {'value': 'a'}
    step, calls = make_step(set_up, inputs)
    assert set_up.perform(step, '1/1', 'x', force=False)
    assert not set_up.perform(step, '1/1', 'x', force=False)
    inputs['value'] = 'b'
    assert set_up.perform(step, '1/1', 'x', force=False)
    assert set_up.perform(step, '1/1', 'x', force=True)
    assert len(calls) == 3


def test_step_that_failed_is_done_again(set_up):
    inputs = {'value': 'good'}
    step, calls = make_step(set_up, inputs)
    set_up.perform(step, '1/1', 'x', force=False)
    inputs['value'] = 'bad'
    with pytest.raises(set_up.SetUpError, match='broken'):
        set_up.perform(step, '1/1', 'x', force=False)
    # Half done is not done, not even for the inputs that were fine before.
    inputs['value'] = 'good'
    assert set_up.perform(step, '1/1', 'x', force=False)
    assert len(calls) == 2


def test_digest_sees_contents_and_names(set_up, tmp_path, monkeypatch):
    monkeypatch.setattr(set_up, 'ROOT', tmp_path)
    one, other = tmp_path / 'one', tmp_path / 'other'
    one.write_text('a')
    first = set_up.digest(one)
    one.write_text('b')
    assert set_up.digest(one) != first
    one.rename(other)
    other.write_text('a')
    assert set_up.digest(other) != first


def test_failing_command_shows_the_end_of_its_log(set_up):
    with pytest.raises(set_up.SetUpError, match='(?s)thing failed.*thing.log.*the reason'):
        set_up.run('thing', ['sh', '-c', 'echo the reason; exit 3'])


def test_wheels_are_used_where_no_ros_is_sourced(set_up, wheels_machine):
    assert set_up.choose_ros('jazzy') == 'jazzy wheels'


def test_machine_without_wheels_is_told_to_source_ros(set_up, wheels_machine, monkeypatch):
    monkeypatch.setattr('platform.machine', lambda: 'aarch64')
    with pytest.raises(set_up.SetUpError, match='aarch64: source a ROS 2 environment'):
        set_up.choose_ros('jazzy')


def test_environment_of_a_sourced_ros_stays_in_use(set_up, wheels_machine, tmp_path):
    made_with = f'sourced humble at {tmp_path}'
    (tmp_path / 'environment').write_text(json.dumps({'ros': made_with}))
    assert set_up.choose_ros('jazzy') == made_with


def test_sourced_ros_of_another_python_is_refused(set_up, monkeypatch, tmp_path):
    monkeypatch.setenv('ROS_DISTRO', 'humble')
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    monkeypatch.setattr(set_up, 'base_python', lambda: 'false')
    with pytest.raises(set_up.SetUpError, match='humble is sourced, but false .* make PYTHON='):
        set_up.choose_ros('jazzy')


@pytest.mark.parametrize('wanted', ['foxy', 'sourced', 'Jazzy', ''])
def test_unknown_distribution_names_those_with_pins(set_up, wheels_machine, wanted):
    with pytest.raises(set_up.SetUpError, match=f'ROS={wanted}: .* ROS=jazzy or ROS=kilted, or'):
        set_up.choose_ros(wanted)


def test_refused_distribution_leaves_the_environment_alone(set_up, wheels_machine, monkeypatch,
                                                           capsys):
    monkeypatch.setattr('sys.argv', ['set_up.py', '--ros', 'foxy'])
    monkeypatch.setattr(set_up, 'perform', lambda *_, **__: pytest.fail('a step was done'))
    assert set_up.main() == 1
    assert capsys.readouterr().err.startswith('set-up: ROS=foxy: ')


def test_pins_of_each_distribution_are_of_that_one_alone(set_up):
    for distribution in ('jazzy', 'kilted'):
        *_, file = set_up.requirements(f'{distribution} wheels')
        names = re.findall(r'(?m)^ros-([a-z]+)-', file.read_text())
        assert set(names) == {distribution, 'ament'}  # ros-ament-package has no other name


def test_include_paths_of_the_build_machine_are_rewritten(set_up, monkeypatch, tmp_path):
    monkeypatch.setattr(set_up, 'VENV', tmp_path)
    exported = tmp_path / 'share' / 'some_msgs' / 'cmake' / 'export.cmake'
    exported.parent.mkdir(parents=True)
    exported.write_text('INCLUDES "/opt/python/cp311-cp311/include/python3.11;/opt/python/'
                        'cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"')
    monkeypatch.setattr(set_up, 'PYTHON', sys.executable)
    set_up.correct_exported_includes()
    folders = exported.read_text().split('"')[1].split(';')
    assert len(folders) == 2
    assert (Path(folders[0]) / 'Python.h').exists()
    assert (Path(folders[1]) / 'numpy' / 'arrayobject.h').exists()


def test_missing_paths_are_put_first_and_present_ones_left():
    complete = load('ros_environment').complete
    recorded = {'paths': {'LD_LIBRARY_PATH': ['/a', '/b']}, 'values': {'ROS_DISTRO': 'humble'}}
    bare = complete({}, recorded)
    assert bare == {'LD_LIBRARY_PATH': '/a:/b', 'ROS_DISTRO': 'humble'}
    assert complete(bare, recorded) == bare
    mixed = complete({'LD_LIBRARY_PATH': '/c:/b', 'ROS_DISTRO': 'kilted'}, recorded)
    assert mixed == {'LD_LIBRARY_PATH': '/a:/c:/b', 'ROS_DISTRO': 'kilted'}


@pytest.mark.parametrize('environment', [
    {},
    # What the wheels' own start-up would take for done.
    {'_ROS_WHEELS_BOOTSTRAP_COMPLETE': '1', 'LD_LIBRARY_PATH': '/somewhere/else'},
    {**os.environ, 'LD_LIBRARY_PATH': ''},
], ids=['nothing set', 'left by another environment', 'child with its paths taken away'])
def test_python_of_the_environment_needs_nothing_sourced(environment, ros, tmp_path):
    if Path(sys.prefix) != ROOT / '.venv':
        pytest.skip(f'{sys.prefix} is not what `make setup` makes')
    command = ('import rclpy, taolora_msgs.msg, os; rclpy.init(); '
               'print(os.environ["AMENT_PREFIX_PATH"])')
    done = subprocess.run([sys.executable, '-c', command], text=True, capture_output=True,
                          timeout=60, env={**environment, 'HOME': str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(sys.prefix)
