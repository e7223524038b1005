"""The command line ``taolora``: one subcommand a function, imported only when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from taolora_ros import __version__, arguments

DAMAGED = 1        # exit code when figures were printed, but some files could not be read
BAD_INPUT = 2      # for what the user can put right
INTERRUPTED = 130  # as shells report SIGINT
PIPE_WIDTH = 160   # characters


def main(argv: list[str] | None = None) -> int:
    """Run ``taolora`` with ``argv``; return the exit code."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError) as error:
        print(f'taolora {args.command}: {error}', file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f'taolora {args.command}: interrupted', file=sys.stderr)
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands; ``args.run`` is the function to call."""
    parser = argparse.ArgumentParser(
        prog='taolora', description='Events and anomalies from IMU and biosignal recordings.')
    parser.add_argument('--version', action='version', version=f'taolora {__version__}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND',
                                     parser_class=_Command)
    for name, text, run in (
            ('demo', 'play recordings through the node over DDS, print the events', _demo),
            ('replay', 'play a bag or a recording, print the events', _replay),
            ('evaluate', 'score a model on annotated recordings', _evaluate),
            ('train', 'train a model and quantize it', _train),
            ('quantize', 'turn a full-precision model into INT4 with gated LoRA', _quantize),
            ('reference', 'keep tokens that adaptation must not change, beside a model',
             _reference),
            ('info', 'show what is in a model file', _info),
            ('bench', 'measure what the node costs on this machine', _bench)):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.',
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        command.tells_format = name in ('evaluate', 'train')
        arguments.ADD[name](command)
        command.set_defaults(run=run)
    return parser


class _Command(argparse.ArgumentParser):
    """A subcommand; where it matters its help ends with the format of recordings."""

    tells_format = False

    def format_help(self) -> str:
        """Return the help text."""
        if self.tells_format:
            from taolora_ros import recordings
            self.epilog = recordings.__doc__
        return super().format_help()


def _demo(args: argparse.Namespace) -> int:
    from taolora_ros.demo import main as demo
    return demo()


def _candidate(args: argparse.Namespace, kind: str):
    """Return the model for ``kind`` with the settings of the command line."""
    from taolora_ros.evaluation.detection import Candidate
    from taolora_ros.shipped import find_model
    from taolora_ros.spec import SPECS
    names = [option[2:].replace('-', '_') for option, *_ in arguments.SETTINGS]
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return Candidate(find_model(args.model or SPECS[kind].name),
                     getattr(args, 'precision', None), args.engine, args.device, settings)


def _evaluate(args: argparse.Namespace) -> int:
    arguments.check_options(args)
    if args.kind == 'comparators':
        return _evaluate_comparators(args)
    if args.kind == 'adaptation':
        return _evaluate_adaptation(args)
    if args.kind in arguments.STUDIES:
        return _evaluate_study(args)
    if args.signal is not None:
        raise ValueError(f'{args.signal}: goes behind comparators or the like, not behind '
                         f'{args.kind}')
    if args.kind == 'anomalies':
        return _evaluate_anomalies(args)
    from taolora_ros.evaluation.evaluate import evaluate
    from taolora_ros.evaluation.panel import find_folds
    from taolora_ros.evaluation.report import notes, tables
    from taolora_ros.progress import progress
    _check_writable(args.json)
    candidate = _candidate(args, args.kind)
    only = frozenset(args.only.split(',')) if args.only else None
    folds = find_folds(args.models, args.kind) if args.models else None
    with progress('evaluating', 'files') as report:
        result = evaluate(args.kind, args.data, candidate, args.processes, only, args.unseen,
                          report, folds)
    console = _console()
    console.print(*tables(result))
    for line in notes(result):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _write_json(args.json, result)
    return DAMAGED if result['skipped_files']['damaged'] else 0


def _evaluate_anomalies(args: argparse.Namespace) -> int:
    from taolora_ros.evaluation.anomalies import evaluate
    from taolora_ros.evaluation.anomaly_report import notes, tables
    from taolora_ros.progress import progress
    from taolora_ros.spec import SPECS
    _check_writable(args.json)
    candidates = {kind: _candidate(args, kind) for kind in SPECS}
    if args.model:
        candidates = {candidates['imu'].describe()['kind']: candidates['imu']}
    only = frozenset(args.only.split(',')) if args.only else None
    with progress('evaluating', 'files') as report:
        result = evaluate(args.data, candidates, args.processes, only, report)
    console = _console()
    console.print(*tables(result))
    for line in notes(result):
        console.print(line, highlight=False, markup=False)
    _write_json(args.json, result)
    return 0


def _evaluate_comparators(args: argparse.Namespace) -> int:
    from taolora_ros.comparators.command import compare
    _check_writable(args.json)
    _write_json(args.json, compare(args, _console()))
    return 0


def _evaluate_study(args: argparse.Namespace) -> int:
    from taolora_ros.evaluation.studies_command import study
    _check_writable(args.json)
    candidate = _candidate(args, args.signal or 'ecg')
    _write_json(args.json, study(args, candidate, _console()))
    return 0


def _evaluate_adaptation(args: argparse.Namespace) -> int:
    from taolora_ros.evaluation.adaptation import evaluate
    from taolora_ros.evaluation.adaptation_report import find_candidates, notes, plain, tables
    from taolora_ros.progress import progress
    _check_writable(args.json)
    if args.signal is None:
        raise ValueError('adaptation: say which, adaptation imu or adaptation ecg')
    candidates = find_candidates(args.models, _candidate(args, args.signal))
    with progress('adapting', 'models') as report:
        result = evaluate(args.signal, args.data, candidates, progress=report,
                          only=frozenset(args.only.split(',')) if args.only else None)
    console = _console()
    console.print(*tables(result))
    for line in notes(result):
        console.print(line, highlight=False, markup=False)
    _write_json(args.json, plain(result))
    return 0


def _replay(args: argparse.Namespace) -> int:
    from taolora_ros.replay import Source, replay
    _check_writable(args.json)
    _check_writable(args.report)
    if args.report:
        from taolora_ros.report import check_plotly, write_report
        check_plotly()
    source = Source(Path(args.source), args.topic, args.field, args.sample_rate, args.unit,
                    args.stamps, args.recording)
    played = replay(source, lambda kind: _candidate(args, kind), _console(), args.label,
                    bool(args.report))
    _write_json(args.json, [one.to_dict() for one in played])
    if args.report:
        size = write_report(args.report, f'{source.path.name} replayed', played)
        print(f'report: {args.report} ({size / 1e6:.1f} MB)')
    return 0


def _train(args: argparse.Namespace) -> int:
    from taolora_ros.training.command import train_command
    _check_writable(args.json)
    return train_command(args)


def _quantize(args: argparse.Namespace) -> int:
    from taolora_ros.training.command import quantize_command
    return quantize_command(args)


def _reference(args: argparse.Namespace) -> int:
    from taolora_ros.training.reference import reference_command
    return reference_command(args)


def _info(args: argparse.Namespace) -> int:
    from taolora_ros.model_file import load_model
    from taolora_ros.model_info import tables
    from taolora_ros.shipped import find_model
    path = find_model(args.model)
    _console().print(*tables(path, load_model(path)))
    return 0


def _bench(args: argparse.Namespace) -> int:
    from taolora_ros.bench.command import STDOUT, run
    _check_writable(args.json)
    result, table = run(args)
    if args.json == STDOUT:
        print(json.dumps(result, indent=2, default=str))
        return 0
    _console().print(table)
    _write_json(args.json, result)
    return 0


def _console():
    """Return where tables go; in a file or a pipe they are as wide as they need to be."""
    from rich.console import Console
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def _check_writable(path: str | None) -> None:
    """Fail before long work, not after it, when its result could not be written."""
    if path is not None and not Path(path).resolve().parent.is_dir():
        raise ValueError(f'{path}: no such folder to write to')


def _write_json(path: str | None, result) -> None:
    if path is not None:
        Path(path).write_text(json.dumps(result, indent=2, default=str) + '\n')


if __name__ == '__main__':
    sys.exit(main())
