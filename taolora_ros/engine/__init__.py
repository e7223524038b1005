"""Engines: how a model's windows are run. All of them give the same scores."""

from __future__ import annotations

from taolora_ros.engine.interface import Engine, Scores
from taolora_ros.model_file import Model

__all__ = ['ENGINES', 'Engine', 'Scores', 'make_engine']

ENGINES = ('auto', 'reference')


def make_engine(model: Model, engine: str = 'auto', device: str = 'auto') -> Engine:
    """Return an engine for ``model``; its precision is that of the model's file.

    ``engine`` is one of ENGINES, ``device`` 'auto', 'cpu' or 'cuda'. Raise ValueError for other
    names, and for a device that is not there.
    """
    if engine not in ENGINES:
        raise ValueError(f'engine: {engine!r} is none of {", ".join(ENGINES)}')
    from taolora_ros.engine.reference import ReferenceEngine
    return ReferenceEngine(model, device)
