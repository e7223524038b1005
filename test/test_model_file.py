import dataclasses
import json
import struct

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from taolora_ros.model_file import annotate_model, load_model, save_model
from taolora_ros.model_info import measure
from taolora_ros.network import TaoNetwork
from taolora_ros.spec import ECG_BEATS, ModelSpec
from tiny import PLAIN, tiny_batch, tiny_models, tiny_spec


def rewrite(path, change):
    """Load description and tensors of a model file, let ``change`` spoil them, write it back."""
    with safe_open(path, 'pt') as file:
        description = json.loads(file.metadata()['taolora'])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    change(description, tensors)
    save_file(tensors, path, metadata={'taolora': json.dumps(description)})


@pytest.mark.parametrize('buffer', ['x', 'residual'])
def test_model_computes_the_same_after_a_round_trip(tmp_path, buffer):
    path = tiny_models(tmp_path, buffer=buffer)
    model, again = load_model(path), load_model(path)
    batch = tiny_batch(model.spec, 5, seed=9)
    with torch.inference_mode():
        assert torch.equal(model.network(batch.windows, batch.gates)[0],
                           again.network(batch.windows, batch.gates)[0])
    assert model.precision == 'int4' and model.rank == 3
    assert all(layer.int4 for layer in model.network.linears().values())


def test_file_holds_exactly_what_was_quantized(tmp_path):
    from taolora_ros.network import TaoNetwork
    from taolora_ros.training.calibration import QuantizeOptions, quantize_network
    spec = tiny_spec()
    torch.manual_seed(0)
    made = quantize_network(TaoNetwork(spec).eval(), tiny_batch(spec), QuantizeOptions(**PLAIN))
    loaded = load_model(tiny_models(tmp_path)).network
    batch = tiny_batch(spec, 4, seed=3)
    with torch.inference_mode():
        assert torch.equal(made(batch.windows, batch.gates)[0],
                           loaded(batch.windows, batch.gates)[0])


def test_precision_finds_the_sibling(tmp_path):
    path = tiny_models(tmp_path)
    assert load_model(path, 'fp32').precision == 'fp32'
    assert load_model(tmp_path / 'tiny.fp32.safetensors', 'int4').precision == 'int4'
    (tmp_path / 'tiny.fp32.safetensors').unlink()
    with pytest.raises(ValueError, match='fp32.safetensors: no such model file'):
        load_model(path, 'fp32')


def test_weights_take_four_bits(tmp_path):
    model = load_model(tiny_models(tmp_path))
    for name, layer in model.network.linears().items():
        packed = model.tensors[f'{name}.packed']
        assert packed.numel() == (layer.in_features + 1) // 2 * layer.out_features


def test_spec_survives_json():
    spec = tiny_spec(ECG_BEATS)
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match='no such model file'):
        load_model(tmp_path / 'absent.safetensors')
    foreign = tmp_path / 'foreign.safetensors'
    save_file({'x': torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match='not a taolora model'):
        load_model(foreign)


def test_every_truncation_is_one_clear_line(tmp_path):
    path = tiny_models(tmp_path)
    whole = path.read_bytes()
    for size in [0, 1, 7, 8, 9, *np.random.default_rng().integers(10, len(whole) - 1, 20)]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError) as caught:
            load_model(path)
        assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_absurd_header_length_is_refused(tmp_path):
    path = tmp_path / 'm.safetensors'
    path.write_bytes(struct.pack('<Q', 2 ** 60) + b'{}')
    with pytest.raises(ValueError, match='not a complete safetensors file'):
        load_model(path)


@pytest.mark.parametrize('lora_bits, scale_bits', [(8, 32), (4, 16), (16, 8), (4, 8)])
def test_compact_files_compute_the_same_and_need_a_newer_reader(tmp_path, lora_bits, scale_bits):
    from taolora_ros.network import TaoNetwork
    from taolora_ros.training.calibration import QuantizeOptions, quantize_network
    spec = tiny_spec()
    torch.manual_seed(0)
    options = {'lora_bits': lora_bits, 'scale_bits': scale_bits}
    made = quantize_network(TaoNetwork(spec).eval(), tiny_batch(spec),
                            QuantizeOptions(rank=3, **options))
    model = load_model(tiny_models(tmp_path, **options))
    batch = tiny_batch(spec, 4, seed=3)
    with torch.inference_mode():
        assert torch.equal(made(batch.windows, batch.gates)[0],
                           model.network(batch.windows, batch.gates)[0])
    assert model.metadata['format_version'] == 2 and model.rank == 3
    plain = load_model(tiny_models(tmp_path))
    assert plain.metadata['format_version'] == 1
    assert measure(model).layers < measure(plain).layers
    assert measure(model).mixed_layers == measure(plain).mixed_layers


def set_spec(**values):
    return lambda description, _: description['spec'].update(values)


def set_network(**values):
    return lambda description, _: description['spec']['network'].update(values)


def drop(name):
    return lambda _, tensors: tensors.pop(name)


@pytest.mark.parametrize('change, said', [
    (lambda d, _: d.update(format_version=4), 'install a newer one'),
    (lambda d, _: d.update(format_version='1'), 'format version'),
    (set_network(width=10 ** 9), 'width = 1000000000'),
    (set_network(width=4092, blocks=['conv'] * 64), 'larger than a model file'),
    (set_network(heads=5), 'multiple'),
    (set_network(blocks='conv'), "'c'"),
    (set_spec(tokens=2.5), 'tokens'),
    (set_spec(rate=float('nan')), 'rate'),
    (set_spec(kind='eeg'), 'eeg'),
    (set_spec(colour='red'), 'colour'),
    (lambda d, _: d.pop('spec'), 'spec'),
    (lambda d, _: d.pop('precision'), 'precision None'),
    (lambda d, _: d.update(spec=[1]), 'not a taolora model'),
    (lambda d, _: d['layers'].update({'blocks.9.up': {}}), 'blocks.9.up'),
    (drop('head.weight'), 'head.weight'),
    (drop('blocks.0.up.packed'), 'blocks.0.up.packed'),
    (drop('anomaly_scale'), 'anomaly_scale'),
    (lambda _, t: t.update({'head.weight': torch.zeros(2, 2)}), 'head.weight'),
    (lambda _, t: t['head.bias'].fill_(float('nan')), 'finite'),
    (lambda _, t: t.update({'blocks.0.up.packed': torch.zeros(3, 3, dtype=torch.uint8)}),
     'blocks.0.up.packed'),
    (lambda _, t: t.update({'blocks.0.up.lora_a': torch.zeros(3, 3)}), 'lora_a'),
    (lambda _, t: t.update({'surplus': torch.zeros(1)}), 'surplus'),
])
def test_spoilt_models_name_what_is_wrong(tmp_path, change, said):
    path = tiny_models(tmp_path)
    rewrite(path, change)
    with pytest.raises(ValueError) as caught:
        load_model(path)
    assert said in str(caught.value) and '\n' not in str(caught.value)


def bits(**values):
    return lambda d, _: d['layers']['blocks.0.up'].update(values)


def spoil(part, tensor):
    return lambda _, tensors: tensors.update({f'blocks.0.up.{part}': tensor})


@pytest.mark.parametrize('change, said', [
    (bits(lora_bits=5), 'lora_bits 5'), (bits(lora_bits='4'), "lora_bits '4'"),
    (bits(lora_bits=[4]), 'lora_bits [4]'), (bits(scale_bits=True), 'scale_bits True'),
    (bits(lora_bits=8), 'uint8'), (bits(lora_bits=16), 'uint8'), (bits(scale_bits=16), 'int8'),
    (drop('blocks.0.up.lora_a_scale'), 'lora_a_scale'),
    (spoil('lora_a_scale', torch.ones(1, 3)), 'lora_a_scale'),
    (spoil('lora_b_scale', torch.ones(1, 3, dtype=torch.int8)), 'scales'),
    (spoil('lora_b_scale', torch.full((1, 3), float('inf'))), 'finite'),
    (spoil('lora_a', torch.zeros(3, 3, dtype=torch.uint8)), '3 rows'),
    (spoil('lora_b', torch.zeros(24, 2, dtype=torch.uint8)), 'lora_b'),
    (spoil('x_inv', torch.full((24,), 99, dtype=torch.int8)), 'exponents'),
    (spoil('x_inv', torch.zeros(24, dtype=torch.int32)), 'exponents'),
    (spoil('w_scale', torch.zeros(1, 48, dtype=torch.uint8)), 'exponents')])
def test_spoilt_compact_models_name_what_is_wrong(tmp_path, change, said):
    path = tiny_models(tmp_path, lora_bits=4, scale_bits=8)
    rewrite(path, change)
    with pytest.raises(ValueError) as caught:
        load_model(path)
    assert said in str(caught.value) and '\n' not in str(caught.value)
    assert 'blocks.0.up' in str(caught.value) or 'finite' in said


def test_figures_can_be_added_without_touching_the_weights(tmp_path):
    path = tiny_models(tmp_path)
    before = load_model(path)
    spec = dataclasses.replace(before.spec, bias=(-1.5,))
    annotate_model(path, {'fall': {'se': 0.5}}, spec)
    after = load_model(path)
    assert after.metadata['figures']['fall'] == {'se': 0.5} and after.spec.bias == (-1.5,)
    assert before.tensors.keys() == after.tensors.keys()
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)


def test_a_file_of_a_model_that_remembers_beats_needs_a_newer_program_and_no_other_does(tmp_path):
    small = dataclasses.replace(ECG_BEATS.network, width=16, heads=2, blocks=('conv',))
    plain = dataclasses.replace(ECG_BEATS, network=small, alike=0)
    path, network = tmp_path / 'made.safetensors', TaoNetwork(plain)

    def made():
        model = load_model(path)
        return model.metadata['format_version'], model.spec.alike, 'alike' in model.metadata['spec']
    for alike, version in ((7, 3), (0, 1)):
        spec = dataclasses.replace(plain, alike=alike)
        save_model(path, spec, network, torch.ones(1), {}, {})
        assert made() == (version, alike, alike > 0)
        annotate_model(path, {}, dataclasses.replace(plain, alike=7 - alike))
        assert made() == (4 - version, 7 - alike, alike == 0)
    compact = tiny_models(tmp_path, lora_bits=4)
    annotate_model(compact, {}, load_model(compact).spec)
    assert load_model(compact).metadata['format_version'] == 2


def test_spec_is_not_shared_between_models(tmp_path):
    spec = dataclasses.replace(tiny_spec(), version='7')
    assert load_model(tiny_models(tmp_path, spec)).spec.version == '7'
