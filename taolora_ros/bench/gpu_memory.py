"""How much of a GPU's memory a network or a layer takes while it runs, at most."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import torch


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


def with_peak(make: Callable[[], Callable], measure: Callable[[Callable], dict]) -> dict:
    """Return what ``measure`` tells of the work that ``make`` returns, and its peak of memory.

    That is of weights, input, output, what is between and what libraries take while it runs; what
    it took to make it for a moment, such as weights before they were packed, is not in it.
    """
    before = start_memory()
    work = make()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    row = measure(work)
    return {**row, 'peak_bytes': torch.cuda.max_memory_allocated() - before}
