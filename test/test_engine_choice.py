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
