"""Every engine finds the same events in the same samples: what the node publishes."""

from dataclasses import replace
from functools import cache

import pytest

from taolora_ros.detector import Detector, Event
from taolora_ros.engine import make_engine
from taolora_ros.kernels.cpu import library
from taolora_ros.model_file import load_model
from taolora_ros.recordings import read_npz
from taolora_ros.samples import Samples
from taolora_ros.settings import Settings
from taolora_ros.shipped import find_model, shipped
from taolora_ros.synthetic import imu_scene
from detecting import START_NS

HOPS = {'ecg_beats': 4.096, 'imu_falls': 3.2}  # s: few windows, the interpreter is slow
LATER = 5_000_000  # ns by which stamps may differ
SCORE = 0.01


@cache
def samples(name):
    """Return 12 s of the demo's ECG, or a synthetic fall with 4 s before and 5 s after it."""
    if name == 'ecg_beats':
        recording = next(read_npz(shipped('config/demo/mitdb_119_excerpt.npz')))
        return Samples.uniform(START_NS, recording.rate,
                               recording.values[:round(12 * recording.rate)])
    scene = imu_scene(('walk', 'fall'), seed=3)
    fall = round(scene.falls_s[0] * scene.rate)
    around = slice(fall - round(4 * scene.rate), fall + round(5 * scene.rate))
    return Samples.uniform(START_NS, scene.rate, scene.values[around])


def events(name, engine, device):
    """Return what a detector with that engine finds."""
    model = load_model(find_model(name))
    settings = replace(Settings.default(model.spec), hop=HOPS[name])
    detector = Detector(model.spec, make_engine(model, engine, device), settings)
    results = detector.process(samples(name)) + detector.flush()
    return [result for result in results if isinstance(result, Event)]


@cache
def wanted(name):
    """Return what the reference engine finds, in which there is something to find."""
    found = events(name, 'reference', 'cpu')
    labels = {event.label for event in found}
    assert labels == ({'beat', 'veb'} if name == 'ecg_beats' else {'fall'})
    return found


def same(found, name):
    """Hold that events are those of the reference engine."""
    assert [(event.label, event.phase, event.severity) for event in found] == [
        (event.label, event.phase, event.severity) for event in wanted(name)]
    for event, one in zip(found, wanted(name)):
        for stamp in ('stamp_ns', 'start_ns', 'stop_ns'):
            assert abs(getattr(event, stamp) - getattr(one, stamp)) <= LATER
        assert abs(event.score - one.score) < SCORE
        assert event.transient_fraction == one.transient_fraction


@pytest.mark.parametrize('engine', ['mega', 'fused', 'streams'])
@pytest.mark.parametrize('name', HOPS)
def test_kernels_find_the_events_of_the_reference(kernels, name, engine):
    if kernels.type == 'cpu' and engine == 'streams':
        pytest.skip('its kernels are those of fused, and the interpreter takes long')
    same(events(name, engine, kernels.type), name)


@pytest.mark.parametrize('name', HOPS)
def test_the_engine_in_c_finds_the_events_of_the_reference(name):
    try:
        library.load()
    except RuntimeError as error:
        pytest.skip(str(error))
    same(events(name, 'native', 'cpu'), name)
