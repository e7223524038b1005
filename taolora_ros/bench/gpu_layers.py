"""Layers on a GPU: ours in several shapes of tiles, beside the peers, all in CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taolora_ros.bench.gpu_memory import with_peak
from taolora_ros.bench.isolated import failure
from taolora_ros.bench.peers import COMPILED, LAYER_PEERS
from taolora_ros.bench.timing import ROUNDS as TIMED
from taolora_ros.bench.timing import device_quantiles, graphed, host_us, single_times
from taolora_ros.quantization import quantize_weight

SIZES = (128, 256, 512, 768, 1024, 4096)
ROWS = (1, 16, 64, 256, 1024)
RANKS = (8, 16)
TIMES = 20    # a layer is captured in one graph
HOST_CALLS, HOST_WARM = 500, 0.02  # calls and seconds for times from host to host
WRONG = 1e-3  # relative error from which a shape is not counted
OURS = 'ours, W4A4 + gated LoRA'
WAYS = (*LAYER_PEERS, OURS)
SLOW = 'torch.compile'


@dataclass(frozen=True)
class Shape:
    """How our layer is run: tiles, shares, warps.

    ``kind``: 'fused', 'two kernels', 'few rows' or, an ablation, 'bit planes'.
    """

    kind: str
    half: int
    block_n: int
    block_m: int
    split: int = 1
    warps: int = 4
    stages: int = 2
    zipper: bool = True
    overlap: bool = True  # begin while the layer before ends

    def __str__(self) -> str:
        return (f'{self.kind} {self.block_m}x{self.block_n}x{2 * self.half}, split {self.split}, '
                f'{self.warps} warps, {self.stages} stages, '
                f'{"zipper" if self.zipper else "apart"}{"" if self.overlap else ", one by one"}')


def shapes(rows: int, size: int) -> Iterator[Shape]:
    """Give the shapes worth trying for M = ``rows`` and K = N = ``size``."""
    if rows <= 64:
        for warps, stages in ((2, 2), (4, 2), (4, 3)):
            yield Shape('fused', 64, 32, 16, 1, warps, stages)
        if size >= 512:
            yield Shape('fused', 64, 32, 16, 4)
            yield Shape('fused', 64, 128, 16, 4)
            yield Shape('fused', 128, 32, 16)
    else:
        for block_m, warps in ((16, 2), (16, 4), (32, 4)):
            yield Shape('fused', 64, 128, block_m, 1, warps)
    plain = Shape('fused', 64, 32 if rows <= 64 else 128, 16)
    yield from (replace(plain, zipper=False), replace(plain, overlap=False))
    if rows <= 16:
        yield Shape('few rows', 64, 32, 16)
        yield Shape('bit planes', 64, 32, 16)
    if rows >= 64:
        yield from for_many(rows, size)


def for_many(rows: int, size: int) -> Iterator[Shape]:
    """Give the shapes of two kernels."""
    block_m = 32 if rows >= 256 else 16
    yield Shape('two kernels', 64, 64, block_m, 1, 4, 4)
    yield Shape('two kernels', 64, 64, 64, 1, 4, 4)
    if size >= 256:
        yield Shape('two kernels', 128, 64, 32, 1, 4, 3)
    if size >= 512 and rows >= 256:
        yield Shape('two kernels', 128, 64, 64, 1, 4, 3)
        yield Shape('two kernels', 128, 128, 64, 1, 4, 3)
        yield Shape('two kernels', 128, 128, 64, 1, 8, 3)


def our_layer(shape: Shape, x: Tensor, weights: dict, gate: Tensor, out: Tensor, times: int = 1
              ) -> Callable[[], None]:
    """Return what runs our layer, so many times in a row, into ``out``, on the current stream."""
    launches = in_a_row(layer_launches(shape, x, weights, gate, out), times, shape.overlap)

    def run() -> None:
        for launch in launches:
            launch()
    return run


def in_a_row(launches: list, times: int, overlap: bool) -> list:
    """Return launches of so many layers, which overlap as in the engine `fused` where they can."""
    from taolora_ros.kernels.launch import can_overlap, interpreted, overlapped, share_alike
    if not overlap or interpreted() or not can_overlap():
        return launches * times
    together = overlapped(launches * times)
    if len(launches) > 1:
        share_alike(together[:len(launches) + 1])  # the first one is another kernel to Triton
    return together


def layer_launches(shape: Shape, x: Tensor, weights: dict, gate: Tensor, out: Tensor) -> list:
    """Return the one or two launches of our layer into ``out``."""
    from taolora_ros.kernels.bit_planes import bit_planes_launch, bit_weights
    from taolora_ros.kernels.gemv import gemv_launch
    from taolora_ros.kernels.layout import Tiles, arrange
    from taolora_ros.kernels.linear import linear_launch
    from taolora_ros.kernels.quantize import quantize_launch
    tiles = Tiles(shape.half, shape.zipper)
    arranged = arrange(**weights, x_zero=None, tiles=tiles)
    if shape.kind == 'fused':
        return [linear_launch(x, arranged, gate, out, block_m=shape.block_m,
                              block_n=shape.block_n, split=shape.split, warps=shape.warps,
                              stages=shape.stages)]
    shares = min(8, arranged.blocks, max(2, 2048 // len(x), arranged.k // 1024))
    u = torch.empty(shares, len(x), arranged.rank, device=x.device)
    if shape.kind in ('few rows', 'bit planes'):
        codes = torch.empty(len(x), arranged.blocks * shape.half, dtype=torch.uint8,
                            device=x.device)
        product = (gemv_launch(codes, arranged, gate, out, u, block_n=shape.block_n)
                   if shape.kind == 'few rows' else bit_planes_launch(
                       codes, bit_weights(arranged), gate, out, u, block_n=shape.block_n))
    else:
        codes = torch.empty(len(x), 2 * arranged.blocks * shape.half, dtype=torch.int8,
                            device=x.device)
        product = linear_launch(codes, arranged, gate, out, u=u, lora=3, block_m=shape.block_m,
                                block_n=shape.block_n, split=shape.split, warps=shape.warps,
                                stages=shape.stages)
    return [quantize_launch(x, arranged, codes, u, warps=shape.half // 16), product]


def cases(sizes, rows, ranks) -> list[dict]:
    """Return what is to be measured: layer by layer all ways, the highest rank first.

    What torch compiles takes seconds a layer: it comes last, and with the highest rank alone.
    """
    found = [{'part': 'layers', 'size': k, 'rows': m, 'rank': r, 'way': way}
             for r in sorted(ranks, reverse=True) for k in sizes for m in rows for way in WAYS
             if way != SLOW or r == max(ranks)]
    return sorted(found, key=lambda case: case['way'] == SLOW)


def to_compile(sizes, rows) -> list[dict]:
    """Return cases to compile before: ranks share what they need."""
    return [{'part': 'layers', 'size': k, 'rows': m, 'way': way} for way in (OURS, *COMPILED)
            for k in sorted(sizes)[::-1] for m in rows]


def compile_case(case: dict) -> None:
    """Compile our layer in all shapes, without launching it, or run a peer once."""
    k, m, way = case['size'], case['rows'], case['way']
    if way != OURS:
        numbers = (torch.randn(*shape, device='cuda', dtype=torch.half)
                   for shape in ((m, k), (k, k), (k, 16), (16, k)))
        with suppress(ImportError):  # its row will say so
            LAYER_PEERS[way](*numbers)()
        return
    weights = {'codes': torch.ones(k, k, dtype=torch.int8), 'w_scale': torch.ones(1, k),
               'x_inv': torch.ones(k), 'a': torch.zeros(2 * k, 16), 'b': torch.zeros(16, k)}
    for shape in shapes(m, k):
        launches = layer_launches(shape, torch.zeros(m, k), weights,
                                  torch.zeros(m, dtype=torch.uint8), torch.zeros(m, k))
        for launch in in_a_row(launches, 2, shape.overlap):
            launch.compile()


def rows(case: dict) -> Iterator[dict]:
    """Yield the row of one layer by a peer, or by ours in its best shape."""
    k, m, rank, way = (case[key] for key in ('size', 'rows', 'rank', 'way'))
    g = torch.Generator('cuda').manual_seed(k * m + rank)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device='cuda', generator=g)

    x, w, a, b = random(m, k), random(k, k) / k ** 0.5, random(k, rank) / k ** 0.5, random(rank, k)
    if way != OURS:
        yield attempt(lambda: with_peak(
            lambda: LAYER_PEERS[way](*(t.half() for t in (x, w, a, b))),
            lambda work: on_device(work) | host_to_host(work)))
        return
    codes, scale = quantize_weight(w)
    weights = {'codes': codes, 'w_scale': scale, 'x_inv': torch.full((k,), 2.5, device='cuda'),
               'a': torch.cat([a, a]), 'b': b}
    gate = (torch.rand(m, device='cuda', generator=g) < 0.25).to(torch.uint8)
    wanted = exact(x, weights, gate)
    tried = [(shape, checked(shape, x, weights, gate, wanted)) for shape in shapes(m, k)]
    ran = [pair for pair in tried if 'device_us' in pair[1]]
    best = min(ran, key=lambda pair: pair[1]['device_us']) if ran else tried[0]
    host = with_peak(lambda: our_layer(best[0], x.clone(), weights, gate, wanted.float()),
                     host_to_host) if ran else {}
    moved = 4 * m * 2 * k + k * k // 2 + 4 * k * rank + 2 * rank * k + 12 * k
    yield {**best[1], **host, 'shape': str(best[0]), 'bytes': moved,
           'tried': {str(shape): row.get('device_us', row.get('note')) for shape, row in tried}}


def checked(shape: Shape, x: Tensor, weights: dict, gate: Tensor, wanted: Tensor) -> dict:
    """Return the time of our layer in one shape, or that it is wrong there."""
    out = torch.full_like(wanted, torch.nan, dtype=torch.float32)

    row = attempt(lambda: on_device(our_layer(shape, x, weights, gate, out, TIMES), 1))
    if 'device_us' not in row:
        return row
    off = float((out - wanted).norm() / wanted.norm())
    return row if off < WRONG else {'note': f'wrong by {off:.2g}'}


def exact(x: Tensor, weights: dict, gate: Tensor) -> Tensor:
    """Return what the layer gives in float64, with the LoRA's factors as kernels hold them."""
    from taolora_ros.kernels.linear import linear_reference
    fine = {name: value.double() for name, value in weights.items()}
    fine['a'], fine['b'] = (fine[name].half().double() for name in ('a', 'b'))
    bias = torch.zeros(len(weights['codes'][0]), device=x.device, dtype=torch.float64)
    return linear_reference(x.double(), gate.double(), **fine, x_zero=None, bias=bias)


def on_device(work: Callable[[], object], times: int = TIMES) -> dict:
    """Return times of a layer on the device, of TIMES in one graph: the host takes longer to launch
    a graph than a small layer runs. ``work`` is captured so many ``times``."""
    return device_quantiles(single_times(graphed(work, times), TIMED) / TIMES)


def host_to_host(work: Callable[[], object]) -> dict:
    """Return times of one layer in a graph of its own, launched and waited for."""
    start = graphed(work)

    def call() -> None:
        start()
        torch.cuda.current_stream().synchronize()

    return host_us(call, HOST_CALLS, HOST_WARM)


def attempt(measure: Callable[[], dict]) -> dict:
    """Return what was measured, or why nothing was."""
    try:
        return measure()
    except Exception as error:  # whatever a peer may raise: one must not end the others
        return {'note': failure(error)}
