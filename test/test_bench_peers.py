"""What the kernels are compared with computes the same, and launches nothing that it need not."""

import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from taolora_ros.bench import gpu_networks
from taolora_ros.bench.counts import count_window
from taolora_ros.bench.four_bit import FOUR_BIT
from taolora_ros.bench.isolated import failure
from taolora_ros.bench.peers import LAYER_PEERS, HalfNetwork, plain_weights
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.model_file import load_model
from taolora_ros.quantization import TaoLinear
from taolora_ros.shipped import find_model


@pytest.mark.parametrize('name', ['ecg_beats', 'imu_falls'])
def test_the_network_in_half_precision_is_the_same_network(name):
    model = load_model(find_model(name))
    windows, gates = gpu_networks.given(model, 3)
    probability, offset, anomaly = HalfNetwork(model, 'cpu', torch.float32)(
        torch.as_tensor(windows), torch.as_tensor(gates))
    wanted = ReferenceEngine(model, 'cpu').run(windows, gates)
    # It does not round activations: no more than that is different.
    assert np.abs(probability.numpy() - wanted.probability).mean() < 0.03
    assert np.corrcoef(anomaly.numpy().ravel(), wanted.anomaly.ravel())[0, 1] > 0.99
    assert np.abs(offset.numpy() - wanted.offset).mean() < 0.1


def plain(self, x, rows=None):
    """Run a TaoLinear without rounding activations, rows of open gates with their LoRA."""
    weight, bias, b, a = plain_weights(self, joined=False)
    y = x @ weight + bias
    return y.index_add(0, rows, x[rows] @ a @ b)


@pytest.mark.parametrize('joined', [False, True])
@pytest.mark.parametrize('name', ['ecg_beats', 'imu_falls'])
def test_the_peer_of_networks_leaves_nothing_out(monkeypatch, name, joined):
    model = load_model(find_model(name))
    windows, gates = map(torch.as_tensor, gpu_networks.given(model, 3))
    scores = HalfNetwork(model, 'cpu', torch.float32, joined)(windows, gates)
    monkeypatch.setattr(TaoLinear, 'forward', plain)
    wanted = ReferenceEngine(model, 'cpu').run(windows.numpy(), gates.numpy())
    for got, want in zip(scores, (wanted.probability, wanted.offset, wanted.anomaly)):
        assert got.dtype == torch.float32
        assert got.numpy() == pytest.approx(want, abs=1e-4, rel=1e-4)
    halves = HalfNetwork(model, 'cpu', joined=joined)(windows, gates)
    assert [float((half - one).abs().mean()) < 0.005 for half, one in zip(halves, scores)] == [
        True] * 3


class Operators(TorchDispatchMode):
    """Counts operators that compute or copy; views of memory do not.

    On a GPU addmm copies a matrix that it adds out of place before it multiplies.
    """

    VIEWS = {'view', 't', 'transpose', 'permute', 'slice', 'select', 'unbind', 'split',
             'split_with_sizes', 'unsqueeze', 'squeeze', 'expand', 'detach', 'alias'}

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        name = operator.name().removeprefix('aten::').partition('.')[0]
        self.seen[name] += name not in self.VIEWS
        self.seen['copy'] += name == 'addmm' and arguments[0].ndim > 1
        return operator(*arguments, **(options or {}))


@pytest.mark.parametrize('name, joined', [('ecg_beats', False), ('imu_falls', False),
                                          ('ecg_beats', True)])
def test_the_peer_of_networks_launches_what_is_counted(name, joined):
    model = load_model(find_model(name))
    network = HalfNetwork(model, 'cpu', joined=joined)
    given = [torch.as_tensor(t) for t in gpu_networks.given(model, 2)]
    with torch.no_grad(), Operators() as operators:
        network(*given)
    left_out = len(model.network.linears()) if joined else 0  # X A is part of X [W A]
    assert operators.seen.total() == count_window(model, 'fp16').launches - left_out
    assert not {'clone', 'copy', 'cat'} & set(+operators.seen)
    assert operators.seen['_to_copy'] == 2  # windows to float16, logits to float32


@pytest.mark.parametrize('way', ['fp16 + LoRA', 'torch.compile'])
def test_peers_of_layers_add_in_place(monkeypatch, way):
    monkeypatch.setattr(torch, 'compile', lambda function, **options: function)
    x, w, a, b = (torch.randn(*shape) for shape in ((3, 32), (32, 16), (32, 4), (4, 16)))
    work = LAYER_PEERS[way](x, w, a, b)
    with torch.no_grad(), Operators() as operators:
        y = work()
    assert +operators.seen == {'mm': 2, 'addmm_': 1}
    assert y.numpy() == pytest.approx((x @ w + x @ a @ b).numpy(), abs=1e-4)


@pytest.mark.parametrize('name', ['ecg_beats', 'imu_falls'])
def test_four_bit_networks_are_the_same_network_with_another_product(name):
    model = load_model(find_model(name))
    given = [torch.as_tensor(t) for t in gpu_networks.given(model, 3)]
    seen = []

    def product(w, bias):
        seen.append(tuple(w.shape))
        return lambda x: (x @ w).add_(bias)  # may be added to in place, as the libraries' may

    made = HalfNetwork(model, 'cpu', torch.float32, product=product)
    for got, wanted in zip(made(*given), HalfNetwork(model, 'cpu', torch.float32)(*given)):
        assert got.numpy() == pytest.approx(wanted.numpy(), abs=1e-5, rel=1e-4)
    layers = model.network.linears().values()
    assert seen == [(layer.in_features, layer.out_features) for layer in layers]
    kept = sum(t.numel() for t in made.tensors())
    assert kept < sum(k * n for k, n in seen)  # the weights in full are not kept beside


def test_torchaos_network_is_one_of_bfloat16(monkeypatch):
    model = load_model(find_model('imu_falls'))
    monkeypatch.setitem(gpu_networks.FOUR_BIT, 'torchao int4 + LoRA', (
        lambda w, bias: lambda x: (x @ w).add_(bias), torch.bfloat16))
    network = gpu_networks.peer_network(model, 'torchao int4 + LoRA', 'cpu')
    given = [torch.as_tensor(t) for t in gpu_networks.given(model, 2)]
    scores = network(*given)
    wanted = HalfNetwork(model, 'cpu', torch.float32)(*given)
    assert all(score.dtype == torch.float32 for score in scores)
    assert [float((a - b).abs().mean()) < 0.05 for a, b in zip(scores, wanted)] == [True] * 3


@pytest.mark.parametrize('name', FOUR_BIT)
def test_a_library_that_is_missing_is_told(monkeypatch, name):
    package = {'bits': 'bitsandbytes', 'torc': 'torchao', 'geml': 'gemlite'}[name[:4]]
    monkeypatch.setitem(sys.modules, package, None)
    model = load_model(find_model('imu_falls'))
    for made in (lambda: gpu_networks.peer_network(model, name, 'cpu'),
                 lambda: LAYER_PEERS[name](*[torch.zeros(4, 4)] * 4)):
        with pytest.raises(ImportError) as told:
            made()
        assert failure(told.value).startswith(f'not installed ({package}')


def test_what_cannot_be_captured_runs_without_a_graph(monkeypatch):
    def refuses(work):
        raise RuntimeError('operation not permitted when stream is capturing')

    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    monkeypatch.setattr(gpu_networks, 'graphed', refuses)
    calls = []
    start, told = gpu_networks.graphed_if_possible(lambda: calls.append(1))
    start()
    assert len(calls) == 2
    assert told == {'no_graph': 'failed: RuntimeError: operation not permitted when stream is '
                                'capturing'}
