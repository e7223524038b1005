"""The command line ``taolora``: one subcommand a function, imported only when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from taolora_ros import __version__

BAD_INPUT = 2      # exit code for what the user can put right
INTERRUPTED = 130  # as shells report SIGINT
PIPE_WIDTH = 160   # characters
STUDIES = ('peers', 'noise', 'signals', 'delay')  # of evaluate: tables of several rows
SETTINGS = (       # detector settings that evaluate and replay can change
    ('--event-threshold', float, 'score from which an event is reported'),
    ('--anomaly-threshold', float, 'score from which a window is anomalous'),
    ('--gate', str, 'auto, open (transient path always on), closed (never), learned (by a router)'),
    ('--hop', float, 'seconds between windows'),
    ('--delay', float, 'seconds the detector looks ahead before it decides'))


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
    for name, text, add, run in (
            ('demo', 'play recordings through the node over DDS, print the events', _add_demo,
             _demo),
            ('replay', 'play a bag or a recording, print the events', _add_replay, _replay),
            ('evaluate', 'score a model on annotated recordings', _add_evaluate, _evaluate),
            ('train', 'train a model and quantize it', _add_train, _train),
            ('quantize', 'turn a full-precision model into INT4 with gated LoRA',
             _add_quantize, _quantize),
            ('reference', 'keep tokens that adaptation must not change, beside a model',
             _add_reference, _reference),
            ('info', 'show what is in a model file', _add_info, _info),
            ('bench', 'measure what the node costs on this machine', _add_bench, _bench)):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.',
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        command.tells_format = name in ('evaluate', 'train')
        add(command)
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


def _add_demo(parser: argparse.ArgumentParser) -> None:
    pass


def _demo(args: argparse.Namespace) -> int:
    from taolora_ros.demo import main as demo
    return demo()


def _add_running(parser: argparse.ArgumentParser) -> None:
    """Add what says how a model runs."""
    parser.add_argument('--model', metavar='FILE',
                        help='model file or name of a shipped one; default: that of the signal')
    parser.add_argument('--engine', default='auto', help='engine to run it with (default auto)')
    parser.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'))
    for option, kind, text in SETTINGS:
        parser.add_argument(option, type=kind, help=f"{text}; default: the model's")


def _candidate(args: argparse.Namespace, kind: str):
    """Return the model for ``kind`` with the settings of the command line."""
    from taolora_ros.evaluation.detection import Candidate
    from taolora_ros.shipped import find_model
    from taolora_ros.spec import SPECS
    names = [option[2:].replace('-', '_') for option, *_ in SETTINGS]
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return Candidate(find_model(args.model or SPECS[kind].name),
                     getattr(args, 'precision', None), args.engine, args.device, settings)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('kind', choices=('imu', 'ecg', 'anomalies', 'comparators', 'adaptation',
                                         *STUDIES),
                        help='events of a model; the anomaly score on healthy recordings and bags '
                             'and with faults in them; or, followed by imu or ecg, other methods '
                             'of quantization beside ours, other detectors of beats, noise that '
                             'was added, signals measured otherwise, what looking ahead is worth, '
                             'what feedback does')
    parser.add_argument('signal', nargs='?', choices=('imu', 'ecg'), help=argparse.SUPPRESS)
    parser.add_argument('--data', required=True, metavar='DIR', help='folder with .npz recordings')
    parser.add_argument('--precision', choices=('int4', 'fp32'),
                        help="INT4 as shipped, or full precision; default: the file's own")
    parser.add_argument('--only', metavar='NAME[,NAME]', help='subjects or records to keep')
    parser.add_argument('--unseen', action='store_true',
                        help='only subjects or records that the model was not trained on')
    parser.add_argument('--models', metavar='DIR',
                        help='judge each subject or record by the model in DIR that left it out: '
                             'what train --folds wrote')
    parser.add_argument('--minutes', type=float, metavar='N',
                        help='peers, signals, delay: so much of each ECG record')
    parser.add_argument('--delays', metavar='S[,S]', help='delay: the seconds to compare')
    parser.add_argument('--processes', type=int, help='processes to spread recordings over')
    parser.add_argument('--json', metavar='FILE', help='write the figures there too')
    _add_comparators(parser)
    _add_running(parser)


def _add_comparators(parser: argparse.ArgumentParser) -> None:
    """Add what only ``evaluate comparators`` reads."""
    group = parser.add_argument_group('comparators', 'other ways to make the same network small, '
                                      'on subjects that none of them was calibrated on')
    group.add_argument('--ablation', action='store_true',
                       help='also our own layer with one thing changed at a time')
    group.add_argument('--methods', metavar='TEXT[,TEXT]',
                       help='only rows whose names contain one of these')
    group.add_argument('--full', action='store_true',
                       help='judge all held-out recordings, not a part of them')
    group.add_argument('--hours', type=float, help='hours of recordings to judge (default 0.4)')
    group.add_argument('--windows', type=int, help='windows to calibrate on (default 128)')
    group.add_argument('--tune', type=int, metavar='STEPS',
                       help='steps of the rows that are tuned (default 150)')


def _evaluate(args: argparse.Namespace) -> int:
    if args.kind == 'comparators':
        return _evaluate_comparators(args)
    if args.kind == 'adaptation':
        return _evaluate_adaptation(args)
    if args.kind in STUDIES:
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
        console.print(line, highlight=False, markup=False)
    _write_json(args.json, result)
    return 0


def _evaluate_anomalies(args: argparse.Namespace) -> int:
    from taolora_ros.evaluation.anomalies import evaluate
    from taolora_ros.evaluation.anomaly_report import notes, tables
    from taolora_ros.progress import progress
    from taolora_ros.spec import SPECS
    _check_writable(args.json)
    if args.unseen:
        raise ValueError('--unseen: not for anomalies; --only chooses recordings')
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


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', metavar='SOURCE', help='rosbag2 folder or file, or .npz file')
    parser.add_argument('--topic', help='topic of the bag; needed when several could be read')
    parser.add_argument('--field', default='', help='path to the values in a message (data[0])')
    parser.add_argument('--sample-rate', type=float, default=0.0, metavar='HZ',
                        help='rate of messages that do not say it')
    parser.add_argument('--unit', default='', help="unit of the values; default: the model's")
    parser.add_argument('--recording', metavar='NAME', help='name or number in an .npz file')
    parser.add_argument('--label', help='show events of this label only')
    parser.add_argument('--json', metavar='FILE', help='write what was read and found there too')
    parser.add_argument('--report', metavar='FILE',
                        help='write a page (HTML) with signals, scores and events to zoom into')
    _add_running(parser)


def _replay(args: argparse.Namespace) -> int:
    from taolora_ros.replay import Source, replay
    _check_writable(args.json)
    _check_writable(args.report)
    if args.report:
        from taolora_ros.report import check_plotly, write_report
        check_plotly()
    source = Source(Path(args.source), args.topic, args.field, args.sample_rate, args.unit,
                    args.recording)
    played = replay(source, lambda kind: _candidate(args, kind), _console(), args.label,
                    bool(args.report))
    _write_json(args.json, [one.to_dict() for one in played])
    if args.report:
        size = write_report(args.report, f'{source.path.name} replayed', played)
        print(f'report: {args.report} ({size / 1e6:.1f} MB)')
    return 0


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('kind', choices=('imu', 'ecg'))
    parser.add_argument('--data', required=True, metavar='DIR', help='folder with .npz recordings')
    parser.add_argument('--out', metavar='FILE',
                        help='the INT4 model NAME.safetensors; full precision goes to '
                             'NAME.fp32.safetensors beside it')
    parser.add_argument('--steps', type=int, help='optimiser steps')
    parser.add_argument('--tune', type=int, metavar='STEPS',
                        help='steps of tuning the INT4 network after the closed-form fit; 0: none '
                             '(default 600, with teachers 900)')
    parser.add_argument('--teachers', type=int, default=0, metavar='N',
                        help='train N more networks, of the seeds that follow, and tune towards '
                             'the mean answer of all; they go to NAME.teacherI.fp32.safetensors')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'))
    parser.add_argument('--leave-out', metavar='NAME[,NAME]',
                        help='subjects, records or sources (folders) not to train on')
    parser.add_argument('--folds', type=int,
                        help='cross-validate: train so many models, judge each on what it left out')
    parser.add_argument('--fold', type=int, help='train this fold only, 0 being the first')
    parser.add_argument('--processes', type=int, help='processes to judge folds with')
    parser.add_argument('--json', metavar='FILE', help='write the figures of the folds there too')
    parser.add_argument('--resume', action='store_true', help='go on from the last checkpoint')


def _train(args: argparse.Namespace) -> int:
    from taolora_ros.training.command import train_command
    _check_writable(args.json)
    return train_command(args)


def _add_quantize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='what train wrote')
    parser.add_argument('--data', required=True, metavar='DIR', help='recordings to calibrate on')
    parser.add_argument('--out', required=True, metavar='FILE', help='the model file to write')
    parser.add_argument('--rank', type=int, help='rank of the LoRA (default 16)')
    parser.add_argument('--buffer', choices=('x', 'residual'),
                        help='what the LoRA reads: X, or [X - Q4(X), X]')
    parser.add_argument('--tune', type=int, metavar='STEPS',
                        help='steps of tuning after the closed-form fit; 0 for none (default '
                             '600, with teachers 900)')
    parser.add_argument('--teachers', nargs='+', metavar='FILE',
                        help='other full-precision files, of other seeds, whose mean answer with '
                             'the checkpoint\'s is what tuning aims at')
    parser.add_argument('--tune-codes', action='store_true',
                        help='let tuning move the four-bit weights too')
    parser.add_argument('--groups', type=int,
                        help='scales for each output along the inputs (default 1)')
    parser.add_argument('--lora-bits', type=int, choices=(16, 8, 4),
                        help='bits of the LoRA in the file (default 4)')
    parser.add_argument('--scale-bits', type=int, choices=(32, 16, 8),
                        help='bits of activation scales; 8: all scales are powers of two '
                             '(default 16; weight scales have 16 at most)')
    parser.add_argument('--leave-out', metavar='NAME[,NAME]',
                        help='subjects, records or sources neither to calibrate nor to tune on')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'))


def _quantize(args: argparse.Namespace) -> int:
    from taolora_ros.training.command import quantize_command
    return quantize_command(args)


def _add_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('models', metavar='MODEL', nargs='+', help='INT4 model file or name of one')
    parser.add_argument('--data', required=True, metavar='DIR',
                        help='recordings that they were trained on')


def _reference(args: argparse.Namespace) -> int:
    from taolora_ros.training.reference import reference_command
    return reference_command(args)


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('model', metavar='MODEL', help='model file or name of a shipped one')


def _info(args: argparse.Namespace) -> int:
    from taolora_ros.model_file import load_model
    from taolora_ros.model_info import tables
    from taolora_ros.shipped import find_model
    path = find_model(args.model)
    _console().print(*tables(path, load_model(path)))
    return 0


def _add_bench(parser: argparse.ArgumentParser) -> None:
    from taolora_ros.bench.command import add_commands
    add_commands(parser)


def _bench(args: argparse.Namespace) -> int:
    from taolora_ros.bench.command import run
    _check_writable(args.json)
    result, table = run(args)
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
