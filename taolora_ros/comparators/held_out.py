"""Which recordings methods are calibrated and judged on: never those of the same person."""

from __future__ import annotations

import dataclasses

import numpy as np

from taolora_ros.recordings import Recording
from taolora_ros.training.folds import assign_folds

FOLDS = 4         # one of them is judged, the others are for calibrating
BEGIN = 300.0     # s into an ECG record where the judged part begins, if it is long enough
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


def excerpt(record: Recording, seconds: float) -> Recording:
    """Return ``seconds`` of an ECG record with the annotations in them."""
    begin = max(min(BEGIN, record.duration_s - seconds), 0.0)
    first = round(begin * record.rate)
    values = record.values[first:first + round(seconds * record.rate)]
    begin, end = first / record.rate, (first + len(values)) / record.rate
    inside = (record.beat_times_s >= begin) & (record.beat_times_s < end)
    flutter = tuple((max(start, begin) - begin, min(stop, end) - begin)
                    for start, stop in record.flutter_s if stop > begin and start < end)
    stamps = None if record.stamps is None else record.stamps[first:first + len(values)]
    return dataclasses.replace(record, values=values, stamps=stamps, flutter_s=flutter,
                               beat_times_s=record.beat_times_s[inside] - begin,
                               beat_aami=record.beat_aami[inside])
