"""The engines that run Triton kernels, by name."""

from __future__ import annotations

import importlib

from taolora_ros.engine.interface import Engine
from taolora_ros.model_file import Model

GPU_ENGINES = ('mega', 'fused', 'streams')  # in the order in which they are expected to be fast
CLASSES = {'mega': 'MegaEngine', 'fused': 'FusedEngine', 'streams': 'StreamsEngine'}


def make_gpu_engine(name: str, model: Model, device: str = 'cuda', **options) -> Engine:
    """Return one of GPU_ENGINES; raise ValueError or RuntimeError saying why it cannot run."""
    try:
        module = importlib.import_module(f'taolora_ros.engine.{name}')
    except ImportError as error:
        raise RuntimeError(f'Triton cannot be imported ({error}): install the one that torch '
                           'for your GPU asks for') from error
    return getattr(module, CLASSES[name])(model, device, **options)
