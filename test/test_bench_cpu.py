"""The measurement of one window on one core."""

import json

import pytest

from taolora_ros.bench import cpu
from taolora_ros.cli import main
from taolora_ros.kernels.cpu import library


def test_figures_of_our_engines_and_what_they_read(tmp_path, capsys):
    try:
        library.load()
    except RuntimeError as error:
        pytest.skip(str(error))
    file = tmp_path / 'cpu.json'
    assert main(['bench', 'cpu', '--windows', '2', '--rounds', '1', '--no-peers',
                 '--model', 'imu_falls', '--json', str(file)]) == 0
    assert 'native, gate closed' in capsys.readouterr().out
    result = json.loads(file.read_text())
    native, reference = result['ways'][1], result['ways'][-1]
    assert result['model'] == 'imu_falls' and reference['name'].startswith('reference')
    assert 0 < native['us'] <= native['p99_us']
    assert 0 < native['weight_bytes'] < reference['weight_bytes']


def test_peer_that_is_not_there_is_a_row_with_the_reason():
    def absent():
        raise ModuleNotFoundError('No module named peer')
    ways, missing = cpu._start([('ours', lambda: (lambda: None, 5)), ('peer', absent)],
                               lambda *_: None)
    assert [way.name for way in ways] == ['ours']
    assert missing == {'peer': 'ModuleNotFoundError: No module named peer'}
