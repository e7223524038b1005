"""Engines: how a model's windows are run. All of them give the same events."""

from __future__ import annotations

from taolora_ros.engine.choice import ENGINES, make_engine
from taolora_ros.engine.interface import Engine, Scores

__all__ = ['ENGINES', 'Engine', 'Scores', 'make_engine']
