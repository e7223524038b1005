import numpy as np
import pytest
from hypothesis import given, strategies as st

from taolora_ros.beats import BeatDecoder
from taolora_ros.decode import biased
from taolora_ros.spec import ECG_BEATS


@given(st.floats(1e-6, 1 - 1e-6), st.floats(-8, 8))
def test_a_bias_shifts_the_logit(p, bias):
    expected = 1 / (1 + np.exp(-(np.log(p / (1 - p)) + bias)))
    assert biased(p, bias) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('p, expected', [(0.0, 0.0), (1.0, 1.0), (-1e-9, 0.0), (1.2, 1.0)])
def test_certainty_stays_certain(p, expected):
    assert biased(p, 3.0) == expected and biased(p, -3.0) == expected


def test_the_bias_is_the_operating_point():
    assert biased(0.2, np.log(4)) == pytest.approx(0.5)


def test_ids_are_never_used_twice():
    decoder = BeatDecoder(ECG_BEATS, 'chest')
    assert [decoder._new_id(5), decoder._new_id(5), decoder._new_id(7)] == [
        'chest-5-1', 'chest-5-2', 'chest-7-3']
    assert BeatDecoder(ECG_BEATS, '')._new_id(5) == 'ecg_beats-5-1'
