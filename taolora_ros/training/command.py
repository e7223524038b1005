"""What ``taolora train`` and ``taolora quantize`` do with their arguments."""

from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from taolora_ros.evaluation.report import notes, tables
from taolora_ros.model_file import annotate_model, load_model
from taolora_ros.spec import SPECS
from taolora_ros.training.calibration import QuantizeOptions
from taolora_ros.training.folds import folds_origin, judge_folds, train_folds
from taolora_ros.training.ranks import joined
from taolora_ros.training.recipe import HARD_NEGATIVES, Job, make_model, quantize_model
from taolora_ros.training.train import TrainOptions
from taolora_ros.training.tuning import TAUGHT_STEPS, TuneOptions


def train_command(args: argparse.Namespace) -> int:
    """Make one model, or cross-validate; return the exit code."""
    hard = HARD_NEGATIVES[args.kind] if args.hard_negatives is None else args.hard_negatives
    if not 0 <= hard <= 1:
        raise ValueError(f'--hard-negatives: {hard}, must be 0 to 1')
    training = TrainOptions(seed=args.seed, hard_negatives=hard)
    if args.steps is not None:
        if args.steps < 1:
            raise ValueError(f'--steps: {args.steps}, at least 1 is needed')
        training = replace(training, steps=args.steps)
    if args.folds is None and (args.fold is not None or args.json):
        raise ValueError('--fold and --json: only with --folds, which says how many there are')
    if args.teachers < 0:
        raise ValueError(f'--teachers: {args.teachers}, must be 0 or more')
    out = Path(args.out or f'{SPECS[args.kind].name}.safetensors')
    if not out.name.endswith('.safetensors'):
        raise ValueError(f'--out: {out} must end in .safetensors')
    with joined(args.device) as ranks:
        job = Job(args.kind, Path(args.data), out, args.device, args.resume,
                  names(args.leave_out), training, ranks=ranks, train_teachers=args.teachers,
                  tuning=tune_options(args.tune, args.teachers > 0))
        with progress(quiet=not ranks.first) as report:
            if args.folds is None:
                make_model(job, report)
            else:
                train_folds(job, args.folds, args.fold, report)
        if not ranks.first:
            return 0
    if args.folds is None:
        written = [job.full_precision, *(one.full_precision for one in job.teacher_jobs)]
        print(f'wrote {job.out} and {", ".join(map(str, written))}')
    elif args.fold is None:
        judge_and_tell(job, args)
    return 0


def judge_and_tell(job: Job, args: argparse.Namespace) -> None:
    """Judge every subject by the fold that left it out, print the figures and keep them."""
    with progress() as report:
        results = {precision: judge_folds(job, args.folds, precision, args.processes,
                                          report=report) for precision in ('fp32', 'int4')}
    show(results, args.folds)
    if job.out.exists():  # made on all subjects, by the same recipe
        annotate_model(job.out, {'cross_validation': headline(results, args.folds)})
        print(f'wrote these figures into {job.out}')
    if args.json:
        origin = {'what': f'every subject or record judged by the one of {args.folds} models that '
                          'was trained without it', 'provenance': folds_origin(job, args.folds)}
        Path(args.json).write_text(json.dumps({**origin, **results}, indent=2, default=str) + '\n')


def quantize_command(args: argparse.Namespace) -> int:
    """Quantize one full-precision model; return the exit code."""
    source, out = Path(args.checkpoint), Path(args.out)
    model = load_model(source)
    if model.precision != 'fp32':
        raise ValueError(f'{source}: already INT4; give the full-precision file that train wrote')
    options = QuantizeOptions(seed=args.seed + 1)
    chosen = ('rank', 'buffer', 'groups', 'lora_bits', 'scale_bits')
    options = replace(options, **{name: getattr(args, name) for name in chosen
                                  if getattr(args, name) is not None})
    if not 1 <= options.rank <= 32:
        raise ValueError(f'--rank: {options.rank}, must be 1..32')
    if any(options.groups < 1 or layer.in_features % options.groups
           for layer in model.network.linears().values()):
        raise ValueError(f'--groups: {options.groups} does not divide the inputs of every layer')
    left_out = frozenset(model.metadata['provenance'].get('left_out', [])) | names(args.leave_out)
    job = Job(model.spec.kind, Path(args.data), out, args.device, left_out=left_out,
              quantization=options,
              tuning=replace(tune_options(args.tune, bool(args.teachers)),
                             codes=args.tune_codes),
              teachers=tuple(Path(path) for path in args.teachers or ()))
    with progress() as report:
        quantize_model(job, source=source, report=report)
    print(f'wrote {out}')
    return 0


def names(listed: str | None) -> frozenset[str]:
    """Return the names in a comma-separated list, none for None."""
    return frozenset(listed.split(',')) if listed else frozenset()


def tune_options(steps: int | None, taught: bool = False) -> TuneOptions:
    """Return the options of tuning with so many steps, None meaning as usual."""
    if steps is None:
        return TuneOptions(steps=TAUGHT_STEPS) if taught else TuneOptions()
    if steps < 0:
        raise ValueError(f'--tune: {steps}, must be 0 or more')
    if taught and not steps:
        raise ValueError('--tune: 0 with --teachers, whose answers count in tuning alone')
    return TuneOptions(steps=steps)


def headline(results: dict[str, dict], folds: int) -> dict:
    """Return the totals of ``results`` by precision, without the recordings behind them."""
    return {'folds': folds, **{precision: {key: result[key] for key in (
        'fall', 'beat', 'beat_50ms', 'veb', 'hours', 'transient_fraction') if key in result}
        for precision, result in results.items()}}


def show(results: dict[str, dict], folds: int) -> None:
    """Print the tables of both precisions."""
    console = Console()
    for precision, result in results.items():
        console.rule(f'{precision}, every subject judged by the one of {folds} models that never '
                     'saw it')
        console.print(*tables(result))
        for line in notes(result):
            console.print(line, highlight=False, markup=False)


@contextmanager
def progress(quiet: bool = False):
    """Give a function to report progress with: a bar on a terminal, lines elsewhere."""
    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:
        last = [None]

        def line(stage: str, share: float, text: str) -> None:
            mark = (stage, int(share * 10))
            if mark != last[0]:
                last[0] = mark
                console.print(f'{stage} {share:.0%} {text}', highlight=False)
        yield line
        return
    with Progress(TextColumn('{task.description}'), BarColumn(), TaskProgressColumn(),
                  TimeElapsedColumn(), TextColumn('{task.fields[text]}'), console=console) as bar:
        tasks = {}

        def move(stage: str, share: float, text: str) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0, text='')
            bar.update(tasks[stage], completed=share, text=text)
        yield move
