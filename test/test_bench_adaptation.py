"""The bench of adaptation runs without ROS, says what it promises, and times equal work."""

import json
import sys

import numpy as np
import pytest
import torch

from taolora_ros.adaptation.lora import AdaptedLayer
from taolora_ros.adaptation.signal import Signal
from taolora_ros.bench.torch_layer import TorchLayer
from taolora_ros.cli import main


@pytest.fixture
def no_ros(monkeypatch):
    """Let rclpy be missing."""
    monkeypatch.setitem(sys.modules, 'rclpy', None)


def test_only_benches_of_the_node_need_ros(no_ros, tmp_path, capsys):
    assert main(['bench', 'ingest']) == 2
    assert 'source ROS 2' in capsys.readouterr().err
    file = tmp_path / 'adaptation.json'
    assert main(['bench', 'adaptation', '--calls', '100', '--updates', '50', '--windows', '10',
                 '--json', str(file)]) == 0
    shown, result = capsys.readouterr().out, json.loads(file.read_text())
    for figures in ('us', 'p99_us', 'torch_us', 'budget_us', 'aim_us'):
        assert set(result[figures]) == {'signal', 'update', 'forward', 'total'}
        assert min(result[figures].values()) > 0.0
    assert all(result['us'][part] <= result['p99_us'][part] for part in result['us'])
    assert (result['width'], result['rank'], result['batch'], result['threads']) == (768, 2, 1, 1)
    assert result['budget_us']['total'] == 100.0 and result['amortised_us']['budget'] == 30.0
    assert result['saving']['windows'] == 10
    assert {'commit', 'date', 'machine', 'system', 'numpy', 'torch'} <= set(result['provenance'])
    assert min(result['node']['waiting_us']) > 0.0
    for figure in ('feedback_us', 'settle_ms'):
        assert 0.0 < result['node'][figure][0] <= result['node'][figure][1]
    for way in ('alone', 'while_saving', 'without_pause', 'beside_flusher'):
        assert 0.0 < result['saving'][way]['own_ms'][0] <= result['saving'][way]['ms'][1]
    for text in ('one CPU thread', 'reference text', 'bytes', 'saved every 1 s', 'in the node'):
        assert text in shown


@pytest.mark.parametrize('tokens', [(), (5,)])
def test_the_peer_in_pytorch_does_the_same(tokens):
    random = np.random.default_rng()
    layer = AdaptedLayer(37, 23, max_norm=0.3)
    peer = TorchLayer(layer)
    for _ in range(12):
        x, gradient = (random.standard_normal((*tokens, size), np.float32) for size in (37, 23))
        layer.learn(x, gradient, 0.05)
        peer.learn(torch.tensor(x), torch.tensor(gradient), 0.05)
        np.testing.assert_allclose(peer.forward(torch.tensor(x)), layer.forward(x), atol=1e-4)
    assert layer.norm() > 0.1
    p = np.full(23, 1 / 23, np.float32)
    signal = Signal(np.zeros(37, np.float32), p, 0, label=4)
    np.testing.assert_array_equal(peer.signal(torch.tensor(p), 4), signal.gradient())
