"""Learning signals: the gradient of the loss that each kind of feedback stands for."""

import numpy as np
import pytest
import torch

from taolora_ros.adaptation.signal import AWAY, RATE, Signal

CLASSES = 5


def softmax(logits):
    return torch.tensor(logits).softmax(0).numpy()


@pytest.fixture
def logits():
    return np.random.default_rng().standard_normal(CLASSES)


def signal(logits, decided=2, **said):
    return Signal(np.ones(7, np.float32), softmax(logits), decided, **said)


def gradient(loss, logits):
    """Return the gradient of a loss in p, in the logits, by autograd in float64."""
    z = torch.tensor(logits, requires_grad=True)
    loss(z.softmax(0)).backward()
    return z.grad.numpy()


def test_a_label_gives_the_gradient_of_its_cross_entropy(logits):
    told = signal(logits, label=4)
    assert told.weight == 1.0
    np.testing.assert_allclose(told.gradient(), gradient(lambda p: -p[4].log(), logits))
    sure = signal(logits, correct=True, quality=0.1)
    assert sure.weight == 1.0
    np.testing.assert_allclose(sure.gradient(), gradient(lambda p: -p[2].log(), logits))


def test_a_rejection_makes_the_decided_class_less_likely_and_nothing_else(logits):
    told = signal(logits, correct=False)
    assert told.weight == 1.0
    np.testing.assert_allclose(told.gradient(), gradient(lambda p: -(1 - p[2]).log(), logits))
    expected = told.gradient()
    out = np.empty(CLASSES)
    assert told.gradient(out) is out
    np.testing.assert_array_equal(out, expected)


def test_rejecting_a_certain_decision_still_has_a_direction():
    p = np.array([0.0, 1.0, 0.0], np.float32)
    np.testing.assert_allclose(Signal(p, p, 1, correct=False).gradient(), [-0.5, 1.0, -0.5])
    p = np.array([1e-9, 1.0, 3e-9], np.float32)
    np.testing.assert_allclose(Signal(p, p, 1, correct=False).gradient(), [-0.25, 1.0, -0.75])


@pytest.mark.parametrize('quality, ratio, reward, weight', [
    (0.6, 1.0, 0.6, 1.0), (0.5, 1.0, 0.5, AWAY), (0.4, 0.5, 0.6, 1.0), (1.0, 1.5, 0.5, AWAY),
    (1.0, 3.0, 0.0, AWAY), (0.0, 0.0, 0.0, AWAY), (1.0, 0.0, 2.0, 1.0)])
def test_without_the_truth_the_reward_decides(logits, quality, ratio, reward, weight):
    told = signal(logits, quality=quality, latency_ratio=ratio)
    assert told.reward == pytest.approx(reward)
    assert told.weight == weight and (weight == 1.0 or weight == -0.1)
    np.testing.assert_allclose(told.gradient(), gradient(lambda p: -p[2].log(), logits))


def test_the_less_certain_the_longer_the_step(logits):
    assert signal(logits, quality=1.0).step() == RATE == 0.001
    assert signal(logits, quality=0.25).step() == pytest.approx(0.00175)
    assert signal(logits, quality=0.0).step(0.1) == pytest.approx(0.2)


@pytest.mark.parametrize('said, text', [
    ({'decided': 5}, 'decided: class 5, must be 0..4'), ({'label': -1}, 'label: class -1'),
    ({'quality': 1.01}, 'quality: 1.01'), ({'quality': float('nan')}, 'quality: nan'),
    ({'latency_ratio': -0.1}, 'latency_ratio: -0.1'),
    ({'label': 3, 'correct': True}, 'class 2 called correct, and the label is 3'),
    ({'label': 2, 'correct': False}, 'class 2 called wrong, and the label is 2')])
def test_feedback_out_of_range_is_refused(logits, said, text):
    with pytest.raises(ValueError, match=text):
        signal(logits, **said)
    with pytest.raises(ValueError, match='1 classes'):
        Signal(np.ones(3), np.ones(1), 0)
