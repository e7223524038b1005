"""The subcommands of ``taolora bench``."""

from __future__ import annotations

import argparse
from contextlib import nullcontext


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add one parser for each measurement; ``args.measure`` is the function to call."""
    benches = parser.add_subparsers(dest='bench', required=True, metavar='BENCH',
                                    parser_class=argparse.ArgumentParser)
    for name, text, add, measure in (
            ('ingest', 'CPU per Imu message, beside a plain rclpy subscriber', _add_ingest,
             _ingest),
            ('node', 'latency, CPU, losses and waiting times of the node under load', _add_node,
             _node),
            ('adaptation', 'what learning from one feedback costs, and saving what was learnt',
             _add_adaptation, _adaptation),
            ('soak', 'memory, threads, CPU and losses of the node over a long time', _add_soak,
             _soak)):
        bench = benches.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')
        bench.add_argument('--json', metavar='FILE', help='write the figures there too')
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


def _add_seconds(bench: argparse.ArgumentParser, seconds: float) -> None:
    bench.add_argument('--seconds', type=_positive, default=seconds,
                       help=f'length of one measurement (default {seconds:g})')


def _ingest(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import ingest
    result = ingest.measure(args.rate, args.seconds, max(args.runs, 1), report)
    return result, ingest.table(result)


def _node(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import node
    result = node.measure(args.seconds, args.hop, args.case or node.CASES, report)
    return result, node.table(result)


def _adaptation(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import adaptation
    result = adaptation.measure(args.calls, args.updates, args.windows)
    return result, adaptation.table(result)


def _soak(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import soak
    result = soak.measure(args.minutes, args.streams, args.rate, report)
    return result, soak.table(result)


def run(args: argparse.Namespace) -> tuple[dict, object]:
    """Return the figures and a table of them; raise ValueError when they cannot be measured."""
    from taolora_ros.bench.processes import own_domain
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


def _case(text: str) -> tuple[int, float]:
    streams, _, rate = text.partition('x')
    if not rate:
        raise argparse.ArgumentTypeError(f'{text}: write streams x Hz, such as 8x1000')
    return _streams(streams), _positive(rate)


def _streams(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f'{text}: 1 to 64 streams are needed')
    return int(text)
