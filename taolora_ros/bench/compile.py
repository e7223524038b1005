"""Compile all kernels that engines use for the shipped networks for a GPU that is not here."""

from __future__ import annotations

import torch
from rich.table import Table

from taolora_ros.bench.cross_compile import TARGETS, cross_compile
from taolora_ros.model_file import load_model
from taolora_ros.shipped import find_model

BATCHES = (1, 64)  # windows: the shapes of tiles depend on how many there are
PROGRAMS = {'sm_87': 8, 'sm_90': 132}  # that are surely on it at once: multiprocessors (Orin Nano)


def launches(engine: str, model, target: str, batches: tuple[int, ...]) -> list:
    """Return what an engine would launch for batches of so many windows on ``target``."""
    from taolora_ros.engine.gpu import make_gpu_engine
    from taolora_ros.engine.graph import Fork, make_buffers
    made = make_gpu_engine(engine, model, 'cpu', programs=PROGRAMS[target])
    found = []
    for batch in batches:
        for step in made.launches(make_buffers(model, batch, 'cpu')):
            found += [*step.here, *step.beside] if isinstance(step, Fork) else [step]
    return found


def measure(target: str, engines: tuple[str, ...], models: tuple[str, ...],
            batches: tuple[int, ...], report) -> dict:
    """Compile each configuration once; return what the kernels take.

    Raise ValueError for an unknown name, where Triton is missing or interprets, and when a kernel
    does not compile or does not fit.
    """
    from taolora_ros.engine.gpu import GPU_ENGINES
    for name in engines:
        if name not in GPU_ENGINES:
            raise ValueError(f'engine: {name!r} has no kernels, {", ".join(GPU_ENGINES)} have')
    try:
        import triton

        from taolora_ros.kernels.launch import interpreted
    except ImportError as error:
        raise ValueError(f'{error}: Triton compiles the kernels, install it') from error
    if interpreted():
        raise ValueError('TRITON_INTERPRET is set: nothing is compiled; unset it')
    todo = {}
    for name in models:
        model = load_model(find_model(name))
        for engine in engines:
            for launch in launches(engine, model, target, batches):
                key = (launch.name, tuple(launch.constants.items()), launch.warps,
                       launch.stages, tuple(launch.signature().items()), tuple(launch.aligned()))
                uses = todo.setdefault(key, (launch, []))[1]
                if f'{engine} {name}' not in uses:
                    uses.append(f'{engine} {name}')
    kernels = []
    for number, (launch, uses) in enumerate(todo.values()):
        report(number, len(todo), launch.name)
        kernels.append({**cross_compile(launch, target).to_dict(), 'used_by': uses})
    report(len(todo), len(todo), 'all')
    return {'target': target, 'triton': triton.__version__, 'torch': torch.__version__,
            'limits': {'shared_bytes': TARGETS[target].shared_bytes,
                       'registers': TARGETS[target].registers}, 'kernels': kernels}


def table(result: dict) -> Table:
    """Return what the kernels take, the largest of each family and shape."""
    shown = Table(title=f'{len(result["kernels"])} kernels for {result["target"]}, Triton '
                        f'{result["triton"]}')
    shown.add_column('kernel')
    shown.add_column('shape')
    for name in ('warps', 'registers', 'spills', 'shared_bytes', 'instructions'):
        shown.add_column(name, justify='right')
    for kernel in sorted(result['kernels'], key=lambda k: (k['name'], -k['registers'])):
        shape = ' '.join(f'{name}={kernel["configuration"][name]}' for name in (
            'K', 'N', 'T', 'D', 'BM', 'BN', 'LORA', 'PERSISTENT')
            if name in kernel['configuration'])
        shown.add_row(kernel['name'], shape, *(f'{kernel[name]:,}' for name in (
            'warps', 'registers', 'spills', 'shared_bytes', 'instructions')))
    return shown
