"""Compile all kernels that engines use for the shipped networks for a GPU that is not here."""

from __future__ import annotations

import torch
from rich.table import Table

from taolora_ros.bench.cross_compile import BATCHES, TARGETS, cross_compile
from taolora_ros.model_file import load_model
from taolora_ros.origin import commit
from taolora_ros.shipped import find_model

COLUMNS = ('configurations', 'warps', 'registers', 'spills', 'shared bytes', 'instructions')
ALONE = 'alone'    # stands for kernels that no engine uses
LARGE = 4096       # K = N of a large layer
PROGRAMS = {'sm_87': 8, 'sm_90': 132}  # that are surely on it at once: multiprocessors (Orin Nano)


def alone(model) -> list:
    """Return what no engine launches as it is made: the gate of 8 streams, a large layer for one
    row and for many."""
    from taolora_ros.bench.gpu_layers import Shape, layer_launches
    from taolora_ros.kernels.gate import gate_constants, gate_launch, gate_state
    spec, cpu = model.spec, torch.device('cpu')
    features = torch.zeros(8, spec.patch * 4, model.network.features)
    k = LARGE
    weights = {'codes': torch.ones(k, k, dtype=torch.int8), 'w_scale': torch.ones(1, k),
               'x_inv': torch.ones(k), 'a': torch.zeros(2 * k, 16), 'b': torch.zeros(16, k)}
    x, gate, out = torch.zeros(1, k), torch.zeros(1, dtype=torch.uint8), torch.zeros(1, k)
    shapes = (Shape('few rows', 64, 32, 16), Shape('bit planes', 64, 32, 16),
              Shape('fused', 64, 128, 16, 4), Shape('two kernels', 64, 64, 32, 1, 4, 4),
              Shape('two kernels', 128, 128, 64, 1, 4, 3))
    return [gate_launch(features, gate_state(spec, 8, cpu), gate_constants(spec, cpu),
                        torch.zeros(8, 4, dtype=torch.uint8)),
            *(launch for shape in shapes
              for launch in layer_launches(shape, x, weights, gate, out))]


def launches(engine: str, model, target: str, batches: tuple[int, ...]) -> list:
    """Return what an engine would launch for batches of so many windows on ``target``."""
    early = TARGETS[target].capability >= 90
    if engine == ALONE:
        from taolora_ros.kernels.launch import overlapped
        gate, *layers = alone(model)
        return [gate, *(overlapped(layers) if early else layers)]
    from taolora_ros.engine.gpu import make_gpu_engine
    from taolora_ros.engine.graph import make_buffers, on_device
    options = {'early': early} if engine != 'streams' else {}
    made = make_gpu_engine(engine, model, 'cpu', programs=PROGRAMS[target], **options)
    return [launch for batch in batches for launch in single(made.launches(
        on_device(model, make_buffers(model, batch, 'cpu'), 'cpu')))]


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
    from taolora_ros.engine.gpu import GPU_ENGINES
    for name in engines:
        if name not in (*GPU_ENGINES, ALONE):
            raise ValueError(f'engine: {name!r} has no kernels, {", ".join(GPU_ENGINES)} and '
                             f'{ALONE} have')
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
                if f'{engine} {name}' not in uses:
                    uses.append(f'{engine} {name}')
    kernels = []
    for number, (launch, uses) in enumerate(todo.values()):
        report(number, len(todo), launch.name)
        kernels.append({**cross_compile(launch, target).to_dict(), 'used_by': uses})
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
