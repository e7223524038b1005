"""Hard negatives: what is found, how often it is drawn, and trainings that mine."""

import numpy as np
import pytest
import torch

from taolora_ros.cli import main
from taolora_ros.model_file import load_model, save_model
from taolora_ros.network import TaoNetwork
from taolora_ros.recordings import save_imu
from taolora_ros.spec import ECG_BEATS, IMU_FALLS
from taolora_ros.training import mining, recipe
from taolora_ros.training.corpus import build_corpus
from taolora_ros.training.mining import Miner, capped, hardest
from taolora_ros.training.ranks import Ranks
from taolora_ros.training.train import TrainOptions, train
from taolora_ros.training.windows import WindowSampler
from test_training import ecg_recording
from tiny import imu_corpus, imu_recording, tiny_spec

CPU = torch.device('cpu')
COUNT = 30  # activities in a corpus, enough for the cap to leave things alone


class Listener(torch.nn.Module):
    """A network that takes for a fall whatever is louder than usual, the louder the surer."""

    def __init__(self, spec):
        super().__init__()
        self.patch = spec.patch

    def forward(self, windows):
        loud = windows[..., :3].square().sum(-1).unflatten(1, (-1, self.patch)).mean(-1)
        logit = (loud - 4.0).clamp(-6.0, 6.0)
        return torch.stack([torch.zeros_like(logit), logit], -1), None, None


def activities(random):
    """Return activities of a code of their own, and one fall; every third has a loud moment."""
    made, loud = [], {}
    for i in range(COUNT):
        one = imu_recording(f's{i}', False, seconds=random.uniform(4.0, 20.0), seed=i)
        one.code = f'D{i:02}'
        if i % 3 == 0:
            at = random.uniform(1.0, one.duration_s - 1.0)
            loud[i] = at
            one.values[int(at * one.rate):][:16, :3] *= random.uniform(2.5, 4.0)
        made.append(one)
    return [*made, imu_recording('faller', True)], loud


def mined(corpus, share=0.5, spec=IMU_FALLS, network=None, told=lambda *_: None):
    """Return a sampler that has mined with a ``network``, by default one that listens."""
    sampler = WindowSampler(spec, corpus, CPU, torch.Generator().manual_seed(1))
    miner = Miner(sampler, corpus.group, share, 30, told)
    for step in range(30):
        miner.mine(step, network or Listener(spec), Ranks())
    return sampler, miner


def test_the_moments_found_are_those_the_network_is_wrong_about():
    recordings, loud = activities(np.random.default_rng())
    corpus = build_corpus(IMU_FALLS, recordings)
    sampler = WindowSampler(IMU_FALLS, corpus, CPU, torch.Generator())
    recording, at, share = hardest(Listener(IMU_FALLS), sampler).numpy()
    assert len(share) and share.sum() == pytest.approx(1.0)
    for which, row in zip(recording.astype(int), at):
        assert which in loud, 'a fall, or an activity that is quiet'
        assert abs((row - corpus.start[which]) / IMU_FALLS.rate - loud[which]) < 0.3
    assert bool(torch.isfinite(sampler.draw(9).windows).all())


def test_recordings_of_falls_are_never_mined():
    spec, corpus = IMU_FALLS, imu_corpus(IMU_FALLS)

    class Wrong(Listener):
        def forward(self, windows):
            surely = torch.full(windows.shape[:1] + (spec.tokens,), 5.0)
            return torch.stack([-surely, surely], -1), None, None

    sampler = WindowSampler(spec, corpus, CPU, torch.Generator())
    recording, at, _ = hardest(Wrong(spec), sampler).numpy()
    assert len(at) and not set(recording) & set(corpus.event_recording)
    for which, row in zip(recording.astype(int), at):
        assert corpus.start[which] <= row <= corpus.stop[which]
    corpus = build_corpus(spec, [imu_recording('faller', True, seed=i) for i in range(2)])
    sampler = WindowSampler(spec, corpus, CPU, torch.Generator())
    assert hardest(Wrong(spec), sampler).shape == (3, 0), 'nothing but falls'


def test_scoring_is_undisturbed_and_takes_no_random_number():
    spec = tiny_spec()
    sampler = WindowSampler(spec, imu_corpus(spec), CPU, torch.Generator().manual_seed(3))
    network = TaoNetwork(spec).train()
    network.blocks[1].dropout.p = 0.5
    before = sampler.random.get_state()
    assert torch.equal(hardest(network, sampler), hardest(network.train(), sampler))
    assert torch.equal(sampler.random.get_state(), before) and sampler.augment


def test_share_of_a_batch_is_drawn_around_what_was_mined_and_no_more():
    recordings, loud = activities(np.random.default_rng())
    corpus = build_corpus(IMU_FALLS, recordings)
    share = float(np.random.default_rng().uniform(0.2, 0.8))
    sampler, miner = mined(corpus, share)
    sampler.cut = lambda recording, end, stretch: (recording, end)
    recording, end = sampler.draw(400)
    hard = slice(200, 200 + round(200 * share))
    assert set(recording[:200].tolist()) == {COUNT}, 'the fall'
    assert set(recording[hard].tolist()) <= set(loud)
    assert not set(recording[hard.stop:].tolist()) <= set(loud)
    for which, last in zip(recording[hard].tolist(), end[hard].tolist()):
        at = corpus.start[which] + loud[which] * IMU_FALLS.rate
        assert last >= corpus.stop[which] or -16 < last - at < IMU_FALLS.window + 16
    assert set(miner.found) == {10, 20}


def test_no_recording_has_more_than_its_cap():
    random = np.random.default_rng()
    for count in (1, 7, 49, 50, 51, 300):
        recording = random.integers(0, count, 4 * count)
        weight = random.uniform(0.01, 1.0, len(recording))
        weight[recording == recording[0]] *= 1000
        share = capped(weight, recording, 0.02)
        total = np.bincount(recording, weights=share)
        present = np.unique(recording)
        assert share.sum() == pytest.approx(1.0) and (share > 0).all()
        assert total.max() <= max(0.02, 1 / len(present)) * (1 + 1e-6)
        below = present[total[present] < total.max() * (1 - 1e-6)]
        plain = np.bincount(recording, weights=weight)
        ratio = total[below] / plain[below]  # the others keep their proportions
        assert np.allclose(ratio, ratio[:1])


def test_mining_is_off_by_default_and_changes_no_draw_then():
    corpus = imu_corpus(IMU_FALLS)
    plain = WindowSampler(IMU_FALLS, corpus, CPU, torch.Generator().manual_seed(1))
    never, miner = mined(corpus, TrainOptions().hard_negatives)
    assert not miner.found
    for _ in range(3):
        assert torch.equal(plain.draw(11).windows, never.draw(11).windows)


def test_what_was_mined_is_told_by_kind_of_activity():
    recordings, loud = activities(np.random.default_rng())
    told = []
    mined(build_corpus(IMU_FALLS, recordings), told=lambda *what: told.append(what))
    assert [step for step, _ in told] == [10, 20]
    for _, shares in told:
        assert set(shares) <= {f'made/D{i:02}' for i in loud}
        assert sum(shares.values()) == pytest.approx(1.0, abs=0.01)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_beats_have_hard_negatives_too_and_nothing_to_mine_is_no_error():
    recordings = [ecg_recording(f'r{i}', seed=i) for i in range(3)]
    for recording in recordings[1:]:
        recording.beat_aami[:] = 'N'
    corpus = build_corpus(ECG_BEATS, recordings)
    spec = ECG_BEATS

    class Wrong(torch.nn.Module):
        def forward(self, windows):
            return torch.zeros(len(windows), spec.tokens, len(spec.classes)), None, None

    sampler, miner = mined(corpus, spec=spec, network=Wrong())
    assert set(sampler.hard.recording.tolist()) <= {2, 3, 4, 5}, 'VEB lie in all windows of r0'
    assert bool(torch.isfinite(sampler.draw(12).windows).all())
    sampler, _ = mined(build_corpus(spec, recordings[:1]), spec=spec, network=Wrong())
    assert sampler.hard_share == 0 and len(sampler.draw(8).windows) == 8


@pytest.mark.parametrize('share', [0.5, 1.0])
def test_training_that_mines_is_repeatable_and_goes_on_from_its_checkpoint(tmp_path, share):
    spec = tiny_spec()
    corpus = imu_corpus(spec)
    options = TrainOptions(steps=12, batch=9, warmup=2, save_every=5, hard_negatives=share)
    told, checkpoint = [], tmp_path / 'c.checkpoint'

    def run(**more):
        told.append({})
        return train(spec, corpus, options, CPU, mined=told[-1].__setitem__, **more).state_dict()

    whole, again = run(), run(checkpoint=checkpoint)
    state = torch.load(checkpoint, weights_only=True)
    assert state['step'] == 10 and set(state['mined']) == {4, 8}
    resumed = run(checkpoint=checkpoint, resume=True)  # mines no more, but draws what was mined
    plain = train(spec, corpus, TrainOptions(steps=12, batch=9, warmup=2), CPU).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], plain[name]) for name in whole)
    assert told[0] == told[1] == told[2] and set(told[0]) == {4, 8}


def test_model_tells_what_was_mined_and_is_kept_when_trained_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(recipe.SPECS, 'imu', tiny_spec())
    monkeypatch.setattr(recipe, 'STEADY_WINDOWS', 256)
    for subject in ('a', 'b'):
        save_imu(tmp_path / f'{subject}.npz', [imu_recording(subject, True, seed=1),
                                               imu_recording(subject, False, seed=2)])
    out = tmp_path / 'm.safetensors'
    command = ['train', 'imu', '--data', str(tmp_path), '--out', str(out), '--device', 'cpu',
               '--steps', '6', '--tune', '1']
    assert main([*command, '--hard-negatives', '1.5']) == 2
    assert '--hard-negatives: 1.5' in capsys.readouterr().err
    assert main([*command, '--hard-negatives', '0.5']) == 0
    for precision in ('int4', 'fp32'):
        provenance = load_model(out, precision).metadata['provenance']
        assert provenance['training']['hard_negatives'] == 0.5
        assert set(provenance['mined']) == {'2', '4'}
        assert sum(provenance['mined']['4'].values()) == pytest.approx(1.0, abs=0.01)
    full = load_model(out, 'fp32')
    del full.metadata['provenance']['training']['hard_negatives']  # as files made before say it
    path = tmp_path / 'old.safetensors'
    save_model(path, full.spec, full.network, torch.ones(full.network.features),
               full.metadata['provenance'], {})
    assert recipe.told(load_model(path))['training']['hard_negatives'] == 0.0


def test_points_lie_within_any_training():
    for steps in (1, 2, 3, 1000, 3000):
        due = Miner(None, None, 0.5, steps).due
        assert due and all(0 <= step < steps for step in due)
    assert Miner(None, None, 0.5, 3000).due == {1000, 2000}
    assert all(0 < point < 1 for point in mining.POINTS)
