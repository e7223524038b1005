"""Which engine runs a model: the one asked for, or the fastest here, by measurement."""

from __future__ import annotations

import logging
import time

import numpy as np

from taolora_ros.engine.gpu import GPU_ENGINES, make_gpu_engine
from taolora_ros.engine.interface import Engine
from taolora_ros.engine.reference import ReferenceEngine, pick_device
from taolora_ros.model_file import Model

ENGINES = ('auto', 'reference', 'native', *GPU_ENGINES)
CANDIDATES = {'cpu': ('native', 'reference'), 'cuda': (*GPU_ENGINES, 'reference'),  # INT4 models
              'auto': (*GPU_ENGINES, 'native', 'reference')}  # where there is a GPU
ROUNDS = 15  # calls over which an engine is timed: the median counts
SECONDS, LEAST_ROUNDS = 0.15, 3  # after so long the calls end, of which there are so many

log = logging.getLogger(__name__)


def make_engine(model: Model, engine: str = 'auto', device: str = 'auto', together: int = 1
                ) -> Engine:
    """Return an engine for ``model``; its precision is that of the model's file.

    ``engine`` is one of ENGINES, ``device`` 'auto', 'cpu' or 'cuda'. Its ``why`` says in words how
    it was picked. With both 'auto', `native` on the CPU is tried beside the engines of a GPU.
    'auto' takes what is fastest with as many windows in a call as may come ``together``. Those that
    it cannot use are named in one warning. Raise ValueError for other names, for a device
    that is not there, and for an engine asked for that cannot be used.
    """
    if engine not in ENGINES:
        raise ValueError(f'engine: {engine!r} is none of {", ".join(ENGINES)}')
    where = pick_device(device).type
    if engine == 'auto':
        return _fastest(model, CANDIDATES['cpu' if where == 'cpu' else device], where,
                        together)
    try:
        made = _make(engine, model, where)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f'engine: {engine} cannot be used: {error}; auto picks one that '
                         'can') from error
    made.why = 'asked for'
    return made


def _make(name: str, model: Model, device: str) -> Engine:
    """Return the engine of that name; raise ValueError or RuntimeError saying why it cannot be."""
    if name == 'native':
        if device != 'cpu':
            raise ValueError(f'it runs on the CPU, not on {device}')
        from taolora_ros.engine.native import NativeEngine
        return NativeEngine(model)
    if name in GPU_ENGINES:
        return make_gpu_engine(name, model, device)
    return ReferenceEngine(model, device)


def _fastest(model: Model, names: tuple[str, ...], device: str, together: int) -> Engine:
    """Return the fastest of the engines ``names``, of which `native` runs on the CPU."""
    if model.precision != 'int4':
        names = ('reference',)
    made, seconds, alone, causes = {}, {}, {}, {}
    for name in names:
        try:
            made[name] = _make(name, model, 'cpu' if name == 'native' else device)
            alone[name] = _time(made[name], model, 1)
            seconds[name] = alone[name] if together == 1 else _time(made[name], model, together)
        except Exception as error:  # whatever a compiler or a driver may say
            causes.setdefault(str(error), []).append(name)
    if not seconds:
        raise ValueError(f'engine: none of {", ".join(names)} runs on {device}: '
                         + '; '.join(causes))
    best = min(seconds, key=seconds.get)
    if causes:
        log.warning('%s runs by %s, since %s', model.spec.name, best, '; '.join(
            f'{", ".join(which)} cannot be used: {cause}' for cause, which in causes.items()))
    made[best].why = _reason(seconds, alone, together)
    return made[best]


def _reason(seconds: dict[str, float], alone: dict[str, float], together: int) -> str:
    """Return how long each engine takes for a window, and which of these times decided."""
    ranked = sorted(seconds, key=seconds.get)
    if together == 1:
        return ', '.join(f'{name} {seconds[name] * 1e3:.2f} ms a window' for name in ranked)
    told = [f'{name} {seconds[name] * 1e3:.2f} ms a window ({alone[name] * 1e3:.2f} alone)'
            for name in ranked]
    return f'{", ".join(told)}, with {together} in a call, as many as streams may bring'


def _time(engine: Engine, model: Model, together: int) -> float:
    """Return the median time (s) of a window, so many in a call, a quarter of the tokens open."""
    spec, rng = model.spec, np.random.default_rng(0)
    windows = rng.standard_normal((together, spec.window, model.network.features), np.float32)
    gates = np.tile(np.arange(spec.tokens) % 4 == 0, (together, 1))
    engine.run(windows, gates)
    times: list[float] = []
    while len(times) < LEAST_ROUNDS or (len(times) < ROUNDS and sum(times) < SECONDS):
        began = time.perf_counter()
        engine.run(windows, gates)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) / together
