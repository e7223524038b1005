"""The demo plays its recordings to a real node and says what was found, or why nothing was."""

import re
import subprocess
import sys

import pytest

import running_node  # noqa: F401  skips where ROS, torch or the models are missing


def demo(*arguments):
    return subprocess.run([sys.executable, '-m', 'taolora_ros.demo', *arguments],
                          capture_output=True, text=True, timeout=240)


def row(output, name):
    """Return found, annotated and false of one row of the closing table."""
    line = next(line for line in output.splitlines() if f'│ {name}' in line)
    return [int(number) for number in re.findall(r'\d+', line)]


def test_demo_finds_what_is_annotated():
    done = demo()
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'synthetic' in done.stdout and 'ODC-By' in done.stdout
    found, annotated, false = row(done.stdout, 'falls')
    assert found >= 2 and annotated == 3 and false == 0
    for name, share in (('heart beats', 0.98), ('ventricular beats', 0.85)):
        found, annotated, false = row(done.stdout, name)
        assert found >= share * annotated and false <= (1 - share) * annotated


@pytest.mark.parametrize('arguments, reason', [
    (('-p', 'imu.model:=nothing'), "imu.model: 'nothing'"),
    (('-p', 'imu.event_threshold:=1.0', '-p', 'ecg.event_threshold:=1.0'), '0 events arrived')])
def test_demo_without_events_fails_and_says_why(arguments, reason):
    done = demo(*arguments)
    assert done.returncode == 1
    assert reason in done.stdout and 'Traceback' not in done.stdout + done.stderr
