"""Bytes of a model file, counted part by part."""

import dataclasses

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from rich.console import Console  # noqa: E402

from taolora_ros.features import feature_names  # noqa: E402
from taolora_ros.model_file import load_model, save_model  # noqa: E402
from taolora_ros.model_info import measure, tables  # noqa: E402
from taolora_ros.network import TaoNetwork  # noqa: E402
from taolora_ros.spec import IMU_FALLS, NetworkSpec  # noqa: E402


@pytest.fixture
def full_model(tmp_path):
    spec = dataclasses.replace(IMU_FALLS, network=NetworkSpec(width=16, heads=2, mlp=2))
    path = tmp_path / 'tiny.safetensors'
    save_model(path, spec, TaoNetwork(spec), torch.ones(len(feature_names(spec))),
               {'data': {'subjects': ['S1', 'S2']}, 'seed': 3}, {'fall': {'se': 0.98765432}})
    return path, load_model(path)


def test_every_byte_of_the_tensors_is_in_one_part(full_model):
    path, model = full_model
    sizes = measure(model)
    assert sizes.total == sum(t.numel() * t.element_size() for t in model.tensors.values())
    assert sizes.total < path.stat().st_size
    linear = sum(layer.in_features * layer.out_features * 4
                 for layer in model.network.linears().values())
    assert sizes.parts['full-precision weights'] == linear
    assert sizes.layers == sizes.mixed_layers == 0


def test_what_is_shown(full_model):
    console = Console(width=120, record=True)
    console.print(*tables(*full_model))
    text = console.export_text()
    for words in ('imu_falls, version 3, fp32', 'acc_x [m/s^2]', 'gyro_x (may be missing) [rad/s]',
                  'fall.se', '0.987654', 'data.subjects', 'S1, S2', 'header and description'):
        assert words in text, text


def test_int4_layers_are_compared_with_mixed_precision(tmp_path):
    spec = dataclasses.replace(IMU_FALLS, network=NetworkSpec(width=16, heads=2, mlp=2))
    network, rank, expected, mixed = TaoNetwork(spec), 3, 0, 0
    for layer in network.linears().values():
        k, n = layer.in_features, layer.out_features
        layer.load_int4(torch.randint(-7, 8, (k, n), dtype=torch.int8), torch.ones(1, n),
                        torch.ones(k), 0, torch.zeros(2 * k, rank), torch.zeros(rank, n),
                        'residual')
        expected += k * n // 2 + 2 * n + 4 * k + 2 * rank * (2 * k + n)
        mixed += 2 * k * n + 2 * rank * (k + n)
    path = tmp_path / 'int4.safetensors'
    save_model(path, spec, network, torch.ones(8), {}, {})
    model = load_model(path)
    sizes = measure(model)
    assert (sizes.layers, sizes.mixed_layers) == (expected, mixed)
    assert sizes.parts['full-precision weights'] == 0 and sizes.mixed > sizes.mixed_layers
    console = Console(width=120, record=True)
    console.print(*tables(path, model))
    assert f'{100 * (1 - expected / mixed):.1f} %' in console.export_text()
