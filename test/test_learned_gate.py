"""The gate 'learned': a shipped router in a running detector, asked for at once or on the way."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from rule_engine import RuleEngine

from taolora_ros import parameters
from taolora_ros.adaptation import router
from taolora_ros.adaptation.router import Router, RouterGate, RouterInputs, router_for
from taolora_ros.adaptation.router_study import spec_of
from taolora_ros.adaptation.router_training import make_track
from taolora_ros.detector import Detector, Settings
from taolora_ros.evaluation.detection import recording_samples
from taolora_ros.features import history_length
from taolora_ros.gate import token_flags
from taolora_ros.samples import Samples
from taolora_ros.spec import ECG_BEATS, IMU_FALLS
from taolora_ros.stream import segments
from taolora_ros.synthetic import ecg_record, imu_recording, imu_scene
from taolora_ros.training.corpus import parts_of

SPECS = pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS], ids=lambda spec: spec.kind)
START_NS = 1_700_000_000_000_000_000
HOPS = {'imu': 0.34, 'ecg': 0.2}  # s, no whole number of patches


def recorded(spec):
    """Return the samples of a fresh synthetic recording, which the gates open for at times."""
    seed = int(np.random.default_rng().integers(2 ** 31))
    if spec.kind == 'ecg':
        return recording_samples(ecg_record(50.0, seed, rate=125.0, veb_share=0.2), spec)
    scene = imu_scene(('walk', 'fall', 'stand', 'fall'), seed, rate=50.0)
    return Samples.uniform(START_NS, scene.rate, scene.values)


def settings(spec, gate='auto'):
    return dataclasses.replace(Settings.default(spec), gate=gate, hop=HOPS[spec.kind])


def windows_of(spec, samples, changes, sizes=None):
    """Return all windows; ``changes`` are the gates that hold from the window of a number on."""
    detector, windows = Detector(spec, RuleEngine(spec), settings(spec, changes[0])), []

    def drain():
        while due := detector.due(1):
            windows.extend(due)
            if len(windows) in changes:
                detector.settings = settings(spec, changes[len(windows)])
    cuts = [] if sizes is None else np.cumsum(sizes)
    for part in np.split(np.arange(len(samples)), cuts):
        detector.push(Samples(samples.stamps[part], samples.values[part]))
        drain()
    detector.close()
    drain()
    return windows


def expected(spec, samples, first, ends):
    """Return the gates of windows that end at ``ends``, the router begun with patch ``first``."""
    features = segments(spec, samples)[0].features.get()
    flags = RouterGate(spec, router.router_for(spec)).push(features[first * spec.patch:])
    return [token_flags(spec, flags, first, end) for end in ends]


def chunks(samples):
    """Return random sizes, whose sum reaches the end."""
    return np.random.default_rng().integers(1, 400, len(samples) // 100)


@pytest.mark.parametrize('kind, seed', [('imu', 0), ('imu', 3), ('ecg', 0), ('ecg', 1)])
def test_learned_opens_where_events_are_and_seldom_else(kind, seed):
    recording = (ecg_record(30.0, seed, rate=125.0, veb_share=0.2) if kind == 'ecg' else
                 imu_recording('fall', seed, rate=50.0))  # synthetic: not what it was trained on
    spec = ECG_BEATS if kind == 'ecg' else IMU_FALLS
    track = make_track(spec, parts_of(spec, recording)[0])
    events = np.flatnonzero(np.isin(track.classes, router_for(spec).rare))
    opened, near = [], []
    for window in windows_of(spec, recording_samples(recording, spec), {0: 'learned'}):
        patch = (window.end - spec.window) / spec.patch + np.arange(spec.tokens)
        inside = (patch >= 0) & (patch + 1 <= window.end // spec.patch)
        opened.append(window.gate[inside])
        near.append(np.isin(np.floor(patch[inside]), events))
    opened, near = np.concatenate(opened), np.concatenate(near)
    assert opened[near].mean() > max(2 * opened[~near].mean(), 0.3)


@SPECS
def test_any_chunks_give_the_gates_of_the_router_on_the_whole(spec):
    samples = recorded(spec)
    whole = windows_of(spec, samples, {0: 'learned'})
    wanted = expected(spec, samples, 0, [window.end for window in whole])
    assert np.mean(wanted) > 0
    for windows in (whole, windows_of(spec, samples, {0: 'learned'}, chunks(samples))):
        np.testing.assert_array_equal([window.gate for window in windows], wanted)


@SPECS
def test_asked_for_on_the_way_it_holds_from_the_next_window_on(spec, monkeypatch):
    samples, own = recorded(spec), router_for(spec)
    seen = RouterInputs(spec).inputs(segments(spec, samples)[0].features.get())
    half = float(np.median(own.rare_probabilities(seen)))  # open for every other patch
    monkeypatch.setattr(router, 'router_for', lambda _: Router(own.arrays, tuple(own.rare), half))
    auto = windows_of(spec, samples, {0: 'auto'})
    on = len(auto) // 2 + int(np.random.default_rng().integers(9))
    off = on + len(auto) // 4
    changes = {0: 'auto', on: 'learned', off: 'auto'}
    # what is kept: all that the window before it read, and a patch
    first = -(-max(auto[on - 1].end - history_length(spec) - spec.patch, 0) // spec.patch)
    assert spec.kind == 'ecg' or first > 0
    wanted = expected(spec, samples, first, [window.end for window in auto[on:off]])
    for sizes in (None, chunks(samples)):
        windows = windows_of(spec, samples, changes, sizes)
        gates = np.array([window.gate for window in windows])
        np.testing.assert_array_equal(gates[on:off], wanted)
        np.testing.assert_array_equal(gates[:on], [window.gate for window in auto[:on]])
        np.testing.assert_array_equal(gates[off:], [window.gate for window in auto[off:]])
    assert not np.array_equal(wanted, [window.gate for window in auto[on:off]])


def test_it_costs_nothing_any_more_when_another_gate_is_chosen(monkeypatch):
    samples, judged = recorded(IMU_FALLS), []
    push = RouterGate.push
    monkeypatch.setattr(RouterGate, 'push',
                        lambda gate, rows: judged.append(len(rows)) or push(gate, rows))
    detector = Detector(IMU_FALLS, settings=settings(IMU_FALLS, 'learned'))
    detector.push(samples[:700])
    detector.due()
    assert judged
    detector.settings = settings(IMU_FALLS)
    judged.clear()
    detector.push(samples[700:])
    assert detector.due() and not judged
    detector.settings = settings(IMU_FALLS, 'learned')
    assert judged and detector.due() is not None


def test_it_judges_segments_that_wait_and_each_anew():
    samples = recorded(IMU_FALLS)
    later = samples.stamps + samples.stamps[-1] - samples.stamps[0] + 3 * 10 ** 9
    both = Samples(np.concatenate([samples.stamps, later]), np.tile(samples.values, (2, 1)))
    detector = Detector(IMU_FALLS, settings=settings(IMU_FALLS))
    detector.push(both)
    detector.close()
    detector.settings = settings(IMU_FALLS, 'learned')  # no window was cut yet
    windows = detector.due()
    half = len(windows) // 2
    gates = np.array([window.gate for window in windows])
    np.testing.assert_array_equal(gates[:half], gates[half:])
    np.testing.assert_array_equal(gates[:half], expected(
        IMU_FALLS, samples, 0, [window.end for window in windows[:half]]))


def test_without_a_router_it_is_refused_with_the_command_that_makes_one():
    spec = dataclasses.replace(IMU_FALLS, name='imu_steps')
    detector = Detector(spec)
    with pytest.raises(ValueError, match='gate: learned needs a router: .*imu_steps.safetensors'):
        detector.settings = settings(spec, 'learned')
    assert detector.settings.gate == 'auto'
    with pytest.raises(ValueError, match='^wrist.gate: learned needs a router: .* make one with: '
                                         'python -m taolora_ros.adaptation.router_study imu'):
        parameters.changed('wrist', detector.settings, spec, {'gate': 'learned'})


def test_a_router_is_made_for_the_model_that_is_named():
    assert spec_of(None, 'imu') == IMU_FALLS
    assert spec_of('ecg_beats', 'ecg').name == 'ecg_beats'
    with pytest.raises(ValueError, match='--model: ecg_beats is for ecg, not for imu'):
        spec_of('ecg_beats', 'imu')


def test_a_router_needs_no_torch():
    code = ('import dataclasses, sys\n'
            'from taolora_ros.detector import Detector, Settings\n'
            'from taolora_ros.spec import ECG_BEATS\n'
            'own = Settings.default(ECG_BEATS)\n'
            "Detector(ECG_BEATS, settings=dataclasses.replace(own, gate='learned'))\n"
            "print('torch' in sys.modules)\n")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.stdout == 'False\n', done.stderr
