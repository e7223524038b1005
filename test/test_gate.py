import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from taolora_ros.features import feature_names
from taolora_ros.gate import Gate, gate_flags, token_flags
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

SPECS = pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS], ids=lambda spec: spec.kind)


def quiet(spec, patches, seed=0):
    shape = (patches * spec.patch, len(feature_names(spec)))
    return 0.05 * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@SPECS
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 900), st.lists(st.integers(0, 900), max_size=9))
def test_any_chunks_give_the_same_flags(spec, seed, n, cuts):
    rng = np.random.default_rng(seed)
    features = quiet(spec, n // spec.patch + 1, seed)[:n]
    features *= np.exp(np.cumsum(rng.normal(0, 0.3, n)))[:, None].clip(0.1, 50)
    whole = gate_flags(spec, features)
    assert whole.shape == (n // spec.patch,)
    gate = Gate(spec)
    parts = [gate.push(part) for part in np.split(features, sorted(min(c, n) for c in cuts))]
    assert np.array_equal(np.concatenate(parts), whole)
    gate.reset()
    singly = [gate.push(features[i:i + 1]) for i in range(n)]
    assert np.array_equal(np.concatenate([*singly, []]).astype(bool), whole)


@SPECS
def test_a_transient_opens_the_gate_and_quiet_closes_it(spec):
    features = quiet(spec, 400)
    at = 300 * spec.patch
    features[at:at + 3 * spec.patch, 0] += np.hanning(3 * spec.patch) * 3
    flags = gate_flags(spec, features)
    assert flags[300:303].any() and not flags[310:].any()
    assert flags[100:300].mean() < 0.02, 'steady noise is not a transient'


@SPECS
def test_only_what_is_many_times_steady_is_a_transient(spec):
    features = quiet(spec, 400)
    assert np.array_equal(gate_flags(spec, features), gate_flags(spec, features * 20))


@SPECS
def test_a_new_level_of_activity_becomes_steady(spec):
    features = quiet(spec, 1200)
    features[400 * spec.patch:] *= 30
    flags = gate_flags(spec, features)
    assert flags[400:450].all(), 'the scale is frozen while the gate is open'
    assert flags[-200:].mean() < 0.05


@SPECS
def test_below_the_floor_nothing_is_a_transient(spec):
    features = quiet(spec, 400) * 1e-4
    features[1000:1010] *= 100
    assert not gate_flags(spec, features).any()
    assert not gate_flags(spec, np.zeros_like(features)).any()


@SPECS
@pytest.mark.parametrize('name', ['variance', 'curvature', 'hf_energy'])
def test_each_statistic_opens_the_gate_and_its_threshold_can_change(spec, name):
    shut = dataclasses.replace(spec.gate, variance=1e9, curvature=1e9, hf_energy=1e9)
    gate = Gate(spec)
    gate.thresholds = dataclasses.replace(shut, **{name: 0.5})
    assert gate.push(quiet(spec, 200))[5:].mean() > 0.9
    gate.thresholds = shut
    assert not gate.push(quiet(spec, 200)).any()


@SPECS
def test_hysteresis_keeps_an_open_gate_open(spec):
    only = dataclasses.replace(spec.gate, curvature=1e9, hf_energy=1e9)
    strong = 2.0 * np.sqrt(only.variance)
    features = np.repeat(np.resize([-2.0, 2.0], 300 * spec.patch)[:, None],
                         len(feature_names(spec)), 1)
    features[200 * spec.patch:, 0] = np.resize([-0.85, 0.85], 100 * spec.patch) * strong
    peak = features.copy()
    peak[200 * spec.patch:201 * spec.patch, 0] *= 1.5
    flags = []
    for signal in (features, peak):
        gate = Gate(spec)
        gate.thresholds = only
        flags.append(gate.push(signal))
    assert not flags[0][202:220].any() and flags[1][200:220].all()


@SPECS
@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 1500))
def test_a_token_is_open_when_a_patch_it_overlaps_or_a_neighbour_is(spec, seed, end):
    flags = np.random.default_rng(seed).random(end // spec.patch + 7) < 0.05
    first = max(end // spec.patch - spec.tokens - 3, 0)
    gate = token_flags(spec, flags[first:], first, end)
    known = end // spec.patch
    raw = []
    for i in range(spec.tokens):
        start = end - spec.window + i * spec.patch
        patches = {start // spec.patch, (start + spec.patch - 1) // spec.patch}
        raw.append(any(flags[p] for p in patches if 0 <= p < known))
    near = range(-spec.gate.dilation, spec.gate.dilation + 1)
    expected = [any(raw[i + d] for d in near if 0 <= i + d < spec.tokens)
                for i in range(spec.tokens)]
    assert gate.tolist() == expected
