"""Engines of Triton kernels on real and synthetic windows, beside the reference engine."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from taolora_ros.detector import Detector
from taolora_ros.engine import make_engine
from taolora_ros.engine.device_weights import with_half_lora
from taolora_ros.engine.graph import make_buffers
from taolora_ros.engine.interface import Scores
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.kernels.launch import interpreted
from taolora_ros.model_file import load_model
from taolora_ros.recordings import read_npz
from taolora_ros.samples import NANOSECONDS, Samples
from taolora_ros.shipped import find_model, shipped
from taolora_ros.synthetic import imu_scene
from tiny import tiny_models

ENGINES = ('mega', 'fused', 'streams')
# Mean differences: about what the reference engine's scores differ by when inputs move by 1e-4 of
# themselves, since activations then round to other codes. Without the LoRA, or with the next
# token's gates, probabilities are further off; how numbers are rounded is for tests of kernels.
NEAR = {'probability': {'ecg_beats': 4e-4, 'imu_falls': 1e-3}, 'offset': 0.01, 'anomaly': 0.0025,
        'embedding': 0.02}


class Played:
    """A shipped model, two windows of a recording (ECG) or a synthetic scene (IMU), the answer."""

    def __init__(self, name):
        self.model = with_half_lora(load_model(find_model(name)))
        if name == 'ecg_beats':
            recording = next(read_npz(shipped('config/demo/mitdb_119_excerpt.npz')))
            values, rate = recording.values[:, :1], recording.rate
        else:
            scene = imu_scene(seed=5)
            values, rate = scene.values, scene.rate
        detector = Detector(self.model.spec)
        stamps = NANOSECONDS + (np.arange(len(values)) / rate * NANOSECONDS).astype(np.int64)
        detector.push(Samples(stamps, values))
        windows = [window for window in detector.due() if 10 < window.gate.sum() < 50][20:22]
        self.windows = np.stack([window.features for window in windows])
        self.gates = np.stack([window.gate for window in windows])
        self.wanted = ReferenceEngine(self.model, 'cpu').run(self.windows, self.gates)
        self.tokens = self.embedding()

    def embedding(self):
        """Return the normed tokens of the network itself, (B, T, D)."""
        kept = []
        hook = self.model.network.norm.register_forward_hook(lambda *call: kept.append(call[2]))
        with torch.inference_mode():
            self.model.network(torch.as_tensor(self.windows), torch.as_tensor(self.gates))
        hook.remove()
        return kept[0].numpy().reshape(len(self.windows), self.model.spec.tokens, -1)


def near(scores, played):
    """Hold that scores are the reference's, the first windows of them at least.

    Sums in another order round an activation now and then to another float16 or another code.
    """
    count = len(scores.probability)
    wanted = {**vars(played.wanted), 'embedding': played.tokens}
    limits = NEAR | {'probability': NEAR['probability'][played.model.spec.name]}
    for name, limit in limits.items():
        got = getattr(scores, name)
        if got is not None:
            assert got.shape == wanted[name][:count].shape
            assert np.abs(got - wanted[name][:count]).mean() < limit, name


@pytest.mark.parametrize('model, name', [
    *(('ecg_beats', name) for name in ENGINES), ('imu_falls', 'mega'), ('imu_falls', 'fused')])
def test_scores_are_those_of_the_reference(kernels, model, name):
    played = Played(model)
    assert played.gates.any() and not played.gates.all()
    engine = make_engine(played.model, name, kernels.type)
    engine.keeps_embedding = True
    near(engine.run(played.windows[:1], played.gates[:1]), played)


def test_more_windows_than_one_graph_holds_run_in_parts(monkeypatch):
    pytest.importorskip('triton')
    from taolora_ros.engine import graph
    from taolora_ros.engine.gpu import make_gpu_engine
    monkeypatch.setattr(graph, 'LARGEST', 4)
    model, counts = load_model(find_model('imu_falls')), []
    engine = make_gpu_engine('fused', model, 'cpu', check=False, programs=132)

    def run(windows, gates, keep):
        counts.append(len(windows))
        return Scores(windows[:, :, :2], gates + 0.0, windows[:, 0], windows[:, 1])

    monkeypatch.setattr(engine, 'slot', lambda batch: SimpleNamespace(run=run))
    rng = np.random.default_rng()
    windows = rng.standard_normal((11, model.spec.window, model.network.features), np.float32)
    gates = rng.random((11, model.spec.tokens)) < 0.5
    scores = engine.run(windows, gates)
    assert counts == [4, 4, 3]
    for got, wanted in zip(vars(scores).values(), (
            windows[:, :, :2], gates, windows[:, 0], windows[:, 1])):
        assert np.array_equal(got, wanted)


def test_tiles_and_stages_apart_are_the_same_as_one_program(kernels):
    from taolora_ros.engine.mega import MegaEngine
    played = Played('imu_falls')
    engine = MegaEngine(played.model, kernels.type, persistent=False, block_m=16, check=False)
    blocks, tokens = len(played.model.network.blocks), played.model.spec.tokens
    near(engine.run(played.windows[:1], played.gates[:1]), played)
    launches = [one for one in engine.slot(1).launches if one.name == 'window_kernel']
    assert not launches[0].arguments['counters'].any()  # ready for the next launch
    assert len(launches) == blocks + 1
    assert launches[0].grid == (1, tokens // 16, 1)


@pytest.mark.parametrize('options', [
    {'block_m': 32}, {'warps': 4}, {'team': 1}, {'team': 2, 'block_h': 128},
    {'block_h': 64, 'stages': 3}], ids=str)
def test_other_tiles_give_the_same(kernels, options):
    from taolora_ros.engine.mega import MegaEngine
    played = Played('ecg_beats')
    engine = MegaEngine(played.model, kernels.type, persistent=torch.cuda.is_available(),
                        check=False, **options)
    near(engine.run(played.windows[:1], played.gates[:1]), played)


@pytest.mark.parametrize('programs, windows, team', [
    (132, 1, 4), (132, 8, 4), (132, 16, 2), (132, 32, 1), (8, 1, 2)])
def test_as_many_programs_share_a_tile_as_there_is_room_for(monkeypatch, programs, windows, team):
    pytest.importorskip('triton')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)  # launches are made, not run
    from taolora_ros.engine.mega import MegaEngine
    model = load_model(find_model('imu_falls'))
    engine = MegaEngine(model, 'cpu', programs=programs)
    launch, = engine.launches(make_buffers(model, windows, 'cpu'))
    assert launch.grid == (team, model.spec.tokens // 16, windows)


def test_a_team_that_cannot_share_the_hidden_numbers_is_refused():
    pytest.importorskip('triton')
    from taolora_ros.kernels.window import window_launches
    from taolora_ros.kernels.window_layout import window_weights
    model = load_model(find_model('imu_falls'))
    weights = window_weights(model.network.blocks, 32, 64, torch.device('cpu'))
    with pytest.raises(ValueError, match='team: 8 programs cannot share 512 hidden numbers'):
        window_launches(*(torch.zeros(64),) * 2, weights, *(torch.zeros(64),) * 3, {'T': 64}, True,
                        team=8)


@pytest.mark.parametrize('options, message', [
    ({'block_h': 96}, 'hidden width: 512 is no multiple of 192'),
    ({'block_m': 64}, 'block_m: 64 is not 16 or 32')], ids=str)
def test_tiles_that_cannot_be_are_refused(options, message):
    pytest.importorskip('triton')
    from taolora_ros.engine.mega import MegaEngine
    if options.get('block_m') and interpreted():
        pytest.skip('the interpreter takes tiles of any size')
    with pytest.raises(ValueError, match=message):
        model = load_model(find_model('imu_falls'))
        engine = MegaEngine(model, 'cpu', programs=132, **options)
        engine.launches(make_buffers(model, 1, 'cpu'))


@pytest.mark.parametrize('options', [
    {'warps': 2}, {'split': 4, 'early': torch.cuda.is_available()
                      and torch.cuda.get_device_capability() >= (9, 0)}],
    ids=str)
def test_other_ways_of_a_kernel_a_layer_give_the_same(kernels, options):
    from taolora_ros.engine.fused import FusedEngine
    played = Played('ecg_beats')
    engine = FusedEngine(played.model, kernels.type, check=False, **options)
    near(engine.run(played.windows, played.gates), played)
    # what was left behind is used again, by other windows
    turned = vars(engine.run(played.windows[::-1], played.gates[::-1]))
    near(Scores(**{name: value if value is None else value[::-1]
                   for name, value in turned.items()}), played)


def test_linears_of_many_rows_have_larger_tiles(monkeypatch):
    pytest.importorskip('triton')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)  # launches are made, not run
    from taolora_ros.engine.fused import FusedEngine
    model = load_model(find_model('imu_falls'))
    engine = FusedEngine(model, 'cpu', programs=132)
    few, many = ({(launch.constants['BM'], launch.constants['BN'])
                  for launch in engine.launches(make_buffers(model, count, 'cpu'))
                  if launch.name == 'linear_kernel'} for count in (1, 64))
    assert max(few) < min(many) and max(n for _, n in few) < min(n for _, n in many)


def test_windows_of_a_batch_do_not_disturb_each_other(kernels):
    played = Played('ecg_beats')
    engine = make_engine(played.model, 'mega', kernels.type)
    near(engine.run(played.windows, played.gates), played)


def test_other_weights_count_from_the_next_window_on(kernels):
    played = Played('ecg_beats')
    engine = make_engine(played.model, 'mega', kernels.type)
    windows, gates = played.windows[:1], np.ones_like(played.gates[:1])
    launches = engine.slot(1).launches
    before = engine.run(windows, gates)
    names = ('head.weight', 'head.bias', 'blocks.1.mix.outer.lora_b', 'blocks.2.down.lora_a')
    rng = np.random.default_rng(3)  # factors are kept in float16, like those of a file
    changes = {name: (value + 0.1 * rng.standard_normal(value.shape)).astype(np.float16)
               .astype(np.float32) for name, value in engine.read_weights(*names).items()}
    known = engine.changes
    for _ in range(2):  # the second changes nothing
        engine.write_weights(changes)
        assert engine.changes == known + 1
    after = engine.run(windows, gates)
    assert engine.slot(1).launches is launches
    assert np.array_equal(engine.read_weights('head.bias')['head.bias'], changes['head.bias'])
    state = played.model.network.state_dict()
    for key, value in changes.items():
        state[key].copy_(torch.as_tensor(value))
    wanted = ReferenceEngine(played.model, 'cpu').run(windows, gates)
    # weights that nothing was tuned for: a number may fall on a border between two codes
    off, was = (np.abs(scores.probability - wanted.probability).mean()
                for scores in (after, before))
    assert off < 0.1 * was and was > 0.003
    with pytest.raises(ValueError, match='expected'):
        engine.write_weights({'head.bias': np.zeros(1)})
    with pytest.raises(ValueError, match='finite'):
        engine.write_weights({'head.bias': np.full(6, np.nan)})
    with pytest.raises(ValueError, match='embed.weight'):
        engine.read_weights('embed.weight')


def test_a_network_of_odd_sizes_runs_layer_by_layer(kernels, tmp_path):
    model = load_model(tiny_models(tmp_path, groups=2))
    rng = np.random.default_rng(0)
    windows = rng.standard_normal((3, model.spec.window, 8), np.float32)
    gates = rng.random((3, model.spec.tokens)) < 0.5
    wanted = ReferenceEngine(model, 'cpu').run(windows, gates)
    engine = make_engine(model, 'fused', kernels.type)
    assert np.abs(engine.run(windows, gates).probability - wanted.probability).mean() < 1e-4
    for name in ('head.bias', 'blocks.1.up.lora_b'):
        value = np.ones(model.network.state_dict()[name].shape, np.float32) / 4
        engine.write_weights({name: value})
        model.network.state_dict()[name].copy_(torch.as_tensor(value))
    changed = ReferenceEngine(model, 'cpu').run(windows, gates)
    assert np.abs(engine.run(windows, gates).probability - changed.probability).mean() < 1e-4
    assert np.abs(changed.probability - wanted.probability).mean() > 1e-2
    with pytest.raises(ValueError, match='mega cannot be used: .*groups'):
        make_engine(model, 'mega', kernels.type)
    with pytest.raises(ValueError, match='expected'):
        make_engine(model, 'fused', kernels.type).run(windows[:, 1:], gates)


def test_full_precision_is_refused(kernels):
    model = load_model(find_model('imu_falls'), 'fp32')
    with pytest.raises(ValueError, match='fp32, and its kernels are for INT4'):
        make_engine(model, 'fused', kernels.type)


def test_a_cpu_without_the_interpreter_is_refused(monkeypatch, kernels):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    with pytest.raises(ValueError, match='mega cannot be used: it runs on a CUDA device.*auto picks'):
        make_engine(load_model(find_model('imu_falls')), 'mega', 'cpu')


@pytest.mark.gpu
@pytest.mark.parametrize('zero_copy', [False, True])
@pytest.mark.parametrize('name', ENGINES)
def test_replays_give_the_same_bits_again(name, zero_copy):
    from taolora_ros.engine.gpu import make_gpu_engine
    played = Played('ecg_beats')
    engine = make_gpu_engine(name, played.model, 'cuda', zero_copy=zero_copy)
    windows, gates = played.windows.repeat(35, 0), played.gates.repeat(35, 0)
    first = engine.run(windows[:1], gates[:1])
    for _ in range(300):  # programs that do not wait for each other would differ now and then
        again = engine.run(windows[:1], gates[:1])
        assert np.array_equal(again.probability, first.probability)
        assert np.array_equal(again.anomaly, first.anomaly)
    for batch in (3, 33, 70):
        scores = engine.run(windows[:batch], gates[:batch])
        assert np.abs(scores.probability[0] - first.probability[0]).mean() < 0.02
        assert np.array_equal(scores.probability[0], scores.probability[1])  # the same window


@pytest.mark.gpu
def test_auto_takes_the_fastest_and_says_why():
    engine = make_engine(load_model(find_model('imu_falls')), 'auto', 'cuda')
    assert engine.why.startswith(engine.name)
    assert 'reference' in engine.why
