"""Blocks continue each other when their stamps nearly say so, and never overlap then."""

import numpy as np
import pytest

from taolora_ros.block_clock import SETTLING, BlockClock

SECOND = 1_000_000_000


def placed(stamps, count, rate, tolerance):
    clock = BlockClock()
    return np.array([clock.place(int(s), count, rate, tolerance) for s in stamps])


def test_true_stamps_come_out_unchanged():
    rate, count = 360.0, 37
    stamps = 5 * SECOND + np.round(np.arange(500) * count / rate * 1e9).astype(np.int64)
    assert np.array_equal(placed(stamps, count, rate, 0.5 * count / rate), stamps)


def test_jittering_stamps_are_evened_out_without_overlap():
    rng = np.random.default_rng()
    rate, count = 250.0, 25
    true = SECOND + np.arange(400) * round(count / rate * 1e9)
    stamps = true + rng.normal(0.0, 5e6, 400).astype(np.int64)
    starts = placed(stamps, count, rate, 0.5 * count / rate)
    assert (np.diff(starts) > (count - 1) / rate * 1e9).all()
    assert np.abs(starts - true)[100:].max() < 0.5 * np.abs(stamps - true)[100:].max()


@pytest.mark.parametrize('error', [-0.004, 0.006])
def test_a_source_with_a_wrong_rate_is_followed(error):
    rate, count = 200.0, 20
    stamps = SECOND + np.round(np.arange(300) * count / rate * 1e9 * (1 + error)).astype(np.int64)
    starts = placed(stamps, count, rate, 0.5 * count / rate)
    assert np.abs(starts - stamps).max() < 1.2 * abs(error) * SETTLING * 1e9


def test_a_missing_block_leaves_its_place_empty():
    clock = BlockClock()
    clock.place(SECOND, 50, 100.0, 0.25)
    assert clock.place(2 * SECOND, 50, 100.0, 0.25) == 2 * SECOND
    assert clock.place(2 * SECOND + 490_000_000, 50, 100.0, 0.25, contiguous=False) \
        == 2 * SECOND + 490_000_000


def test_a_clock_set_back_is_believed():
    clock = BlockClock()
    clock.place(100 * SECOND, 10, 100.0, 0.05)
    assert clock.place(3 * SECOND, 10, 100.0, 0.05) == 3 * SECOND
