import dataclasses

import pytest

from taolora_ros.settings import Settings
from taolora_ros.spec import ECG_BEATS, IMU_FALLS


@pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS], ids=lambda spec: spec.kind)
def test_a_models_own_settings_are_valid(spec):
    settings = Settings.default(spec)
    settings.validate(spec)
    assert settings.thresholds(spec) == spec.gate


@pytest.mark.parametrize('change, words', [
    ({'hop': 0.001}, 'hop: 0.001 s is shorter than one sample (0.02 s)'),
    ({'hop': 0.0}, 'hop: 0 s is shorter than one sample'),
    ({'hop': 60.0}, 'hop: 60 s is longer than a window without one patch (5.04 s)'),
    ({'delay': 5.1}, 'delay: 5.1 s is longer than a window without one patch (5.04 s)'),
    ({'delay': 4.9}, 'delay: 4.9 s and hop 0.32 s together'),
    ({'delay': -0.1}, 'delay: -0.1 s is below 0'),
    ({'refractory': -1.0}, 'refractory: -1.0 s is below 0'),
    ({'event_threshold': 1.01}, 'event_threshold: 1.01 lies outside 0 to 1'),
    ({'event_threshold': float('nan')}, 'event_threshold: nan is not a finite number'),
    ({'anomaly_threshold': 0.0}, 'anomaly_threshold: 0.0 is not above 0'),
    ({'variance_threshold': -4.0}, 'variance_threshold: -4.0 is not above 0'),
    ({'hf_energy_threshold': float('inf')}, 'hf_energy_threshold: inf is not a finite number'),
    ({'curvature_threshold': '8'}, "curvature_threshold: '8' is not a finite number"),
    ({'gate': 'ajar'}, "gate: 'ajar' is none of auto, open, closed"),
])
def test_a_bad_setting_is_named_with_what_is_right(change, words):
    settings = dataclasses.replace(Settings.default(IMU_FALLS), **change)
    with pytest.raises(ValueError) as error:
        settings.validate(IMU_FALLS)
    assert str(error.value).startswith(words)
