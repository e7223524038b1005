"""What adapted layers keep: their state goes on, drift and rewinding count from a mark."""

import numpy as np
import pytest
from adapted_layer import K, N, layer, random, token  # noqa: F401  a fixture among them

from taolora_ros.adaptation.lora import AdaptedLayer


def test_state_goes_on_where_it_was_left(random):
    made = layer(random)
    made.learn(*token(random), 0.1)
    made.accumulate(*token(random))
    other = AdaptedLayer(K, N, 5, 3, 7.0, 0.6, seed=made.seed)
    other.load(made.state())
    assert other.drift() < 1e-9 and other.counts == made.counts
    x, gradient = token(random)
    for one in (made, other):
        one.learn(x, gradient, 0.1)
        one.update_base(0.1)
        one.consolidate()
    for name, array in made.state().items():
        np.testing.assert_array_equal(array, other.state()[name])
    made.reset()
    assert not made.delta().any() and made.drift() == 0.0 and not any(made.counts.values())


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(random):
    made = layer(random)
    before = made.state()
    for name, wrong, text in (('base_a', np.zeros((5, 7)), 'shape'),
                              ('micro', before['micro'] * np.nan, 'finite')):
        with pytest.raises(ValueError, match=f'{name}.*{text}'):
            made.load({**before, name: wrong})
    with pytest.raises(ValueError, match='counts: missing'):
        made.load({name: array for name, array in before.items() if name != 'counts'})
    for name, array in made.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_drift_counts_from_the_mark(random):
    made = layer(random)
    before = made.delta().astype(float)
    made.learn(*token(random, 9), 0.02)
    assert made.drift() == pytest.approx(np.linalg.norm(made.delta() - before), rel=1e-3)
    made.mark()
    assert made.drift() < 1e-5


def test_rewinding_takes_back_what_was_learnt_since_the_mark():
    random = np.random.default_rng()
    layer = AdaptedLayer(17, 5)

    def learn():
        for _ in range(3):
            layer.learn(random.standard_normal(17, np.float32),
                        random.standard_normal(5, np.float32), 0.1)
    learn()
    layer.mark()
    marked, counts = layer.factors.copy(), dict(layer.counts)
    learn()
    layer.rewind()
    np.testing.assert_array_equal(layer.factors, marked)
    assert not layer.momentum.any() and layer.counts == counts and layer.drift() < 1e-6
