"""The measurement of one window on one core."""

import json

import pytest

from taolora_ros.bench import cpu
from taolora_ros.bench.counts import count_on_core
from taolora_ros.cli import main
from taolora_ros.kernels.cpu import library
from taolora_ros.model_file import load_model
from taolora_ros.shipped import find_model


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
    assert native['weight_bytes'] < native['bytes'] < reference['bytes']
    assert set(result['provenance']) == {'commit', 'date', 'machine', 'system', 'python', 'numpy',
                                         'torch', 'onnxruntime'}


def test_activations_on_a_core_are_counted():
    model = load_model(find_model('imu_falls'))
    spec, tokens, width = model.spec, model.spec.tokens, model.spec.network.width
    ends = 4 * tokens * (spec.patch * model.network.features + len(spec.classes) + 1) + tokens
    # X written by the embedding, read by the last norm; in a block X read, read and written again,
    # the mixer's inputs and its result written and read
    mixers = {'attention': 3, 'conv': 2}
    rows = 2 + sum(3 + 2 * mixers[kind] + 2 for kind in spec.network.blocks)
    assert count_on_core(model, native=True) == ends + 4 * tokens * width * rows
    products = [(layer.in_features, layer.out_features)
                for layer in model.network.linears().values()]
    assert count_on_core(model, native=False) == ends + sum(
        4 * tokens * 2 * (k + n) for k, n in products)


def test_peer_that_is_not_there_is_a_row_with_the_reason():
    def absent():
        raise ModuleNotFoundError('No module named peer')
    ways, missing = cpu._start([('ours', lambda: (lambda: None, 5)), ('peer', absent)],
                               lambda *_: None)
    assert [way.name for way in ways] == ['ours']
    assert missing == {'peer': 'ModuleNotFoundError: No module named peer'}
