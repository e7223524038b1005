"""The models of a running node: each file loaded once, with one engine for all that use it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from taolora_ros.features import feature_names
from taolora_ros.shipped import find_model
from taolora_ros.threads import use_one_thread
from taolora_ros.worker import TOGETHER

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Engine
    from taolora_ros.model_file import Model


class Models:
    """Loads models to run by ``engine`` on ``device``, as ``taolora_ros.engine`` names them.

    ``names`` are those of all streams' models: windows of the same model come together.
    """

    def __init__(self, engine: str, device: str, names: Sequence[str] = ()):
        self._engine = engine
        self._device = device
        self._names = list(names)
        self._loaded: dict[Path, tuple[Model, Engine]] = {}

    def load(self, parameter: str, name: str) -> tuple[Model, Engine]:
        """Return the model whose name or path stands in ``parameter``, and what runs it.

        Raise ValueError when there is no such model or device, or its file cannot be used.
        """
        from taolora_ros.engine import make_engine  # brings torch with it
        from taolora_ros.engine.reference import pick_device
        from taolora_ros.model_file import load_model
        use_one_thread()
        pick_device(self._device)  # that it is not there is nothing of a model's
        with said_of(f'{parameter}: '):
            path = find_model(name)
            model = self._loaded[path][0] if path in self._loaded else load_model(path)
        if path not in self._loaded:
            together = min(max(self._names.count(name), 1), TOGETHER)
            with said_of(f'{parameter}: '):
                engine = make_engine(model, self._engine, self._device, together)
            rest = np.zeros((1, model.spec.window, len(feature_names(model.spec))), np.float32)
            # Once now: the first run is slow, and a device that fails should fail the start.
            engine.run(rest, np.zeros((1, model.spec.tokens), bool))
            self._loaded[path] = model, engine
        return self._loaded[path]


@contextmanager
def said_of(what: str):
    """Begin the message of a ValueError with what it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{what}{error}') from error
