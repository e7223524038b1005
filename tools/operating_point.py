#!/usr/bin/env python3
"""
Measure beats and VEB at several operating points; choose one without the record that it is for.

    tools/operating_point.py DATA FOLDS FILE [fp32]

DATA holds MIT-BIH, FOLDS what `taolora train ecg --folds N` wrote; each record is decided by the
model that left it out. FILE is written, tables are printed: figures for each bias of beats, with
the VEB's as it ships, and for each bias of VEB, with the beats' as it ships. Of both also those of
a bias chosen for every record on all others: of beats so that the smaller of sensitivity and PPV
(150 ms) is the largest, of VEB by this rule and by the largest F1. VEB are judged together with
beats of their shape, as they ship, and each beat alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from kept import percent, table  # noqa: E402

from taolora_ros.evaluation.adaptation_report import find_candidates  # noqa: E402
from taolora_ros.evaluation.beats import beat_figures, count_beats  # noqa: E402
from taolora_ros.evaluation.decided import Decided, decide  # noqa: E402
from taolora_ros.evaluation.detection import Candidate  # noqa: E402
from taolora_ros.model_file import load_model  # noqa: E402
from taolora_ros.origin import commit  # noqa: E402
from taolora_ros.recordings import Recording, find_files, read_npz  # noqa: E402
from taolora_ros.shipped import find_model  # noqa: E402
from taolora_ros.spec import ECG_BEATS  # noqa: E402

MODELS = {'ecg': 'ecg_beats', 'imu': 'imu_falls'}
BIASES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)  # added to the log odds of a beat
VEB_BIASES = (0.85, 0.4, 0.0, -0.4, -0.62, -0.85, -1.1, -1.4, -1.75, -2.2)  # of a VEB
Counts = dict[tuple[float, str], Counter]  # by bias and record
Rule = Callable[[dict], float]             # the larger, the better


def smaller(figures: dict) -> float:
    """Return the smaller one of sensitivity and PPV."""
    return min(figures['se'], figures['ppv'])


def f1(figures: dict) -> float:
    """Return F1."""
    return figures['f1']


def left_out(kind: str, data: str, folds: str, precision: str
             ) -> Iterator[tuple[Recording, Decided | None]]:
    """Yield all recordings, and them as decided by the model that was trained without them.

    None stands for one in which nothing is decided.
    """
    for candidate in find_candidates(folds, Candidate(find_model(MODELS[kind]), precision)):
        names = set(load_model(candidate.model, precision).metadata['provenance']['left_out'])
        spec, engine, settings = candidate.load()
        engine.keeps_embedding = True
        for path in find_files(data, kind):
            for recording in read_npz(path):
                if recording.subject in names and not recording.paced:
                    print(recording.name, file=sys.stderr, flush=True)
                    yield recording, decide(recording, spec, engine, settings)


def counted(decided: Decided, bias: tuple[float, float], **changes) -> Counter:
    """Return the hits and errors of one record with biases of beats and of VEB.

    ``changes`` are other fields of the model's spec that differ.
    """
    spec = dataclasses.replace(decided.spec, bias=bias, **changes)
    decided = dataclasses.replace(decided, spec=spec)
    events = decided.events(np.zeros((spec.network.width + 1, len(spec.classes)), np.float32))
    recording = decided.recording
    return count_beats(recording.beat_times_s, recording.beat_aami,
                       np.array([decided.time_s(event.stamp_ns) for event in events]),
                       np.array([event.label == 'veb' for event in events], bool),
                       recording.flutter_s)


def chosen(counts: Counts, names: Sequence[str], of: str = 'beat', rule: Rule = smaller) -> float:
    """Return the bias that is best by ``rule`` over the records ``names``."""
    return max(dict.fromkeys(bias for bias, _ in counts),
               key=lambda bias: rule(beat_figures([counts[bias, name] for name in names])[of]))


def without(counts: Counts, of: str, rule: Rule) -> dict:
    """Return the figures of a bias chosen for every record on all others, and these biases."""
    names = list(dict.fromkeys(name for _, name in counts))
    choice = {name: chosen(counts, [other for other in names if other != name], of, rule)
              for name in names}
    return {**beat_figures([counts[choice[name], name] for name in names]), 'biases': choice}


def by_bias(counts: Counts) -> list[dict]:
    """Return the figures of all records together for each bias."""
    return [{'bias': bias, **beat_figures([each for (b, _), each in counts.items() if b == bias])}
            for bias in dict.fromkeys(bias for bias, _ in counts)]


def by_record(vebs: Counts, alone: Counts, bias: float) -> dict[str, dict]:
    """Return what is found of each record with one bias, judged together and each beat alone."""
    return {name: {way: {part: counts[bias, name][f'veb_{part}'] for part in ('tp', 'fn', 'fp')}
                   for way, counts in (('alone', alone), ('together', vebs))}
            for name in dict.fromkeys(name for _, name in vebs)}


def shown(title: str, of: str, figures: list[dict], choices: dict[str, dict]) -> str:
    """Return a table of what each operating point finds."""
    rows = [(f'{1 / (1 + math.exp(one["bias"])):.2f}', one[of]) for one in figures]
    rows += [(f'chosen without the record, {rule}', one[of]) for rule, one in choices.items()]
    return table([title, 'Se %', 'PPV %', 'F1 %', 'found', 'false'], *(
        [name, *(percent(one[key]) for key in ('se', 'ppv', 'f1')), str(one['tp']), str(one['fp'])]
        for name, one in rows))


def main(arguments: list[str]) -> int:
    """Measure, write and print; return the exit status."""
    if len(arguments) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    data, folds, out, precision = *arguments, *(['int4'] if len(arguments) == 3 else [])
    records = {recording.name: decided
               for recording, decided in left_out('ecg', data, folds, precision)}
    beat, veb = ECG_BEATS.bias
    beats = {(bias, name): counted(decided, (bias, veb))
             for bias in BIASES for name, decided in records.items()}
    vebs = {(bias, name): counted(decided, (beat, bias))
            for bias in VEB_BIASES for name, decided in records.items()}
    alone = {(bias, name): counted(decided, (beat, bias), alike=0)
             for bias in VEB_BIASES for name, decided in records.items()}
    result = {'what': 'beats and VEB at several operating points, each record by the model that '
              'left it out', 'commit': commit(), 'precision': precision,
              'biases': by_bias(beats), 'chosen_without': without(beats, 'beat', smaller),
              'veb_biases': by_bias(vebs), 'veb_biases_alone': by_bias(alone),
              'veb_by_record': by_record(vebs, alone, veb),
              'veb_chosen_without': {rule.__name__: without(vebs, 'veb', rule)
                                     for rule in (smaller, f1)}}
    Path(out).write_text(json.dumps(result, indent=2) + '\n')
    print(shown('beats (150 ms), score 0.5 at', 'beat', result['biases'],
                {'smaller': result['chosen_without']}))
    print(shown('VEB, score 0.5 at', 'veb', result['veb_biases'], result['veb_chosen_without']))
    print(shown('VEB judged alone', 'veb', result['veb_biases_alone'], {}))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
