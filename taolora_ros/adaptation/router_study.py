"""Compare the trained router with the threshold router, on subjects that it was not trained on.

    python -m taolora_ros.adaptation.router_study imu|ecg --data DIR [--json FILE] [--save FILE]
                                                          [--personal MINUTES] [--model MODEL]

Both open patches, and the neighbours that the model's gate opens with them. At an equal share of
open patches, which share of the event patches is open? The threshold router's share is varied by
a factor on all three thresholds; the trained one's threshold is put where its share on the same
recordings is the same, which looks at no annotation. The recordings of a subject follow each
other in random order as one stream: a fall recording is short and holds one fall, and a router
that could see a recording begin would learn when to expect it. ``chosen`` is what a robot could
run: the threshold put where the share on the training recordings is that of the default thresholds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch

from taolora_ros.adaptation.router import RARE, Router, RouterGate, save_router
from taolora_ros.adaptation.router_training import (
    RouterOptions, Track, joined, make_track, train_router)
from taolora_ros.gate import Gate, dilate
from taolora_ros.model_file import load_model
from taolora_ros.progress import progress
from taolora_ros.recordings import Recording, load_recordings
from taolora_ros.shipped import find_model
from taolora_ros.spec import SPECS, ModelSpec
from taolora_ros.training.corpus import IGNORE, parts_of
from taolora_ros.training.folds import assign_folds

FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # on the thresholds; 1 is what ships
PERSONAL_STEPS, GENTLE = 100, 3e-3          # of adapting to one recording
DRAWS = 1000                                # of the bootstrap over subjects
Counts = np.ndarray                         # of one recording: open, judged, events open, events


def main() -> None:
    """Compare and print; the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('kind', choices=tuple(SPECS))
    parser.add_argument('--data', required=True, metavar='DIR')
    parser.add_argument('--model', help='file or name of the model to make a router for, by '
                        'default the shipped one')
    parser.add_argument('--folds', type=int, default=4)
    parser.add_argument('--steps', type=int, default=RouterOptions.steps)
    parser.add_argument('--json', metavar='FILE')
    parser.add_argument('--personal', type=float, metavar='MINUTES',
                        help='also adapt the low-rank parts to the beginning of each recording')
    parser.add_argument('--save', metavar='FILE', help='a router trained on all recordings')
    args = parser.parse_args()
    torch.set_num_threads(1)
    spec, options = spec_of(args.model, args.kind), RouterOptions(steps=args.steps)
    study = Study(spec, load_recordings(args.data, args.kind), args.folds)
    result = study.compare(options)
    if args.personal:
        result['personal'] = personal(study, options, args.personal)
    show(result)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + '\n')
    if args.save:
        router = study.train(options, study.tracks, 'training on all recordings')
        router.threshold = study.matching(router, study.tracks, study.default_share(study.tracks))
        save_router(args.save, router, spec.name, {
            'options': dataclasses.asdict(options), 'torch': torch.__version__,
            'subjects': sorted({track.subject for track in study.tracks})})


def spec_of(model: str | None, kind: str) -> ModelSpec:
    """Return the specification of a model, the shipped one's by default; check its ``kind``."""
    if model is None:
        return SPECS[kind]
    spec = load_model(find_model(model)).spec
    if spec.kind != kind:
        raise ValueError(f'--model: {model} is for {spec.kind}, not for {kind}')
    return spec


class Study:
    """Recordings, ready to train on and to judge."""

    def __init__(self, spec: ModelSpec, recordings, folds: int):
        self.spec = spec
        self.features: list[np.ndarray] = []
        self.tracks: list[Track] = []
        self.described: list[Recording] = []
        parts: dict[str, list[dict]] = {}
        for recording in recordings:
            for part in parts_of(spec, recording):
                if part['weight'] == 1.0:  # the lead that is evaluated, too
                    parts.setdefault(part['subject'], []).append(part)
                    self.described.append(dataclasses.replace(recording, values=np.zeros((0, 1))))
        random = np.random.default_rng(0)
        for subject in parts.values():
            random.shuffle(subject)
            self.features.append(joined(spec, subject))
            self.tracks.append(make_track(spec, *subject))
        self.folds = assign_folds(self.described, folds)
        self.routers: list[Router] = []  # of the folds, once trained
        self.rare = [spec.classes.index(name) for name in RARE[spec.kind]]

    def train(self, options: RouterOptions, tracks: list[Track], what: str) -> Router:
        """Return a router trained on ``tracks``."""
        with progress(what, 'steps') as report:
            return train_router(self.spec, tracks, options, lambda step, loss: report(
                step + 1, options.steps, f'loss {loss:.3f}'))

    def compare(self, options: RouterOptions) -> dict:
        """Return the shares of event patches open, by factor, of both routers."""
        thresholds = {factor: [self.flags(factor, i) for i in range(len(self.tracks))]
                      for factor in FACTORS}
        rows: dict[float, tuple[list, list]] = {factor: ([], []) for factor in FACTORS}
        chosen, subjects = [], []
        for number, held_out in enumerate(self.folds, 1):
            inside = [i for i, track in enumerate(self.tracks) if track.subject in held_out]
            others = [track for track in self.tracks if track.subject not in held_out]
            router = self.train(options, others, f'fold {number} of {len(self.folds)}')
            self.routers.append(router)
            scores = self.scores(router, [self.tracks[i] for i in inside])
            subjects += [self.tracks[i].subject for i in inside]
            for factor, (ours, theirs) in rows.items():
                counts = [self.count(thresholds[factor][i], self.tracks[i]) for i in inside]
                theirs += counts
                ours += self._at_share(scores, inside, share(counts))
            level = self.matching(router, others, self.default_share(others))
            chosen += self._counts_at(scores, inside, level)
        return {'kind': self.spec.kind, 'subjects': len(set(subjects)), 'folds': len(self.folds),
                'recordings': len(self.described), 'hours': round(sum(map(len, self.features))
                                                            / self.spec.rate / 3600, 2),
                'rows': [figures(factor, *pair, subjects) for factor, pair in rows.items()],
                'chosen': {'open': share(chosen), 'caught': caught(chosen)},
                'us_per_patch': self._speed(router), 'options': dataclasses.asdict(options)}

    def default_share(self, tracks: list[Track]) -> float:
        """Return the share of patches that the default thresholds open."""
        return share([self.count(track.flags, track) for track in tracks])

    def matching(self, router: Router, tracks: list[Track], wanted: float) -> float:
        """Return the threshold with which ``router`` opens a share ``wanted`` of ``tracks``."""
        return self.level(self.scores(router, tracks), tracks, wanted)

    def flags(self, factor: float, i: int) -> np.ndarray:
        """Return the threshold router's flags of one recording with all thresholds scaled."""
        if factor == 1.0:
            return self.tracks[i].flags
        gate, scaled = Gate(self.spec), self.spec.gate
        gate.thresholds = dataclasses.replace(
            scaled, variance=factor * scaled.variance, curvature=factor * scaled.curvature,
            hf_energy=factor * scaled.hf_energy)
        return gate.push(self.features[i])

    def scores(self, router: Router, tracks: list[Track]) -> list[np.ndarray]:
        """Return how likely the router holds a rare event to be, patch by patch of each track."""
        scores = []
        for track in tracks:
            router.reset()
            scores.append(router.rare_probabilities(track.inputs))
        return scores

    def count(self, flags: np.ndarray, track: Track) -> Counts:
        """Return the counts of one track whose flags these are, before they are dilated."""
        flags, classes = dilate(flags, self.spec.gate.dilation), track.classes
        event, judged = np.isin(classes, self.rare), classes != IGNORE
        return np.array([(flags & judged).sum(), judged.sum(), (flags & event).sum(), event.sum()])

    def level(self, scores: list[np.ndarray], tracks: list[Track], wanted: float) -> float:
        """Return the highest threshold that opens at least a share ``wanted``, by bisection."""
        levels = np.unique(np.concatenate(scores))
        low, high = 0, len(levels) - 1   # low opens enough
        while low < high:
            middle = (low + high + 1) // 2
            counts = [self.count(score >= levels[middle], track)
                      for score, track in zip(scores, tracks)]
            low, high = (middle, high) if share(counts) >= wanted else (low, middle - 1)
        return float(levels[low])

    def _counts_at(self, scores: list[np.ndarray], inside: list[int], level: float) -> list[Counts]:
        return [self.count(score >= level, self.tracks[i]) for score, i in zip(scores, inside)]

    def _at_share(self, scores: list[np.ndarray], inside: list[int], wanted: float) -> list[Counts]:
        level = self.level(scores, [self.tracks[i] for i in inside], wanted)
        return self._counts_at(scores, inside, level)

    def _speed(self, router: Router) -> dict[str, float]:
        """Return µs a patch takes in both gates, patch by patch: medians."""
        longest, found = max(self.features, key=len), {}
        gates = {'thresholds': Gate(self.spec), 'router': RouterGate(self.spec, router)}
        for name, gate in gates.items():
            took = []
            for first in range(0, 2000 * self.spec.patch, self.spec.patch):
                rows = longest[first % (len(longest) // 2):][:self.spec.patch]
                start = time.perf_counter()
                gate.push(rows)
                took.append(1e6 * (time.perf_counter() - start))
            found[name] = round(float(np.median(took)), 1)
        return found


def personal(study: Study, options: RouterOptions, minutes: float) -> dict:
    """Adapt each fold's router to the beginning of each recording it was not trained on.

    Only the low-rank parts learn, from annotations of the first ``minutes``; recordings whose
    beginning holds no rare event keep the router they have. Return the share of event patches
    caught afterwards, by factor, before and after. Raise ValueError for recordings too short.
    """
    spec = study.spec
    cut = round(60 * minutes * spec.rate / spec.patch)
    before: dict[float, list] = {factor: [] for factor in FACTORS}
    after: dict[float, list] = {factor: [] for factor in FACTORS}
    adapted, short = 0, dataclasses.replace(options, steps=PERSONAL_STEPS, learning_rate=GENTLE)
    for held_out, router in zip(study.folds, study.routers):
        for i, track in enumerate(study.tracks):
            if track.subject not in held_out:
                continue
            if len(track.inputs) < 2 * cut or cut <= options.length:
                raise ValueError(f'--personal: {track.subject} lasts {len(track.inputs)} patches, '
                                 f'{minutes:g} minutes are {cut}')
            begin, rest = (Track(track.subject, track.inputs[part], track.classes[part],
                                 track.flags[part]) for part in (slice(cut), slice(cut, None)))
            own = router
            if np.isin(begin.classes, study.rare).any():
                own, adapted = train_router(spec, [begin], short, adapt=router), adapted + 1
            scores = [study.scores(one, [track])[0][cut:] for one in (router, own)]
            for factor in FACTORS:
                wanted = share([study.count(study.flags(factor, i)[cut:], rest)])
                for score, counts in zip(scores, (before, after)):
                    level = study.level([score], [rest], wanted)
                    counts[factor].append(study.count(score >= level, rest))
    return {'minutes': minutes, 'adapted': adapted, 'rows': [
        {'factor': factor, 'open': share(after[factor]), 'before': caught(before[factor]),
         'after': caught(after[factor])} for factor in FACTORS]}


def share(counts: list[Counts]) -> float:
    """Return the share of judged patches that are open."""
    total = np.sum(counts, axis=0)
    return float(total[0] / max(total[1], 1))


def caught(counts: list[Counts]) -> float:
    """Return the share of event patches that are open."""
    total = np.sum(counts, axis=0)
    return float(total[2] / max(total[3], 1))


def figures(factor: float, ours: list[Counts], theirs: list[Counts], subjects: list[str]) -> dict:
    """Return one row; the interval holds 95 % of differences with subjects drawn anew."""
    names = sorted(set(subjects))
    place = np.array([names.index(subject) for subject in subjects])
    sums = np.zeros((2, len(names), 4))
    for side, counts in zip(sums, (ours, theirs)):
        np.add.at(side, place, np.array(counts))
    drawn = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    totals = sums[:, drawn].sum(axis=2)                                # (2, DRAWS, 4)
    rates = totals[..., 2] / np.maximum(totals[..., 3], 1)
    low, high = np.percentile(rates[0] - rates[1], (2.5, 97.5))
    return {'factor': factor, 'open': {'router': share(ours), 'thresholds': share(theirs)},
            'caught': {'router': caught(ours), 'thresholds': caught(theirs)},
            'difference_95': [float(low), float(high)], 'events': int(sums[0, :, 3].sum())}


def show(result: dict) -> None:
    """Print the figures as a table."""
    from rich.console import Console
    from rich.table import Table
    table = Table(title=f'{result["kind"]}: share of event patches open at an equal share of open '
                        f'patches, {result["subjects"]} subjects held out in {result["folds"]} '
                        f'folds, {result["hours"]} h, {result["rows"][0]["events"]} event patches')
    for column in ('thresholds times', 'open', 'thresholds catch', 'router catches',
                   'difference in points (95 %)'):
        table.add_column(column, justify='right')
    for row in result['rows']:
        ours, theirs = row['caught']['router'], row['caught']['thresholds']
        low, high = (100 * value for value in row['difference_95'])
        table.add_row(f'{row["factor"]:g}', f'{row["open"]["thresholds"]:.1%}', f'{theirs:.1%}',
                      f'{ours:.1%}', f'{100 * (ours - theirs):+.1f} ({low:+.1f} to {high:+.1f})')
    Console(width=120).print(table)
    chosen, us = result['chosen'], result['us_per_patch']
    print(f'with the threshold chosen on training recordings: {chosen["open"]:.1%} open, '
          f'{chosen["caught"]:.1%} caught; a patch takes {us["thresholds"]} µs with thresholds, '
          f'{us["router"]} µs with the router')
    if 'personal' in result:
        told = result['personal']
        print(f'after adapting to the first {told["minutes"]:g} minutes of {told["adapted"]} '
              'recordings, on the rest (open: caught before, after): ' + '; '.join(
                  f'{row["open"]:.1%}: {row["before"]:.1%}, {row["after"]:.1%}'
                  for row in told['rows']))


if __name__ == '__main__':
    main()
