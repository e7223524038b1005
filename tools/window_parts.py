#!/usr/bin/env python3
"""
Find out where the time of the kernel of a window goes (engine `mega`): the same kernel with one
part left out or done otherwise. What the part costs is the difference from "as it is". In front
stands whether scores are the engine's: `same`; `coarser`, rounded to fewer bits; `other`.

    tools/window_parts.py                          measure all of VARIANTS, on a GPU
    tools/window_parts.py --only GELU --json FILE  those with GELU in their names; keep them, too
    tools/window_parts.py --compile-only sm_90     what they take from a GPU that is not here
    tools/window_parts.py --once                   what compute-sanitizer is to watch
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, product
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from taolora_ros.bench import gpu
from taolora_ros.bench.compile import PROGRAMS
from taolora_ros.bench.cross_compile import TARGETS, cross_compile
from taolora_ros.bench.gpu_networks import given
from taolora_ros.bench.isolated import Isolated, serve
from taolora_ros.bench.timing import device_us, graphed, host_us
from taolora_ros.engine import graph
from taolora_ros.engine.device_weights import with_half_lora
from taolora_ros.engine.gpu import make_gpu_engine
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.kernels import tile, window
from taolora_ros.kernels.launch import can_overlap, interpreted
from taolora_ros.model_file import Model, load_model
from taolora_ros.origin import commit
from taolora_ros.shipped import find_model

MODULES = (tile, window)  # whose functions a variant replaces
SECONDS = 90.0                           # then a variant is given up
COUNTS = ('registers', 'spills', 'shared_bytes', 'instructions')
ONCE = (('mega', {}), ('mega', {'persistent': False}), ('fused', {}), ('streams', {}))


@triton.jit
def no_low_rank(dropped, v, a_dropped, a):
    """Leave out the first low-rank products."""
    return tl.zeros((v.shape[0], a.shape[1]), tl.float32)


@triton.jit
def no_dot(x, factors, total):
    """Leave out the second low-rank products."""
    return total


@triton.jit
def one_product(x, y):
    """Take both sides of attention's products as one float16: one product for three."""
    return tl.dot(x.to(tl.float16), y.to(tl.float16))


@triton.jit
def no_wait(arrived, goal):
    """Go on at once: programs read what others may not have written yet."""
    tl.debug_barrier()


@triton.jit
def wait_load(arrived, goal):
    """Wait by loads, which write nothing, rather than by adding 0."""
    at = arrived.to(tl.int64)
    while tl.inline_asm_elementwise('ld.acquire.gpu.global.s32 $0, [$1];', '=r,l', [at],
                                    dtype=tl.int32, is_pure=False, pack=1) < goal:
        pass
    tl.debug_barrier()


@triton.jit
def no_mix(inner, taps, t, t_ok, attends, T: tl.constexpr, D: tl.constexpr, J: tl.constexpr,
           E: tl.constexpr, BM: tl.constexpr, BT: tl.constexpr):
    """Read as many numbers as a mixer gives."""
    return tl.load(inner + t[:, None] * D + tl.arange(0, D)[None, :], mask=t_ok[:, None])


@triton.jit
def no_gelu(x):
    """Leave out GELU."""
    return x


class Variant(NamedTuple):
    """Whether scores are the engine's, what replaces functions of MODULES, how `mega` is made."""

    scores: str
    instead: dict = {}
    options: dict = {}


VARIANTS = {
    'as it is': Variant('same'),
    'no low-rank products': Variant('other', {'low_rank': no_low_rank, 'half_dot': no_dot}),
    'no first low-rank product': Variant('other', {'low_rank': no_low_rank}),
    'no waiting': Variant('other', {'wait_for': no_wait}),
    'waiting by loads': Variant('same', {'wait_for': wait_load}),
    'no mixers': Variant('other', {'mixed': no_mix}),
    'attention: one float16 product': Variant('coarser', {'fine_product': one_product}),
    'no GELU': Variant('other', {'gelu': no_gelu}),
    'a launch a stage': Variant('same', {}, {'persistent': False}),
    '4 warps': Variant('same', {}, {'warps': 4}),
    '16 warps': Variant('same', {}, {'warps': 16}),
    'no team': Variant('same', {}, {'team': 1, 'block_h': 128}),
    'a team of 2': Variant('same', {}, {'team': 2, 'block_h': 128}),
    'a team of 8': Variant('same', {}, {'team': 8, 'block_h': 32}),
    'behind the kernel that fetches': Variant('same', {}, {'early': False}),
    '1 pipeline stage': Variant('same', {}, {'stages': 1}),
    '3 pipeline stages': Variant('same', {}, {'stages': 3})}


def answer(case: dict) -> list[dict]:
    """Return what a variant takes when measured or compiled; for this GPU compile it only."""
    variant, model = VARIANTS[case['way']], load_model(find_model(case['model']))
    for module, name in product(MODULES, variant.instead):
        if hasattr(module, name):
            setattr(module, name, variant.instead[name])
    graph.EARLY, target = (), case.get('compile')  # no graphs but for one window
    if not target:
        return [measured(model, make_gpu_engine('mega', model, check=False, **variant.options))]
    programs = (PROGRAMS[target][-1] if target in PROGRAMS else
                torch.cuda.get_device_properties(0).multi_processor_count)
    early = TARGETS[target].capability >= 90 if target in PROGRAMS else can_overlap()
    engine = make_gpu_engine('mega', model, 'cpu', programs=programs,
                             **{'early': early, **variant.options})
    buffers = graph.on_device(model, graph.make_buffers(model, 1, 'cpu'), 'cpu')
    launch = engine.launches(buffers)[1]  # behind what fetches; the kernel of all that follow
    if target not in PROGRAMS:
        launch.compile()
        return []
    taken = cross_compile(launch, target)
    return [{name: getattr(taken, name) for name in COUNTS}]


def measured(model: Model, engine: graph.GraphEngine) -> dict:
    """Return microseconds of a window (kernels one by one, each of them, as a graph, host to host),
    how far probabilities are from the reference's on average, and whether they are so twice.

    The first of the kernels is that which fetches the window.
    """
    windows, gates = given(model, 1)
    first, again = (engine.run(windows, gates).probability for _ in range(2))
    wanted = ReferenceEngine(with_half_lora(model), 'cpu').run(windows, gates).probability
    slot = engine.slot(1)
    kernels = graphed(lambda: [launch() for launch in slot.launches], 5)
    return {'kernels_us': device_us(kernels, replays=2) / 5,
            'each_us': [device_us(graphed(launch, 20), replays=1) / 20 for launch in slot.launches],
            'graph_us': device_us(slot.start),
            'host_us': host_us(lambda: engine.run(windows, gates))['p50_us'],
            'off': round(float(np.nan_to_num(abs(first - wanted), nan=1.0).mean()), 6),
            'repeats': np.array_equal(first, again)}


def rows(cases: list[dict], processes: int) -> Iterator[dict]:
    """Yield rows of cases in order; one that crashes, hangs or replaces functions is by itself."""
    def run(case: dict) -> list[dict]:
        with Isolated(__file__, '--answer') as worker:
            return list(gpu.run_case(worker, case, SECONDS))

    with ThreadPoolExecutor(processes) as pool:
        yield from chain.from_iterable(pool.map(run, cases))


def report(cases: list[dict], target: str | None, file: str | None) -> bool:
    """Compile for ``target``, or compile and measure; return whether all of it could be done."""
    origin = gpu.gpu_provenance() if target is None else {
        'target': target, 'triton': triton.__version__, 'commit': commit()}
    result = {'what': 'tools/window_parts.py', 'provenance': origin, 'rows': []}
    print(', '.join(f'{name} {value}' for name, value in origin.items()), flush=True)
    compiled = rows([{**case, 'compile': target or 'here'} for case in cases], os.cpu_count())
    for row in chain(compiled, rows(cases, 1) if target is None else ()):
        scores = VARIANTS[row['way']].scores
        result['rows'].append({**row, 'scores': scores})
        gpu.write(file, result)
        figures = ', '.join(f'{name} {np.round(value, 1) if name.endswith("_us") else value}'
                            for name, value in row.items() if name not in cases[0])
        print(f'{scores:8} {row["way"]:52} {figures}', flush=True)
    return not any('note' in row for row in result['rows'])


def run_once(name: str) -> bool:
    """Run engines' launches without a graph; return whether probabilities add up to 1."""
    model, graph.EARLY, right = load_model(find_model(name)), (), True
    for way, options in ONCE:
        engine = make_gpu_engine(way, model, check=False, **options)
        buffers = graph.on_device(model, graph.make_buffers(model, 2, 'cpu', pinned=True), 'cuda')
        buffers.source.windows.normal_()
        graph.issue(engine.launches(buffers), cuda=True)
        torch.cuda.synchronize()
        off = float((buffers.probability.sum(-1) - 1).abs().max())
        print(f'{way} {options}: probabilities add up to 1 within {off:.1e}', flush=True)
        right &= off < 1e-3
    return right


def main() -> int:
    """Do what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description='Where the time of the kernel of a window goes.')
    parser.add_argument('--model', default='ecg_beats', help='name or file; %(default)s')
    parser.add_argument('--only', metavar='TEXT', default='', help='variants with it in the name')
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument('--compile-only', choices=TARGETS, help='for a GPU that is not here')
    parser.add_argument('--json', metavar='FILE', help='keep rows; replaced after each of them')
    ways.add_argument('--once', action='store_true', help='for compute-sanitizer')
    told = parser.parse_args()
    if interpreted() or not (told.compile_only or torch.cuda.is_available()):
        parser.error('no CUDA device (--compile-only needs none), or TRITON_INTERPRET is set')
    cases = [{'way': name, 'model': told.model} for name in VARIANTS if told.only in name]
    if not cases:
        parser.error(f'--only {told.only!r}: in no name of a variant')
    return not (run_once(told.model) if told.once else report(cases, told.compile_only, told.json))


if __name__ == '__main__':
    sys.exit(serve(answer, lambda: False) if sys.argv[1:] == ['--answer'] else main())
