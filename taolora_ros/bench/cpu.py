"""One window on one core: our engines beside the same network elsewhere (``taolora bench cpu``).

Peers run the network in full precision and without a LoRA, or as onnxruntime quantizes it (dynamic
int8): less exact, and with nothing gated. Bytes moved are counted: all weights once, and what
counts.py says of activations. Ways take turns, so that what else the machine does falls on all of
them alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from taolora_ros.bench.counts import count_on_core
from taolora_ros.bench.processes import load, machine
from taolora_ros.bench.provenance import provenance

OPEN = {'closed': 0.0, 'a quarter open': 0.25, 'open': 1.0}  # gate: share of open tokens
OURS = 'native, gate a quarter open'
WARM_UP = 5  # windows of each way before it is timed


@dataclass(frozen=True)
class Way:
    """``run()`` scores one window; ``weights`` are the bytes that it reads of them."""

    name: str
    run: Callable[[], object]
    weights: int
    start: float  # s from the loaded file to the first result


def measure(model: str, windows: int, rounds: int, peers: bool = True,
            report: Callable[[int, int, str], None] = lambda *_: None) -> dict:
    """Time ``windows`` windows of each way in each of ``rounds``; return figures of every way.

    Peers are torch's and onnxruntime's ways; to compile torch's takes minutes.
    """
    import torch

    from taolora_ros.kernels.cpu import library
    from taolora_ros.model_file import load_model
    from taolora_ros.shipped import find_model
    torch.set_num_threads(1)
    path, before, origin = find_model(model), load(), provenance('onnxruntime')
    four, full = load_model(path, 'int4'), load_model(path, 'fp32')
    x = np.random.default_rng(0).standard_normal(
        (1, four.spec.window, four.network.features), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        library.load(folder=Path(folder))
        compiled = time.perf_counter() - began
        others = [*_torch(full, x), *_onnx(full, x, Path(folder))] if peers else []
        ways, missing = _start([*_ours(four, x), *others], report)
        times = _time(ways, windows, rounds, report)
    return {'model': four.spec.name, 'windows': windows, 'rounds': rounds,
            'provenance': origin, 'torch': torch.__version__, 'compile_s': round(compiled, 2),
            'machine': machine(),
            'load': [before, load()], 'missing': missing,
            'ways': [{**_figures(way, times[way.name]), 'bytes': way.weights + count_on_core(
                four, way.name.startswith('native'))} for way in ways]}


def _start(makers: list, report) -> tuple[list[Way], dict[str, str]]:
    """Return the ways that can be made here, and by name why the others cannot."""
    ways, missing = [], {}
    for i, (name, make) in enumerate(makers):
        report(i, 2 * len(makers), f'starting {name}')
        began = time.perf_counter()
        try:
            run, weights = make()
            run()
        except Exception as error:  # a peer that is not there, or cannot be made here
            missing[name] = f'{type(error).__name__}: {error}'.splitlines()[0]
        else:
            ways.append(Way(name, run, weights, time.perf_counter() - began))
    return ways, missing


def _time(ways: list[Way], windows: int, rounds: int, report) -> dict[str, list[list[float]]]:
    """Return the times (s) of each way's windows, round by round."""
    times = {way.name: [] for way in ways}
    for number in range(rounds):
        report(rounds + number, 2 * rounds, 'timing')
        for way in ways:
            for _ in range(WARM_UP):
                way.run()
            taken = []
            for _ in range(windows):
                began = time.perf_counter()
                way.run()
                taken.append(time.perf_counter() - began)
            times[way.name].append(taken)
    return times


def _figures(way: Way, times: list[list[float]]) -> dict:
    """Return the medians over rounds of a way's median and 99th percentile, in us."""
    middle, high = (round(1e6 * statistics.median(float(np.quantile(t, q)) for t in times), 1)
                    for q in (0.5, 0.99))
    return {'name': way.name, 'us': middle, 'p99_us': high, 'weight_bytes': way.weights,
            'start_s': round(way.start, 3)}


def _ours(model, x: np.ndarray):
    """Yield names of our engines and what makes them: (run, bytes of weights)."""
    from taolora_ros.engine.native import NativeEngine
    from taolora_ros.engine.reference import ReferenceEngine

    def native(share: float):
        engine, gates = NativeEngine(model), _gates(model, share)
        return lambda: engine.run(x, gates), engine.weight_bytes

    def reference():
        engine, gates = ReferenceEngine(model, 'cpu'), _gates(model, 0.25)
        return lambda: engine.run(x, gates), _bytes(model.network.state_dict().values())
    for name, share in OPEN.items():
        yield f'native, gate {name}', lambda share=share: native(share)
    yield 'reference, gate a quarter open', reference


def _gates(model, share: float) -> np.ndarray:
    return np.arange(model.spec.tokens)[None] % 4 < round(4 * share)


def _torch(model, x: np.ndarray):
    """Yield full-precision ways of torch."""
    import torch
    network, window = model.network.eval(), torch.from_numpy(x)
    size = _bytes(network.state_dict().values())

    def run(call):
        def once():
            with torch.inference_mode():
                return call(window)
        return once, size
    yield 'torch fp32, eager', lambda: run(network)
    yield 'torch fp32, compiled', lambda: run(torch.compile(network))

    def packaged():
        with torch.no_grad():
            program = torch.export.export(network, (window,))
        path = torch._inductor.aoti_compile_and_package(program)
        return run(torch._inductor.aoti_load_package(path))
    yield 'torch fp32, AOTInductor', packaged


def _onnx(model, x: np.ndarray, folder: Path):
    """Yield the ways of onnxruntime."""
    path = folder / 'network.onnx'
    size = _bytes(model.network.state_dict().values())

    def session(file: Path):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        made = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
        inputs = {made.get_inputs()[0].name: x}
        return lambda: made.run(None, inputs)

    def full():
        import torch
        torch.onnx.export(model.network.eval(), (torch.from_numpy(x),), path, dynamo=True,
                          verbose=False)
        return session(path), size

    def int8():
        from onnxruntime.quantization import QuantType, quantize_dynamic
        quantize_dynamic(path, folder / 'int8.onnx', weight_type=QuantType.QInt8)
        return session(folder / 'int8.onnx'), (folder / 'int8.onnx').stat().st_size
    yield 'onnxruntime fp32', full
    yield 'onnxruntime int8, dynamic', int8


def _bytes(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def table(result: dict) -> Table:
    """Return the figures as a table, also as multiples of ours with a quarter of the gate open."""
    shown = Table(title=f'One window of {result["model"]}, one core',
                  caption=f'{result["machine"]}, torch {result["torch"]}; load {result["load"][0]} '
                          f'before, {result["load"][1]} after; medians of {result["rounds"]} '
                          f'rounds of {result["windows"]} windows; native: compiled '
                          f'in {result["compile_s"]:.1f} s, once')
    for name in ('', 'µs', 'p99, µs', 'times ours', 'weights, kB', 'moved, kB', 'start, s'):
        shown.add_column(name, justify='right' if name else 'left')
    ours = next(way['us'] for way in result['ways'] if way['name'] == OURS)
    for way in result['ways']:
        shown.add_row(way['name'], f'{way["us"]:.0f}', f'{way["p99_us"]:.0f}',
                      f'{way["us"] / ours:.2f}', f'{way["weight_bytes"] / 1e3:.0f}',
                      f'{way["bytes"] / 1e3:.0f}', f'{way["start_s"]:.2f}')
    for name, why in result['missing'].items():
        shown.add_row(name, why)
    return shown
