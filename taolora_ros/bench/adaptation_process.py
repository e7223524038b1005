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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from taolora_ros.adaptation.blocks import make_blocks, restore_block
from taolora_ros.adaptation.checkpoint import FORMAT_VERSION
from taolora_ros.adaptation.lora import AdaptedLayer
from taolora_ros.adaptation.q4 import pack_factors
from taolora_ros.adaptation.saver import PAUSE, Saver
from taolora_ros.adaptation.signal import Signal
from taolora_ros.adaptation.targets import BASE_TARGETS, MICRO_TARGETS, layer_kinds
from taolora_ros.bench.feedback import timed_feedback, timed_waiting
from taolora_ros.bench.processes import Process
from taolora_ros.bench.torch_layer import TorchLayer
from taolora_ros.engine import make_engine
from taolora_ros.model_file import Model, load_model
from taolora_ros.shipped import find_model

WIDTH, RANK, TOGETHER = 768, 2, 32
TOKENS = 64          # drawn once and used over and over
ROUNDS = 10          # of NumPy and PyTorch in turns
FEEDBACKS = 64       # in the node
WAITING = 60         # that wait there
EDGE = 10            # of these, at either end, are compared
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


def in_the_node() -> dict:
    """Return p50 and p99 of taking a feedback (µs) and of settling it (ms), as the node does.

    And the median (µs) of taking one with few and with nearly ``WAITING`` others waiting.
    """
    taken, settled = timed_feedback(FEEDBACKS)
    waiting = timed_waiting(WAITING, ROUNDS)
    return {'feedbacks': FEEDBACKS, 'feedback_us': percentiles([taken]),
            'settle_ms': percentiles([settled]), 'waiting': WAITING,
            'waiting_us': [round(float(np.median(part)), 1)
                           for part in (waiting[:, :EDGE], waiting[:, -EDGE:])]}


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
    """Return p50 and p99 in ms of inference in several company; ``own_ms`` as ``Clock`` says.

    Alone; while a state is handed over to be saved after every window; the same without the pause
    between two saves; and beside another process that flushes a file to the same disk. Every
    window is followed by learning, in all cases.
    """
    model = load_model(find_model('imu_falls'))
    infer, learn, clock = inference(model), Learning(model, folder), Clock()
    took: dict[str, list] = {'alone': [], 'while_saving': [], 'without_pause': [],
                             'beside_flusher': []}
    rounds = min(ROUNDS, max(windows // 10, 1))
    for _ in range(rounds):
        for way, times in took.items():
            learn.saver.pause = 0.0 if way == 'without_pause' else PAUSE
            with flusher(folder) if way == 'beside_flusher' else nullcontext():
                for _ in range(windows // rounds):
                    learn.learn()
                    if way in ('while_saving', 'without_pause'):
                        learn.save()
                    start = clock()
                    infer()
                    times.append(1e3 * (clock() - start))
            learn.saver.flush()
    learn.close()
    return {**{way: {'ms': percentiles([np.array(times)[:, 0]]),
                     'own_ms': percentiles([np.array(times)[:, 1]])}
               for way, times in took.items()},
            'windows': len(took['alone']), 'pause_s': PAUSE,
            'hand_over_us': round(float(np.median(learn.handed_over)), 1)}


@contextmanager
def flusher(folder: str) -> Iterator[None]:
    """Have another process flush a file in ``folder`` to the disk, again and again."""
    with Process('taolora_ros.bench.flusher', f'{folder}/flushed') as process:
        process.wait_for('started')
        yield


class Clock:
    """Tells the time, and the time less what this thread has spent waiting for a core.

    The second one goes on while the thread waits for another (Python's lock, a full pipe), so it
    shows who holds up whom, which a busy machine would hide.
    """

    def __init__(self):
        try:
            self._waited = open('/proc/thread-self/schedstat', 'rb', buffering=0)
        except OSError:  # not every kernel counts it: then both are the same
            self._waited = None

    def __call__(self) -> np.ndarray:
        """Return both in s, (2,)."""
        waited = 0.0
        if self._waited:
            self._waited.seek(0)
            waited = int(self._waited.read(64).split()[1]) / 1e9
        now = time.perf_counter()
        return np.array([now, now - waited])


def inference(model: Model) -> Callable[[], object]:
    """Return a function that runs one window, a quarter of its tokens open."""
    random, engine = np.random.default_rng(0), make_engine(model, device='cpu')
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

    def learn(self) -> None:
        """Let every layer learn from one feedback."""
        for layer in self.layers.values():
            layer.learn(self.random.standard_normal(layer.in_features, np.float32),
                        self.random.standard_normal(layer.out_features, np.float32), STEP)

    def save(self) -> None:
        """Hand over what was learnt."""
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
    found['node'] = in_the_node()
    print(json.dumps({**found, 'storage': storage(), 'growth_bytes': growth(updates)}))


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
