"""Layers on a GPU: ours in several shapes of tiles, beside the peers, all in CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from taolora_ros.bench.isolated import failure
from taolora_ros.bench.peers import COMPILED, LAYER_PEERS
from taolora_ros.bench.timing import device_us, graphed
from taolora_ros.quantization import quantize_weight

SIZES = (128, 256, 512, 768, 1024, 4096)
ROWS = (1, 16, 64, 256, 1024)
RANKS = (8, 16)
TIMES = 20    # a layer is captured in one graph
WRONG = 1e-3  # relative error from which a shape is not counted
OURS = 'ours, W4A4 + gated LoRA'


@dataclass(frozen=True)
class Shape:
    """How our layer is run: tiles, shares, warps; ``kind`` 'fused', 'two kernels' or 'few rows'."""

    kind: str
    half: int
    block_n: int
    block_m: int
    split: int = 1
    warps: int = 4
    zipper: bool = True

    def __str__(self) -> str:
        return (f'{self.kind} {self.block_m}x{self.block_n}x{2 * self.half}, split {self.split}, '
                f'{self.warps} warps, {"zipper" if self.zipper else "apart"}')


def shapes(rows: int, size: int) -> Iterator[Shape]:
    """Give the shapes worth trying for M = ``rows`` and K = N = ``size``."""
    blocks = -(-size // 128)
    if rows <= 64:
        for block_n in (32, 64) if size <= 1024 else (64, 128):
            for split in sorted({1, min(blocks, 4), min(blocks, 8)}):
                yield Shape('fused', 64, block_n, 16, split)
        yield Shape('fused', 64, 32, 16, min(blocks, 4), 2)
        yield Shape('fused', 64, 64, 16, 1, 4, zipper=False)
    else:
        for block_m, block_n in ((16, 128), (32, 64), (32, 128), (64, 128)):
            yield Shape('fused', 64, block_n, block_m)
        yield Shape('fused', 64, 128, 32, 1, 4, zipper=False)
    if rows >= 64:
        yield Shape('two kernels', 64, 64, 64, 1, 4)
        yield Shape('two kernels', 64, 128, 64, 1, 8)
    if rows >= 256:
        yield Shape('two kernels', 64, 128, 128, 1, 8)
    if size >= 768:
        yield Shape('two kernels', 64, 64, 16 if rows <= 64 else 64, min(blocks, 8), 8)
    if rows <= 16:
        yield Shape('few rows', 64, 32, 16)


def our_layer(shape: Shape, x: Tensor, weights: dict, gate: Tensor, out: Tensor
              ) -> Callable[[], None]:
    """Return what runs our layer once, into ``out``, on the current stream."""
    launches = layer_launches(shape, x, weights, gate, out)

    def run() -> None:
        for launch in launches:
            launch()
    return run


def layer_launches(shape: Shape, x: Tensor, weights: dict, gate: Tensor, out: Tensor) -> list:
    """Return the one or two launches of our layer into ``out``."""
    from taolora_ros.kernels.gemv import gemv_launch
    from taolora_ros.kernels.layout import Tiles, arrange
    from taolora_ros.kernels.linear import linear_launch
    from taolora_ros.kernels.quantize import quantize_launch
    tiles = Tiles(shape.half, shape.zipper)
    arranged = arrange(**weights, x_zero=None, tiles=tiles)
    if shape.kind == 'fused':
        return [linear_launch(x, arranged, gate, out, block_m=shape.block_m,
                              block_n=shape.block_n, split=shape.split, warps=shape.warps)]
    shares = min(8 if len(x) <= 64 else 2, arranged.blocks)
    u = torch.empty(shares, len(x), arranged.rank, device=x.device)
    if shape.kind == 'few rows':
        codes = torch.empty(len(x), arranged.blocks * shape.half, dtype=torch.uint8,
                            device=x.device)
        product = gemv_launch(codes, arranged, gate, out, u, block_n=shape.block_n)
    else:
        codes = torch.empty(len(x), 2 * arranged.blocks * shape.half, dtype=torch.int8,
                            device=x.device)
        product = linear_launch(codes, arranged, gate, out, u=u, lora=3, block_m=shape.block_m,
                                block_n=shape.block_n, split=shape.split, warps=shape.warps)
    return [quantize_launch(x, arranged, codes, u), product]


def cases(sizes, rows, ranks) -> list[dict]:
    """Return what is to be measured: layer by layer all ways, the highest rank first."""
    return [{'part': 'layers', 'size': k, 'rows': m, 'rank': r, 'way': way}
            for r in sorted(ranks, reverse=True) for k in sizes for m in rows
            for way in (*LAYER_PEERS, OURS)]


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
        for launch in layer_launches(shape, torch.zeros(m, k), weights,
                                     torch.zeros(m, dtype=torch.uint8), torch.zeros(m, k)):
            launch.compile()


def rows(case: dict) -> Iterator[dict]:
    """Yield the row of one layer by a peer, or by ours in its best shape."""
    k, m, rank, way = (case[key] for key in ('size', 'rows', 'rank', 'way'))
    g = torch.Generator('cuda').manual_seed(k * m + rank)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device='cuda', generator=g)

    x, w, a, b = random(m, k), random(k, k) / k ** 0.5, random(k, rank) / k ** 0.5, random(rank, k)
    if way != OURS:
        yield attempt(lambda: LAYER_PEERS[way](*(t.half() for t in (x, w, a, b))))
        return
    codes, scale = quantize_weight(w)
    weights = {'codes': codes, 'w_scale': scale, 'x_inv': torch.full((k,), 2.5, device='cuda'),
               'a': torch.cat([a, a]), 'b': b}
    gate = (torch.rand(m, device='cuda', generator=g) < 0.25).to(torch.uint8)
    wanted = exact(x, weights, gate)
    tried = [(shape, checked(shape, x, weights, gate, wanted)) for shape in shapes(m, k)]
    ran = [pair for pair in tried if 'device_us' in pair[1]]
    best = min(ran, key=lambda pair: pair[1]['device_us']) if ran else tried[0]
    moved = 4 * m * 2 * k + k * k // 2 + 4 * k * rank + 2 * rank * k + 12 * k
    yield {**best[1], 'shape': str(best[0]), 'bytes': moved,
           'tried': {str(shape): row.get('device_us', row.get('note')) for shape, row in tried}}


def checked(shape: Shape, x: Tensor, weights: dict, gate: Tensor, wanted: Tensor) -> dict:
    """Return the time of our layer in one shape, or that it is wrong there."""
    out = torch.full_like(wanted, torch.nan, dtype=torch.float32)
    row = attempt(lambda: our_layer(shape, x, weights, gate, out))
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


def attempt(make: Callable[[], Callable[[], object]]) -> dict:
    """Return the device's microseconds of what ``make`` returns, or why there are none."""
    try:  # many in one graph: the host takes longer to launch a graph than a small layer to run
        return {'device_us': device_us(graphed(make(), TIMES), replays=1) / TIMES}
    except Exception as error:  # whatever a peer may raise: one must not end the others
        return {'note': failure(error)}
