"""The loss of feedback, its gradient, and the guards around it, against float64."""

import dataclasses

import numpy as np
import pytest

from adapting import SPEC, WIDTH, World
from taolora_ros.adaptation.examples import evidence, head_input, make_example
from taolora_ros.adaptation.guards import (LIKELY, NEITHER, RECENT, RateLimit, allowed_shift,
                                           confirmed_by, damage, foretold, steadied, trust,
                                           within)
from taolora_ros.adaptation.learner import Learner
from taolora_ros.adaptation.memory import Moment
from taolora_ros.adaptation.objective import HELD, IMPORTANCE, MARGINS, Objective, _Batch
from taolora_ros.adaptation.reference import (Reference, head_digest, load_reference,
                                              reference_path, save_reference)
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

RNG = np.random.default_rng()


def moment(spec, tokens, label='veb'):
    since = (np.arange(tokens) - tokens // 2) * spec.patch / spec.rate
    return Moment('s', label, 0, since, RNG.standard_normal((tokens, WIDTH)).astype(np.float32))


def example(spec, kind, label, tokens=15):
    where = moment(spec, tokens)
    frozen = RNG.standard_normal((tokens, len(spec.classes))).astype(np.float32)
    return make_example(spec, where, frozen, label, kind)


@pytest.mark.parametrize('spec', [ECG_BEATS, IMU_FALLS], ids=lambda spec: spec.kind)
def test_loss_and_gradient_are_those_of_float64(spec):
    kinds = ('rejected', 'missed', 'confirmed', 'rejected')
    examples = [example(spec, kind, len(spec.labels) - 1, 13 + i) for i, kind in enumerate(kinds)]
    h, bias = evidence(spec), np.array(spec.bias)
    importance = RNG.uniform(0.2, 1, 4)
    delta = 0.3 * RNG.standard_normal((WIDTH + 1, len(spec.classes)))

    def exact(delta):
        total = 0.0
        for e, share in zip(examples, importance):
            logits = e.frozen + e.x.astype(float) @ delta
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            q = e.groups.astype(float) @ (p @ h[e.label])
            z = np.log(q / (1 - q)) + bias[e.label]
            total += share * IMPORTANCE[spec.kind][e.kind] * np.mean(
                np.log1p(np.exp(MARGINS[e.kind] - e.sign * z)))
        return total

    gradient = np.zeros_like(delta)
    loss = _Batch(examples, importance, IMPORTANCE[spec.kind], h, bias).add(delta, gradient)
    assert loss == pytest.approx(exact(delta), rel=1e-5)
    for _ in range(10):
        i, j = RNG.integers(0, WIDTH + 1), RNG.integers(0, len(spec.classes))
        step = np.zeros_like(delta)
        step[i, j] = 1e-5
        slope = (exact(delta + step) - exact(delta - step)) / 2e-5
        assert gradient[i, j] == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_anchors_gradient_is_that_of_the_divergence():
    world = World(3)
    objective = Objective(SPEC, world.reference, *(world.engine.weights[name] for name in (
        'head.weight', 'head.bias')))
    delta = 0.1 * RNG.standard_normal(objective.shape)
    gradient = np.zeros_like(delta)
    loss = objective.held.add(delta, gradient)
    frozen = objective.held.frozen.astype(float)

    def divergence(delta):
        logits = frozen + head_input(world.reference.embedding).astype(float) @ delta
        p0, p = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (frozen, logits))
        return HELD * np.mean((p0 * np.log((p0 + 1e-9) / (p + 1e-9))).sum(1))

    assert loss == pytest.approx(divergence(delta), rel=1e-3, abs=1e-5)
    step = np.zeros_like(delta)
    step[4, 2] = 1e-5
    assert gradient[4, 2] == pytest.approx(
        (divergence(delta + step) - divergence(delta - step)) / 2e-5, rel=1e-2, abs=1e-4)


def test_an_alarm_is_rejected_by_every_run_that_could_raise_it():
    spec, tokens = IMU_FALLS, 61
    where = moment(spec, tokens, 'fall')
    frozen = np.zeros((tokens, 2), np.float32)
    frozen[:, 1] = np.where(np.abs(where.since) < 0.3, 4.0, -4.0)
    rejected = make_example(spec, where, frozen, 0, 'rejected')
    raising = [i for i in range(tokens - 2) if (np.abs(where.since[i:i + 3]) < 0.3).any()]
    assert len(rejected.groups) >= len(raising)
    assert np.allclose(rejected.groups.sum(1), 1) and rejected.sign == -1
    assert len(make_example(spec, where, frozen, 0, 'missed').groups) == 2
    far = dataclasses.replace(where, since=where.since + 30)
    assert make_example(spec, far, frozen, 0, 'rejected') is None


def test_trust_goes_to_who_rejects_what_is_doubtful():
    doubtful, sure = RNG.normal(0.5, 0.3, 8), RNG.normal(3.5, 0.3, 30)
    assert trust(doubtful, sure) > 0.95 and trust(sure[:8], doubtful) < 0.05
    assert trust(np.zeros(0), sure) == trust(doubtful, sure[:2]) == NEITHER
    assert confirmed_by(0.5, 1.0, 0.0, 'ecg') > 0.9 and confirmed_by(0.5, -4.0, 0.0, 'ecg') < 0.1
    assert confirmed_by(0.5, 0.0, foretold(np.tile([2.0, -2.0], 20)), 'ecg') < 0.1
    assert foretold([1.0, 2.0]) == 0.0 > foretold([-1.0, 1.0])
    assert allowed_shift(0.6, 0.1, 5.0) == 0.1 and allowed_shift(1.0, 0.1, 5.0) == 5.0


def test_trust_is_what_the_last_feedbacks_said_on_average():
    said = RNG.uniform(0.001, 0.999, 11)
    odds = np.clip(np.log(said / (1.0 - said)), -3.0, 3.0)
    for count in range(1, 12):
        wanted = 1.0 / (1.0 + np.exp(-odds[max(count - RECENT, 0):count].mean()))
        assert steadied(said[count - 1], said[:count - 1]) == pytest.approx(wanted)
    assert steadied(0.55, [0.9, 0.95]) > LIKELY > steadied(1.0, [0.3] * 4)  # no single one decides
    assert steadied(0.0, [0.9] * 4) > LIKELY > steadied(0.9, [0.1, 0.2])


def test_who_says_of_like_events_now_this_now_that_is_trusted_less():
    world = World(5)
    objective = Objective(SPEC, world.reference, *(world.engine.weights[name] for name in (
        'head.weight', 'head.bias')))
    kinds = ['rejected', 'confirmed'] * 8
    own = RNG.standard_normal((0, WIDTH)).astype(np.float32)
    nothing = np.zeros(objective.shape, np.float32)

    def trusted(sides):
        direction, given = RNG.standard_normal(WIDTH), []
        for kind, side in zip(kinds, sides):
            where = moment(SPEC, 5)
            tokens = (where.embedding + 2 * side * direction).astype(np.float32)
            where = dataclasses.replace(where, embedding=tokens)
            given.append(make_example(SPEC, where, objective.frozen(tokens), 1, kind))
        return Learner(SPEC, objective).solve(given, own, [], nothing, nothing, nothing,
                                              AdaptationSettings(enabled=True)).trusted

    steady = trusted([1 if kind == 'rejected' else -1 for kind in kinds])
    assert trusted([1, 1, -1, -1] * 4) < 0.1 * steady


def test_a_change_is_made_smaller_until_it_is_within_its_bound():
    share = within(1.0, lambda share: [np.full(4, 10.0 * share)], 2.0)
    assert 0 < 10 * share <= 2.0
    assert within(1.0, lambda share: [np.full(4, 9.0)], 2.0) == 0.0
    before, after = np.array([1.0, 1, -1, -1]), np.array([-1.0, 1, 1, -1])
    assert damage(before, after, np.array([True, True, False, False])) == (0.5, 0.5)


def test_rate_limit_fills_evenly():
    limit = RateLimit(6, 0.0)
    assert sum(limit.take(0.0) for _ in range(20)) == 6
    assert sum(limit.take(30.0) for _ in range(20)) == 3
    assert not limit.take(10.0)  # a clock that goes back gives nothing


def test_reference_comes_back_from_its_file(tmp_path):
    weight = RNG.standard_normal((6, WIDTH)).astype(np.float32)
    made = Reference(RNG.standard_normal((37, WIDTH)).astype(np.float32) * 3,
                     RNG.integers(0, 5, 37), head_digest(weight))
    path = reference_path(tmp_path / 'm.safetensors')
    save_reference(path, made)
    assert path.name == 'm.reference.safetensors' and path.stat().st_size < made.bytes + 1000
    back = load_reference(path, SPEC, weight)
    assert (back.classes == made.classes).all()
    assert np.abs(back.embedding - made.embedding).max() < np.abs(made.embedding).max() / 120
    with pytest.raises(ValueError, match='another model'):
        load_reference(path, SPEC, weight + 0.1)
    with pytest.raises(ValueError, match='no such file'):
        load_reference(tmp_path / 'n', SPEC, weight)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match='not a reference'):
        load_reference(path, SPEC, weight)
