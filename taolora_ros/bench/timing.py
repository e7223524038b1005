"""Time work on a GPU: on the device by events around graph replays, and host to host."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

REPLAYS = 20  # of a graph between two events: what the events themselves cost is spread over them


def graphed(work: Callable[[], object]) -> Callable[[], None]:
    """Capture ``work`` in a CUDA graph; return what replays it, without waiting."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # twice: compiling, and then warm
        work()
        work()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def device_us(start: Callable[[], None], rounds: int = 15, replays: int = REPLAYS) -> float:
    """Return the median microseconds that the device takes for one ``start()``."""
    times = []
    for _ in range(rounds + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(replays):
            start()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / replays)
    return float(np.median(times[2:]))


def host_us(work: Callable[[], object], calls: int = 1000) -> dict[str, float]:
    """Return p50 and p99 of the microseconds of ``work()``, which waits for its result."""
    times = np.empty(calls)
    for i in range(-min(calls // 10, 50), calls):
        began = time.perf_counter()
        work()
        times[max(i, 0)] = time.perf_counter() - began
    p50, p99 = np.percentile(times * 1e6, (50, 99))
    return {'p50_us': float(p50), 'p99_us': float(p99)}


def copy_bandwidth(megabytes: int = 512) -> float:
    """Return gigabytes per second, read and written, of a copy within the device."""
    size = megabytes * 2 ** 20
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device='cuda')
    target = torch.empty_like(source)
    return 2 * size / device_us(lambda: target.copy_(source), 7, 4) / 1e3


class Deadline:
    """Tells whether there is time left for another case."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def passed(self) -> bool:
        """Return whether the time is over."""
        return time.monotonic() > self._end
