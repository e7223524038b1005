"""Several processes that train one network together, as ``torchrun`` starts them.

Each draws its part of every batch from a seed of its own and gradients are averaged (Li et al.
2020, PyTorch Distributed), so that all hold the same weights. The first one reports and writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn

from taolora_ros.engine.reference import pick_device

APART = 1_000_003             # between the seeds of two ranks
PATIENCE = timedelta(hours=2)  # for the first one, which alone quantizes


@dataclass(frozen=True)
class Ranks:
    """Which of ``count`` processes this one is."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Tell whether this process reports and writes."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """Return the seed of this process; alone it is ``seed`` itself."""
        return seed + APART * self.rank

    def share(self, batch: int) -> int:
        """Return this process's part of ``batch`` windows; ValueError if one would have none."""
        if batch < self.count:
            raise ValueError(f'batch: {batch} windows for {self.count} processes, one each is '
                             'needed')
        return batch // self.count + (self.rank < batch % self.count)

    def gather(self, value: torch.Tensor) -> list[torch.Tensor]:
        """Return the ``value`` (on the CPU) of every process, by rank."""
        values = [value]
        if self.count > 1:
            values = [None] * self.count
            distributed.all_gather_object(values, value)
        return values

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return what to call in place of ``network`` so that gradients are averaged."""
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started and give this one's place; alone without it.

    On GPUs each process takes that of its local rank. Raise ValueError when there is none.
    """
    count = int(os.environ.get('WORLD_SIZE', 1))
    if count == 1:
        yield Ranks()
        return
    on_gpu = pick_device(device).type == 'cuda'
    if on_gpu:
        local = int(os.environ['LOCAL_RANK'])
        if local >= torch.cuda.device_count():
            raise ValueError(f'process {local} on this machine has no GPU, there are '
                             f'{torch.cuda.device_count()}: start as many, or use --device cpu')
        torch.cuda.set_device(local)
    distributed.init_process_group('nccl' if on_gpu else 'gloo', timeout=PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), count)
        distributed.barrier()  # nobody leaves while another still works
    finally:
        distributed.destroy_process_group()
