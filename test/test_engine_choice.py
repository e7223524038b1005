"""Which engine `auto` takes where those of a GPU cannot be used, and what it says."""

import logging
import sys
import time

import pytest
import torch

from taolora_ros.engine import choice
from taolora_ros.engine.gpu import GPU_ENGINES
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.model_file import load_model
from taolora_ros.shipped import find_model
from tiny import tiny_models


@pytest.fixture
def no_gpu_engines(monkeypatch):
    """Let GPU engines fail in a way, and a reference engine on a GPU run on the CPU, slower."""
    def slow(model, device):
        engine = ReferenceEngine(model, 'cpu')
        monkeypatch.setattr(engine, 'run', lambda *given, run=engine.run: (
            time.sleep(0.1), run(*given))[1])
        return engine

    def fail(way):
        if way == 'triton is missing':
            for name in GPU_ENGINES:
                monkeypatch.setitem(sys.modules, f'taolora_ros.engine.{name}', None)
        else:
            monkeypatch.setattr(choice, 'make_gpu_engine', failing)

    def failing(name, model, device):
        raise RuntimeError('ptxas gave up' if name == 'mega' else 'no C compiler')

    monkeypatch.setattr(choice, 'ROUNDS', 1)
    monkeypatch.setattr(choice, 'LEAST_ROUNDS', 1)
    monkeypatch.setattr(choice, 'ReferenceEngine', slow)
    return fail


@pytest.mark.parametrize('way, said', [
    ('triton is missing', ['Triton cannot be imported']),
    ('kernels do not compile', ['mega cannot be used: ptxas gave up',
                                'fused, streams cannot be used: no C compiler'])])
@pytest.mark.parametrize('device, taken', [('cuda', 'reference'), ('auto', 'native')])
def test_gpu_engines_that_fail_are_one_warning_and_the_next_engine(no_gpu_engines, monkeypatch,
                                                                   caplog, way, said, device,
                                                                   taken):
    monkeypatch.setattr(choice, 'pick_device', lambda name: torch.device('cuda'))
    no_gpu_engines(way)
    with caplog.at_level(logging.WARNING):
        engine = choice.make_engine(load_model(find_model('imu_falls')), 'auto', device)
    assert engine.name == taken and engine.why.startswith(taken)
    assert len(caplog.records) == 1
    for text in (*said, f'imu_falls runs by {taken}'):
        assert text in caplog.text


class Paced:
    """An engine that takes ``each`` seconds for a window and ``call`` for a call of any."""

    device, why, keeps_embedding = 'cpu', '', False

    def __init__(self, name, call, each, clock):
        self.name, self._call, self._each, self._clock = name, call, each, clock
        self.counts = []

    def run(self, windows, gates):
        assert len(windows) == len(gates)
        self.counts.append(len(windows))
        self._clock[0] += self._call + self._each * len(windows)


@pytest.fixture
def paced(monkeypatch):
    """Let `native` be fast with one window and `reference` with many."""
    clock = [0.0]
    engines = {'native': Paced('native', 0.0, 2e-3, clock),
               'reference': Paced('reference', 4e-3, 1e-3, clock)}
    monkeypatch.setattr(choice, '_make', lambda name, model, device: engines[name])
    monkeypatch.setattr(choice.time, 'perf_counter', lambda: clock[0])
    return engines, clock


def test_the_fastest_with_as_many_windows_as_come_together_is_taken(paced):
    engines, _ = paced
    model = load_model(find_model('imu_falls'))
    one = choice.make_engine(model, device='cpu')
    assert (one.name, one.why) == ('native', 'native 2.00 ms a window, reference 5.00 ms a window')
    assert set(engines['native'].counts) == {1}
    many = choice.make_engine(model, device='cpu', together=8)
    assert many.name == 'reference' and set(engines['native'].counts) == {1, 8}
    assert many.why == ('reference 1.50 ms a window (5.00 alone), native 2.00 ms a window (2.00 '
                        'alone), with 8 in a call, as many as streams may bring')


def test_slow_engines_are_timed_by_fewer_calls(paced):
    engines, clock = paced
    engines['native']._each = 1.0
    choice.make_engine(load_model(find_model('imu_falls')), device='cpu', together=8)
    assert len(engines['native'].counts) == 2 * (1 + choice.LEAST_ROUNDS)


def test_streams_of_a_model_are_what_comes_together(monkeypatch):
    from taolora_ros import engine, models
    asked = []

    def make(model, name, device, together):
        asked.append((model.spec.name, together))
        return Paced(name, 0.0, 0.0, [0.0])

    monkeypatch.setattr(engine, 'make_engine', make)
    names = ['imu_falls'] * 11 + ['ecg_beats'] * 3
    loaded = models.Models('auto', 'cpu', names)
    for name in names:
        loaded.load('s.model', name)
    models.Models('auto', 'cpu').load('s.model', 'ecg_beats')
    assert asked == [('imu_falls', 8), ('ecg_beats', 3), ('ecg_beats', 1)]


def test_a_model_that_an_engine_cannot_run_is_named_and_a_missing_device_is_no_model_s(
        tmp_path, monkeypatch):
    from taolora_ros import models
    tiny_models(tmp_path)
    whole = str(tmp_path / 'tiny.fp32.safetensors')
    with pytest.raises(ValueError, match='^chest.model: engine: native cannot be used: '):
        models.Models('native', 'cpu').load('chest.model', whole)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ValueError, match='^device: cuda was asked for'):
        models.Models('auto', 'cuda').load('chest.model', whole)
