"""Engines: how a model's windows are run. All of them give the same scores."""

from __future__ import annotations

from taolora_ros.engine.gpu import GPU_ENGINES, fastest_gpu_engine, make_gpu_engine
from taolora_ros.engine.interface import Engine, Scores
from taolora_ros.model_file import Model

__all__ = ['ENGINES', 'Engine', 'Scores', 'make_engine']

ENGINES = ('auto', 'reference', *GPU_ENGINES)


def make_engine(model: Model, engine: str = 'auto', device: str = 'auto') -> Engine:
    """Return an engine for ``model``; its precision is that of the model's file.

    ``engine`` is one of ENGINES, ``device`` 'auto', 'cpu' or 'cuda'. Raise ValueError for other
    names, for a device that is not there, and for an engine asked for that cannot be used.
    """
    if engine not in ENGINES:
        raise ValueError(f'engine: {engine!r} is none of {", ".join(ENGINES)}')
    from taolora_ros.engine.reference import ReferenceEngine, pick_device
    where = pick_device(device).type
    if engine in GPU_ENGINES:
        try:
            return make_gpu_engine(engine, model, where)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f'engine: {engine} cannot be used: {error}') from error
    if engine == 'auto' and where == 'cuda':
        return fastest_gpu_engine(model)
    return ReferenceEngine(model, device)
