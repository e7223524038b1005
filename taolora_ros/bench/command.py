"""The subcommands of ``taolora bench``."""

from __future__ import annotations

import argparse


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add one parser for each measurement; ``args.measure`` is the function to call."""
    benches = parser.add_subparsers(dest='bench', required=True, metavar='BENCH',
                                    parser_class=argparse.ArgumentParser)
    for name, text, run, seconds in (
            ('ingest', 'CPU per Imu message, beside a plain rclpy subscriber', _ingest, 10.0),
            ('node', 'latency, CPU and losses of the node under load', _node, 20.0)):
        bench = benches.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')
        bench.add_argument('--seconds', type=_positive, default=seconds,
                           help=f'length of one measurement (default {seconds:g})')
        bench.add_argument('--json', metavar='FILE', help='write the figures there too')
        bench.set_defaults(measure=run)
        if name == 'ingest':
            bench.add_argument('--runs', type=int, default=3, help='measurements of each way')
            bench.add_argument('--rate', type=_positive, default=1000.0, help='messages per second')
        else:
            bench.add_argument('--hop', type=_positive,
                               help="seconds between windows; default: the model's")
            bench.add_argument('--case', metavar='STREAMSxHZ', action='append', type=_case,
                               help='such as 8x1000, may be repeated; default: 1x100, 1x1000 and '
                                    '8x1000')


def _ingest(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import ingest
    result = ingest.measure(args.rate, args.seconds, max(args.runs, 1), report)
    return result, ingest.table(result)


def _node(args: argparse.Namespace, report) -> tuple[dict, object]:
    from taolora_ros.bench import node
    result = node.measure(args.seconds, args.hop, args.case or node.CASES, report)
    return result, node.table(result)


def run(args: argparse.Namespace) -> tuple[dict, object]:
    """Return the figures and a table of them; raise ValueError when they cannot be measured."""
    from taolora_ros.bench.processes import own_domain
    from taolora_ros.progress import progress
    try:
        import rclpy  # noqa: F401
        import taolora_msgs.msg  # noqa: F401
    except ImportError as error:
        raise ValueError(f'{error}: run `make setup`, or source ROS 2 and a workspace with '
                         'taolora_msgs') from error
    try:
        with own_domain(), progress('measuring', 'runs') as report:
            return args.measure(args, report)
    except RuntimeError as error:  # a process that ended, or said nothing
        raise ValueError(str(error)) from error


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float('inf'):
        raise argparse.ArgumentTypeError(f'{text}: a number over 0 is needed')
    return number


def _case(text: str) -> tuple[int, float]:
    streams, _, rate = text.partition('x')
    if not streams.isdigit() or not 1 <= int(streams) <= 64 or not rate:
        raise argparse.ArgumentTypeError(f'{text}: write streams x Hz, such as 8x1000')
    return int(streams), _positive(rate)
