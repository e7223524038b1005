"""How a whole network lies in memory for the kernel of a window: four buffers.

    D  width   S  hidden width   J  taps   R  rank, padded   C  numbers of a patch   Y  columns
    of the heads   F  features   T  tokens   E  size of an attention head

    P  half of the hidden numbers that are made at a time

    codes, uint8    a block: inner (3 D / 2, D), outer (D / 2, D), up (S / 2, D), down (D / 2, S):
                    for each pair of outputs its inputs, the first's in the low nibble. Pairs are
                    n and n + E / 2 of a head (inner), n + P of 2 P (up), n + D / 2 (the others)
    factors, f16    a block: for each of the four A (2, K, R), of X - Q4(X) and of X; B (R, N)
    vectors, f32    a block: norms (4 D), limits of the four layers' codes, low and high (16),
                    x_inv (D, D, D, S), scale and bias (6 D, 2 D, 2 S, 2 D), bias, taps (1 + J, D)
    ends, f32       cos, sin (T, E / 2 each), embedding (C, D), its bias (D), last norm (2 D), heads
                    (D, Y), rebuilding (Y, C), their biases (Y, C), scale of the anomaly (F)

All blocks have the same size: a convolution, whose inner layer has 2 D outputs, leaves room. So
one piece of code runs all of them, by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taolora_ros.kernels.launch import interpreted
from taolora_ros.kernels.layout import padded_rank
from taolora_ros.quantization import TaoLinear

LAYERS = ('inner', 'outer', 'up', 'down')
LIMITS = 16  # numbers kept for the limits of codes


@dataclass(frozen=True)
class WindowWeights:
    """The buffers but the ends; bit i of ``kinds`` is set when block i is attention."""

    width: int
    hidden: int
    taps: int
    rank: int
    pairs: int
    kinds: int
    codes: Tensor
    factors: Tensor
    vectors: Tensor

    def of_block(self, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes, factors and vectors from the beginning of a block on."""
        d, s = self.width, self.hidden
        return (self.codes[block * (2 * d * d + s * d):],
                self.factors[block * (11 * d + 3 * s) * self.rank:],
                self.vectors[block * (18 * d + 3 * s + LIMITS + self.taps * d):])

    def load_lora(self, block: int, layer: str, a: Tensor, b: Tensor) -> None:
        """Replace A (K or 2K, r) and B (r, N) of a layer in place."""
        packed = packed_factors(a, b, self.rank)
        d, s, rank = self.width, self.hidden, self.rank
        start = {'inner': 0, 'outer': 5 * d * rank, 'up': 8 * d * rank,
                 'down': (10 * d + s) * rank}[layer]
        start += block * (11 * d + 3 * s) * rank
        self.factors[start:start + packed.numel()].copy_(packed)


def window_weights(blocks: Sequence[nn.Module], head: int, pairs: int, device: torch.device
                   ) -> WindowWeights:
    """Lay out the blocks of a network with heads of ``head`` numbers; ``pairs`` is P.

    Raise ValueError for what the kernel cannot run.
    """
    layers = [{'inner': b.mix.inner, 'outer': b.mix.outer, 'up': b.up, 'down': b.down}
              for b in blocks]
    for layer in (x for b in layers for x in b.values()):
        if len(layer.w_scale) > 1 or layer.buffer != 'residual':
            raise ValueError(f'{len(layer.w_scale)} groups along the inputs, buffer '
                             f'{layer.buffer!r}: the kernel of a window takes 1 and residual')
    if len({conv.weight.shape for conv in map(convolution, blocks) if conv is not None}) > 1:
        raise ValueError('convolutions of different lengths: the kernel of a window takes one')
    rank = padded_rank(max(x.lora_b.shape[0] for b in layers for x in b.values()))
    width, hidden = blocks[0].up.in_features, blocks[0].up.out_features
    taps = max((conv.kernel_size[0] for conv in map(convolution, blocks) if conv is not None),
               default=1)
    if head < 16 or head & (head - 1):
        raise ValueError(f'size of a head: {head} is not a power of two from 16')
    if hidden % (2 * pairs):
        raise ValueError(f'hidden width: {hidden} is no multiple of {2 * pairs}')
    apart = {'inner': head // 2, 'outer': width // 2, 'up': pairs, 'down': width // 2}
    codes = torch.cat([packed_codes(layer, 3 * width if name == 'inner' else layer.out_features,
                                    apart[name])
                       for parts in layers for name, layer in parts.items()])
    vectors = torch.cat([block_vectors(block, parts, taps)
                         for block, parts in zip(blocks, layers)])
    weights = WindowWeights(
        width, hidden, taps, rank, pairs,
        sum((convolution(b) is None) << i for i, b in enumerate(blocks)),
        codes.to(device), torch.zeros(len(blocks) * (11 * width + 3 * hidden) * rank,
                                      dtype=torch.float16, device=device), vectors.to(device))
    for i, parts in enumerate(layers):
        for name, layer in parts.items():
            weights.load_lora(i, name, layer.lora_a.detach(), layer.lora_b.detach())
    return weights


def check_tiles(width: int, block_m: int) -> None:
    """Raise ValueError naming what the kernels of such tiles cannot take."""
    if width < 64 or width & (width - 1):
        raise ValueError(f'width: {width} is not a power of two from 64')
    if block_m not in (16, 32) and not interpreted():
        raise ValueError(f'block_m: {block_m} is not 16 or 32')


def convolution(block: nn.Module) -> nn.Conv1d | None:
    """Return a block's convolution, None for attention."""
    return getattr(block.mix, 'conv', None)


def packed_codes(layer: TaoLinear, outputs: int, apart: int) -> Tensor:
    """Return codes as bytes (outputs / 2, K), flat; outputs that are not there are zero.

    A byte holds outputs n and n + ``apart``, n running over first halves of 2 ``apart`` outputs.
    """
    codes = layer.codes.detach().cpu().to(torch.int8).t()                    # (N, K)
    codes = F.pad(codes, (0, 0, 0, outputs - len(codes)))
    low, high = codes.view(-1, 2, apart, codes.shape[1]).unbind(1)
    return ((low & 0xF) | ((high & 0xF) << 4)).view(torch.uint8).flatten()


def packed_factors(a: Tensor, b: Tensor, rank: int) -> Tensor:
    """Return A (2, K, rank) and B (rank, N) as float16, flat."""
    a = F.pad(a.float().cpu(), (0, rank - a.shape[1]))
    b = F.pad(b.float().cpu(), (0, 0, 0, rank - len(b)))
    return torch.cat([a.flatten(), b.flatten()]).half()


def block_vectors(block: nn.Module, layers: dict[str, TaoLinear], taps: int) -> Tensor:
    """Return the vectors of one block, flat."""
    width = block.up.in_features
    limits = [limit for layer in layers.values() for limit in (
        (-7, 7) if layer.x_zero is None else (-layer.x_zero, 15 - layer.x_zero))]
    limits = torch.tensor(limits + [0] * (LIMITS - len(limits)), dtype=torch.float32)
    parts = [block.norm1.weight, block.norm1.bias, block.norm2.weight, block.norm2.bias, limits,
             *(layer.x_inv for layer in layers.values())]
    for name, layer in layers.items():
        room = 3 * width if name == 'inner' else layer.out_features
        parts += [F.pad(v.detach().flatten(), (0, room - v.numel()))
                  for v in (layer.w_scale, layer.bias)]
    conv = convolution(block)
    kept = torch.zeros(1 + taps, width)
    if conv is not None:
        kept[0], kept[1:] = conv.bias.detach(), conv.weight.detach()[:, 0].t()
    return torch.cat([part.detach().float().cpu().flatten() for part in (*parts, kept)])
