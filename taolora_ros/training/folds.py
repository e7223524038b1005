"""Cross-validation by subject: every recording is judged by a model that never saw its subject."""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path

import torch

from taolora_ros.evaluation.detection import Candidate
from taolora_ros.evaluation.evaluate import judge, summarise
from taolora_ros.model_file import load_model
from taolora_ros.origin import commit, versions
from taolora_ros.recordings import Recording, find_files, read_npz
from taolora_ros.training.recipe import (
    Job, Report, make_model, told, training_recordings)


def assign_folds(recordings: Iterable[Recording], folds: int) -> list[frozenset[str]]:
    """Split the subjects (IMU) or records (ECG) of ``recordings`` into ``folds`` groups.

    Subjects are dealt out like cards, back and forth, in the order of how many rare events they
    hold (VEBs, falls), source by source, so that the groups are alike; there is no randomness.
    Raise ValueError when there are fewer subjects than folds.
    """
    rare: dict[tuple[str, str], int] = defaultdict(int)
    for r in recordings:
        count = int(bool(r.is_fall)) if r.kind == 'imu' else int((r.beat_aami == 'V').sum())
        rare[r.source, r.subject] += count
    if not 2 <= folds <= len(rare):
        raise ValueError(f'folds: {folds} for {len(rare)} subjects, must be 2..{len(rare)}')
    order = sorted(rare, key=lambda key: (key[0], -rare[key], key[1]))
    groups: list[set[str]] = [set() for _ in range(folds)]
    there_and_back = list(range(folds)) + list(reversed(range(folds)))
    for i, (_, subject) in enumerate(order):
        groups[there_and_back[i % (2 * folds)]].add(subject)
    return [frozenset(group) for group in groups]


def fold_jobs(job: Job, folds: int) -> list[tuple[Job, frozenset[str]]]:
    """Return one job per fold, that leaves its subjects out, with those subjects."""
    recordings = training_recordings(job.kind, job.data, job.left_out)
    return [(replace(job, left_out=job.left_out | held_out, out=fold_file(job, i)), held_out)
            for i, held_out in enumerate(assign_folds(recordings, folds))]


def fold_file(job: Job, fold: int) -> Path:
    """Return the path of the INT4 model of ``fold``."""
    return job.out.with_name(f'{job.out.name.removesuffix(".safetensors")}.fold{fold}.safetensors')


def train_folds(job: Job, folds: int, which: int | None = None,
                report: Report = lambda *_: None) -> None:
    """Make the models of all folds, or of fold ``which`` alone (so that machines can share).

    With ``job.resume``, models that are there already are kept; raise ValueError when one was
    trained with other options.
    """
    for i, (fold, _) in enumerate(fold_jobs(job, folds)):
        if which not in (None, i):
            continue
        if job.resume and fold.out.exists():
            if not _is_of(fold):
                raise ValueError(f'{fold.out}: was trained with other options or subjects; '
                                 'remove it or use the same')
            continue
        make_model(fold, lambda stage, share, text: report(
            f'fold {i + 1} of {folds}: {stage}', share, text))


def _is_of(fold: Job) -> bool:
    """Tell whether the model that is there was made as ``fold`` says, without whom it says."""
    made = told(load_model(fold.out))
    wanted = {'training': asdict(fold.training), 'quantization': asdict(fold.quantization),
              'tuning': asdict(fold.tuning), 'left_out': sorted(fold.left_out),
              'teachers': [asdict(teacher.training) for teacher in fold.teacher_jobs]}
    return wanted == {key: made[key] for key in wanted if key in made}


def judge_folds(job: Job, folds: int, precision: str, processes: int | None = None,
                settings: dict | None = None, report: Report = lambda *_: None) -> dict:
    """Return the figures of every subject judged by the model of the fold that left it out.

    ``processes`` folds are judged at a time, by default as many as there are CPUs.
    """
    files = find_files(job.data, job.kind)
    judged = []
    with ProcessPoolExecutor(processes or os.cpu_count() or 1,
                             multiprocessing.get_context('spawn')) as pool:
        waiting = [pool.submit(_judge_fold, Candidate(fold.out, precision, device=job.device,
                                                      settings=settings or {}), files, held_out)
                   for fold, held_out in fold_jobs(job, folds)]
        for done, future in enumerate(as_completed(waiting), 1):
            judged += future.result()
            report(f'judging folds, {precision}', done / folds, '')
    judged.sort(key=lambda row: row[:2])
    return summarise(job.kind, [row[2:] for row in judged])


def folds_origin(job: Job, folds: int) -> dict:
    """Return where the figures of ``judge_folds`` come from: what the folds say, and who judges.

    Where folds differ, all that they say is named.
    """
    made = [load_model(fold_file(job, i)).metadata['provenance'] for i in range(folds)]

    def said(key: str) -> str:
        return ', '.join(sorted({str(one.get(key, 'unknown')) for one in made}))

    teachers = f' --teachers {job.train_teachers}' if job.train_teachers else ''
    return {**{key: said(key) for key in ('code', 'device', 'torch')}, 'seed': job.training.seed,
            'command': f'taolora train {job.kind} --data DIR --folds {folds} '
                       f'--seed {job.training.seed}{teachers}',
            'training': asdict(job.training), 'tuning': asdict(job.tuning),
            'judged': {'code': commit(), 'device': job.device, **versions()}}


def _judge_fold(candidate: Candidate, files: list[Path], held_out: frozenset[str]) -> list[tuple]:
    """Return (file, place in it, entry, counts) of every recording of the held-out subjects."""
    torch.set_num_threads(1)  # other folds use the other cores
    loaded = candidate.load()
    return [(str(path), place, *row) for path in files for place, row in enumerate(
        judge((r for r in read_npz(path) if r.subject in held_out), loaded))]
