"""Ways to run the same network take turns: what the host does meanwhile falls on all alike.

Each way has a process of its own. All start, all make their networks, then in each round each is
asked once for its times while the others wait, from round to round another one first. A process
that fails or hangs takes only its own way along. Figures are medians over the rounds, and how many
times faster a way is than the peer is taken round by round.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from taolora_ros.bench.gpu_cases import (GIVEN_UP, LEFT_OUT, SKIPPED, about, most_seconds,
                                         run_case, said)
from taolora_ros.bench.isolated import Isolated

ROUNDS = 7
MAKE_SHARE = 0.6    # of the time of a network and batch, for making it at most
STEP_SECONDS = 30.0  # then the times of one round are given up
Rounds = dict[str, list[dict]]  # way: its times in each round


def take_turns(worker: str, cases: list[dict], until: float, peer: str, alone: tuple[str, ...],
               report) -> Iterator[dict]:
    """Yield a row for each case; what fails, or for which there is no time, says so.

    ``worker`` is the module that makes and times a case. Ways ``alone`` are made while no other
    one is, since they time what they make. ``peer`` is the way that others are compared with.
    """
    groups, lost, done = grouped(cases), Counter(), 0
    with ExitStack() as stack:
        workers = {way: stack.enter_context(Isolated('-m', worker))
                   for way in {case['way']: None for case in cases}}
        wake(workers, until)
        for number, group in enumerate(groups):
            share = (until - time.monotonic()) / (len(groups) - number)
            for row in _group(workers, group, share, until, peer, alone, lost):
                report(done, len(cases), said(row))
                done += 1
                yield row
    report(len(cases), len(cases), '')


def wake(workers: dict[str, Isolated], until: float) -> None:
    """Let all processes import what they need, so that the first network is not short of time."""
    def start(way: str) -> None:
        case = {'part': 'networks', 'way': way}
        step(workers, case, 'wake', min(most_seconds(case), until - time.monotonic()))

    if workers and time.monotonic() < until:
        with ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(start, workers))


def grouped(cases: list[dict]) -> list[list[dict]]:
    """Return cases of the same network and batch together, in the order of the first of each."""
    groups: dict[tuple, list[dict]] = {}
    for case in cases:
        groups.setdefault((case['model'], case['batch']), []).append(case)
    return list(groups.values())


def _group(workers: dict[str, Isolated], cases: list[dict], share: float, until: float,
           peer: str, alone: tuple[str, ...], lost: Counter) -> Iterator[dict]:
    """Yield the rows of one network and batch, for which there are ``share`` seconds."""
    began, told = time.monotonic(), {}
    for case in cases:
        if share <= 0:
            told[case['way']] = {'note': SKIPPED}
        elif lost[case['way']] >= GIVEN_UP:
            told[case['way']] = {'note': LEFT_OUT}
    todo = [case for case in cases if case['way'] not in told]
    told |= make_all(workers, todo, share * MAKE_SHARE, alone)
    made = [case for case in todo if 'note' not in told[case['way']]]
    rounds, failed = time_all(workers, made, min(began + share, until), until)
    told |= failed
    for case in cases:
        way = case['way']
        lost[way] += told[way].pop('lost', 0)
        figures = {} if 'note' in told[way] else summary(rounds[way], rounds.get(peer, []))
        yield {**about(case), **told[way], **figures}


def make_all(workers: dict[str, Isolated], cases: list[dict], seconds: float,
             alone: tuple[str, ...]) -> dict[str, dict]:
    """Return by way what was told once its network was made, or a note why it was not."""
    def make(case: dict) -> tuple[str, dict]:
        return case['way'], step(workers, case, 'make', min(most_seconds(case), seconds))

    together = [case for case in cases if case['way'] not in alone]
    with ThreadPoolExecutor(max(len(together), 1)) as pool:
        told = dict(pool.map(make, together))
    return told | dict(make(case) for case in cases if case['way'] in alone)


def time_all(workers: dict[str, Isolated], cases: list[dict], end: float, until: float
             ) -> tuple[Rounds, dict[str, dict]]:
    """Return the times of each round, and notes of the ways that failed.

    After the first round none begins that would last beyond ``end``; nothing begins after
    ``until``.
    """
    rounds, failed, longest = {case['way']: [] for case in cases}, {}, 0.0
    for number in range(ROUNDS):
        began = time.monotonic()
        if number and began + longest > end:
            break
        for case in rotated(cases, number):
            way, left = case['way'], until - time.monotonic()
            if way in failed or left <= 0:
                continue
            row = step(workers, case, 'time', min(STEP_SECONDS, left + 5.0))
            if 'note' in row:
                failed[way] = row
            else:
                rounds[way].append({**row, 'round': number})
        longest = max(longest, time.monotonic() - began)
    return rounds, failed | {way: {'note': SKIPPED} for way, times in rounds.items()
                             if not times and way not in failed}


def rotated(cases: list, number: int) -> list:
    """Return cases in the order of a round: each begins with another one."""
    first = number % max(len(cases), 1)
    return cases[first:] + cases[:first]


def step(workers: dict[str, Isolated], case: dict, name: str, seconds: float) -> dict:
    """Return what the process of a way answers to 'wake', 'make' or 'time', or a note."""
    rows = list(run_case(workers[case['way']], {**case, 'step': name}, seconds))
    return {key: value for key, value in rows[-1].items() if key not in about(case)}


def summary(rounds: list[dict], peer: list[dict]) -> dict:
    """Return medians over rounds, and how many times faster than the peer: median and range.

    Jitter is what the p99 with the gate closed and open from end to end differ by.
    """
    names = [name for name in rounds[0] if name != 'round']
    row = {name: statistics.median(one[name] for one in rounds) for name in names}
    for at in ('', 'device_'):
        if f'{at}open_p99_us' in row:
            row[f'{at}jitter_us'] = abs(row[f'{at}open_p99_us'] - row[f'{at}closed_p99_us'])
    beside = {one['round']: one['p50_us'] for one in peer}
    faster = [beside[one['round']] / one['p50_us'] for one in rounds if one['round'] in beside]
    if faster:
        row |= {'times_faster': statistics.median(faster),
                'times_faster_range': [min(faster), max(faster)]}
    return {**row, 'rounds': len(rounds), 'p50_us_of_rounds': [one['p50_us'] for one in rounds]}
