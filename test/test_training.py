import numpy as np
import pytest
import torch

from taolora_ros.features import FeatureFilter, ecg_scale, normalise
from taolora_ros.recordings import Recording
from taolora_ros.resampling import resample
from taolora_ros.spec import ECG_BEATS, IMU_FALLS
from taolora_ros.training.calibration import (QuantizeOptions, fit_branch, quantize_network,
                                              round_with_feedback)
from taolora_ros.training.corpus import IGNORE, build_corpus, running_scale
from taolora_ros.training.disturb_imu import ImuDisturbance, disturb_imu, rotations
from taolora_ros.training.draws import Draws
from taolora_ros.training.implants import Donor, implant
from taolora_ros.training.train import TrainOptions, train
from taolora_ros.training.windows import WindowSampler, dilate
from tiny import imu_corpus, tiny_batch, tiny_spec

CPU = torch.device('cpu')


def ecg_recording(name='r1', seconds=40.0, rate=200.0, seed=0):
    """Return beats of 0.8 s with a spike each, every seventh one ventricular and wide."""
    random = np.random.default_rng(seed)
    beats = np.arange(0.6, seconds - 0.5, 0.8) + random.uniform(-0.03, 0.03)
    aami = np.array(['V' if i % 7 == 3 else 'N' for i in range(len(beats))])
    time = np.arange(int(seconds * rate)) / rate
    wave = random.normal(0, 0.01, (len(time), 2))
    for beat, kind in zip(beats, aami):
        width = 0.05 if kind == 'V' else 0.015
        wave += (1.5 * np.exp(-0.5 * ((time - beat) / width) ** 2))[:, None]
    return Recording(name=name, subject=name, source='made', kind='ecg', rate=rate, values=wave,
                     leads=('II', 'V1'), beat_times_s=beats, beat_aami=aami)


def sampler(spec, corpus, augment, seed=0):
    return WindowSampler(spec, corpus, CPU, torch.Generator().manual_seed(seed), augment)


def test_running_scale_is_what_the_stream_divides_by():
    feature = np.random.default_rng().standard_normal(4321).astype(np.float32)
    scale = running_scale(ECG_BEATS, feature)
    for end in (1, 100, 250, 251, 999, 1250, 2750, 4321):
        assert scale[end - 1] == ecg_scale(ECG_BEATS, feature[max(0, end - 1250):end])


def test_training_windows_are_the_windows_of_the_running_detector():
    recording = ecg_recording()
    corpus = build_corpus(ECG_BEATS, [recording])
    batch = sampler(ECG_BEATS, corpus, augment=False).draw(32)
    stamps = np.round(np.arange(len(recording.values)) * 1e9 / recording.rate).astype(np.int64)
    uniform, _ = resample(stamps, recording.values[:, :1], ECG_BEATS.rate)
    features = FeatureFilter(ECG_BEATS).push(uniform)
    live = {}
    for end in range(ECG_BEATS.patch, len(features) + 1):
        window = normalise(ECG_BEATS, features[max(0, end - 1250):end])
        live[np.round(window[::37, 0], 3).tobytes()] = window
    found = 0
    for window in batch.windows.numpy():
        match = live.get(np.round(window[::37, 0], 3).tobytes())
        found += match is not None and np.allclose(match, window, atol=1e-4)
    assert found >= 8  # lead 0 is drawn two times in three; the other lead has other noise


def test_beats_are_labelled_where_they_are():
    spec = ECG_BEATS
    corpus = build_corpus(spec, [ecg_recording()])
    draw = sampler(spec, corpus, augment=False)
    end = torch.tensor([3333.0], dtype=torch.float64)
    stretch = torch.tensor([1.1], dtype=torch.float64)
    batch = draw.cut(torch.tensor([0]), end, stretch)
    seen = set()
    for at, label in zip(corpus.event_at, corpus.event_class):
        place = spec.window - (3333.0 - at) / 1.1
        if corpus.event_recording[np.flatnonzero(corpus.event_at == at)[0]] == 0 and \
                0 <= place < spec.window:
            own = place / spec.patch // 1
            for token in (own - 1, own, own + 1):  # neighbours near the border see it too
                offset = place / spec.patch - token
                if -0.25 <= offset <= 1.25 and 0 <= token < spec.tokens:
                    assert batch.classes[0, int(token)] == label
                    assert float(batch.offsets[0, int(token)]) == pytest.approx(offset, abs=1e-4)
                    seen.add(int(token))
    assert seen == set(torch.nonzero(batch.classes[0]).flatten().tolist()) and len(seen) >= 4


def test_spike_of_every_beat_lies_at_its_label():
    corpus = build_corpus(ECG_BEATS, [ecg_recording()])
    batch = sampler(ECG_BEATS, corpus, augment=False, seed=4).draw(40)
    misses = []
    for window, classes, offsets in zip(batch.windows[..., 0], batch.classes, batch.offsets):
        own = (classes == 1) & (offsets >= 0) & (offsets < 1)
        for token in torch.nonzero(own).flatten().tolist():
            place = int((token + float(offsets[token])) * ECG_BEATS.patch)
            if 12 <= place < len(window) - 12:
                peak = int(window[place - 10:place + 11].argmax()) - 10
                misses.append(abs(peak))
    assert len(misses) > 50 and np.mean(misses) < 1.5


def test_an_implanted_beat_lies_at_its_label_and_the_old_one_is_gone():
    place = torch.tensor([[100.3, 220.3, 340.3, 460.3, 580.3]]).repeat(40, 1)
    inside = torch.ones(place.shape, dtype=torch.bool)
    time = torch.arange(700) + 0.5
    x = torch.exp(-0.5 * ((time - place[..., None]) / 2).square()).sum(1)[..., None]
    donor = Donor(lambda since: 3 * torch.exp(-0.5 * (since / 6).square()),
                  torch.full((40, 1), 3), torch.zeros(40, 1, dtype=torch.bool))
    made, at, label = implant(x, place, torch.ones(place.shape, dtype=torch.long), inside, donor,
                              ECG_BEATS.classes, 125.0, Draws(CPU, torch.Generator()), 1.0)
    assert (label == 3).sum(1).min() >= 1 and (label != 3).sum(1).min() >= 2
    for window, places, labels, old in zip(made[..., 0], at, label, place):
        for beat, kind, before in zip(places, labels, old):
            here = int(window[int(beat) - 8:int(beat) + 9].abs().argmax()) - 8
            assert abs(here) <= 1, 'the peak'
            assert (kind == 3) or beat == before
            if kind == 3 and before - beat > 32:
                assert float(window[int(before)]) < 0.3


def test_an_early_beat_of_the_usual_shape_is_supraventricular():
    place = torch.tensor([[100.0, 220.0, 340.0, 460.0]]).repeat(60, 1)
    normal = torch.ones(place.shape, dtype=torch.long)
    donor = Donor(lambda since: torch.zeros_like(since), torch.ones(60, 1, dtype=torch.long),
                  torch.ones(60, 1, dtype=torch.bool))
    _, at, label = implant(torch.zeros(60, 600, 1), place, normal, normal > 0, donor,
                           ECG_BEATS.classes, 125.0, Draws(CPU, torch.Generator()), 1.0)
    early = (place - at) / 120
    assert (label[early > 0.13] == 2).all() and (label[early < 0.11] == 1).all()
    assert (label == 2).any() and float(early.max()) <= 0.41


def test_disturbed_imu_windows_keep_to_their_rails_and_lose_gyros():
    windows = torch.randn(400, 300, 8, generator=torch.Generator().manual_seed(1)) * 9
    how = ImuDisturbance(clipped=0.5, low_rail=3.0, acc_only=0.5)
    out = disturb_imu(windows, Draws(CPU, torch.Generator().manual_seed(2)), how)
    rails = out[..., :3].abs().amax((1, 2))
    assert ((rails == 3.0) | (rails == 16.0)).float().mean() > 0.95
    assert 0.4 < float((rails == 3.0).float().mean()) < 0.6
    assert 0.4 < float((out[..., 4:].abs().amax((1, 2)) == 0).float().mean()) < 0.6
    assert torch.allclose(out[..., 3], out[..., :3].norm(dim=-1) - 1, atol=1e-5)


def test_falls_are_labelled_around_the_impact_and_ignored_before_and_after():
    spec = IMU_FALLS
    corpus = imu_corpus(spec)
    batch = sampler(spec, corpus, augment=False).draw(256)
    before, after = [], []
    for classes in batch.classes:
        positive = torch.nonzero(classes == 1).flatten()
        if len(positive) < 15:
            continue
        assert len(positive) <= 16                                  # 1.25 s of 80 ms patches
        ignored = torch.nonzero(classes == IGNORE).flatten()
        before.append(int((ignored < positive[0]).sum()))
        after.append(int((ignored > positive[-1]).sum()))
    assert len(before) > 50
    assert max(before) in (6, 7) and max(after) in (28, 29)       # 0.5 s and 2.25 s


def test_augmented_windows_stay_finite_and_vary():
    for spec, corpus in ((IMU_FALLS, imu_corpus(IMU_FALLS)),
                         (ECG_BEATS, build_corpus(ECG_BEATS, [ecg_recording()]))):
        batch = sampler(spec, corpus, augment=True).draw(50)
        assert bool(torch.isfinite(batch.windows).all())
        assert batch.windows.shape[:2] == (50, spec.window)
        assert float(batch.windows.std(0).min()) > 0


def test_rotations_are_rotations():
    turn = rotations(17, Draws(CPU, torch.Generator().manual_seed(0)))
    assert torch.allclose(turn @ turn.transpose(1, 2), torch.eye(3).expand(17, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turn), torch.ones(17), atol=1e-5)


def test_dilation_opens_neighbours_and_stops_at_the_ends():
    gates = torch.zeros(1, 9, dtype=torch.bool)
    gates[0, [0, 5]] = True
    assert dilate(gates, 1)[0].tolist() == [True, True, False, False, True, True, True, False,
                                            False]


def test_training_is_repeatable():
    spec = tiny_spec()
    corpus = imu_corpus(spec)
    options = TrainOptions(steps=6, batch=8, warmup=2, save_every=3)
    straight = train(spec, corpus, options, CPU)
    again = train(spec, corpus, options, CPU)
    for a, b in zip(straight.parameters(), again.parameters()):
        assert torch.equal(a, b)


def test_training_lowers_the_loss():
    losses = []
    spec = tiny_spec()
    train(spec, imu_corpus(spec), TrainOptions(steps=60, batch=16, warmup=5), CPU,
          report=lambda step, loss: losses.append(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_branch_is_the_best_of_its_rank():
    random = torch.Generator().manual_seed(1)
    x = torch.randn(400, 12, generator=random, dtype=torch.float64)
    e = x @ torch.randn(12, 7, generator=random, dtype=torch.float64)
    gate = torch.rand(400, generator=random) < 0.5
    a, b = fit_branch(x, e, gate, QuantizeOptions(rank=3, ridge=1e-12))
    got = (e[gate] - x[gate] @ a.double() @ b.double()).square().sum()
    best = torch.linalg.svdvals(e[gate])[3:].square().sum()  # Eckart-Young: E lies in X's span
    assert float(got) == pytest.approx(float(best), rel=1e-4)


def test_feedback_rounding_beats_plain_rounding_on_correlated_inputs():
    from taolora_ros.quantization import quantize_weight
    mix = torch.randn(48, 48)
    q = (torch.randn(2000, 48) @ mix).div(3).round().clamp(-7, 7)
    w = torch.randn(48, 21)
    wanted = q @ w
    plain_codes, plain_scale = quantize_weight(w)
    codes, scale = round_with_feedback(w, q, 1)
    assert int(codes.abs().max()) <= 7
    plain = (q @ (plain_codes * plain_scale) - wanted).norm()
    assert (q @ (codes * scale) - wanted).norm() < 0.95 * plain  # 0.78 on the average


def test_quantized_network_is_nearer_with_its_gate_open():
    from taolora_ros.network import TaoNetwork
    spec = tiny_spec()
    torch.manual_seed(3)
    network = TaoNetwork(spec).eval()
    quantized = quantize_network(network, tiny_batch(spec, 60), QuantizeOptions(rank=4))
    fresh = tiny_batch(spec, 60, seed=77)
    with torch.inference_mode():
        wanted = network(fresh.windows)[0]
        gated = quantized(fresh.windows, fresh.gates)[0] - wanted
        closed = quantized(fresh.windows, torch.zeros_like(fresh.gates))[0] - wanted
    where = fresh.gates
    assert gated[where].norm() < 0.9 * closed[where].norm()
    assert gated[where].norm() < 0.3 * wanted[where].norm()


@pytest.mark.parametrize('clip', ['all', 'steady'])
def test_clip_options_are_honoured(clip):
    from taolora_ros.network import TaoNetwork
    spec = tiny_spec()
    torch.manual_seed(3)
    network = TaoNetwork(spec).eval()
    batch = tiny_batch(spec, 30)
    made = quantize_network(network, batch, QuantizeOptions(rank=2, clip=clip))
    layer = made.linears()['blocks.0.mix.inner']
    assert len(layer.x_inv.unique()) == 1  # one clip, no smoothing


@pytest.mark.parametrize('bits, move', [(16, False), (8, True), (4, False)])
def test_tuning_brings_the_answers_nearer(bits, move):
    from taolora_ros.network import TaoNetwork
    from taolora_ros.storage import round_lora
    from taolora_ros.training.tuning import TuneOptions, tune
    spec = tiny_spec()
    torch.manual_seed(3)
    network = TaoNetwork(spec).eval()
    corpus = imu_corpus(spec)
    draw = sampler(spec, corpus, augment=False)
    quantized = quantize_network(network, draw.draw(40), QuantizeOptions(rank=2, lora_bits=bits))
    fresh = sampler(spec, corpus, augment=True, seed=99).draw(64)

    def error():
        with torch.inference_mode():
            return float((quantized(fresh.windows, fresh.gates)[0]
                          - network(fresh.windows)[0]).norm())
    before = error()
    layers = quantized.linears()
    codes = {name: layer.codes.clone() for name, layer in layers.items()}
    tune(quantized, network, sampler(spec, corpus, True),
         TuneOptions(steps=60, batch=16, codes=move))
    assert error() < (0.8 if bits > 4 else 0.95) * before
    same = all(torch.equal(codes[n], layer.codes) for n, layer in layers.items())
    assert same or move
    for layer in layers.values():  # what is left is what a file holds
        assert torch.equal(layer.codes, layer.codes.round().clamp(-7, 7))
        kept = round_lora(layer.lora_a, layer.lora_b, layer.x_inv, bits)
        for wanted, got in zip((layer.lora_a, layer.lora_b), kept):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)
