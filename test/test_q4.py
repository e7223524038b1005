"""Q4 factors: how small they are, and how far from what was learnt."""

import numpy as np
import pytest

from taolora_ros.adaptation.lora import AdaptedLayer
from taolora_ros.adaptation.q4 import GROUP, pack_factors, q4_error
from taolora_ros.quantization import QMAX


def factors(k, n, r):
    random = np.random.default_rng()
    return random.standard_normal((k, r), np.float32), random.standard_normal((r, n), np.float32)


def test_factors_are_seven_times_smaller_than_in_float32():
    a, b = factors(768, 768, 8)
    packed = pack_factors(a, b)
    assert packed.nbytes == 6928
    assert 4.0 <= 7.0 < (a.nbytes + b.nbytes) / packed.nbytes


@pytest.mark.parametrize('k, n, r', [(768, 768, 8), (37, 23, 3), (1, 1, 1), (65, 512, 5)])
@pytest.mark.parametrize('size', [1.0, 1e-6, 3e4])
def test_each_number_is_off_by_no_more_than_its_group_allows(k, n, r, size):
    a, b = factors(k, n, r)
    near_a, near_b = pack_factors(size * a, size * b).unpack()
    for exact, rounded in ((a.T, near_a.T), (b, near_b)):
        exact = exact.astype(float) * size
        assert rounded.shape == exact.shape
        for first in range(0, exact.shape[1], GROUP):
            group, near = exact[:, first:first + GROUP], rounded[:, first:first + GROUP]
            top = np.abs(group).max(axis=1, keepdims=True)
            error = np.linalg.norm(near - group, axis=1)
            step = top / QMAX  # rounding without shrinking, the worst there is to choose
            assert (error <= 0.51 * step[:, 0] * np.sqrt(group.shape[1])).all()


def test_error_of_the_product_is_what_the_documentation_says():
    a, b = factors(768, 768, 8)
    rounded, _ = pack_factors(a, b).unpack()
    assert 0.08 < np.linalg.norm(rounded - a) / np.linalg.norm(a) < 0.10
    assert 0.12 < q4_error(a, b) < 0.14
    assert q4_error(0 * a, b) == 0.0


def test_what_a_layer_has_learnt_survives():
    random, layer = np.random.default_rng(), AdaptedLayer(130, 70)
    for _ in range(40):
        layer.learn(*(random.standard_normal(n, np.float32) for n in (130, 70)), 1e-3)
    layer.consolidate()
    assert q4_error(layer.inputs[:8].T, layer.outputs[:8]) < 0.2


@pytest.mark.parametrize('change, text', [
    (lambda a, b: (a, b[:2]), r'\(37, 3\) and \(2, 23\)'),
    (lambda a, b: (a * np.nan, b), 'not a finite number')])
def test_what_are_no_factors_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        pack_factors(*change(*factors(37, 23, 3)))
