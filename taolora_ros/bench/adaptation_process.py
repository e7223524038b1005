"""What ``taolora bench adaptation`` measures, in a process of its own with one thread.

Prints one line of JSON. The parts of one feedback are timed one call at a time, NumPy and PyTorch
in turns; ``total`` is signal, update and forward in a row, timed as one.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch

from taolora_ros.adaptation.blocks import make_blocks, restore_block
from taolora_ros.adaptation.checkpoint import FORMAT_VERSION
from taolora_ros.adaptation.lora import AdaptedLayer
from taolora_ros.adaptation.q4 import pack_factors
from taolora_ros.adaptation.saver import Saver
from taolora_ros.adaptation.signal import Signal
from taolora_ros.adaptation.targets import BASE_TARGETS, MICRO_TARGETS, layer_kinds
from taolora_ros.bench.processes import Process
from taolora_ros.bench.torch_layer import TorchLayer
from taolora_ros.engine import make_engine
from taolora_ros.model_file import Model, load_model
from taolora_ros.shipped import find_model

WIDTH, RANK, TOGETHER = 768, 2, 32
TOKENS = 64          # drawn once and used over and over
ROUNDS = 10          # of NumPy and PyTorch in turns
WARM_UP = 50         # calls before those that count
AT_LIMIT = 1e-6      # a largest norm that every update passes
STEP = 1e-4
PERCENTS = (50, 99)
Calls = dict[str, Callable[[int], object]]


def draw_tokens() -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and probabilities (TOKENS, WIDTH) float32 each."""
    random = np.random.default_rng(0)
    x = random.standard_normal((TOKENS, WIDTH), np.float32)
    p = np.exp(random.standard_normal((TOKENS, WIDTH), np.float32))
    return x, p / p.sum(axis=1, keepdims=True)


def numpy_calls(layer: AdaptedLayer) -> Calls:
    """Return what is timed; each takes the number of the call."""
    x, p = draw_tokens()
    gradients, room = (p - np.eye(TOKENS, WIDTH, dtype=np.float32)), np.empty(WIDTH, np.float32)

    def feed(i: int) -> tuple[float, float]:
        told = Signal(x[i], p[i], 3, 0.7, label=i)
        told.gradient(room)
        return told.step(STEP), told.weight

    def total(i: int) -> np.ndarray:
        step, weight = feed(i)
        layer.learn(x[i], room, step, weight)
        return layer.forward(x[i])
    return {'signal': feed, 'update': lambda i: layer.learn(x[i], gradients[i], STEP),
            'forward': lambda i: layer.forward(x[i]), 'total': total,
            'together': lambda i: layer.learn(x[:TOGETHER], gradients[:TOGETHER], STEP)}


def torch_calls(layer: TorchLayer) -> Calls:
    """Return the same in PyTorch."""
    x, p = (torch.tensor(array) for array in draw_tokens())
    gradients = p - torch.eye(TOKENS, WIDTH)
    xs, ps, gs = list(x), list(p), list(gradients)  # views made beforehand

    def total(i: int) -> torch.Tensor:
        layer.learn(xs[i], layer.signal(ps[i], i), STEP)
        return layer.forward(xs[i])
    return {'signal': lambda i: layer.signal(ps[i], i),
            'update': lambda i: layer.learn(xs[i], gs[i], STEP),
            'forward': lambda i: layer.forward(xs[i]), 'total': total,
            'together': lambda i: layer.learn(x[:TOGETHER], gradients[:TOGETHER], STEP)}


def timed(call: Callable[[int], object], calls: int) -> np.ndarray:
    """Return how long each of ``calls`` calls took, in µs."""
    clock, took = time.perf_counter_ns, np.empty(calls)
    for i in range(calls):
        token = i % TOKENS
        start = clock()
        call(token)
        took[i] = clock() - start
    return took / 1e3


def percentiles(took: list[np.ndarray]) -> list[float]:
    """Return p50 and p99 of all calls of all rounds."""
    return [round(float(value), 2) for value in np.percentile(np.concatenate(took), PERCENTS)]


def sides() -> dict[str, Calls]:
    """Return what is timed, of layers that have learnt nothing yet."""
    layer = AdaptedLayer(WIDTH, WIDTH, micro_rank=RANK)
    bounded = AdaptedLayer(WIDTH, WIDTH, micro_rank=RANK, max_norm=AT_LIMIT)
    ours = {**numpy_calls(layer), 'update_at_limit': numpy_calls(bounded)['update']}
    return {'numpy': ours, 'torch': torch_calls(TorchLayer(layer))}


def speed(calls: int) -> dict:
    """Return p50 and p99 in µs of each part, of NumPy and PyTorch."""
    took: dict[str, dict[str, list]] = {
        side: {name: [] for name in parts} for side, parts in sides().items()}
    for _ in range(ROUNDS):
        for side, parts in sides().items():
            for name, call in parts.items():
                timed(call, WARM_UP)
                took[side][name].append(timed(call, max(calls // ROUNDS, 1)))
    found = {side: {name: percentiles(runs) for name, runs in parts.items()}
             for side, parts in took.items()}
    for parts in found.values():
        parts['together'] = [round(value / TOGETHER, 3) for value in parts['together']]
    return found


def growth(updates: int) -> int:
    """Return by how many bytes the process has grown over so many feedbacks."""
    total = numpy_calls(AdaptedLayer(WIDTH, WIDTH, micro_rank=RANK, max_norm=1.0))['total']
    for i in range(2000):
        total(i % TOKENS)
    before = _resident()
    for i in range(updates):
        total(i % TOKENS)
    return _resident() - before


def _resident() -> int:
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def saving(windows: int, folder: str) -> dict:
    """Return p50 and p99 in ms of inference alone, while saves follow one another, and while
    another process writes to the same disk.
    """
    model = load_model(find_model('imu_falls'))
    infer, learn = inference(model), Learning(model, folder)
    took: dict[str, list] = {'alone': [], 'while_saving': [], 'beside_flusher': []}
    rounds = min(ROUNDS, max(windows // 10, 1))
    for _ in range(rounds):
        for way, times in took.items():
            beside = (Process('taolora_ros.bench.flusher', f'{folder}/flushed')
                      if way == 'beside_flusher' else nullcontext())
            with beside as process:
                if process:
                    process.wait_for('started')
                times.append(np.empty(windows // rounds))
                for i in range(len(times[-1])):
                    if way == 'while_saving':
                        learn.save_if_idle()
                    start = time.perf_counter()
                    infer()
                    times[-1][i] = 1e3 * (time.perf_counter() - start)
                learn.saver.flush()
    learn.close()
    return {**{f'{way}_ms': percentiles(times) for way, times in took.items()},
            'windows': sum(map(len, took['alone'])), 'saves': len(learn.handed_over),
            'hand_over_us': round(float(np.median(learn.handed_over)), 1)}


def inference(model: Model) -> Callable[[], object]:
    """Return a function that runs one window, a quarter of its tokens open."""
    random, engine = np.random.default_rng(0), make_engine(model, 'reference', 'cpu')
    shape = (1, model.spec.window, model.network.features)
    features = random.standard_normal(shape, np.float32)
    gate = random.random((1, model.spec.tokens)) < 0.25
    return lambda: engine.run(features, gate)


class Learning:
    """The layers that learn by default, and their checkpoint."""

    def __init__(self, model: Model, folder: str):
        kinds, modules = layer_kinds(model.spec.network), dict(model.network.named_modules())
        self.layers = {name: AdaptedLayer(modules[name].in_features, modules[name].out_features)
                       for name in BASE_TARGETS.choose(kinds) + MICRO_TARGETS.choose(kinds)}
        self.saver, self.handed_over = Saver(folder, model.spec.name), []  # µs each
        self.random = np.random.default_rng(0)

    def save_if_idle(self) -> None:
        """Learn and have it saved, unless the last save is not on the disk yet."""
        if not self.saver.flush(0.0):
            return
        for layer in self.layers.values():
            layer.learn(self.random.standard_normal(layer.in_features, np.float32),
                        self.random.standard_normal(layer.out_features, np.float32), STEP)
        start = time.perf_counter()
        self.saver.save({name: layer.state() for name, layer in self.layers.items()})
        self.handed_over.append(1e6 * (time.perf_counter() - start))

    def close(self) -> None:
        """End; raise RuntimeError when something was not saved."""
        self.saver.close()
        if self.saver.error:
            raise RuntimeError(self.saver.error)


def storage() -> dict:
    """Return bytes and relative errors of A and of A B as they are kept, drawn from a normal."""
    random, rank = np.random.default_rng(0), 8
    a, b = (random.standard_normal(shape, np.float32) for shape in ((WIDTH, rank), (rank, WIDTH)))
    block = make_blocks({'layer': {'base_a': a.T, 'base_b': b}})['layer.base']
    halved, packed = restore_block(block, FORMAT_VERSION), pack_factors(a, b)
    ways = {'float16': (sum(array.nbytes for array in block.values()),
                        halved['base_a'].T, halved['base_b']),
            'q4': (packed.nbytes, *packed.unpack())}
    return {'float32_bytes': a.nbytes + b.nbytes, **{name: {
        'bytes': size, 'error_a': _apart(near_a, a), 'error': _apart(near_a @ near_b, a @ b)}
        for name, (size, near_a, near_b) in ways.items()}}


def _apart(near: np.ndarray, exact: np.ndarray) -> float:
    return round(float(np.linalg.norm(near - exact) / np.linalg.norm(exact)), 6)


def main(calls: int, updates: int, windows: int) -> None:
    """Measure, print the figures."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = speed(calls)
    with tempfile.TemporaryDirectory() as folder:
        found['saving'] = saving(windows, folder)
    print(json.dumps({**found, 'storage': storage(), 'growth_bytes': growth(updates)}))


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
