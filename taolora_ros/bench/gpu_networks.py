"""Whole networks on a GPU: our engines in several shapes, fp16 + LoRA in a graph, torch.compile."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch

from taolora_ros.bench.compile import single
from taolora_ros.bench.counts import count_window
from taolora_ros.bench.peers import HalfNetwork
from taolora_ros.bench.timing import graph_times, graphed, host_us, single_times
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.model_file import Model, load_model
from taolora_ros.shipped import MODELS, find_model

BATCHES = (1, 8, 64)
ROUNDS = 5  # of jitter
# name of the row: engine and how it is made; as users get it, and changed in one thing
PLAIN = {'mega': ('mega', {}), 'fused': ('fused', {}), 'streams': ('streams', {})}
VARIANTS = {
    'fused, no LoRA': ('fused', {'lora': 0, 'check': False}),  # what there is beside the LoRA
    'fused, 2 warps': ('fused', {'warps': 2}),
    'fused, 8 warps': ('fused', {'warps': 8}),
    'fused, no inputs shared': ('fused', {'split': 1}),
    'fused, one kernel after the other': ('fused', {'early': False}),
    'fused, LoRA left out where closed': ('fused', {'lora': 2}),
    'fused, nothing fetched': ('fused', {'zero_copy': True}),
    'mega, nothing fetched': ('mega', {'zero_copy': True}),
    'mega, 4 warps': ('mega', {'warps': 4}),
    'mega, a launch a stage': ('mega', {'persistent': False})}
JOINED = 'fp16, W and A in one product, CUDA graph'  # the first peer, its LoRA fused so far
PEERS = ('fp16 + LoRA, CUDA graph', 'torch.compile reduce-overhead', JOINED)
WAYS = (PEERS[0], *PLAIN, JOINED, *VARIANTS, PEERS[1], 'reference')  # what matters most first


def cases(batches) -> list[dict]:
    """Return what is to be measured: variants for the first batch alone."""
    return [{'part': 'networks', 'model': name, 'way': way,
             'batches': list(batches[:1] if way in VARIANTS else batches)}
            for way in WAYS for name in MODELS]


def to_compile(batches) -> list[dict]:
    """Return cases to compile before, what takes longest first."""
    found = [case for case in cases(batches) if case['way'] in (PEERS[1], *PLAIN, *VARIANTS)]
    return sorted(found, key=lambda case: (case['way'] != PEERS[1], case['way'] not in PLAIN))


def compile_case(case: dict) -> None:
    """Compile what a way launches, without launching it."""
    from taolora_ros.engine.gpu import make_gpu_engine
    from taolora_ros.engine.graph import EARLY, make_buffers, on_device
    from taolora_ros.kernels.launch import can_overlap
    model, way = load_model(find_model(case['model'])), case['way']
    if way in PEERS:
        for batch in case['batches']:
            peer_row(model, way, batch, calls=3)
        return
    name, options = {**PLAIN, **VARIANTS}[way]
    fetches = not options.get('zero_copy')
    options = {key: value for key, value in options.items() if key != 'zero_copy'}
    if name != 'streams':  # made on a CPU here, it would not look at the GPU
        options.setdefault('early', can_overlap())
    count = torch.cuda.get_device_properties(0).multi_processor_count
    engine = make_gpu_engine(name, model, 'cpu', programs=count, **options)
    for batch in sorted({*EARLY, *(1 << (b - 1).bit_length() for b in case['batches'])}):
        buffers = make_buffers(model, batch, 'cpu')
        if fetches:
            buffers = on_device(model, buffers, 'cpu')
        for launch in single(engine.launches(buffers)):
            launch.compile()


def rows(case: dict) -> Iterator[dict]:
    """Yield a row for each batch of one way to run one network, which is made anew for each."""
    measure = peer_row if case['way'] in PEERS else engine_row
    for batch in case['batches']:
        yield measure(load_model(find_model(case['model'])), case['way'], batch)


def given(model: Model, batch: int, share: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Return random windows (B, L, F) and gates (B, T), so many of them open."""
    rng = np.random.default_rng(batch)
    windows = rng.standard_normal((batch, model.spec.window, model.network.features), np.float32)
    return windows, rng.random((batch, model.spec.tokens)) < share


def engine_row(model: Model, way: str, batch: int) -> dict:
    """Measure one of our engines."""
    from taolora_ros.engine.gpu import make_gpu_engine
    before = start_memory()
    windows, gates = given(model, batch)
    if way == 'reference':
        engine = ReferenceEngine(model, 'cuda')
        row = host_us(lambda: engine.run(windows, gates), 200)
    else:
        name, options = {**PLAIN, **VARIANTS}[way]
        engine = make_gpu_engine(name, model, 'cuda', **options)
        row = host_us(lambda: engine.run(windows, gates))
        slot = engine.slot(batch)
        row |= {**graph_times(slot.start), 'launches': len(single(slot.launches)),
                **(counted_bytes(model, name, batch) if way in PLAIN else {})}
        if batch == 1:
            row |= jitter(engine, model) | device_jitter(engine, model)
    return {'batch': batch, **row, 'peak_bytes': torch.cuda.max_memory_allocated() - before}


def counted_bytes(model: Model, name: str, batch: int) -> dict[str, int]:
    """Return the bytes of weights, and of all that so many windows move: counts.py."""
    counts = count_window(model, name)
    windows = batch * (counts.end_bytes + counts.between_bytes)
    return {'weight_bytes': counts.weight_bytes, 'bytes': counts.weight_bytes + windows}


def start_memory() -> int:
    """Begin to watch the peak of memory; return what is taken already.

    What was measured before is gone by then: what torch compiled, workspaces of cuBLAS, cached
    blocks. So a peak is that of one network and batch: weights, buffers, what libraries take (of an
    engine also the graphs that it captures at the start, up to 8 windows).
    """
    if 'torch._dynamo' in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def jitter(engine, model: Model) -> dict[str, float]:
    """Return how the p99 from host to host differs between all gates closed and all open."""
    return by_turns('', lambda windows, gates: host_us(
        lambda: engine.run(windows, gates))['p99_us'], model)


def device_jitter(engine, model: Model) -> dict[str, float]:
    """Return the same of the p99 of single replays on the device, which hosts do not disturb."""
    def p99(windows: np.ndarray, gates: np.ndarray) -> float:
        engine.run(windows, gates)  # they stay in the buffers that are replayed
        return float(np.percentile(single_times(engine.slot(1).start), 99))

    return by_turns('device_', p99, model)


def by_turns(prefix: str, p99: Callable[[np.ndarray, np.ndarray], float], model: Model
             ) -> dict[str, float]:
    """Return the p99 of a window with all gates closed, with all open, and their difference.

    Both are measured by turns and are the median of ROUNDS: what is interrupted now and then does
    not count for one of them.
    """
    windows, gates = given(model, 1)
    found = np.empty((ROUNDS, 2))
    for turn, opened in np.ndindex(found.shape):
        gates[:] = opened
        found[turn, opened] = p99(windows, gates)
    closed, opened = np.median(found, axis=0).tolist()
    return {f'{prefix}closed_p99_us': closed, f'{prefix}open_p99_us': opened,
            f'{prefix}jitter_us': abs(opened - closed)}


def peer_row(model: Model, way: str, batch: int, calls: int = 1000) -> dict:
    """Measure the same network in fp16 + LoRA, with copies in and out by the copy engine."""
    before = start_memory()
    network = HalfNetwork(model, joined=way == JOINED)
    windows, gates = given(model, batch)
    pinned = [torch.as_tensor(t).pin_memory() for t in (windows, gates)]
    device = [t.cuda() for t in pinned]
    with torch.inference_mode():
        outputs = [torch.empty_like(t, device='cpu').pin_memory() for t in network(*device)]

        def work(run=network):
            for there, here in zip(device, pinned):
                there.copy_(here, non_blocking=True)
            for host, result in zip(outputs, run(*device)):
                host.copy_(result, non_blocking=True)

        start = compiled(network, work, device) if way == PEERS[1] else graphed(work)

        def host():
            pinned[0].numpy()[:], pinned[1].numpy()[:] = windows, gates
            start()
            torch.cuda.current_stream().synchronize()
            return [t.numpy().copy() for t in outputs]

        row = {'batch': batch, **host_us(host, calls), **graph_times(start),
               **counted_bytes(model, 'fp16', batch)}
    return {**row, 'peak_bytes': torch.cuda.max_memory_allocated() - before}


def compiled(network: HalfNetwork, work, inputs):
    """Return ``work`` with the network compiled by torch, which copies no weights and inputs."""
    for tensor in (*network.tensors(), *inputs):
        torch._dynamo.mark_static_address(tensor)
    fast = torch.compile(network.__call__, mode='reduce-overhead', dynamic=False)
    return lambda: work(fast)
