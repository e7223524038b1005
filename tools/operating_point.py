#!/usr/bin/env python3
"""
Measure heart beats at several operating points, and choose one without the record that it is for.

    tools/operating_point.py DATA FOLDS FILE [fp32]

DATA holds MIT-BIH, FOLDS what `taolora train ecg --folds N` wrote; each record is decided by the
model that left it out. FILE is written: figures for each bias of beats, and of a bias chosen for
every record on all others, so that the smaller of sensitivity and PPV (150 ms) is the largest.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from taolora_ros.evaluation.adaptation_report import find_candidates
from taolora_ros.evaluation.beats import beat_figures, count_beats
from taolora_ros.evaluation.decided import Decided, decide
from taolora_ros.evaluation.detection import Candidate
from taolora_ros.model_file import load_model
from taolora_ros.origin import commit
from taolora_ros.recordings import find_files, read_npz
from taolora_ros.shipped import find_model

BIASES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)  # added to the log odds of a beat


def left_out_records(data: str, folds: str, precision: str) -> dict[str, Decided]:
    """Return all records as decided by the model that was trained without them."""
    found = {}
    for candidate in find_candidates(folds, Candidate(find_model('ecg_beats'), precision)):
        names = set(load_model(candidate.model, precision).metadata['provenance']['left_out'])
        spec, engine, settings = candidate.load()
        engine.keeps_embedding = True
        for path in find_files(data, 'ecg'):
            for recording in read_npz(path):
                if recording.subject in names and not recording.paced:
                    print(recording.name, file=sys.stderr, flush=True)
                    found[recording.name] = decide(recording, spec, engine, settings)
    return found


def counted(decided: Decided, bias: float) -> Counter:
    """Return the hits and errors of one record with a bias of beats."""
    spec = dataclasses.replace(decided.spec, bias=(bias, decided.spec.bias[1]))
    decided = dataclasses.replace(decided, spec=spec)
    events = decided.events(np.zeros((spec.network.width + 1, len(spec.classes)), np.float32))
    recording = decided.recording
    return count_beats(recording.beat_times_s, recording.beat_aami,
                       np.array([decided.time_s(event.stamp_ns) for event in events]),
                       np.array([event.label == 'veb' for event in events], bool),
                       recording.flutter_s)


def chosen(counts: dict[tuple[float, str], Counter], names: list[str]) -> float:
    """Return the bias with the largest smaller one of sensitivity and PPV over ``names``."""
    def worse(bias: float) -> float:
        beat = beat_figures([counts[bias, name] for name in names])['beat']
        return min(beat['se'], beat['ppv'])

    return max(BIASES, key=worse)


def main(arguments: list[str]) -> int:
    """Measure and write; return the exit status."""
    if len(arguments) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    data, folds, out, precision = *arguments, *(['int4'] if len(arguments) == 3 else [])
    records = left_out_records(data, folds, precision)
    counts = {(bias, name): counted(decided, bias)
              for bias in BIASES for name, decided in records.items()}
    choice = {name: chosen(counts, [other for other in records if other != name])
              for name in records}
    result = {'what': 'heart beats at several operating points, each record by the model that '
              'left it out', 'commit': commit(), 'precision': precision,
              'biases': [{'bias': bias, **beat_figures([counts[bias, name] for name in records])}
                         for bias in BIASES],
              'chosen_without': {**beat_figures([counts[choice[name], name] for name in records]),
                                 'biases': choice}}
    Path(out).write_text(json.dumps(result, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
