"""Jetson Orin boards, and what a projection on them takes for granted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Board:
    """What is said of a board's GPU (secondary sources): dense INT8 rate, memory bandwidth."""

    name: str
    multiprocessors: int
    gigabytes: float     # per second
    int8_tops: float


BOARDS = (Board('Orin Nano 8 GB', 8, 68.0, 20.0), Board('Orin Nano Super', 8, 102.0, 33.0),
          Board('AGX Orin 64 GB', 16, 204.8, 85.0))


@dataclass(frozen=True)
class Assumptions:
    """All that the projection takes for granted.

    ``rate_share`` and ``bandwidth_share`` are the parts of the peaks that small products reach,
    ``half_rate`` is the rate of float16 beside that of INT8, ``launch_us`` the time of one kernel
    of a graph, ``host_us`` that of starting it and waiting, ``cached`` says that what one kernel
    leaves for the next stays in the L2 cache, and ``resident`` that the weights stay there from
    window to window, too.
    """

    rate_share: float = 0.10
    bandwidth_share: float = 0.7
    half_rate: float = 0.5
    launch_us: float = 5.0
    host_us: float = 20.0
    cached: bool = True
    resident: bool = False
