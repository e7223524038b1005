"""Tuning towards the mean answer of several networks: the mean, the files, the command."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from taolora_ros.cli import main
from taolora_ros.evaluation.panel import find_folds
from taolora_ros.model_file import load_model, save_model
from taolora_ros.network import TaoNetwork
from taolora_ros.recordings import save_imu
from taolora_ros.spec import ECG_BEATS
from taolora_ros.training import recipe
from taolora_ros.training.calibration import QuantizeOptions, quantize_network
from taolora_ros.training.recipe import load_teacher
from taolora_ros.training.tuning import TAUGHT_STEPS, TuneOptions, mean_answers, tune
from taolora_ros.training.windows import WindowSampler
from tiny import imu_corpus, imu_recording, tiny_models, tiny_spec

HERE = Path(__file__).resolve().parent


def networks(spec, count, seed=0):
    """Return networks that know nothing, but are sure of different things."""
    made = []
    for i in range(count):
        torch.manual_seed(seed + i)
        made.append(TaoNetwork(spec).eval().requires_grad_(False))
        made[-1].head.weight.mul_(8)
    return made


def recordings(folder, subjects='ab'):
    for subject in subjects:
        save_imu(folder / f'{subject}.npz', [imu_recording(subject, True, seed=1),
                                             imu_recording(subject, False, seed=2)])


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Return the arguments that train a tiny model on two people, and make it tiny."""
    monkeypatch.setitem(recipe.SPECS, 'imu', tiny_spec())
    monkeypatch.setattr(recipe, 'STEADY_WINDOWS', 256)
    recordings(tmp_path)
    return ['train', 'imu', '--data', str(tmp_path), '--out', str(tmp_path / 'm.safetensors'),
            '--device', 'cpu', '--steps', '2', '--tune', '1']


def made_with(path):
    return load_model(path).metadata['provenance']


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_mean_answers_are_those_of_the_mean_probabilities(count):
    spec = tiny_spec(ECG_BEATS)
    several = networks(spec, count, int(np.random.default_rng().integers(1000)))
    windows = torch.randn(7, spec.window, several[0].features)
    with torch.no_grad():
        logits, offsets, rebuilt = mean_answers(several, windows)
        answers = [network(windows) for network in several]
    wanted = np.zeros(logits.shape)
    for one, _, _ in answers:
        powers = np.exp(one.double().numpy())
        wanted += powers / powers.sum(-1, keepdims=True) / count
    assert np.allclose(logits.double().softmax(-1), wanted, atol=1e-6)
    assert np.allclose(logits.double().logsumexp(-1), 0.0, atol=1e-5), 'they are probabilities'
    mean = sum(offset.double() for _, offset, _ in answers) / count
    assert np.allclose(offsets, mean, atol=1e-6)
    assert torch.equal(rebuilt, answers[0][2]), "what is rebuilt is the first one's"


def test_teachers_bring_the_answers_nearer_to_the_mean_of_all():
    spec, cpu = tiny_spec(), torch.device('cpu')
    corpus, (network, *teachers) = imu_corpus(spec), networks(spec, 3, 3)

    def draw(seed, augment=True):
        return WindowSampler(spec, corpus, cpu, torch.Generator().manual_seed(seed), augment)

    fresh = draw(99).draw(64)
    with torch.no_grad():
        wanted = mean_answers((network, *teachers), fresh.windows)[0].softmax(-1)

    def left(taught_by):
        quantized = quantize_network(network, draw(0, False).draw(40), QuantizeOptions(rank=4))
        tune(quantized, network, draw(1), TuneOptions(steps=80, batch=16), teachers=taught_by)
        with torch.no_grad():
            got = quantized(fresh.windows, fresh.gates)[0].softmax(-1)
        return float((got - wanted).norm())

    assert left(teachers) < 0.7 * left([])


def test_teacher_is_refused_where_it_does_not_fit(tmp_path):
    (tmp_path / 'other').mkdir()
    int4 = tiny_models(tmp_path)
    fp32, other = (folder / 'tiny.fp32.safetensors' for folder in (tmp_path, tmp_path / 'other'))
    model = load_model(fp32)
    assert load_teacher(fp32, model).precision == 'fp32'
    with pytest.raises(ValueError, match='tiny.safetensors: a teacher must be in full precision'):
        load_teacher(int4, model)
    tiny_models(tmp_path / 'other', tiny_spec(ECG_BEATS))
    with pytest.raises(ValueError, match='ecg_beats .* cannot teach imu_falls'):
        load_teacher(other, model)

    def taught_by(*subjects):
        save_model(other, model.spec, model.network, model.anomaly_scale,
                   {'subjects': list(subjects)}, {})
        return other
    model.metadata['provenance']['subjects'] = ['a', 'b']
    assert load_teacher(taught_by('b'), model).spec == model.spec
    with pytest.raises(ValueError, match='was trained on c, which the model to be quantized was'):
        load_teacher(taught_by('a', 'c'), model)


def test_train_makes_teachers_and_keeps_them_when_it_goes_on(tmp_path, command, capsys):
    assert main([*command, '--teachers', '1', '--seed', '4']) == 0
    teacher = tmp_path / 'm.teacher1.fp32.safetensors'
    assert made_with(teacher)['training']['seed'] == 5
    assert [one['seed'] for one in made_with(tmp_path / 'm.safetensors')['teachers']] == [5]
    assert 'm.teacher1.fp32.safetensors' in capsys.readouterr().out
    there = teacher.stat().st_mtime_ns
    assert main([*command, '--teachers', '2', '--seed', '4', '--resume']) == 0
    assert teacher.stat().st_mtime_ns == there
    assert [one['seed'] for one in made_with(tmp_path / 'm.safetensors')['teachers']] == [5, 6]
    assert main([*command, '--teachers', '1', '--seed', '5', '--resume']) == 2
    assert 'm.teacher1.fp32.safetensors: was trained with other options' in capsys.readouterr().err
    assert main([*command, '--teachers', '1', '--seed', '4', '--resume', '--leave-out', 'a']) == 2
    assert main([*command, '--teachers', '1', '--seed', '4', '--leave-out', 'a']) == 0
    assert made_with(teacher)['left_out'] == ['a']
    alone = ['--out', str(tmp_path / 'alone.safetensors'), '--seed', '5', '--leave-out', 'a']
    assert main([*command, *alone]) == 0
    wanted = load_model(tmp_path / 'alone.fp32.safetensors').network.state_dict()
    for name, tensor in load_model(teacher).network.state_dict().items():
        assert torch.equal(tensor, wanted[name]), 'a teacher is what its seed gives alone'


def test_folds_have_teachers_that_left_out_the_same(tmp_path, command, capsys):
    told = tmp_path / 'told.json'
    folds = [*command, '--folds', '2', '--processes', '1', '--resume']
    assert main([*folds, '--teachers', '1', '--fold', '1']) == 0
    assert main([*folds, '--teachers', '1', '--json', str(told)]) == 0
    for i in range(2):
        fold, teacher = (made_with(tmp_path / f'm.fold{i}{ending}.safetensors')
                         for ending in ('', '.teacher1.fp32'))
        assert teacher['left_out'] == fold['left_out'] and len(fold['left_out']) == 1
        assert fold['teachers'] == [teacher['training']]
    assert set(find_folds(tmp_path, 'imu')) == {'a', 'b'}, 'teachers are no folds'
    assert '--folds 2 --seed 0 --teachers 1"' in told.read_text()
    capsys.readouterr()
    assert main([*folds, '--teachers', '1', '--tune', '3']) == 2, 'tuned otherwise'
    assert main([*folds, '--teachers', '1', '--leave-out', 'c']) == 2, 'they may know c'
    capsys.readouterr()
    assert main(folds) == 2, 'these folds were taught'
    assert 'm.fold0.safetensors: was trained with other options' in capsys.readouterr().err


def test_two_processes_train_teachers_together(tmp_path):
    recordings(tmp_path)
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get('PYTHONPATH', '')])
    for _ in range(2):  # the second time all is there
        done = subprocess.run(
            [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node',
             '2', str(HERE / 'teach_tiny.py'), str(tmp_path)], capture_output=True, text=True,
            env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}, timeout=240)
        assert done.returncode == 0, done.stderr
        assert len(made_with(tmp_path / 'm.safetensors')['teachers']) == 1
        (tmp_path / 'm.safetensors').unlink()


@pytest.mark.parametrize('arguments, said', [
    (['--teachers', '-1'], '--teachers: -1, must be 0 or more'),
    (['--teachers', '2', '--tune', '0'], '--tune: 0 with --teachers')])
def test_wrong_arguments_are_named(command, capsys, arguments, said):
    assert main([*command, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_what_is_taught_is_tuned_for_longer(tmp_path, command, monkeypatch):
    steps = []
    monkeypatch.setattr(recipe, 'tune', lambda quantized, network, sampler, options, *_:
                        steps.append(options.steps))
    untold = command[:command.index('--tune')]
    for teachers in ('0', '1'):
        assert main([*untold, '--teachers', teachers]) == 0
    assert steps == [TuneOptions().steps, TAUGHT_STEPS]
