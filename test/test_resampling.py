import numpy as np
from hypothesis import given, settings, strategies as st

from taolora_ros.resampling import Resampler, resample


def in_chunks(resampler, stamps, values, cuts):
    """Push in pieces that end at ``cuts``; return values and validity of all of them."""
    parts = [resampler.push(s, v) for s, v in zip(np.split(stamps, cuts), np.split(values, cuts))]
    return tuple(np.concatenate(p) for p in zip(*parts))


def brute_force(stamps, values, rate, k):
    """Integrate the interpolant over bin k exactly, in float64, from every knot inside it."""
    t = (stamps - stamps[0]) / 1e9
    inside = t[(t > k / rate) & (t < (k + 1) / rate)]
    knots = np.concatenate([[k / rate], inside, [(k + 1) / rate]])
    return np.array([np.trapezoid(np.interp(knots, t, column), knots) * rate
                     for column in values.T])


@st.composite
def recordings(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(2, 300))
    mean_step = 10 ** draw(st.floats(5.5, 8.5))  # 0.3 ms to 0.3 s
    steps = np.minimum(1 + rng.exponential(mean_step, n), 1e9).astype(np.int64)
    stamps = np.cumsum(steps) + draw(st.sampled_from([1, 10**9, 1_700_000_000 * 10**9]))
    return stamps, rng.normal(9.8, 20.0, (n, draw(st.integers(1, 6))))


@settings(deadline=None, max_examples=80)
@given(recordings(), st.sampled_from([50.0, 125.0, 31.7]))
def test_bins_are_means_of_the_straight_line_interpolant(recording, rate):
    stamps, values = recording
    means, valid = resample(stamps, values, rate)
    count = int((stamps[-1] - stamps[0]) * rate / 1e9)
    assert means.shape == (count, values.shape[1]) and valid.shape == (count,)
    for k in np.random.default_rng(0).permutation(count)[:40]:
        np.testing.assert_allclose(means[k], brute_force(stamps, values, rate, k), atol=1e-6)


@settings(deadline=None, max_examples=80)
@given(recordings(), st.lists(st.integers(0, 300), max_size=12))
def test_any_chunks_give_the_same_bits(recording, cuts):
    stamps, values = recording
    cuts = sorted(min(cut, len(stamps)) for cut in cuts)
    whole = resample(stamps, values, 50.0)
    parts = in_chunks(Resampler(50.0), stamps, values, cuts)
    singly = in_chunks(Resampler(50.0), stamps, values, np.arange(1, len(stamps)))
    for other in (parts, singly):
        assert whole[0].tobytes() == other[0].tobytes()
        assert whole[1].tobytes() == other[1].tobytes()


def test_a_constant_stays_constant_whatever_the_stamps():
    rng = np.random.default_rng(4)
    stamps = np.cumsum(rng.integers(1, 30_000_000, 997))
    means, valid = resample(stamps, np.full((997, 3), 9.81), 50.0)
    np.testing.assert_allclose(means, 9.81, rtol=1e-8)
    assert valid.all()


def test_a_ramp_reads_as_the_value_at_the_centre_of_each_bin():
    stamps = np.arange(0, 10**9, 2_777_778)
    means, _ = resample(stamps, stamps[:, None] / 1e9, 125.0)
    np.testing.assert_allclose(means[:, 0], (np.arange(len(means)) + 0.5) / 125.0, atol=1e-9)


def test_precision_holds_after_hours():
    resampler, hours = Resampler(125.0), 2 * 3600 * 10**9
    resampler.push(np.arange(1, hours + 2, 10**9), np.full((2 * 3600 + 1, 1), 1e4))
    stamps = hours + 1 + np.arange(1, 1001) * 3_000_000
    values = np.random.default_rng(0).normal(1e4, 1.0, (1000, 1))
    late, _ = resampler.push(stamps, values)
    early, _ = resample(np.concatenate([[1], stamps - hours]),
                        np.concatenate([[[1e4]], values]), 125.0)
    np.testing.assert_allclose(late, early, atol=1e-6)


def test_bins_that_touch_a_gap_are_invalid():
    stamps = np.concatenate([np.arange(0, 2_000, 10), np.arange(2_415, 4_000, 10)]) * 1_000_000
    resampler = Resampler(50.0)
    _, valid = resampler.push(stamps, np.zeros((len(stamps), 1)))
    assert resampler.gaps == 1
    invalid = np.flatnonzero(~valid)  # the gap lasts from 1.99 to 2.415 s
    assert invalid.tolist() == list(range(99, 121))


def test_short_dropouts_are_not_gaps():
    stamps = np.concatenate([np.arange(0, 2_000, 10), np.arange(2_230, 4_000, 10)]) * 1_000_000
    resampler = Resampler(50.0)
    _, valid = resampler.push(stamps, np.zeros((len(stamps), 1)))
    assert resampler.gaps == 0 and valid.all()


def test_a_slow_but_even_source_has_no_gaps():
    resampler = Resampler(50.0)  # 2 Hz
    _, valid = resampler.push(np.arange(20) * 500_000_000, np.zeros((20, 1)))
    assert resampler.gaps == 1, 'only the first step, when nothing is known of the rate'
    assert valid[25:].all()


def test_empty_pushes_change_nothing():
    empty = np.zeros(0, np.int64), np.zeros((0, 2))
    resampler = Resampler(50.0)
    assert resampler.push(*empty)[0].shape == (0, 2)
    resampler.push(np.array([5]), np.ones((1, 2)))
    assert resampler.push(*empty)[0].shape == (0, 2)
    assert len(resampler.push(np.array([5 + 10**8]), np.ones((1, 2)))[0]) == 5
