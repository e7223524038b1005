"""Evaluate a model on a folder of recordings: what ``taolora evaluate`` runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from taolora_ros.evaluation.beats import beat_figures, count_beats
from taolora_ros.evaluation.detection import Candidate, Found, detect
from taolora_ros.evaluation.falls import FallCount, count_falls, fall_figures
from taolora_ros.evaluation.panel import Panel
from taolora_ros.evaluation.spread import Progress, spread
from taolora_ros.recordings import Recording, find_files, read_npz, reason_of
from taolora_ros.trained_on import TrainedOn

Judged = FallCount | Counter  # the counts of one recording


@dataclass(frozen=True)
class Choice:
    """Which subjects (IMU) or records (ECG) to evaluate: ``only`` these, or ``unseen`` ones."""

    only: frozenset[str] | None = None
    trained_on: TrainedOn = TrainedOn()
    unseen: bool = False

    def takes(self, recording: Recording) -> bool:
        """Return whether ``recording`` is evaluated."""
        return ((self.only is None or recording.subject in self.only)
                and not (self.unseen and self.trained_on.has(recording)))


@dataclass(frozen=True)
class Row:
    """One recording: its entry for the report, its counts, and whether the model has seen it.

    ``namesake_of`` are the sources in which somebody of the same name was trained on.
    """

    entry: dict
    counts: Judged
    seen: bool
    namesake_of: tuple[str, ...]


@dataclass
class Judge:
    """The task of judging the recordings in a file that ``choice`` takes.

    A file is read as a whole before any of it is judged: of a damaged one nothing counts.
    """

    panel: Panel
    choice: Choice

    def __call__(self, path: Path) -> list[Row] | str:
        """Return the row of each, or what is wrong with the file."""
        try:
            recordings = list(read_npz(path))
        except ValueError as error:
            return reason_of(path, error)
        trained_on, rows = self.choice.trained_on, []
        for recording in recordings:
            if self.choice.takes(recording) and self.panel.knows(recording):
                ((entry, counts),) = judge([recording], self.panel.load(recording))
                rows.append(Row(entry, counts, trained_on.has(recording),
                                trained_on.named(recording.subject)))
        return rows


def evaluate(kind: str, data: str | Path, candidate: Candidate, processes: int | None = None,
             only: frozenset[str] | None = None, unseen: bool = False,
             progress: Progress = lambda *_: None, folds: dict[str, Path] | None = None) -> dict:
    """Return the figures of ``candidate`` on all annotated recordings of ``kind`` below ``data``.

    ``only`` keeps the subjects (IMU) or records (ECG) named, ``unseen`` those the model was not
    trained on; ``processes`` is chosen by the number of files and CPUs when it is None. With
    ``folds`` (see panel.py) each subject is judged by the model that left it out, if one did. The
    result is ready for JSON: ``fall``, or ``beat``, ``beat_50ms`` and ``veb``, over all recordings
    (ratios as fractions from 0 to 1), one entry each in ``recordings``, and what was left out:
    ``skipped_files`` has the reasons of files ``not_of_kind`` and of ``damaged`` ones by path,
    ``not_judged`` who of ``only`` was not there, or not taken.
    Raise ValueError for data or a model that cannot be used.
    """
    other, damaged, alone = {}, {}, Path(data).is_file()
    files = find_files(data, kind, other, None if alone else damaged)
    model = candidate.describe()
    if model['kind'] != kind:
        raise ValueError(f'{candidate.model}: {model["name"]} is for {model["kind"]}, not {kind}')
    trained_on = model.pop('trained_on')
    choice = Choice(only, trained_on if folds is None else TrainedOn(), unseen)
    started = time.monotonic()
    rows = _judge_all(files, Judge(Panel(candidate, folds), choice), processes, progress, damaged)
    if alone and damaged:
        raise ValueError(f'{data}: {damaged[str(Path(data))]}')
    if not rows:
        raise ValueError(f'{data}: no recording left to evaluate; asked for are '
                         + (', '.join(sorted(only)) if only else 'all')
                         + (' that the model was not trained on' if unseen else '')
                         + ''.join(f'; {path}: {reason}' for path, reason in damaged.items()))
    if folds is not None:
        model.update(file='', folds=sorted({path.name for path in folds.values()}))
    return {**summarise(kind, [(row.entry, row.counts) for row in rows]),
            'seen_in_training': sum(row.seen for row in rows), 'namesakes': _namesakes(rows),
            'not_judged': sorted((only or frozenset()) - {row.entry['subject'] for row in rows}),
            'model': model, 'data': str(data),
            'skipped_files': {'not_of_kind': other, 'damaged': dict(sorted(damaged.items()))},
            'seconds': time.monotonic() - started}


def _judge_all(files: list[Path], task: Judge, processes: int | None, progress: Progress,
               damaged: dict[str, str]) -> list[Row]:
    """Return the rows of all files in their order; what is wrong with some goes to ``damaged``."""
    rows = {}
    for done, (path, found) in enumerate(spread(files, task, processes), 1):
        if isinstance(found, str):
            damaged[str(path)] = found
        else:
            rows[path] = found
        progress(done, len(files), path.name)
    return [row for path in files for row in rows.get(path, ())]  # processes finish in any order


def _namesakes(rows: list[Row]) -> dict[str, list[str]]:
    """Return by source where others of a name were trained on that it has, too, but not seen."""
    found: dict[str, set[str]] = {}
    for row in rows:
        if row.namesake_of and not row.seen:
            found.setdefault(row.entry['source'], set()).update(row.namesake_of)
    return {source: sorted(others) for source, others in sorted(found.items())}


def judge(recordings: Iterable[Recording], loaded: tuple) -> Iterator[tuple[dict, Judged]]:
    """Yield (entry for the report, counts) of each recording.

    ``loaded`` is (spec, engine, settings), settings None for the model's own.
    """
    for recording in recordings:
        score = judge_imu if recording.kind == 'imu' else judge_ecg
        yield score(recording, detect(recording, *loaded))


def summarise(kind: str, judged: Iterable[tuple[dict, Judged]]) -> dict:
    """Return the figures over what ``judge`` yielded, be it from one model or several folds."""
    judged = list(judged)
    entries = [entry for entry, _ in judged]
    seconds = sum(entry['duration_s'] for entry in entries)
    open_seconds = sum(e['transient_fraction'] * e['duration_s'] for e in entries)
    figures = ({'fall': fall_figures(count for _, count in judged)} if kind == 'imu'
               else _summarise_beats(judged))
    return {**figures, 'recordings': entries, 'transient_fraction': open_seconds / seconds}


def _summarise_beats(judged: list[tuple[dict, Counter]]) -> dict:
    """Return the totals over scored records, and those left out of them by reason."""
    groups: dict[str, list[Counter]] = {}
    entries = [entry for entry, _ in judged]
    for entry, count in judged:
        groups.setdefault(entry['left_out'], []).append(count)
    scored = groups.pop('', [])
    return {**beat_figures(scored), 'records': len(scored),
            'hours': sum(e['duration_s'] for e in entries if not e['left_out']) / 3600,
            'flutter_left_out': sum(count['flutter_left_out'] for count in scored),
            'apart': {reason: {**beat_figures(group), 'records': len(group)}
                      for reason, group in sorted(groups.items())}}


def judge_imu(recording: Recording, found: Found) -> tuple[dict, FallCount]:
    """Score one IMU recording: its entry for the report and its count."""
    alarms = found.times('fall').tolist()
    count = count_falls(recording.source, recording.duration_s,
                        recording.fall_time_s if recording.is_fall else None, alarms)
    return {**_entry(recording, found), 'code': recording.code, 'label': recording.label,
            'is_fall': recording.is_fall,
            'fall_time_s': recording.fall_time_s, 'alarms_s': alarms, 'found': count.found,
            'false_alarms': count.false_alarms}, count


def judge_ecg(recording: Recording, found: Found) -> tuple[dict, Counter]:
    """Score one ECG record: its entry for the report and its counts.

    ``left_out`` says why a record does not count in the totals, '' when it does.
    """
    beats, veb = found.times('beat').tolist(), found.times('veb').tolist()
    counts = count_beats(recording.beat_times_s, recording.beat_aami, beats + veb,
                         [False] * len(beats) + [True] * len(veb), recording.flutter_s)
    left_out = 'paced' if recording.paced else ''
    if recording.snr_db is not None:
        left_out = f'noise added, {recording.snr_db:g} dB'
    return {**_entry(recording, found), 'lead': recording.leads[recording.lead()],
            'left_out': left_out, **beat_figures([counts]),
            'flutter_left_out': counts['flutter_left_out']}, counts


def _entry(recording: Recording, found: Found) -> dict:
    return {'name': recording.name, 'subject': recording.subject, 'source': recording.source,
            'duration_s': recording.duration_s, 'transient_fraction': found.transient_fraction,
            'counts': dict(found.counts)}
