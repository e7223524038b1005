"""Random numbers for whole batches, from one seeded generator on the training device."""

from __future__ import annotations

import torch
from torch import Tensor


class Draws:
    """What disturbances of windows are drawn from."""

    def __init__(self, device: torch.device, generator: torch.Generator):
        self.device = device
        self.random = generator

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers from 0 to 1."""
        return torch.rand(shape, device=self.device, generator=self.random)

    def normal(self, *shape: int) -> Tensor:
        """Return numbers of mean 0 and variance 1."""
        return torch.randn(shape, device=self.device, generator=self.random)

    def chance(self, batch: int, share: float) -> Tensor:
        """Return (B,) bool, true for ``share`` of the windows."""
        return self.uniform(batch) < share

    def strength(self, batch: int, share: float, most: float) -> Tensor:
        """Return a random amplitude (B,) up to ``most``, zero for all but ``share`` of windows."""
        return self.chance(batch, share) * self.uniform(batch) * most


def smooth(x: Tensor, width: int) -> Tensor:
    """Average windows (B, L, C) over ``width`` (odd) samples, ends held."""
    held = torch.nn.functional.pad(x.transpose(1, 2), (width // 2, width // 2), 'replicate')
    return torch.nn.functional.avg_pool1d(held, width, 1).transpose(1, 2)
