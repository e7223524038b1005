"""Compile all kernels that engines and the bench use for a GPU that is not here."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product, repeat

import torch
from rich.table import Table

from taolora_ros.bench.cross_compile import BATCHES, TARGETS, cross_compile
from taolora_ros.engine.gpu import GPU_ENGINES, make_gpu_engine
from taolora_ros.model_file import load_model
from taolora_ros.origin import commit
from taolora_ros.shipped import find_model

COLUMNS = ('configurations', 'warps', 'registers', 'spills', 'shared bytes', 'instructions')
ALONE = 'alone'    # stands for kernels that nothing uses
LAYERS = 'layers'  # stands for those of the layers of `taolora bench gpu`
ALL = (*GPU_ENGINES, LAYERS, ALONE)
# multiprocessors: so many programs are surely on it at once. Orin Nano 4 GB; Nano 8 GB and NX; AGX
PROGRAMS = {'sm_87': (4, 8, 16), 'sm_90': (132,)}


def gates(model) -> list:
    """Return the gate of 8 streams, which no engine launches."""
    from taolora_ros.kernels.gate import gate_constants, gate_launch, gate_state
    spec, cpu = model.spec, torch.device('cpu')
    features = torch.zeros(8, spec.patch * 4, model.network.features)
    return [gate_launch(features, gate_state(spec, 8, cpu), gate_constants(spec, cpu),
                        torch.zeros(8, 4, dtype=torch.uint8))]


def layers(target: str) -> list:
    """Return what layers of `taolora bench gpu` launch, of all sizes and in all shapes.

    Ranks are filled up to 16: others have the same kernels. Nothing is in memory (meta).
    """
    from taolora_ros.bench.gpu_layers import ROWS, SIZES, layer_launches, shapes
    from taolora_ros.kernels.launch import overlapped

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device='meta')

    found = []
    for size, rows in product(SIZES, ROWS):
        weights = {'codes': zeros(size, size, dtype=torch.int8), 'w_scale': zeros(1, size),
                   'x_inv': zeros(size), 'a': zeros(2 * size, 16), 'b': zeros(16, size)}
        for shape in shapes(rows, size):
            made = layer_launches(shape, zeros(rows, size), weights,
                                  zeros(rows, dtype=torch.uint8), zeros(rows, size))
            early = shape.overlap and begins_early(target)
            found += overlapped(made * 2) if early else made
    return found


def begins_early(target: str) -> bool:
    """Tell whether kernels may begin while the one before ends: Hopper."""
    return TARGETS[target].capability >= 90


def launches(engine: str, model, target: str, batches: tuple[int, ...]) -> list:
    """Return what an engine would launch for batches of so many windows on GPUs of a ``target``.

    Of each size of GPU, and with windows fetched and where memory is shared.
    """
    if engine == ALONE:
        return gates(model)
    if engine == LAYERS:
        return layers(target)
    from taolora_ros.engine.graph import make_buffers, on_device
    options = {'early': begins_early(target)} if engine != 'streams' else {}
    found = []
    for programs in PROGRAMS[target]:
        made = make_gpu_engine(engine, model, 'cpu', programs=programs, **options)
        for batch in batches:
            shared = make_buffers(model, batch, 'cpu')
            for buffers in (shared, on_device(model, shared, 'cpu')):
                found += single(made.launches(buffers))
    return found


def single(steps) -> list:
    """Return the launches of steps one by one."""
    from taolora_ros.engine.graph import Fork
    return [launch for step in steps for launch in (
        (*step.here, *step.beside) if isinstance(step, Fork) else (step,))]


def configuration(launch) -> tuple:
    """Return what tells a kernel that is compiled from others."""
    return (launch.name, tuple(launch.constants.items()), launch.warps, launch.stages,
            tuple(launch.signature().items()), tuple(launch.aligned()))


def measure(target: str, engines: tuple[str, ...], models: tuple[str, ...],
            batches: tuple[int, ...], report) -> dict:
    """Compile each configuration once; return what the kernels take.

    Raise ValueError for an unknown name, where Triton is missing or interprets, and when a kernel
    does not compile or does not fit.
    """
    for name in engines:
        if name not in ALL:
            raise ValueError(f'engine: {name!r} has no kernels, {", ".join(ALL)} have')
    try:
        import triton

        from taolora_ros.kernels.launch import interpreted
    except ImportError as error:
        raise ValueError(f'{error}: Triton compiles the kernels, install it') from error
    if interpreted():
        raise ValueError('TRITON_INTERPRET is set: nothing is compiled; unset it')
    todo, made_at = {}, commit()  # now: files may be edited while kernels compile
    for name in models:
        model = load_model(find_model(name))
        for engine in engines:
            for launch in launches(engine, model, target, batches):
                uses = todo.setdefault(configuration(launch), (launch, []))[1]
                use = LAYERS if engine == LAYERS else f'{engine} {name}'
                if use not in uses:
                    uses.append(use)
    kernels, uses = [], [uses for _, uses in todo.values()]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        compiled = pool.map(cross_compile, (launch for launch, _ in todo.values()), repeat(target))
        for number, (done, used_by) in enumerate(zip(compiled, uses)):
            report(number, len(todo), done.name)
            kernels.append({**done.to_dict(), 'used_by': used_by})
    report(len(todo), len(todo), 'all')
    return {'target': target, 'triton': triton.__version__, 'torch': torch.__version__,
            'provenance': f'taolora bench compile --target {target} --json FILE, commit {made_at}',
            'limits': {'shared_bytes': TARGETS[target].shared_bytes,
                       'registers': TARGETS[target].registers}, 'kernels': kernels}


def summary(result: dict) -> list[list[str]]:
    """Return a row for each kernel: how many configurations, and the most that one takes."""
    families: dict[str, list[dict]] = {}
    for kernel in result['kernels']:
        families.setdefault(kernel['name'], []).append(kernel)
    rows = []
    for name, found in sorted(families.items()):
        least = min(kernel['registers'] for kernel in found)
        most = {key: max(kernel[key] for kernel in found) for key in (
            'registers', 'spills', 'shared_bytes', 'instructions', 'warps')}
        rows.append([name, str(len(found)), str(most['warps']), f'{least} - {most["registers"]}',
                     str(most['spills']), str(most['shared_bytes']), str(most['instructions'])])
    return rows


def table(result: dict) -> Table:
    """Return what the kernels take, family by family; --json has each configuration."""
    shown = Table(title=f'{len(result["kernels"])} kernels for {result["target"]}, Triton '
                        f'{result["triton"]}: the most of each family')
    shown.add_column('kernel')
    for name in COLUMNS:
        shown.add_column(name, justify='right')
    for row in summary(result):
        shown.add_row(*row)
    return shown
