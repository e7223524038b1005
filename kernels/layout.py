"""How the weights of a TAO layer lie in memory for the kernels.

    K  inputs     G  scale groups along K     H  rows of a half-block (half)     N  outputs
    R  rank, padded to 16 or 32               parts  1 (buffer 'x') or 2 ('residual')

Each group is padded to a multiple of H rows and the whole to an even number of half-blocks. A K
block is two half-blocks; the first fills the low nibbles of its bytes, the second the high ones,
so that both unpack to contiguous rows of one group. N is padded to whole tiles of any kernel:

    weights  (blocks, N, H) uint8              K runs fastest: what tensor cores want
    A        (blocks, parts, 2, H, R) float16

Zipper: for each K block its A tile and then its weight tiles, in one buffer: one sequential
stream brings both paths, and opening the gate costs no other trip to DRAM. Otherwise two buffers.
Vectors, float32: x_inv (K), norm weight and bias (2 K, with a norm), w_scale (G, N), bias (N).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from taolora_ros.kernels.launch import ceil_div

COLUMNS = 128  # outputs of the largest tile


@dataclass(frozen=True)
class Tiles:
    """How inputs are cut: H rows a half-block; zipper or apart."""

    half: int = 64
    zipper: bool = True


@dataclass(frozen=True)
class LayerWeights:
    """One TAO layer in the kernels' layout; ``codes`` and ``a`` may be views of one buffer."""

    k: int
    n: int
    groups: int
    rank: int            # padded
    x_zero: int | None
    residual: bool
    norm: bool
    shift: bool
    tiles: Tiles
    codes: Tensor        # uint8, from the first weight tile on
    code_step: int       # bytes from K block to K block
    a: Tensor            # float16, from the first A tile on
    a_step: int          # numbers from K block to K block
    b: Tensor            # (R, N) float16, with columns of zeros up to whole tiles
    vectors: Tensor      # float32

    @property
    def blocks(self) -> int:
        """Number of K blocks."""
        return block_count(self.k, self.groups, self.tiles.half)

    @property
    def bytes(self) -> int:
        """Bytes that one pass over the layer must read of it."""
        zipped = self.blocks * self.code_step + (
            0 if self.tiles.zipper else self.a.numel() * 2)
        return zipped + self.b.numel() * 2 + self.vectors.numel() * 4

    @property
    def constants(self) -> dict[str, int | bool]:
        """What the kernels know of a layer when they are compiled."""
        return {'K': self.k, 'N': self.n, 'GROUPS': self.groups, 'RANK': self.rank,
                'PARTS': 2 if self.residual else 1, 'H': self.tiles.half,
                'CODE_STEP': self.code_step, 'A_STEP': self.a_step, 'NB': self.b.shape[1],
                'NORM': self.norm, 'ZERO': -1 if self.x_zero is None else self.x_zero,
                'SHIFT': self.shift}

    def load_lora(self, a: Tensor, b: Tensor) -> None:
        """Replace A (K or 2K, r) and B (r, N) in place; raise ValueError for other shapes."""
        parts = 2 if self.residual else 1
        if a.shape[0] != parts * self.k or b.shape != (a.shape[1], self.n):
            raise ValueError(f'LoRA {tuple(a.shape)}, {tuple(b.shape)}: expected '
                             f'({parts * self.k}, r), (r, {self.n})')
        if a.shape[1] > self.rank:
            raise ValueError(f'LoRA: rank {a.shape[1]}, there is room for {self.rank}')
        tile = a_tiles(a, self.k, self.groups, self.tiles.half, self.rank)
        view = torch.as_strided(self.a, tile.shape, (self.a_step, 1))
        view.copy_(tile)
        self.b.zero_()
        self.b[:len(b), :self.n].copy_(b)


def block_count(k: int, groups: int, half: int) -> int:
    """Return how many K blocks of 2 * half rows hold K inputs in groups."""
    return ceil_div(groups * ceil_div(k // groups, half), 2)


def padded_rank(rank: int) -> int:
    """Return the rank that tensor cores take; raise ValueError beyond 32."""
    if not 1 <= rank <= 32:
        raise ValueError(f'rank: {rank} is not 1..32')
    return 16 if rank <= 16 else 32


def half_blocks(rows: Tensor, groups: int, half: int) -> Tensor:
    """Pad rows (K, X) group by group: (blocks, 2, half, X)."""
    k, width = rows.shape
    grouped = rows.reshape(groups, k // groups, width)
    grouped = F.pad(grouped, (0, 0, 0, -(k // groups) % half))
    flat = grouped.reshape(-1, width)
    flat = F.pad(flat, (0, 0, 0, -len(flat) % (2 * half)))
    return flat.reshape(-1, 2, half, width)


def weight_tiles(codes: Tensor, groups: int, half: int) -> Tensor:
    """Pack codes (K, N) int8 in -8..7: (blocks, bytes of a block) uint8."""
    padded = F.pad(codes, (0, -codes.shape[1] % COLUMNS))
    low, high = half_blocks(padded, groups, half).unbind(1)           # (blocks, H, N)
    packed = ((low & 0xF) | ((high & 0xF) << 4)).view(torch.uint8)
    return packed.transpose(1, 2).reshape(len(packed), -1).contiguous()


def a_tiles(a: Tensor, k: int, groups: int, half: int, rank: int) -> Tensor:
    """Arrange A (K or 2K, r): (blocks, numbers of a block) float16."""
    a = F.pad(a, (0, rank - a.shape[1])).half()
    parts = [half_blocks(part, groups, half) for part in a.split(k)]
    tiled = torch.stack(parts, 1)                                     # (blocks, parts, 2, H, R)
    return tiled.reshape(len(tiled), -1).contiguous()


def arrange(codes: Tensor, w_scale: Tensor, x_inv: Tensor, x_zero: int | None, a: Tensor,
            b: Tensor, bias: Tensor | None = None, norm: tuple[Tensor, Tensor] | None = None,
            shift: bool = False, tiles: Tiles = Tiles(), rank: int | None = None
            ) -> LayerWeights:
    """Lay out a layer as `TaoLinear.load_int4` takes it; ``norm`` is that of its input.

    ``shift`` keeps the exponents of scales that are powers of two; raise ValueError when they
    are not, and for a rank over 32. ``rank`` leaves room for a higher one than A has.
    """
    (k, n), groups = codes.shape, len(w_scale)
    rank = padded_rank(max(rank or 0, a.shape[1]))
    kept = w_scale.float()
    if shift:
        kept = kept.log2().round()
        if not torch.equal(torch.exp2(kept), w_scale.float()):
            raise ValueError('w_scale: shift needs powers of two')
    weights = weight_tiles(codes.to(torch.int8), groups, tiles.half)
    factors = a_tiles(a, k, groups, tiles.half, rank)
    bias = torch.zeros(n, device=codes.device) if bias is None else bias
    vectors = [x_inv, *(norm or ()), kept.flatten(), bias]
    code_store, a_store, steps = weights.flatten(), factors.flatten(), (
        weights.shape[1], factors.shape[1])
    if tiles.zipper:
        zipped = torch.cat([factors.view(torch.uint8), weights], 1)
        step = zipped.shape[1]
        code_store = zipped.flatten()[2 * factors.shape[1]:]
        a_store, steps = zipped.flatten().view(torch.float16), (step, step // 2)
    return LayerWeights(
        k, n, groups, rank, x_zero, len(a) == 2 * k, norm is not None, shift, tiles,
        code_store, steps[0], a_store, steps[1],
        F.pad(b.half(), (0, -n % COLUMNS, 0, rank - len(b))).contiguous(),
        torch.cat([v.float().flatten() for v in vectors]))
