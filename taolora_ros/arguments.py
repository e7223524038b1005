"""What each subcommand of ``taolora`` takes."""

from __future__ import annotations

import argparse

STUDIES = ('peers', 'noise', 'signals', 'delay')  # of evaluate: tables of several rows
ADAPTATION = (
    'evaluate adaptation imu|ecg --data DIR [--models FOLDS] [--json FILE]: simulated operators give '
    '20 feedbacks on one part of each record or wearer; the rest, and all others, are judged before '
    'and after, and after hostile feedback. Only who the model was not trained on counts; each model '
    'needs its NAME.reference.safetensors beside it (taolora reference). The JSON holds '
    'false_alarms_before, false_alarms_after, recall_before and recall_after (shares), and '
    'others_worst_change and hostile_worst_change (points of per cent, 0 when nothing was lost), '
    'each of subjects that no constant was chosen on; chosen_on and all: the same of others; sites: '
    'counts of each.')
SETTINGS = (       # detector settings that evaluate and replay can change
    ('--event-threshold', float, 'score from which an event is reported'),
    ('--anomaly-threshold', float, 'score from which a window is anomalous'),
    ('--gate', str, 'auto, open (transient path always on), closed (never), learned (by a router)'),
    ('--hop', float, 'seconds between windows'),
    ('--delay', float, 'seconds the detector looks ahead before it decides'))


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add what says how a model runs."""
    parser.add_argument('--model', metavar='FILE',
                        help='model file or name of a shipped one; default: that of the signal')
    parser.add_argument('--engine', default='auto', help='engine to run it with (default auto)')
    parser.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'))
    for option, kind, text in SETTINGS:
        parser.add_argument(option, type=kind, help=f"{text}; default: the model's")


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add what ``evaluate`` takes."""
    parser.add_argument('kind', choices=('imu', 'ecg', 'anomalies', 'comparators', 'adaptation',
                                         *STUDIES),
                        help='events of a model; the anomaly score on healthy recordings and bags '
                             'and with faults in them; or, followed by imu or ecg, other methods '
                             'of quantization beside ours, other detectors of beats, noise that '
                             'was added, signals measured otherwise, what looking ahead is worth, '
                             'what feedback does')
    parser.add_argument('signal', nargs='?', choices=('imu', 'ecg'), help=argparse.SUPPRESS)
    parser.add_argument('--data', required=True, metavar='DIR',
                        help='folder with .npz recordings; imu and ecg leave damaged files out, '
                             'name them and exit with 1, all else ends at one (exit code 2)')
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
    add_comparators(parser)
    parser.add_argument_group('adaptation', ADAPTATION)
    add_running(parser)


ONLY_FOR = {  # options of ``evaluate`` that not all of its kinds read
    'minutes': ('peers', 'signals', 'delay'), 'delays': ('delay',),
    'unseen': ('imu', 'ecg', *STUDIES),
    'precision': ('imu', 'ecg', 'anomalies', *STUDIES),
    **dict.fromkeys(('ablation', 'methods', 'full', 'hours', 'windows', 'tune'),
                    ('comparators',))}


def check_options(args: argparse.Namespace) -> None:
    """Raise ValueError for an option of ``evaluate`` that would be ignored."""
    for name, kinds in ONLY_FOR.items():
        value = getattr(args, name)
        if value is not None and value is not False and args.kind not in kinds:
            raise ValueError(f'--{name}: not for evaluate {args.kind}, only for '
                             f'{", ".join(kinds)}')


def add_comparators(parser: argparse.ArgumentParser) -> None:
    """Add what only ``evaluate comparators`` reads."""
    group = parser.add_argument_group('comparators', 'other ways to make the same network small, '
                                      'on subjects that none of them was calibrated on')
    group.add_argument('--ablation', action='store_true',
                       help='also our own layer with one thing changed at a time')
    group.add_argument('--methods', metavar='TEXT', action='append',
                       help='only rows whose names contain TEXT, or several by commas where no '
                            'name contains the whole; may be given more than once')
    group.add_argument('--full', action='store_true',
                       help='judge all held-out recordings, not a part of them')
    group.add_argument('--hours', type=float, help='hours of recordings to judge (default 0.4)')
    group.add_argument('--windows', type=int, help='windows to calibrate on (default 128)')
    group.add_argument('--tune', type=int, metavar='STEPS',
                       help='steps of the rows that are tuned (default 150)')


def add_replay(parser: argparse.ArgumentParser) -> None:
    """Add what ``replay`` takes."""
    parser.add_argument('source', metavar='SOURCE', help='rosbag2 folder or file, or .npz file')
    parser.add_argument('--topic', help='topic of the bag; needed when several could be read')
    parser.add_argument('--field', default='', help='path to the values in a message (data[0])')
    parser.add_argument('--sample-rate', type=float, default=0.0, metavar='HZ',
                        help='rate of messages that do not say it')
    parser.add_argument('--unit', default='', help="unit of the values; default: the model's")
    # as converter.STAMPS, which would bring NumPy along
    parser.add_argument('--stamps', choices=('sampling', 'arrival'), default='sampling',
                        help='what stamps in headers of a bag tell: when samples were taken '
                             '(default), or when they arrived, to be evened out')
    parser.add_argument('--recording', metavar='NAME', help='name or number in an .npz file')
    parser.add_argument('--label', help='show events of this label only')
    parser.add_argument('--json', metavar='FILE', help='write what was read and found there too')
    parser.add_argument('--report', metavar='FILE',
                        help='write a page (HTML) with signals, scores and events to zoom into')
    add_running(parser)


def add_train(parser: argparse.ArgumentParser) -> None:
    """Add what ``train`` takes."""
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
    parser.add_argument('--hard-negatives', type=float, metavar='SHARE',
                        help='draw this share of the windows around no event from those that the '
                             'network gets most wrong, looked up twice (default 0)')
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


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Add what ``quantize`` takes."""
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


def add_reference(parser: argparse.ArgumentParser) -> None:
    """Add what ``reference`` takes."""
    parser.add_argument('models', metavar='MODEL', nargs='+', help='INT4 model file or name of one')
    parser.add_argument('--data', required=True, metavar='DIR',
                        help='recordings that they were trained on')


def add_info(parser: argparse.ArgumentParser) -> None:
    """Add what ``info`` takes."""
    parser.add_argument('model', metavar='MODEL', help='model file or name of a shipped one')


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Add the benchmarks and what each takes."""
    from taolora_ros.bench.command import add_commands
    add_commands(parser)


ADD = {'demo': lambda parser: None, 'replay': add_replay, 'evaluate': add_evaluate,
       'train': add_train, 'quantize': add_quantize, 'reference': add_reference, 'info': add_info,
       'bench': add_bench}
