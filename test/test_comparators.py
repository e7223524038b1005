"""Other methods of quantization: their equations in float64, their bytes, the whole command."""

import json

import numpy as np
import pytest
import torch

from taolora_ros.cli import main
from taolora_ros.comparators import methods
from taolora_ros.comparators.calibration import Calibration, replace_layers
from taolora_ros.comparators.command import wanted
from taolora_ros.comparators.formats import NF4, dynamic, nf4, round_to_nearest, static
from taolora_ros.comparators.held_out import shortened, split
from taolora_ros.comparators.low_rank import eora, l2qer, loftq, svd
from taolora_ros.comparators.measures import errors, logits, multiplies, size
from taolora_ros.comparators.rows import ablation, comparators
from taolora_ros.comparators.variants import tao, tao_svd, tao_tuned
from taolora_ros.model_file import file_tensors
from taolora_ros.network import TaoNetwork
from taolora_ros.recordings import load_recordings
from taolora_ros.synthetic import write_dataset
from taolora_ros.training.calibration import QuantizeOptions
from taolora_ros.training.tuning import TuneOptions
from tiny import tiny_batch, tiny_models, tiny_spec


def inputs(m=301, k=37):
    return torch.randn(m, k) * torch.rand(k) * 4 @ torch.randn(k, k) / k ** 0.5


@pytest.fixture(scope='module')
def calibration():
    spec = tiny_spec()
    torch.manual_seed(0)
    made = Calibration(TaoNetwork(spec).eval(), tiny_batch(spec), tiny_batch(spec, 32, 5),
                       QuantizeOptions(rank=3), TuneOptions(steps=2, batch=8))
    made.search()
    return made


def test_nf4_goes_to_the_nearest_level_of_its_block():
    w = torch.randn(130, 7)
    got, size = nf4(w)
    flat, blocks = w.T.double().reshape(-1), -(-130 * 7 // 64)
    for i in range(blocks):
        part, back = flat[64 * i:64 * i + 64], got.T.reshape(-1)[64 * i:64 * i + 64].double()
        scale = part.abs().max()
        levels = scale * torch.tensor(NF4, dtype=torch.float64)
        nearest = (part[:, None] - levels).abs().min(1).values
        assert bool(((back - part).abs() <= nearest + 0.02 * scale).all())
    assert size == 130 * 7 // 2 + blocks + 4 + 4


@pytest.mark.parametrize('group, scales', [(None, 11), (32, 22), (48, 11)])
def test_rounding_to_nearest_is_off_by_half_a_step(group, scales):
    w = torch.randn(64, 11)
    got, size = round_to_nearest(w, group)
    step = w.abs().amax(0) / 7
    assert bool(((got - w).abs() <= 0.505 * step).all())
    assert size == 32 * 11 + 2 * scales


def test_activations_are_rounded_to_the_levels_they_have():
    x = torch.randn(50, 128) * 3
    assert len(static(x, 7)(x).unique()) <= 15
    per_token = dynamic(7, 64)(x).view(50, 2, 64)
    assert all(len(row.unique()) <= 15 for row in per_token.flatten(0, 1))
    assert float(static(x, 7)(x * 100).abs().max()) == pytest.approx(float(x.abs().max()))


def test_branches_are_the_best_of_their_rank_by_their_measure():
    residual, x, rank = torch.randn(37, 23), inputs(), 4

    def lost(branch, weigh):
        left = weigh(residual.double()) - weigh((branch[0] @ branch[1]).double())
        return float(left.norm())

    def best(weigh):
        values = np.linalg.svd(weigh(residual.double()).numpy(), compute_uv=False)
        return float(np.linalg.norm(values[rank:]))
    strength = x.abs().mean(0).double()
    strength = strength / (strength.min() * strength.max()).sqrt()
    for branch, weigh in ((svd(residual, rank), lambda w: w),
                          (l2qer(residual, x, rank), lambda w: strength[:, None] * w),
                          (eora(residual, x, rank), lambda w: x.double() @ w)):
        assert branch[0].shape == (37, rank) and branch[1].shape == (rank, 23)
        assert lost(branch, weigh) == pytest.approx(best(weigh), rel=1e-3)


def test_loftq_comes_nearer_than_rounding_once():
    w = torch.randn(96, 40) ** 3
    q, _, (a, b) = loftq(w, 6, nf4)
    once = nf4(w)[0]
    first = svd(w - once, 6)
    assert (w - q - a @ b).norm() <= (w - once - first[0] @ first[1]).norm() * 1.01


def test_svdquant_computes_its_equation():
    w, bias, x = torch.randn(64, 31), torch.randn(31), torch.randn(200, 64)
    layer = methods.svdquant(w, bias, x, 4)
    plain = methods.w4a4_dynamic(w, bias, x, 4)
    wanted = x.double() @ w.double() + bias

    def error(made):
        return float((made(x) - wanted).norm() / wanted.norm())
    assert error(layer) < error(plain) and error(layer) < 0.2
    assert layer.size == 32 * 31 + 2 * 31 + 2 * 64 + 2 * 4 * (64 + 31)


def test_sparse_layer_keeps_the_strong_and_counts_them():
    w, x = torch.randn(48, 29), torch.randn(500, 48) * torch.rand(48) * 3
    layer = methods.r_sparse(w, None, x, 4)
    y = layer(x)
    strong = (x.abs() * w.norm(dim=1) > layer.threshold).double()
    wanted = ((x.half().double() * strong) @ layer.weight.double()
              + (x.half().double() * (1 - strong)) @ layer.a.double() @ layer.b.double())
    rows = np.isclose(y.double(), wanted, atol=1e-3).all(1)
    assert rows.mean() > 0.9  # a feature on the threshold may fall on either side
    share = float(strong.mean())
    assert 0.2 < share < 0.55
    assert layer.multiplies()['float'] == (round(share * 48 * 29) + layer.a.numel()
                                           + layer.b.numel() + 48)


@pytest.mark.parametrize('changes', [{}, {'lora_bits': 8}, {'lora_bits': 4, 'scale_bits': 16},
                                     {'scale_bits': 8, 'groups': 2, 'buffer': 'x'}, {'rank': 0}])
def test_bytes_are_those_of_the_file_and_a_zero_point_each(calibration, changes):
    network = tao(calibration, **changes)
    stored = sum(t.numel() * t.element_size() for t in file_tensors(network).values())
    zeros = sum(layer.x_zero is not None for layer in network.linears().values())
    assert size(network) == stored + zeros


def test_bytes_and_multiplies_of_full_precision_add_up(calibration):
    network = replace_layers(calibration, methods.fp32, 3, exact=True)
    weights = sum(p.numel() for p in calibration.network.parameters())
    assert size(network, exact=True) == 4 * weights
    assert size(replace_layers(calibration, methods.fp16, 3)) == 2 * weights
    batch = calibration.batch
    wanted = logits(calibration.network, batch.windows, batch.gates)
    assert max(errors(network, wanted, batch, 'auto')) < 1e-5
    linears = sum(m.weight.numel() for m in calibration.network.linears().values())
    ours = multiplies(tao(calibration), 0.25)
    assert ours['int4'] == linears * calibration.network.tokens
    branch = sum(m.lora_a.numel() + m.lora_b.numel() for m in tao(calibration).linears().values())
    more = multiplies(tao(calibration), 1.0)['float'] - ours['float']
    assert more == pytest.approx(0.75 * branch * calibration.network.tokens, rel=0.01)
    assert sum(ours.values()) - multiplies(network, 1.0)['float'] == pytest.approx(
        0.25 * branch * calibration.network.tokens, rel=0.01)


@pytest.mark.parametrize('make', [tao, tao_tuned])
def test_without_a_lora_nothing_of_it_is_stored_or_multiplied(calibration, make):
    network, batch = make(calibration, rank=0), calibration.batch
    layers = network.linears().values()
    assert all(layer.lora_a.numel() == layer.lora_b.numel() == 0 for layer in layers)
    assert multiplies(network, 1.0) == multiplies(network, 0.0)
    read = sum(2 * layer.in_features + layer.out_features for layer in layers)
    assert size(make(calibration, lora_bits=16)) - size(network) == 2 * 3 * read
    wanted = logits(calibration.network, batch.windows, batch.gates)
    assert errors(network, wanted, batch, 'open') == errors(network, wanted, batch, 'closed')


def test_one_part_of_the_quantization_is_left_out(calibration):
    layers = tao(calibration, zero_point=False).linears()
    assert all(layer.x_zero is None for layer in layers.values())
    assert any(layer.x_zero is not None for layer in tao(calibration).linears().values())
    layers = tao(calibration, smooth=False).linears()
    assert all(len(layer.x_inv.unique()) == 1 for layer in layers.values())
    for name, layer in tao(calibration, feedback=False).linears().items():
        weight = calibration.network.linears()[name].weight.T.detach().double()
        exact = weight / layer.x_inv.double()[:, None] / layer.w_scale.double()
        assert float((exact.clamp(-7, 7) - layer.codes).abs().max()) <= 0.5001


def test_svd_variant_holds_the_svd_of_what_rounding_lost(calibration):
    network, name = tao_svd(calibration), 'blocks.0.up'
    layer = network.linears()[name]
    exact = calibration.network.linears()[name].weight.T.detach().double()
    rounded = layer.codes.double() * layer.w_scale.double() * layer.x_inv.double()[:, None]
    u, s, v = np.linalg.svd((exact - rounded).numpy(), full_matrices=False)
    got = (layer.lora_a @ layer.lora_b).double().numpy()
    assert np.allclose(got, (u[:, :3] * s[:3]) @ v[:3], atol=2e-3 * s[0])


def test_no_subject_is_calibrated_on_and_judged(tmp_path):
    write_dataset(tmp_path, seed=3, subjects=3, records=2)
    for kind in ('imu', 'ecg'):
        recordings = list(load_recordings(tmp_path, kind))
        others, judged = split(recordings)
        assert len(others) + len(judged) == len(recordings)
        assert not {r.subject for r in others} & {r.subject for r in judged}
        assert shortened(judged, None) == judged
    with pytest.raises(ValueError, match='no recording left to judge'):
        split(recordings, frozenset(['nobody']))


def test_names_of_rows_are_unique():
    names = [row.method for row in comparators() + ablation()]
    assert len(set(names)) == len(names)


def test_rows_are_found_by_names_with_commas_in_them():
    methods = [row.method for row in comparators()]
    assert wanted(['TAO-LoRA W4A4, Tuned'], methods) == ['TAO-LoRA W4A4, Tuned']
    assert wanted(['fp32, rtn w4a4', 'QLoRA (NF4, A16), LoRA tuned'], methods) == [
        'fp32', 'rtn w4a4', 'QLoRA (NF4, A16), LoRA tuned']
    assert all(wanted([method], methods) == [method] for method in methods)
    for text in ('magic', 'fp32,magic', 'fp32,'):
        with pytest.raises(ValueError, match="--methods: no row is called '(magic)?'; there are"):
            wanted(['fp16', text], methods)


@pytest.mark.parametrize('processes', [1, 2])
def test_command_writes_a_list_with_the_promised_keys(tmp_path, capsys, processes):
    write_dataset(tmp_path / 'data', seed=7, subjects=2, records=1)
    model, out = tiny_models(tmp_path), tmp_path / 'out.json'
    arguments = ['evaluate', 'comparators', 'imu', '--data', str(tmp_path / 'data'), '--model',
                 str(model), '--json', str(out), '--tune', '2', '--windows', '16', '--hours',
                 '0.01', '--processes', str(processes), '--ablation']
    if processes > 1:
        arguments += ['--methods', 'fp32,tao-lora w4a4, gate closed', '--methods', 'rank 2']
    assert main(arguments) == 0
    rows = json.loads(out.read_text())
    assert isinstance(rows, list) and len(rows) > (5 if processes > 1 else 40)
    keys = {'method', 'bytes', 'error_steady', 'error_transient', 'recall', 'precision', 'macs'}
    assert all(keys <= set(row) for row in rows)
    text = capsys.readouterr().out
    assert all(row['method'][:20] in text for row in rows)
    assert max(rows[0]['error_steady'], rows[0]['error_transient']) < 1e-5  # FP32


@pytest.mark.parametrize('arguments, said', [
    (['comparators'], 'imu or ecg'), (['imu', 'ecg'], 'goes behind comparators'),
    (['comparators', 'imu', '--tune', '-1'], '--tune: -1'),
    (['comparators', 'imu', '--hours', 'nan'], '--hours: nan'),
    (['comparators', 'imu', '--full', '--hours', '1'], 'one of them'),
    (['comparators', 'imu', '--methods', 'magic'], "'magic'")])
def test_wrong_arguments_are_named(tmp_path, capsys, arguments, said):
    assert main(['evaluate', *arguments, '--data', str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
