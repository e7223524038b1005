"""Time work on a GPU: on the device by events around graph replays, and host to host.

Of what is replayed on the device rows of the bench have

    device_us         how long one takes of many, back to back: what a device gets done
    device_single_us  from the begin to the end of a single one, nothing else on the device; that
                      its graph has to be started there is in it
    device_p99_us     the p99 of those (of layers: of graphs of several, a layer)
    p50_us, p99_us    from host to host: started, and waited for
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

ROUNDS = 100       # of replays, for median and p99
REPLAYS = 20       # of a graph between two events: what these cost themselves is spread over them
SINGLES = 300      # replays of which each is timed alone, for their p99
CLOCK = 2e9        # cycles a second of a device, about: how long it sleeps
WARM_DEVICE = 0.02  # s of work before anything is timed: clocks rise under load
WARM_HOST = 0.2
LEAST_CALLS = 20


def graphed(work: Callable[[], object], times: int = 1) -> Callable[[], None]:
    """Capture ``work``, so many ``times``, in a CUDA graph; return what replays it, not waiting."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # twice: compiling, and then warm
        work()
        work()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            work()
    return graph.replay


def device_times(start: Callable[[], None], rounds: int = ROUNDS, replays: int = REPLAYS
                 ) -> np.ndarray:
    """Return, for each round, the mean microseconds that the device takes for one ``start()``."""
    warm = time.perf_counter() + WARM_DEVICE
    while time.perf_counter() < warm:
        start()
        torch.cuda.synchronize()
    times = []
    for _ in range(rounds + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(replays):
            start()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / replays)
    return np.array(times[2:])


def device_us(start: Callable[[], None], rounds: int = ROUNDS, replays: int = REPLAYS) -> float:
    """Return the median of `device_times`."""
    return float(np.median(device_times(start, rounds, replays)))


def device_quantiles(times: np.ndarray) -> dict[str, float]:
    """Return median and p99 of rounds, as rows of layers have them."""
    p50, p99 = np.percentile(times, (50, 99))
    return {'device_us': float(p50), 'device_p99_us': float(p99)}


def single_times(start: Callable[[], None], count: int = SINGLES) -> np.ndarray:
    """Return the microseconds that the device takes for each of ``count`` times ``start()``.

    It sleeps until the host has issued all of it: what a slow host adds is not the device's.
    """
    device_times(start, 1, 1)  # warm
    issuing = []
    for _ in range(9):
        began = time.perf_counter()
        start()
        issuing.append(time.perf_counter() - began)
        torch.cuda.synchronize()
    cycles = int((5e-5 + 3 * float(np.median(issuing))) * CLOCK)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = np.empty(count)
    for i in range(count):
        torch.cuda._sleep(cycles)
        begin.record()
        start()
        end.record()
        end.synchronize()
        times[i] = begin.elapsed_time(end) * 1e3
    return times


def graph_times(start: Callable[[], None], rounds: int = ROUNDS, singles: int = SINGLES
                ) -> dict[str, float]:
    """Return times on the device of what ``start()`` begins, as rows of the bench have them."""
    p50, p99 = np.percentile(single_times(start, singles), (50, 99))
    return {'device_us': device_us(start, rounds), 'device_single_us': float(p50),
            'device_p99_us': float(p99)}


def host_us(work: Callable[[], object], calls: int = 1000, warm_s: float = WARM_HOST,
            seconds: float = float('inf')) -> dict[str, float]:
    """Return p50 and p99 of the microseconds of ``work()``, which waits for its result.

    After ``seconds`` no more calls are made, if there were LEAST_CALLS.
    """
    warm = time.perf_counter() + warm_s
    while time.perf_counter() < warm:
        work()
    times, until = [], time.perf_counter() + seconds
    while len(times) < calls and (len(times) < LEAST_CALLS or time.perf_counter() < until):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    p50, p99 = np.percentile(np.array(times) * 1e6, (50, 99))
    return {'p50_us': float(p50), 'p99_us': float(p99)}


def copy_bandwidth(megabytes: int = 512) -> float:
    """Return gigabytes per second, read and written, of a copy within the device."""
    size = megabytes * 2 ** 20
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device='cuda')
    target = torch.empty_like(source)
    return 2 * size / device_us(lambda: target.copy_(source), 7, 4) / 1e3
