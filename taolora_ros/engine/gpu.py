"""The engines that run Triton kernels, by name, and the fastest of them by measurement."""

from __future__ import annotations

import importlib
import logging
import time

import numpy as np

from taolora_ros.engine.interface import Engine
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.model_file import Model

GPU_ENGINES = ('mega', 'fused', 'streams')  # in the order in which they are expected to be fast
CLASSES = {'mega': 'MegaEngine', 'fused': 'FusedEngine', 'streams': 'StreamsEngine'}
ROUNDS = 30  # windows over which an engine is timed: the median counts

log = logging.getLogger(__name__)


def make_gpu_engine(name: str, model: Model, device: str = 'cuda', **options) -> Engine:
    """Return one of GPU_ENGINES; raise ValueError or RuntimeError saying why it cannot run."""
    try:
        module = importlib.import_module(f'taolora_ros.engine.{name}')
    except ImportError as error:
        raise RuntimeError(f'Triton cannot be imported ({error}): install the one that torch for '
                           'your GPU asks for') from error
    return getattr(module, CLASSES[name])(model, device, **options)


def fastest_gpu_engine(model: Model) -> Engine:
    """Return the fastest engine for a model on the GPU; its ``why`` shows the times of all.

    An engine that cannot run, or gives other scores than the reference, is left out with one
    warning that says why. The reference engine on the GPU always runs.
    """
    made: dict[str, Engine] = {}
    seconds: dict[str, float] = {}
    for name in GPU_ENGINES if model.precision == 'int4' else ():
        try:
            engine = make_gpu_engine(name, model)
            seconds[name], made[name] = median_time(engine, model), engine
        except Exception as error:  # whatever a compiler or a driver may say
            log.warning('engine %s cannot be used for %s, the next one is: %s', name,
                        model.spec.name, error)
            if isinstance(error, RuntimeError) and isinstance(error.__cause__, ImportError):
                break  # the others need Triton too
    made['reference'] = ReferenceEngine(model, 'cuda')
    seconds['reference'] = median_time(made['reference'], model)
    order = sorted(seconds, key=seconds.get)
    made[order[0]].why = ', '.join(f'{name} {seconds[name] * 1e3:.3f} ms a window'
                                   for name in order)
    return made[order[0]]


def median_time(engine: Engine, model: Model) -> float:
    """Return the median time (s) of one window, host to host, a quarter of its tokens open."""
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
