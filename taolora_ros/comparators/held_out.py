"""Which recordings methods are calibrated and judged on: never those of the same person."""

from __future__ import annotations

import numpy as np

from taolora_ros.evaluation.excerpts import excerpt
from taolora_ros.recordings import Recording
from taolora_ros.training.folds import assign_folds

FOLDS = 4         # one of them is judged, the others are for calibrating
SEED = 5


def split(recordings: list[Recording], only: frozenset[str] | None = None
          ) -> tuple[list[Recording], list[Recording]]:
    """Return the recordings to calibrate on and those to judge; ``only`` names who is judged.

    Raise ValueError when one of both would be empty.
    """
    judged = only
    if judged is None:
        subjects = {(r.source, r.subject) for r in recordings}
        if len(subjects) < 2:
            raise ValueError('comparators: recordings of two subjects are needed, one to '
                             f'calibrate on and one to judge; found {len(subjects)}')
        judged = assign_folds(recordings, min(FOLDS, len(subjects)))[0]
    parts = ([r for r in recordings if r.subject not in judged],
             [r for r in recordings if r.subject in judged])
    for part, what in zip(parts, ('calibrate on', 'judge')):
        if not part:
            raise ValueError(f'comparators: no recording left to {what}')
    return parts


def shortened(recordings: list[Recording], hours: float | None) -> list[Recording]:
    """Return about ``hours`` of ``recordings``, None for all of them.

    Of an ECG an equally long part of each record, of an IMU whole recordings, drawn at random.
    """
    if hours is None or not recordings:
        return recordings
    seconds = 3600 * hours
    if recordings[0].kind == 'ecg':
        return [excerpt(r, seconds / len(recordings)) for r in recordings]
    chosen, total = [], 0.0
    for i in np.random.default_rng(SEED).permutation(len(recordings)):
        if total >= seconds:
            break
        chosen.append(recordings[i])
        total += recordings[i].duration_s
    return chosen
