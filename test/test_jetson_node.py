"""The node on a Jetson says how fast the board may run, whatever runs the network."""

import sys
from pathlib import Path

import pytest

from jetson_board import write_board
from running_node import NodeProcess
from taolora_ros.kernels.cpu import library


@pytest.mark.parametrize('engine', ['native', 'reference'])
def test_power_mode_and_clocks_are_in_the_log(tmp_path, engine):
    if engine == 'native':
        try:
            library.load()
        except RuntimeError as error:
            pytest.skip(str(error))
    command = (sys.executable, str(Path(__file__).parent / 'jetson_board.py'),
               str(write_board(tmp_path)))
    with NodeProcess(command=command, engine=engine, device='cpu',
                     streams='[imu]') as node:
        said = node.ready().output.splitlines()
    lines = {text: [i for i, line in enumerate(said) if text in line] for text in (
        'NVIDIA Jetson Orin Nano Developer Kit: power mode unknown (no nvpmodel)',
        'clocks: GPU 306 of 625 MHz, CPU 1510 of 1510 MHz', 'clocks are not at their maximum',
        f'{engine} on cpu: asked for')}
    assert [len(found) for found in lines.values()] == [1] * 4, said
    assert sorted(lines, key=lines.get) == list(lines)  # before it is ready, in this order
