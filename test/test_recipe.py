"""From a folder of recordings to model files, and cross-validation."""

import json

import pytest
import torch

from taolora_ros.cli import main
from taolora_ros.evaluation.panel import find_folds
from taolora_ros.model_file import load_model
from taolora_ros.recordings import save_imu
from taolora_ros.training import recipe
from taolora_ros.training.calibration import QuantizeOptions
from taolora_ros.training.folds import assign_folds, judge_folds, train_folds
from taolora_ros.training.recipe import Job, make_model
from taolora_ros.training.train import TrainOptions
from taolora_ros.training.tuning import TuneOptions
from tiny import imu_recording, tiny_models, tiny_spec


@pytest.fixture
def small(monkeypatch):
    """Make models small and quick to judge."""
    monkeypatch.setitem(recipe.SPECS, 'imu', tiny_spec())
    monkeypatch.setattr(recipe, 'STEADY_WINDOWS', 256)


def test_folds_share_no_subject_and_lose_none():
    recordings = [imu_recording(f's{i}', j == 0, seconds=1, seed=i) for i in range(11)
                  for j in range(2)]
    groups = assign_folds(recordings, 4)
    assert sorted(s for group in groups for s in group) == sorted({r.subject for r in recordings})
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    with pytest.raises(ValueError, match='folds: 12'):
        assign_folds(recordings, 12)


def test_make_model_leaves_out_what_it_is_told(tmp_path, small):
    for subject in ('a', 'b', 'c'):
        save_imu(tmp_path / f'{subject}.npz', [imu_recording(subject, True, seed=1),
                                               imu_recording(subject, False, seed=2)])
    job = Job('imu', tmp_path, tmp_path / 'out' / 'm.safetensors', 'cpu',
              left_out=frozenset({'b'}), training=TrainOptions(steps=3, batch=8),
              tuning=TuneOptions(steps=2, batch=4),
              quantization=QuantizeOptions(rank=2, windows=16))
    stages = []
    make_model(job, lambda stage, share, text: stages.append(stage))
    model = load_model(job.out)
    assert [s.split('/')[-1] for s in model.metadata['provenance']['subjects']] == ['a', 'c']
    assert load_model(job.out, 'fp32').precision == 'fp32'
    assert {'reading recordings', 'training', 'quantizing'} <= set(stages)


def test_folds_are_judged_by_the_model_that_never_saw_them(tmp_path, small):
    for subject in ('a', 'b', 'c', 'd'):
        save_imu(tmp_path / f'{subject}.npz', [imu_recording(subject, True, seed=1),
                                               imu_recording(subject, False, seed=2)])
    job = Job('imu', tmp_path, tmp_path / 'm.safetensors', 'cpu', resume=True,
              training=TrainOptions(steps=2, batch=8), tuning=TuneOptions(steps=2, batch=4),
              quantization=QuantizeOptions(rank=2, windows=16))
    train_folds(job, 2, which=0)
    assert not (tmp_path / 'm.fold1.safetensors').exists()
    train_folds(job, 2)
    left_out = [load_model(tmp_path / f'm.fold{i}.safetensors').metadata['provenance']['left_out']
                for i in range(2)]
    assert sorted(left_out[0] + left_out[1]) == ['a', 'b', 'c', 'd']
    (tmp_path / 'm.fold0.reference.safetensors').write_bytes(b'made by taolora reference')
    folds = find_folds(tmp_path, 'imu')
    assert set(folds) == set('abcd') and len(set(folds.values())) == 2
    result = judge_folds(job, 2, 'int4', processes=2)
    assert sorted(r['subject'] for r in result['recordings']) == sorted('aabbccdd')
    assert result['fall']['falls'] == 4


def test_cross_validation_says_where_its_figures_come_from(tmp_path, small, monkeypatch, capsys):
    for subject in ('a', 'b'):
        save_imu(tmp_path / f'{subject}.npz', [imu_recording(subject, True, seed=1),
                                               imu_recording(subject, False, seed=2)])
    out, told = tmp_path / 'm.safetensors', tmp_path / 'told.json'
    command = ['train', 'imu', '--data', str(tmp_path), '--out', str(out), '--device', 'cpu',
               '--steps', '2', '--tune', '1', '--folds', '2', '--processes', '1', '--resume']
    assert main([*command, '--json', str(tmp_path / 'no' / 'told.json')]) == 2
    monkeypatch.setenv('TAOLORA_COMMIT', 'abc')
    assert main([*command, '--seed', '7', '--fold', '0']) == 0
    monkeypatch.setenv('TAOLORA_COMMIT', 'def')
    assert main([*command, '--seed', '7', '--json', str(told)]) == 0
    result = json.loads(told.read_text())
    origin = result['provenance']
    assert (origin['code'], origin['seed'], origin['judged']['code']) == ('abc, def', 7, 'def')
    assert origin['torch'] == origin['judged']['torch'] == torch.__version__
    assert '--folds 2 --seed 7' in origin['command'] and origin['training']['steps'] == 2
    assert {'device', 'what', 'fp32', 'int4'} <= {*result, *origin}
    capsys.readouterr()
    assert main([*command, '--seed', '8']) == 2
    assert 'm.fold0.safetensors: was trained with other options' in capsys.readouterr().err


def test_quantize_leaves_out_what_it_is_told_and_does_as_the_shipped_models(tmp_path, small):
    for subject in ('a', 'b'):
        save_imu(tmp_path / f'{subject}.npz', [imu_recording(subject, True, seed=1),
                                               imu_recording(subject, False, seed=2)])
    tiny_models(tmp_path)
    source = tmp_path / 'tiny.fp32.safetensors'
    always = ['quantize', str(source), '--data', str(tmp_path), '--tune', '1', '--device', 'cpu']
    assert main([*always, '--out', str(tmp_path / 'q.safetensors'), '--leave-out', 'b']) == 0
    model = load_model(tmp_path / 'q.safetensors')
    assert model.metadata['provenance']['quantized_without'] == ['b']
    assert {(m.lora_bits, m.scale_bits) for m in model.network.linears().values()} == {(4, 16)}
    assert model.rank == 16
    assert main([*always, '--out', str(tmp_path / 'r.safetensors'), '--leave-out', 'a,b']) == 2
