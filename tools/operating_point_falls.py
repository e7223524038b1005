#!/usr/bin/env python3
"""
Measure falls at several operating points; choose one without the wearer that it is for.

    tools/operating_point_falls.py DATA FOLDS FILE [fp32]

DATA holds recordings of falls and activities, FOLDS what `taolora train imu --folds N` wrote; each
wearer is decided by the model that left him or her out. FILE is written and a table is printed:
figures for each bias, of all and by source, and those of the bias that makes the fewest errors
(falls missed and false alarms) on all other wearers.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from kept import percent, rate, table  # noqa: E402
from operating_point import left_out  # noqa: E402

from taolora_ros.evaluation.decided import Decided  # noqa: E402
from taolora_ros.evaluation.falls import FallCount, count_falls, fall_figures  # noqa: E402
from taolora_ros.origin import commit  # noqa: E402
from taolora_ros.recordings import Recording  # noqa: E402

PROBABILITIES = (0.5, 0.6, 0.69, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97)  # where a score is 0.5
Counts = dict[tuple[float, str], list[FallCount]]  # by probability and wearer


def counted(recording: Recording, decided: Decided | None, probability: float) -> FallCount:
    """Return what is found of a recording when a score of 0.5 is ``probability``."""
    alarms, duration_s = [], decided.duration_s if decided else recording.duration_s
    if decided:
        spec = dataclasses.replace(decided.spec, bias=(math.log(1 / probability - 1),))
        decided = dataclasses.replace(decided, spec=spec)
        same = np.zeros((spec.network.width + 1, len(spec.classes)), np.float32)
        alarms = [decided.time_s(event.stamp_ns) for event in decided.events(same)]
    return count_falls(recording.source, duration_s,
                       recording.fall_time_s if recording.is_fall else None, alarms)


def errors(counts: Iterable[FallCount]) -> int:
    """Return the falls missed and the false alarms."""
    return sum((one.is_fall and not one.found) + one.false_alarms for one in counts)


def chosen(counts: Counts, wearers: Iterable[str]) -> float:
    """Return the probability with the fewest errors over ``wearers``, the lowest of equal ones."""
    wearers = list(wearers)
    return min(sorted({probability for probability, _ in counts}), key=lambda probability: sum(
        errors(counts[probability, wearer]) for wearer in wearers))


def without(counts: Counts) -> dict:
    """Return the figures of what is chosen for every wearer on all others, and these choices."""
    wearers = list(dict.fromkeys(wearer for _, wearer in counts))
    choice = {wearer: chosen(counts, (other for other in wearers if other != wearer))
              for wearer in wearers}
    return {**fall_figures(one for wearer in wearers for one in counts[choice[wearer], wearer]),
            'probabilities': choice}


def as_rows(told: dict) -> list[list[str]]:
    """Return the rows of a table of what was written: of all, then by source."""
    sources = list(told['chosen_without']['sources'])
    heads = ['found', 'Se %', 'false alarms', 'per hour']
    rows = [['falls, score 0.5 at a probability of', *heads,
             *(f'{source}: {head}' for source in sources for head in heads)]]
    points = [(f'{row["probability"]:.2f}', row) for row in told['probabilities']]
    for name, row in [*points, ('chosen without the wearer', told['chosen_without'])]:
        parts = [row, *(row['sources'][source] for source in sources)]
        rows.append([name, *(cell for part in parts for cell in (
            str(part['found']), percent(part['se']), str(part['false_alarms']),
            rate(part['false_alarms_per_hour'])))])
    return rows


def main(arguments: list[str]) -> int:
    """Measure, write and print; return the exit status."""
    if len(arguments) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    data, folds, out, precision = *arguments, *(['int4'] if len(arguments) == 3 else [])
    counts: Counts = {}
    for recording, decided in left_out('imu', data, folds, precision):
        for probability in PROBABILITIES:
            counts.setdefault((probability, recording.subject), []).append(
                counted(recording, decided, probability))
    figures = {probability: fall_figures(one for (at, _), some in counts.items()
                                         if at == probability for one in some)
               for probability in PROBABILITIES}
    result = {'what': 'falls at several operating points, each wearer by the model that left him '
              'or her out', 'commit': commit(), 'precision': precision,
              'probabilities': [{'probability': at, **row} for at, row in figures.items()],
              'chosen_without': without(counts)}
    Path(out).write_text(json.dumps(result, indent=2) + '\n')
    print(table(*as_rows(result)))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
