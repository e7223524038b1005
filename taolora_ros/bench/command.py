"""The subcommands of ``taolora bench``."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext

STDOUT = '-'  # as a FILE of --json


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add one parser for each measurement; ``args.measure`` is the function to call."""
    benches = parser.add_subparsers(dest='bench', required=True, metavar='BENCH',
                                    parser_class=argparse.ArgumentParser)
    for name, text, add, measure in (
            ('ingest', 'CPU per Imu message, beside a plain rclpy subscriber', _add_ingest,
             _ingest),
            ('node', 'latency, CPU, losses and waiting times of the node under load', _add_node,
             _node),
            ('cpu', 'one window on one core, beside torch and onnxruntime', _add_cpu, _cpu),
            ('adaptation', 'what learning from one feedback costs, and saving what was learnt',
             _add_adaptation, _adaptation),
            ('soak', 'memory, threads, CPU and losses of the node over a long time', _add_soak,
             _soak),
            ('gpu', 'engines and kernels on the GPU of this machine, beside their peers', _add_gpu,
             _gpu),
            ('compile', 'what all kernels take from a GPU that is not here', _add_compile,
             _compile),
            ('orin', 'project the networks on Jetson Orins by counting', _add_orin, _orin)):
        bench = benches.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')
        bench.add_argument('--json', metavar='FILE', nargs='?', const=STDOUT,
                           help='write the figures there too; without FILE print them instead of '
                           'the table')
        bench.set_defaults(measure=measure, unit='runs', needs_ros=True)
        add(bench)


def _add_ingest(bench: argparse.ArgumentParser) -> None:
    _add_seconds(bench, 10.0)
    bench.add_argument('--runs', type=int, default=3, help='measurements of each way')
    bench.add_argument('--rate', type=_positive, default=1000.0, help='messages per second')


def _add_node(bench: argparse.ArgumentParser) -> None:
    _add_seconds(bench, 20.0)
    bench.add_argument('--hop', type=_positive,
                       help="seconds between windows; default: the model's")
    bench.add_argument('--case', metavar='STREAMSxHZ', action='append', type=_case,
                       help='such as 8x1000, may be repeated; default: 1x100, 1x1000 and 8x1000')
    bench.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'),
                       help='where the network runs (default auto)')
    bench.add_argument('--engine', default='auto', help='engine to run it with (default auto)')


def _add_cpu(bench: argparse.ArgumentParser) -> None:
    bench.set_defaults(needs_ros=False)
    bench.add_argument('--model', default='ecg_beats',
                       help='model file or name of a shipped one (default ecg_beats)')
    bench.add_argument('--windows', type=_count, default=200,
                       help='windows of each way in a round (default 200)')
    bench.add_argument('--rounds', type=_count, default=5, help='rounds (default 5)')
    bench.add_argument('--peers', action=argparse.BooleanOptionalAction, default=True,
                       help='measure torch (compiled for minutes) and onnxruntime, too')


def _add_adaptation(bench: argparse.ArgumentParser) -> None:
    bench.set_defaults(needs_ros=False)
    bench.add_argument('--calls', type=_count, default=20000,
                       help='timed calls of each part (default 20000)')
    bench.add_argument('--updates', type=_count, default=100000,
                       help='feedbacks during which memory is watched (default 100000)')
    bench.add_argument('--windows', type=_count, default=1000,
                       help='windows of inference with and without saving (default 1000)')


def _add_soak(bench: argparse.ArgumentParser) -> None:
    bench.set_defaults(unit='minutes')
    bench.add_argument('--minutes', type=_positive, default=30.0,
                       help='how long messages come (default 30)')
    bench.add_argument('--streams', type=_streams, default=4, help='IMUs (default 4)')
    bench.add_argument('--rate', type=_positive, default=500.0,
                       help='messages per second of each (default 500)')


def _add_gpu(bench: argparse.ArgumentParser) -> None:
    bench.set_defaults(unit='cases', needs_ros=False)
    bench.add_argument('--seconds', type=_positive, default=540.0,
                       help='what is not measured by then is told (default 540)')
    bench.add_argument('--part', action='append', choices=('networks', 'layers'),
                       help='may be repeated; default: both')
    bench.add_argument('--way', action='append', help='as tables name it: ours or a peer, of '
                       'layers or networks; may be repeated; default: all')
    for name, text in (('size', 'K = N of a layer'), ('rows', 'M of a layer'),
                       ('rank', 'rank of its LoRA'), ('batch', 'windows of a network')):
        bench.add_argument(f'--{name}', type=_count, action='append',
                           help=f'{text}; may be repeated; default: several')


def _add_compile(bench: argparse.ArgumentParser) -> None:
    from taolora_ros.bench.cross_compile import BATCHES, TARGETS
    bench.set_defaults(unit='kernels', needs_ros=False)
    bench.add_argument('--target', required=True, choices=tuple(TARGETS),
                       help='sm_87: Jetson Orin, sm_90: H100 and H200')
    bench.add_argument('--engine', action='append',
                       help='only kernels of this one; may be repeated; alone: those of none; '
                       'layers: those of the layers of bench gpu')
    bench.add_argument('--model', action='append', help='only for this one; may be repeated')
    bench.add_argument('--batch', action='append', type=_streams,
                       help='windows at once; may be repeated; default: '
                            + ', '.join(map(str, BATCHES)))


def _add_orin(bench: argparse.ArgumentParser) -> None:
    from dataclasses import fields

    from taolora_ros.bench.boards import Assumptions
    bench.set_defaults(needs_ros=False)
    for field in fields(Assumptions):
        bench.add_argument(f'--{field.name.replace("_", "-")}', default=field.default,
                           type=_yes if isinstance(field.default, bool) else _positive,
                           help=f'default {field.default}')
    bench.add_argument('--board', action='append', type=_board, metavar='NAME,SMS,GB/S,TOPS',
                       help='another board, such as Nano,8,68,20; may be repeated')


def _add_seconds(bench: argparse.ArgumentParser, seconds: float) -> None:
    bench.add_argument('--seconds', type=_positive, default=seconds,
                       help=f'length of one measurement (default {seconds:g})')


def _ingest(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import ingest
    result = ingest.measure(args.rate, args.seconds, max(args.runs, 1), report)
    return result, ingest.table(result)


def _node(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import node
    result = node.measure(args.seconds, args.hop, args.case or node.CASES, report,
                          {'device': args.device, 'engine': args.engine})
    return result, node.table(result)


def _cpu(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import cpu
    result = cpu.measure(args.model, args.windows, args.rounds, args.peers, report)
    return result, cpu.table(result)


def _adaptation(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import adaptation
    result = adaptation.measure(args.calls, args.updates, args.windows)
    return result, adaptation.table(result)


def _soak(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import soak
    result = soak.measure(args.minutes, args.streams, args.rate, report)
    return result, soak.table(result)


def _gpu(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import gpu, gpu_layers, gpu_networks

    def tell(done: int, total: int, what: str) -> None:
        report(done, total, what)
        if what:
            print(what, file=sys.stderr, flush=True)

    result = gpu.measure(args.seconds, tuple(args.part or gpu.PARTS),
                         tuple(args.size or gpu_layers.SIZES), tuple(args.rows or gpu_layers.ROWS),
                         tuple(args.rank or gpu_layers.RANKS),
                         tuple(args.batch or gpu_networks.BATCHES), tuple(args.way or ()), tell,
                         lambda known: gpu.write(None if args.json == STDOUT else args.json, known))
    return result, gpu.table(result)


def _compile(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import compile as compiling
    from taolora_ros.shipped import MODELS
    result = compiling.measure(args.target, tuple(args.engine or compiling.ALL),
                               tuple(args.model or MODELS),
                               tuple(args.batch or compiling.BATCHES), report)
    return result, compiling.table(result)


def _orin(args: argparse.Namespace, report) -> tuple[dict, object]:
    from dataclasses import fields

    from taolora_ros.bench import orin
    from taolora_ros.bench.boards import BOARDS, Assumptions
    given = Assumptions(**{f.name: getattr(args, f.name) for f in fields(Assumptions)})
    result = orin.measure(tuple(args.board or BOARDS), given)
    return result, orin.table(result)


def run(args: argparse.Namespace) -> tuple[dict, object]:
    """Return the figures and a table of them; raise ValueError when they cannot be measured."""
    from taolora_ros.own_domain import own_domain
    from taolora_ros.progress import progress
    if args.needs_ros:
        _check_ros()
    try:
        with own_domain() if args.needs_ros else nullcontext(), \
                progress('measuring', args.unit) as report:
            return args.measure(args, report)
    except RuntimeError as error:  # a process that ended, or said nothing
        raise ValueError(str(error)) from error


def _check_ros() -> None:
    """Raise ValueError where there is no ROS to measure with."""
    try:
        import rclpy  # noqa: F401
        import taolora_msgs.msg  # noqa: F401
    except ImportError as error:
        raise ValueError(f'{error}: run `make setup`, or source ROS 2 and a workspace with '
                         'taolora_msgs') from error


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float('inf'):
        raise argparse.ArgumentTypeError(f'{text}: a number over 0 is needed')
    return number


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text}: a whole number over 0 is needed')
    return int(text)


def _yes(text: str) -> bool:
    if text not in ('yes', 'no'):
        raise argparse.ArgumentTypeError(f'{text}: yes or no is needed')
    return text == 'yes'


def _board(text: str):
    from taolora_ros.bench.boards import Board
    name, *numbers = text.split(',')
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError(f'{text}: write NAME,SMS,GB/S,TOPS, such as Nano,8,68,20')
    return Board(name, _count(numbers[0]), _positive(numbers[1]), _positive(numbers[2]))


def _case(text: str) -> tuple[int, float]:
    streams, _, rate = text.partition('x')
    if not rate:
        raise argparse.ArgumentTypeError(f'{text}: write streams x Hz, such as 8x1000')
    return _streams(streams), _positive(rate)


def _streams(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f'{text!r}: 1 to 64 are possible')
    return int(text)
