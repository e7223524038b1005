import numpy as np
import pytest

from taolora_ros.samples import Samples


def test_uniform_stamps_are_rounded_each_on_its_own():
    samples = Samples.uniform(10**18 + 7, 360.0, np.zeros((5, 2)))
    assert samples.stamps.dtype == np.int64
    exact = [10**18 + 7 + round(i * 1e9 / 360) for i in range(5)]
    assert samples.stamps.tolist() == exact


def test_uniform_does_not_drift_over_an_hour():
    samples = Samples.uniform(5, 3.0, np.zeros((3 * 3600 + 1, 1)))
    assert samples.stamps[-1] == 5 + 3600 * 10**9


def test_slice_keeps_stamps_and_values_together():
    samples = Samples.uniform(1, 10.0, np.arange(14.0).reshape(7, 2))[2:5]
    assert len(samples) == 3
    assert samples.values[:, 0].tolist() == [4.0, 6.0, 8.0]
    assert samples.stamps[0] == 200_000_001


def test_values_become_float64():
    samples = Samples(np.arange(3), np.ones((3, 2), np.int16))
    assert samples.values.dtype == np.float64 and samples.stamps.dtype == np.int64


@pytest.mark.parametrize('stamps, values, words', [
    (np.arange(3), np.zeros((2, 1)), r'values: shape \(2, 1\), \(3, channels\)'),
    (np.arange(3), np.zeros(3), r'values: shape \(3,\)'),
    (np.zeros((3, 1), int), np.zeros((3, 1)), r'stamps: int64 of shape \(3, 1\)'),
    (np.arange(3) * 1.5, np.zeros((3, 1)), 'stamps: float64'),
])
def test_wrong_shapes_are_named(stamps, values, words):
    with pytest.raises(ValueError, match=words):
        Samples(stamps, values)


@pytest.mark.parametrize('rate', [0.0, -1.0, float('nan')])
def test_uniform_needs_a_positive_rate(rate):
    with pytest.raises(ValueError, match='rate: .* a positive rate is needed'):
        Samples.uniform(1, rate, np.zeros((1, 1)))
