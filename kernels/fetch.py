"""Bring what a window's kernels read from the host's pinned memory to the GPU's own.

A kernel that reads across the bus once takes less time than a copy by the copy engine, for which
the kernels behind it wait longer than it lasts.

Moved at least: the bytes, twice.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from taolora_ros.kernels.int4 import wait_for_previous
from taolora_ros.kernels.launch import Launch, ceil_div

BLOCK = 2048  # bytes a program: 16 a thread


@triton.jit
def fetch_kernel(source, target, count, BLOCK: tl.constexpr, EARLY: tl.constexpr = False):
    """Copy ``count`` bytes."""
    wait_for_previous(EARLY)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, tl.load(source + at, mask=at < count), mask=at < count)


def fetch_launch(source: Tensor, target: Tensor) -> Launch:
    """Return the launch that copies ``source`` to ``target``, uint8 of the same length."""
    return Launch(fetch_kernel, (ceil_div(len(source), BLOCK),), {
        'source': source, 'target': target, 'count': len(source)}, {'BLOCK': BLOCK})
