"""Adapted layers: their gradients, tiers and bound, against float64."""

import tracemalloc

import numpy as np
import pytest
from adapted_layer import K, N, layer, random, token  # noqa: F401  a fixture among them

from taolora_ros.adaptation import lora
from taolora_ros.adaptation.lora import COUNTS, AdaptedLayer


def tier(made, rows):
    """Return A, B (float64) and the scale of a tier."""
    return (made.inputs[rows].T.astype(float), made.outputs[rows].astype(float),
            float(made.scales[rows][0]))


def test_nothing_is_added_before_anything_is_learnt(random):
    made = AdaptedLayer(K, N)
    assert not made.delta().any() and made.norm() == made.drift() == 0.0
    x, gradient = token(random)
    made.learn(x, gradient, 0.1)
    assert made.forward(x) @ gradient < 0.0  # downhill at once


def test_forward_adds_what_delta_says(random):
    made = layer(random)
    (base_a, base_b, s), (micro_a, micro_b, t) = (
        tier(made, slice(0, 5)), tier(made, slice(5, None)))
    assert (s, t) == pytest.approx((7.0 / 5, 0.6))
    delta = s * base_a @ base_b + t * micro_a @ micro_b
    np.testing.assert_allclose(made.delta(), delta, atol=1e-4)
    x, _ = token(random, 11)
    np.testing.assert_allclose(made.forward(x), x @ delta, atol=1e-3)
    np.testing.assert_allclose(made.forward(x[3]), x[3] @ delta, atol=1e-3)
    assert made.norm() == pytest.approx(np.linalg.norm(delta), rel=1e-5)


@pytest.mark.parametrize('tokens', [(), (6,)])
def test_micro_tier_follows_the_chain_rule_with_momentum(random, tokens):
    made, rows, d, step = layer(random, decay=0.7), slice(5, None), 0.7, 0.01
    a, b, s = tier(made, rows)
    base = made.factors[:5].copy()
    momentum_a, momentum_b = np.zeros_like(a), np.zeros_like(b)
    for scale in (1.0, -0.1, 0.5, 2.0):
        x, gradient = token(random, *tokens)
        made.learn(x, gradient, step, scale)
        x, gradient = np.atleast_2d(x).astype(float), np.atleast_2d(gradient).astype(float)
        gradient_a, gradient_b = s * x.T @ (gradient @ b.T), s * (x @ a).T @ gradient
        momentum_a = d * momentum_a + (1 - d) * scale * gradient_a
        momentum_b = d * momentum_b + (1 - d) * scale * gradient_b
        a, b = a - step * momentum_a, b - step * momentum_b
    np.testing.assert_allclose(made.inputs[rows].T, a, atol=1e-5)
    np.testing.assert_allclose(made.outputs[rows], b, atol=1e-5)
    np.testing.assert_array_equal(made.factors[:5], base)
    assert made.counts['micro_updates'] == 4


def test_gradient_is_that_of_the_loss(random):
    """Compare with differences of L = sum(y^2) / 2, whose gradient is y."""
    made, rows, step = layer(random, decay=0.0), slice(5, None), 1e-3
    (a, b, s), rest = tier(made, rows), made.delta().astype(float)
    rest -= s * a @ b
    x, _ = token(random)
    before = made.factors.copy()
    made.learn(x, made.forward(x), step)
    moved = (before - made.factors)[rows, 4] / step   # of A[4, :]
    for j in range(3):
        losses = []
        for change in (1e-5, -1e-5):
            other = a.copy()
            other[4, j] += change
            losses.append(np.square(x.astype(float) @ (rest + s * other @ b)).sum() / 2)
        slope = (losses[0] - losses[1]) / 2e-5
        assert moved[j] == pytest.approx(slope, rel=0.01, abs=0.02 * float(np.abs(moved).max()))


def test_base_tier_learns_from_the_mean_of_what_was_accumulated(random):
    made, rows, d = layer(random, decay=0.4), slice(0, 5), 0.4
    a, b, s = tier(made, rows)
    micro = made.factors[5:].copy()
    made.update_base(0.1)
    assert made.counts['base_updates'] == 0
    sums = [np.zeros_like(a), np.zeros_like(b)]
    for tokens in ((), (4,), ()):
        x, gradient = token(random, *tokens)
        made.accumulate(x, gradient)
        x, gradient = np.atleast_2d(x).astype(float), np.atleast_2d(gradient).astype(float)
        sums[0] += s * x.T @ (gradient @ b.T)
        sums[1] += s * (x @ a).T @ gradient
    made.update_base(0.1)
    np.testing.assert_allclose(made.inputs[rows].T, a - 0.1 * (1 - d) * sums[0] / 3, atol=1e-5)
    np.testing.assert_allclose(made.outputs[rows], b - 0.1 * (1 - d) * sums[1] / 3, atol=1e-5)
    np.testing.assert_array_equal(made.factors[5:], micro)
    assert made.counts == dict(zip(COUNTS, (0, 1, 0, 0)))


def test_consolidation_cuts_off_the_smallest_part_and_says_how_much(random):
    made = layer(random)
    before = made.delta().astype(float)
    u, sigma, vt = np.linalg.svd(before)
    tail = made.consolidate()
    assert tail == pytest.approx(np.linalg.norm(sigma[5:]), rel=1e-4)
    np.testing.assert_allclose(made.delta(), (u[:, :5] * sigma[:5]) @ vt[:5], atol=1e-4)
    assert not made.outputs[5:].any() and not made.momentum.any()
    assert made.drift() == pytest.approx(tail, rel=1e-3)


def test_consolidation_is_exact_where_the_rank_suffices(random):
    made = AdaptedLayer(K, N, base_rank=8, micro_rank=2, alpha=3.0, beta=2.0)
    for _ in range(9):
        made.learn(*token(random), 0.05)
    before = made.delta()
    assert made.consolidate() < 1e-6
    np.testing.assert_allclose(made.delta(), before, atol=1e-5)
    assert not made.outputs[8:].any()
    np.testing.assert_allclose(made.delta(), 3.0 / 8 * made.inputs[:8].T @ made.outputs[:8],
                               atol=1e-6)


def test_every_rank_can_learn_after_consolidation(random):
    made = AdaptedLayer(K, N, base_rank=8)
    made.learn(*token(random), 0.1)
    made.consolidate()
    assert np.linalg.matrix_rank(made.delta()) <= 2
    x, gradient = token(random, 40)
    made.accumulate(x, gradient)
    made.update_base(0.1)
    made.learn(x, gradient, 0.1)
    assert np.linalg.matrix_rank(made.delta()) == 10


def test_consolidating_nothing_changes_nothing():
    made = AdaptedLayer(K, N)
    assert made.consolidate() == 0.0 and not made.delta().any() and made.inputs.any()


@pytest.mark.parametrize('step', [0.003, 3.0])
def test_norm_stays_bounded_whatever_is_learnt(random, step):
    made = AdaptedLayer(K, N, max_norm=0.5)
    largest, (x, gradient) = 0.0, token(random)
    for i in range(200):
        made.learn(x, gradient, step)
        if i % 20 == 19:
            made.accumulate(x, gradient)
            made.update_base(step)
        assert made.norm() <= made._ceiling * (1 + 1e-5)
        largest = max(largest, made.norm())
    assert 0.45 < largest <= 0.5 * (1 + 1e-5)
    made.max_norm = 0.1
    made.learn(x, gradient, 0.0)
    assert 0.098 < made.norm() <= 0.1


def test_norm_that_is_scaled_back_is_that_of_all_that_is_held(random):
    made = layer(random)                                  # both tiers in use, of any scale
    made.max_norm, measured = 0.7 * made.norm(), 0
    for number in range(600):
        if number % 200 == 50:
            made.accumulate(*token(random, 7))
            made.update_base(0.5)
        if number == 300:
            made.consolidate()
        before = made._ceiling
        made.learn(*token(random), 0.3)
        exact = np.linalg.norm(made.delta().astype(float))
        assert exact <= min(made._ceiling, made.max_norm) * (1 + 1e-4)
        if made._ceiling < before:                        # it was measured
            measured += 1
            assert made._ceiling == pytest.approx(exact, rel=1e-3)
    assert measured > 50


def test_numbers_that_are_not_finite_are_refused_and_change_nothing(random):
    made = layer(random)
    before = made.state()
    x, gradient = token(random)
    for bad in ((x * np.nan, gradient, 1.0), (x, gradient * np.inf, 1.0), (x, gradient, np.nan)):
        with np.errstate(all='ignore'), pytest.raises(ValueError, match='not finite'):
            made.learn(bad[0], bad[1], 0.1, bad[2])
    for name, array in made.state().items():
        np.testing.assert_array_equal(array, before[name])


def held_by_layers():
    """Return the bytes that layers have allocated since it is traced, and no other thread."""
    ours = tracemalloc.Filter(True, lora.__file__, all_frames=True)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)


def test_learning_allocates_nothing_and_keeps_its_arrays(random):
    made, (x, gradient) = AdaptedLayer(K, N, max_norm=0.2), token(random)
    arrays, view = (made.factors, made.momentum), made.inputs
    made.learn(x, gradient, 0.01)
    tracemalloc.start(9)  # frames, so that what numpy allocates for the layer is counted
    made.learn(x, gradient, 0.01)
    before = held_by_layers()
    for _ in range(300):
        made.learn(x, gradient, 0.01)
    assert held_by_layers() - before < 512
    tracemalloc.stop()
    made.consolidate()
    made.load(made.state())
    assert arrays[0] is made.factors and arrays[1] is made.momentum
    assert np.shares_memory(view, made.factors)


def test_momentum_that_dies_away_never_becomes_subnormal(random):
    made = AdaptedLayer(K, N)
    x, gradient = token(random)
    made.learn(x, gradient, 0.1)
    tiny = np.finfo(np.float32).tiny
    for _ in range(1200):
        made.learn(x, 0.0 * gradient, 0.1)
        size = np.abs(made.momentum)
        assert not ((size > 0) & (size < tiny)).any()
    assert not made.momentum.any()


@pytest.mark.parametrize('options, text', [
    ({'base_rank': 0}, 'base_rank: 0'), ({'micro_rank': -1}, 'micro_rank: -1'),
    ({'beta': 0.0}, 'beta: 0.0'), ({'decay': 1.0}, 'decay: 1.0'),
    ({'alpha': float('nan')}, 'alpha: nan'), ({'max_norm': -1.0}, 'max_norm: -1.0')])
def test_constants_without_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        AdaptedLayer(K, N, **options)


def test_a_rank_aimed_at_an_input_moves_its_output_by_the_whole_step():
    random = np.random.default_rng()
    layer = AdaptedLayer(31, 5, micro_rank=1, decay=0.0)
    x, g = random.standard_normal(31, np.float32), random.standard_normal(5, np.float32)
    layer.aim(x)
    assert not layer.delta().any()  # it says nothing yet
    layer.learn(x, g, 0.01)
    np.testing.assert_allclose(layer.forward(x), -0.01 * g * (x @ x), rtol=1e-4, atol=1e-5)
    held = layer.factors.copy()
    layer.aim(-x)                   # it is in use, and there is no other
    np.testing.assert_array_equal(layer.factors, held)
