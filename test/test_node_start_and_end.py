"""The node as a process: how it starts, ends, is killed, and says why it cannot start."""

import re
import signal
import time
from pathlib import Path

import pytest
from playing import SECOND, blocks, excerpt, play, quiet
from running_node import COMMAND, NodeProcess, reliable, wait_for

from taolora_msgs.msg import Biosignal, Event

from taolora_ros.conversions import nanoseconds


def handles(node, number):
    """Tell whether the process of a node has a handler of its own for a signal."""
    status = Path(f'/proc/{node.process.pid}/status').read_text()
    return int(re.search(r'SigCgt:\s*(\w+)', status)[1], 16) >> (number - 1) & 1


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_quietly_with_0(number):
    with NodeProcess(streams='[imu]') as node:
        status, output = node.ready().end(number)
    assert status == 0 and 'Traceback' not in output, output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_while_starting_ends_it_quietly_with_0(number):
    for delay in (0.3, 1.1, 1.9):  # while importing, while ROS starts, while models are loaded
        with NodeProcess() as node:
            wait_for(lambda: handles(node, signal.SIGTERM), 60)  # before, it is Python that starts
            time.sleep(delay)
            status, output = node.end(number)
        assert status == 0 and 'Traceback' not in output, (delay, output)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_before_ros_takes_care_of_it_ends_it_quietly_with_0(number):
    told = ('import os, sys, rclpy\n'
            'init = rclpy.init\n'
            f'rclpy.init = lambda **given: (os.kill(os.getpid(), {number:d}), init(**given))\n'
            'from taolora_ros.node import main\nsys.exit(main())')
    with NodeProcess(command=(COMMAND[0], '-c', told)) as node:
        status, output = node.process.wait(60), node.output
    assert status == 0 and 'Traceback' not in output, output


def test_killed_and_started_again_it_goes_on(talker):
    events = talker.listen(Event, '/again/taolora/events')
    record = excerpt()
    for start in (100 * SECOND, 200 * SECOND):
        # A topic for each: of a killed node's subscription others learn only after a while.
        topic = f'ecg_{start}'
        with NodeProcess('-r', '__ns:=/again', *reliable(f'/again/{topic}'), streams='[ecg]',
                         max_lag=60.0, ecg__topic=topic) as node:
            node.ready()
            publisher = talker.publisher(Biosignal, f'/again/{topic}')
            play(publisher, blocks(record.values[:15 * 360, 0], 360, start))
            found = quiet(events, 9)
            assert all(start <= nanoseconds(e.header.stamp) < start + 16 * SECOND for e in found)
            node.end(signal.SIGKILL)
        events.clear()


@pytest.mark.parametrize('parameters, wrong, right', [
    ({'imu__model': 'nothing'}, "imu.model: 'nothing'", 'imu_falls'),
    ({'imu__model': '/no/such.safetensors'}, "imu.model: '/no/such.safetensors'", 'no such file'),
    ({'imu__hop': 0.0001}, 'imu.hop: 0.0001', '0.001 to 60 s'),
    ({'imu__hop': 0.011}, 'imu.hop: 0.011 s', 'sample'),
    ({'imu__event_threshold': 'high'}, "imu.event_threshold: 'high'", '0 to 1'),
    ({'imu__type': 'sensor_msgs/Imuu'}, 'imu.type:', 'sensor_msgs/msg/Imu'),
    ({'imu__type': 'std_msgs/Float32', 'imu__model': 'ecg_beats'}, 'imu.sample_rate: 0',
     'must be given'),
    ({'imu__topic': 'a b'}, 'imu.topic:', 'a b'),
    ({'device': 'gpu'}, "device: 'gpu'", 'auto, cpu, cuda'),
    ({'streams': '[imu, imu]'}, "streams: 'imu'", 'twice'),
    ({'streams': '[emg]'}, 'emg.topic: not given', 'topic')])
def test_failed_start_is_one_line_and_not_0(parameters, wrong, right):
    with NodeProcess(**{'streams': '[imu]', **parameters}) as node:
        assert node.process.wait(60) not in (0, None)
        lines = node.output.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith('taolora: ') and wrong in lines[0] and right in lines[0]


def test_missing_parameter_file_is_named():
    with NodeProcess('--params-file', '/no/such.yaml') as node:
        assert node.process.wait(60) == 1
        assert '/no/such.yaml' in node.output and 'Traceback' not in node.output


def test_misspelt_parameter_is_warned_about():
    with NodeProcess(streams='[imu]', imu__event_treshold=0.4) as node:
        node.ready()
        assert 'imu.event_treshold: no such parameter, ignored; did you mean ' \
               'imu.event_threshold?' in node.output
