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

import numpy as np
import torch

from taolora_ros.adaptation.lora import AdaptedLayer
from taolora_ros.adaptation.saver import Saver
from taolora_ros.adaptation.signal import Signal
from taolora_ros.adaptation.targets import BASE_TARGETS, MICRO_TARGETS, layer_kinds
from taolora_ros.bench.torch_layer import TorchLayer
from taolora_ros.engine import make_engine
from taolora_ros.model_file import load_model
from taolora_ros.shipped import find_model

WIDTH, RANK, TOGETHER = 768, 2, 32
TOKENS = 64          # drawn once and used over and over
ROUNDS = 10          # of NumPy and PyTorch in turns
MAX_NORM = 1.0       # far away; the cost at the limit is told apart
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


def speed(calls: int) -> dict:
    """Return p50 and p99 in µs of each part, of NumPy and PyTorch."""
    layer = AdaptedLayer(WIDTH, WIDTH, micro_rank=RANK, max_norm=MAX_NORM)
    bounded = AdaptedLayer(WIDTH, WIDTH, micro_rank=RANK, max_norm=1e-6)
    sides = {'numpy': numpy_calls(layer), 'torch': torch_calls(TorchLayer(layer))}
    sides['numpy']['update_at_limit'] = numpy_calls(bounded)['update']
    took: dict[str, dict[str, list]] = {
        side: {name: [] for name in parts} for side, parts in sides.items()}
    for _ in range(ROUNDS):
        for side, parts in sides.items():
            for name, call in parts.items():
                timed(call, 50)
                took[side][name].append(timed(call, max(calls // ROUNDS, 1)))
    found = {side: {name: percentiles(runs) for name, runs in parts.items()}
             for side, parts in took.items()}
    for parts in found.values():
        parts['together'] = [round(value / TOGETHER, 3) for value in parts['together']]
    return found


def growth(updates: int) -> int:
    """Return by how many bytes the process has grown over so many feedbacks."""
    total = numpy_calls(AdaptedLayer(WIDTH, WIDTH, micro_rank=RANK, max_norm=MAX_NORM))['total']
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
    """Return p50 and p99 in ms of inference, alone and while saves follow one another."""
    model = load_model(find_model('imu_falls'))
    engine, spec, random = make_engine(model, 'reference', 'cpu'), model.spec, np.random.default_rng(0)
    features = random.standard_normal((1, spec.window, model.network.features)).astype(np.float32)
    gate = random.random((1, spec.tokens)) < 0.25
    kinds, modules = layer_kinds(spec.network), dict(model.network.named_modules())
    layers = {name: AdaptedLayer(modules[name].in_features, modules[name].out_features)
              for name in BASE_TARGETS.choose(kinds) + MICRO_TARGETS.choose(kinds)}
    took: dict[bool, list] = {False: [], True: []}
    saver, saves, snapshots = Saver(folder, spec.name), 0, []
    for turn in range(2 * ROUNDS):
        busy, times = bool(turn % 2), []
        for i in range(max(windows // ROUNDS, 1)):
            if busy and saver.flush(0.0):
                for layer in layers.values():
                    layer.learn(random.standard_normal(layer.in_features, np.float32),
                                random.standard_normal(layer.out_features, np.float32), STEP)
                start = time.perf_counter()
                saver.save({name: layer.state() for name, layer in layers.items()})
                snapshots.append(1e6 * (time.perf_counter() - start))
                saves += 1
            start = time.perf_counter()
            engine.run(features, gate)
            times.append(1e3 * (time.perf_counter() - start))
        took[busy].append(np.array(times))
        saver.flush()
    saver.close()
    if saver.error:
        raise RuntimeError(saver.error)
    alone, beside = percentiles(took[False]), percentiles(took[True])
    return {'alone_ms': alone, 'while_saving_ms': beside, 'windows': sum(map(len, took[True])),
            'saves': saves, 'hand_over_us': round(float(np.median(snapshots)), 1)}


def main(calls: int, updates: int, windows: int) -> None:
    """Measure, print the figures."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = speed(calls)
    with tempfile.TemporaryDirectory() as folder:
        found['saving'] = saving(windows, folder)
    print(json.dumps({**found, 'growth_bytes': growth(updates)}))


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
