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
ROUNDS = 15  # windows over which an engine is timed: the median counts

log = logging.getLogger(__name__)


def make_engine(model: Model, engine: str = 'auto', device: str = 'auto') -> Engine:
    """Return an engine for ``model``; its precision is that of the model's file.

    ``engine`` is one of ENGINES, ``device`` 'auto', 'cpu' or 'cuda'. Its ``why`` says in words how
    it was picked. With both 'auto', `native` on the CPU is tried beside the engines of a GPU. Those
    that 'auto' cannot use are named in one warning. Raise ValueError for other names, for a device
    that is not there, and for an engine asked for that cannot be used.
    """
    if engine not in ENGINES:
        raise ValueError(f'engine: {engine!r} is none of {", ".join(ENGINES)}')
    where = pick_device(device).type
    if engine == 'auto':
        return _fastest(model, CANDIDATES['cpu' if where == 'cpu' else device], where)
    try:
        made = _make(engine, model, where)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f'engine: {engine} cannot be used: {error}') from error
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


def _fastest(model: Model, names: tuple[str, ...], device: str) -> Engine:
    """Return the fastest of the engines ``names``, of which `native` runs on the CPU."""
    if model.precision != 'int4':
        names = ('reference',)
    made, seconds, causes = {}, {}, {}
    for name in names:
        try:
            made[name] = _make(name, model, 'cpu' if name == 'native' else device)
            seconds[name] = _time(made[name], model)
        except Exception as error:  # whatever a compiler or a driver may say
            causes.setdefault(str(error), []).append(name)
    if not seconds:
        raise ValueError(f'engine: none of {", ".join(names)} runs on {device}: '
                         + '; '.join(causes))
    best = min(seconds, key=seconds.get)
    if causes:
        log.warning('%s runs by %s, since %s', model.spec.name, best, '; '.join(
            f'{", ".join(which)} cannot be used: {cause}' for cause, which in causes.items()))
    made[best].why = ', '.join(f'{name} {seconds[name] * 1e3:.2f} ms a window'
                               for name in sorted(seconds, key=seconds.get))
    return made[best]


def _time(engine: Engine, model: Model) -> float:
    """Return the median time (s) of one window, a quarter of its tokens open."""
    spec, rng = model.spec, np.random.default_rng(0)
    window = rng.standard_normal((1, spec.window, model.network.features), np.float32)
    gates = np.arange(spec.tokens)[None] % 4 == 0
    engine.run(window, gates)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        engine.run(window, gates)
        times.append(time.perf_counter() - began)
    return float(np.median(times))
