"""What is told of a board's power mode and clocks, read from a tree like a Jetson's."""

import os

import pytest

from jetson_board import write_board
from taolora_ros import jetson


@pytest.fixture
def board(tmp_path):
    """Give the files of an Orin Nano whose clocks rest."""
    return write_board(tmp_path)


def program(folder, monkeypatch, text):
    """Put a program nvpmodel first in PATH, and give it the time that a busy machine takes."""
    monkeypatch.setattr(jetson, 'PATIENCE', 60.0)
    file = folder / 'bin' / 'nvpmodel'
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\n{text}\n')
    file.chmod(0o755)
    monkeypatch.setenv('PATH', f'{file.parent}{os.pathsep}{os.environ["PATH"]}')


def test_mode_and_clocks_are_told(board, monkeypatch):
    program(board, monkeypatch, 'printf "NV Power Mode: 15W\\n0\\n"')
    assert jetson.board_report(board) == [
        'NVIDIA Jetson Orin Nano Developer Kit: power mode 15W',
        'clocks: GPU 306 of 625 MHz, CPU 1510 of 1510 MHz',
        'clocks are not at their maximum: `sudo nvpmodel -m 0` and `sudo jetson_clocks` raise them']


def test_full_clocks_need_no_advice(board, monkeypatch):
    (board / 'sys/class/devfreq/17000000.gpu/cur_freq').write_text('624750000')
    program(board, monkeypatch, 'exit 1')
    assert jetson.board_report(board) == [
        'NVIDIA Jetson Orin Nano Developer Kit: power mode unknown (nvpmodel says nothing)',
        'clocks: GPU 625 of 625 MHz, CPU 1510 of 1510 MHz']


def test_what_hangs_or_is_missing_holds_nothing_up(board, monkeypatch):
    program(board, monkeypatch, 'exec sleep 60')
    monkeypatch.setattr(jetson, 'PATIENCE', 0.2)
    assert 'unknown (TimeoutExpired)' in jetson.board_report(board)[0]
    monkeypatch.setenv('PATH', '/nowhere')
    (board / 'sys/class/devfreq/17000000.gpu/cur_freq').unlink()
    (board / jetson.CPU_CLOCK / 'cpuinfo_max_freq').write_text('none')
    assert jetson.board_report(board) == [
        'NVIDIA Jetson Orin Nano Developer Kit: power mode unknown (no nvpmodel)',
        'clocks: not to be read']


def test_other_machines_are_not_reported(tmp_path):
    assert jetson.board_report(tmp_path) == []
