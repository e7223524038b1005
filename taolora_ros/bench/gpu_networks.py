"""Whole networks on a GPU: our engines in several shapes, fp16 + LoRA in a graph, torch.compile."""

from __future__ import annotations

import numpy as np
import torch

from taolora_ros.bench.counts import count_window
from taolora_ros.bench.peers import HalfNetwork
from taolora_ros.bench.timing import Deadline, device_us, graphed, host_us
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.model_file import Model, load_model
from taolora_ros.shipped import MODELS, find_model

BATCHES = (1, 8, 64)
# name of the row: engine and how it is made; the first of each engine is what users get
VARIANTS = {
    'mega': ('mega', {}),
    'fused': ('fused', {}),
    'streams': ('streams', {}),
    'mega, 4 warps': ('mega', {'warps': 4}),
    'mega, no prefetching': ('mega', {'stages': 1}),
    'mega, tiles of 32 tokens': ('mega', {'block_m': 32}),
    'mega, one program a window': ('mega', {'block_m': 64}),
    'mega, hidden 32 at a time': ('mega', {'block_h': 32}),
    'mega, hidden 128 at a time': ('mega', {'block_h': 128}),
    'mega, a launch a stage': ('mega', {'persistent': False}),
    'mega, no copies': ('mega', {'zero_copy': True}),
    'fused, LoRA left out where closed': ('fused', {'lora': 2}),
    'fused, no copies': ('fused', {'zero_copy': True})}
PEERS = ('fp16 + LoRA, CUDA graph', 'torch.compile reduce-overhead')


def measure(deadline: Deadline, batches, report) -> list[dict]:
    """Measure the shipped networks; one row for each way, network and batch."""
    cases = [(name, way) for way in (*PEERS, 'reference', *VARIANTS) for name in MODELS]
    found = []
    for number, (name, way) in enumerate(cases):
        report(number, len(cases), f'{name}: {way}')
        if deadline.passed():
            found.append({'model': name, 'way': way, 'note': 'skipped: the time was over'})
            continue
        model = load_model(find_model(name))
        try:
            rows = peer_rows(model, way, batches) if way in PEERS else engine_rows(
                model, way, batches)
        except Exception as error:  # one way must not end the others
            rows = [{'note': f'failed: {type(error).__name__}: '
                             f'{" ".join(str(error).split()):.300}'}]
        found += [{'model': name, 'way': way, **row} for row in rows]
    report(len(cases), len(cases), 'networks')
    return found


def given(model: Model, batch: int, share: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Return random windows (B, L, F) and gates (B, T), so many of them open."""
    rng = np.random.default_rng(batch)
    windows = rng.standard_normal((batch, model.spec.window, model.network.features), np.float32)
    return windows, rng.random((batch, model.spec.tokens)) < share


def engine_rows(model: Model, way: str, batches) -> list[dict]:
    """Measure one of our engines."""
    from taolora_ros.engine.gpu import make_gpu_engine
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    if way == 'reference':
        engine, name = ReferenceEngine(model, 'cuda'), 'reference'
    else:
        name, options = VARIANTS[way]
        engine = make_gpu_engine(name, model, 'cuda', **options)
    rows = []
    for batch in batches:
        windows, gates = given(model, batch)
        row = {'batch': batch, **host_us(lambda: engine.run(windows, gates),
                                         200 if name == 'reference' else 1000)}
        if name != 'reference':
            slot = engine.slot(batch)
            row |= {'device_us': device_us(slot.start), 'launches': len(slot.launches),
                    'weight_bytes': count_window(model, name).weight_bytes}
        if batch == 1:
            row |= jitter(engine, model)
        rows.append(row)
    peak = torch.cuda.max_memory_allocated() - before
    return [{**row, 'peak_bytes': peak} for row in rows]


def jitter(engine, model: Model) -> dict[str, float]:
    """Return how the p99 of a window's time differs between all gates closed and all open."""
    windows, gates = given(model, 1)
    p99 = {}
    for name, opened in (('closed', False), ('open', True)):
        gates[:] = opened
        p99[name] = host_us(lambda: engine.run(windows, gates))['p99_us']
    return {'closed_p99_us': p99['closed'], 'open_p99_us': p99['open'],
            'jitter_us': abs(p99['open'] - p99['closed'])}


def peer_rows(model: Model, way: str, batches) -> list[dict]:
    """Measure the same network in fp16 + LoRA, with the same copies in and out."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    network = HalfNetwork(model)
    rows = []
    for batch in batches:
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

            start = graphed(work) if 'graph' in way else compiled(network, work)

            def host():
                pinned[0].numpy()[:], pinned[1].numpy()[:] = windows, gates
                start()
                torch.cuda.current_stream().synchronize()
                return [t.numpy().copy() for t in outputs]

            rows.append({'batch': batch, **host_us(host), 'device_us': device_us(start),
                         'weight_bytes': count_window(model, 'fp16').weight_bytes})
    peak = torch.cuda.max_memory_allocated() - before
    return [{**row, 'peak_bytes': peak} for row in rows]


def compiled(network: HalfNetwork, work):
    """Return ``work`` with the network compiled by torch."""
    fast = torch.compile(network.__call__, mode='reduce-overhead', dynamic=False)
    return lambda: work(fast)
