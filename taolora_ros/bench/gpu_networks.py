"""Whole networks on a GPU: our engines in several shapes, and peers, of 16 and of four bits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from taolora_ros.bench.compile import single
from taolora_ros.bench.counts import count_window
from taolora_ros.bench.four_bit import FOUR_BIT, TUNED
from taolora_ros.bench.gpu_memory import start_memory
from taolora_ros.bench.isolated import failure
from taolora_ros.bench.peers import HalfNetwork
from taolora_ros.bench.timing import graph_times, graphed, host_us, single_times
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.model_file import Model, load_model
from taolora_ros.shipped import MODELS, find_model

BATCHES = (1, 8, 64)
# a round of one way: calls from host to host, s of them at most, s before, replays on the device
CALLS, SECONDS, WARM, SINGLES, REPEATS = 300, 0.15, 0.03, 200, 10
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
PEERS = ('fp16 + LoRA, CUDA graph', 'torch.compile reduce-overhead', JOINED, *FOUR_BIT)
WAYS = (PEERS[0], *PLAIN, JOINED, *FOUR_BIT, *VARIANTS, PEERS[1], 'reference')


def cases(batches) -> list[dict]:
    """Return what is to be measured: variants for the first batch alone."""
    return [{'part': 'networks', 'model': name, 'batch': batch, 'way': way}
            for batch in batches for name in MODELS for way in WAYS
            if way not in VARIANTS or batch == batches[0]]


def to_compile(batches) -> list[dict]:
    """Return cases to compile before, what takes longest first."""
    return [{'part': 'networks', 'model': name, 'way': way,
             'batches': list(batches[:1] if way in VARIANTS else batches)}
            for way in (PEERS[1], *TUNED, *PLAIN, *VARIANTS) for name in MODELS]


def compile_case(case: dict) -> None:
    """Compile what a way launches, without launching it."""
    from taolora_ros.engine.gpu import make_gpu_engine
    from taolora_ros.engine.graph import EARLY, make_buffers, on_device
    from taolora_ros.kernels.launch import can_overlap
    model, way = load_model(find_model(case['model'])), case['way']
    if way in PEERS:
        with suppress(ImportError):  # its row will say so
            for batch in case['batches']:
                peer(model, way, batch)
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


@dataclass(frozen=True)
class Running:
    """One way to run one network, made and ready."""

    host: Callable[[], object]           # a window in and its scores out, waited for
    start: Callable[[], object] | None   # the same on the device, not waited for, if there is such
    told: dict                           # what is told of it once
    gated: dict[str, Callable[[], object]]  # ``host`` with the gate 'closed' and 'open'


def make(case: dict) -> Running:
    """Make one way to run one network with so many windows, and run it."""
    build = peer if case['way'] in PEERS else our_engine
    return build(load_model(find_model(case['model'])), case['way'], case['batch'])


def time_round(way: Running) -> dict[str, float]:
    """Return the times of one round: as rows of the bench have them, and p99 by gate."""
    row = host_us(way.host, CALLS, WARM, SECONDS)
    if way.start is not None:
        row |= graph_times(way.start, REPEATS, SINGLES)
    for gate, run in way.gated.items():
        row[f'{gate}_p99_us'] = host_us(run, CALLS, WARM, SECONDS)['p99_us']
        run()  # its window and gate stay in the buffers that are replayed
        row[f'device_{gate}_p99_us'] = float(np.percentile(single_times(way.start, SINGLES), 99))
    return row


def given(model: Model, batch: int, share: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Return random windows (B, L, F) and gates (B, T), so many of them open."""
    rng = np.random.default_rng(batch)
    windows = rng.standard_normal((batch, model.spec.window, model.network.features), np.float32)
    return windows, rng.random((batch, model.spec.tokens)) < share


def our_engine(model: Model, way: str, batch: int) -> Running:
    """Make one of our engines."""
    from taolora_ros.engine.gpu import make_gpu_engine
    before = start_memory()
    windows, gates = given(model, batch)
    if way == 'reference':
        engine = ReferenceEngine(model, 'cuda')
        return running(lambda: engine.run(windows, gates), None, before)
    name, options = {**PLAIN, **VARIANTS}[way]
    engine = make_gpu_engine(name, model, 'cuda', **options)
    slot = engine.slot(batch)
    told = {'launches': len(single(slot.launches)),
            **(counted_bytes(model, name, batch) if way in PLAIN else {})}
    gated = {gate: partial(engine.run, windows, np.full_like(gates, gate == 'open'))
             for gate in ('closed', 'open')} if batch == 1 else {}
    return running(lambda: engine.run(windows, gates), slot.start, before, told, gated)


def running(host: Callable[[], object], start: Callable[[], object] | None, before: int,
            told: dict | None = None, gated: dict | None = None) -> Running:
    """Run what was made twice; with it is told the peak of memory since ``start_memory``."""
    host(), host()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return Running(host, start, {**(told or {}), 'peak_bytes': peak}, gated or {})


def counted_bytes(model: Model, name: str, batch: int) -> dict[str, int]:
    """Return the bytes of weights, and of all that so many windows move: counts.py."""
    counts = count_window(model, name)
    windows = batch * (counts.end_bytes + counts.between_bytes)
    return {'weight_bytes': counts.weight_bytes, 'bytes': counts.weight_bytes + windows}


def peer(model: Model, way: str, batch: int) -> Running:
    """Make the same network with a 16-bit LoRA, with copies in and out by the copy engine.

    It is in a CUDA graph, or `torch.compile` makes one; a library that does not let itself be
    captured runs without, and ``no_graph`` says why. Raise ImportError where one is missing.
    """
    before, told = start_memory(), {}
    network = peer_network(model, way)
    windows, gates = given(model, batch)
    pinned = [torch.as_tensor(t).pin_memory() for t in (windows, gates)]
    device = [t.cuda() for t in pinned]
    outputs = [torch.empty_like(t, device='cpu').pin_memory() for t in network(*device)]

    def work(run=network):
        for there, here in zip(device, pinned):
            there.copy_(here, non_blocking=True)
        for host, result in zip(outputs, run(*device)):
            host.copy_(result, non_blocking=True)

    if way in FOUR_BIT:
        start, told = graphed_if_possible(work)
    else:
        told = counted_bytes(model, 'fp16', batch)
        start = compiled(network, work, device) if way == PEERS[1] else graphed(work)

    def host():
        pinned[0].numpy()[:], pinned[1].numpy()[:] = windows, gates
        start()
        torch.cuda.current_stream().synchronize()
        return [t.numpy().copy() for t in outputs]

    return running(host, start, before, told)


def peer_network(model: Model, way: str, device: str = 'cuda') -> HalfNetwork:
    """Return a peer's network; raise ImportError where its library is missing."""
    if way not in FOUR_BIT:
        return HalfNetwork(model, device, joined=way == JOINED)
    product, dtype = FOUR_BIT[way]
    return HalfNetwork(model, device, dtype, product=product)


def graphed_if_possible(work: Callable[[], object]) -> tuple[Callable[[], object], dict]:
    """Return what replays ``work`` in a CUDA graph, or ``work`` itself and why there is none."""
    try:
        return graphed(work), {}
    except RuntimeError as error:
        torch.cuda.synchronize()
        work()  # what is wrong without a graph, too, is raised
        torch.cuda.synchronize()
        return work, {'no_graph': failure(error)}


def compiled(network: HalfNetwork, work, inputs):
    """Return ``work`` with the network compiled by torch, which copies no weights and inputs."""
    for tensor in (*network.tensors(), *inputs):
        torch._dynamo.mark_static_address(tensor)
    fast = torch.compile(network.__call__, mode='reduce-overhead', dynamic=False)
    return lambda: work(fast)
