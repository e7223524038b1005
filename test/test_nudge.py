"""What feedback changes at once: each costs one step, and all together move no event too far."""

import dataclasses

import numpy as np
import pytest

from adapting import World
from taolora_ros.adaptation.examples import make_example
from taolora_ros.adaptation.lora import AdaptedLayer
from taolora_ros.adaptation.memory import Moment
from taolora_ros.adaptation.nudge import Nudges
from taolora_ros.adaptation.objective import Objective
from taolora_ros.adaptation.reference import Reference
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

RNG = np.random.default_rng()
KINDS = ('rejected', 'confirmed', 'missed')
WIDTH = 23


def objective(spec):
    """Return the objective of a head drawn at random."""
    classes = len(spec.classes)
    reference = Reference(2.0 * RNG.standard_normal((211, WIDTH)).astype(np.float32),
                          RNG.integers(0, classes, 211), '')
    weight, bias = 0.1 * RNG.standard_normal((classes + 1, WIDTH)), RNG.standard_normal(classes + 1)
    return Objective(spec, reference, weight.astype(np.float32), bias.astype(np.float32))


def example(of, kind=None, label=None):
    """Return a feedback on tokens of a size drawn at random."""
    spec, tokens = of.spec, int(RNG.integers(9, 60))
    size = RNG.uniform(0.2, 5.0)
    since = (np.arange(tokens) - tokens // 2) * spec.patch / spec.rate
    embedding = (size * RNG.standard_normal((tokens, WIDTH))).astype(np.float32)
    label = int(RNG.integers(len(spec.labels))) if label is None else label
    return make_example(spec, Moment('s', '', 0, since, embedding), of.frozen(embedding), label,
                        kind or str(RNG.choice(KINDS)), RNG.uniform(0.05, 1.0))


@pytest.mark.parametrize('spec', [ECG_BEATS, IMU_FALLS], ids=lambda spec: spec.kind)
@pytest.mark.parametrize('count', [1, 3, 40])
def test_no_score_of_what_waits_moves_further_than_the_shift(spec, count):
    of, shift = objective(spec), RNG.uniform(0.02, 1.0)
    nudges, waiting = Nudges(of), [example(of) for _ in range(count)]
    settled = 0.1 * RNG.standard_normal(of.shape).astype(np.float32)
    for i, one in enumerate(waiting):
        nudges.take(str(i), one, settled)
    lean = nudges.lean(range(len(spec.labels)), shift)
    moved = np.concatenate([of.scores(e, settled + lean) - of.scores(e, settled) for e in waiting])
    assert lean.any() and np.abs(moved).max() <= shift * (1 + 1e-3)


def test_feedback_that_agrees_uses_all_of_the_shift():
    of, shift = objective(ECG_BEATS), RNG.uniform(0.02, 1.0)
    one, nudges = example(of, 'rejected'), Nudges(of)
    farthest = np.argmax(np.einsum('nd,de,ne->n', one.x, of.inverse, one.x))[None]
    one = dataclasses.replace(one, x=one.x[farthest], frozen=np.zeros((1, 5), np.float32),
                              groups=np.ones((1, 1), np.float32), weight=1.0)
    for i in range(40):
        nudges.take(str(i), one, np.zeros(of.shape, np.float32))
    assert np.ptp(one.x @ nudges.lean([one.label], shift)) == pytest.approx(shift, rel=1e-3)


@pytest.mark.parametrize('spec', [ECG_BEATS, IMU_FALLS], ids=lambda spec: spec.kind)
def test_what_waits_no_longer_leaves_nothing_behind(spec):
    of, labels = objective(spec), range(len(spec.labels))
    nudges, fresh = Nudges(of), Nudges(of)
    delta = 0.1 * RNG.standard_normal(of.shape).astype(np.float32)
    waiting = {str(i): example(of) for i in range(9)}
    for key in [*waiting, '3', '7']:                      # two are said again
        nudges.take(key, waiting[key], delta)
    for key in ('0', '4', '8', 'never there'):
        nudges.drop(key)
    for key in ('1', '2', '3', '5', '6', '7'):
        fresh.take(key, waiting[key], delta)
    np.testing.assert_allclose(nudges.lean(labels, 0.1), fresh.lean(labels, 0.1), atol=1e-7)
    for key in waiting:
        nudges.drop(key)
    assert nudges.lean(labels, 0.1) is None


def test_only_labels_that_are_known_lean():
    of = objective(ECG_BEATS)
    nudges, alone, examples = Nudges(of), Nudges(of), [example(of) for _ in range(12)]
    nothing = np.zeros(of.shape, np.float32)
    for i, one in enumerate(examples):
        nudges.take(str(i), one, nothing)
        if one.label == 1:
            alone.take(str(i), one, nothing)
    assert nudges.lean([], 0.1) is None
    examples.append(example(of, label=1))
    for one in (nudges, alone):
        one.take('the last', examples[-1], nothing)
    lean, expected = (one.lean([1], 1e-3) for one in (nudges, alone))
    np.testing.assert_allclose(lean / np.abs(lean).max(), expected / np.abs(expected).max(),
                               atol=1e-5)


def test_what_waits_and_cannot_be_used_yet_is_not_moved_too_far_either():
    of, shift = objective(ECG_BEATS), RNG.uniform(0.02, 1.0)
    one, nudges = example(of, 'rejected', label=1), Nudges(of)
    one = dataclasses.replace(one, frozen=np.zeros_like(one.frozen), weight=1.0)
    far = dataclasses.replace(one, x=20.0 * one.x, label=0)
    for i in range(40):
        nudges.take(str(i), one, np.zeros(of.shape, np.float32))
    nudges.take('far', far, np.zeros(of.shape, np.float32))
    moved = np.ptp(far.x @ nudges.lean([1], shift), axis=1).max()
    assert 0.5 * shift < moved <= shift * (1 + 1e-3)


def test_a_feedback_takes_one_step_however_many_wait(monkeypatch):
    world, steps, learn = World(23), [], AdaptedLayer.learn
    monkeypatch.setattr(AdaptedLayer, 'learn',
                        lambda self, *given: (steps.append(1), learn(self, *given)))
    for count in range(1, 20):
        name, _ = world.beat('odd')
        assert world.session.feedback(name, False).learnt
        assert len(steps) == count
