"""What a window would take on a Jetson Orin, by counting: a projection, nothing is measured."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from taolora_ros.bench.boards import Assumptions, Board
from taolora_ros.bench.counts import Counts, count_window
from taolora_ros.model_file import load_model
from taolora_ros.shipped import MODELS, find_model

ENGINES = ('mega', 'stages', 'fused', 'streams', 'fp16')


def project(counts: Counts, board: Board, given: Assumptions) -> dict[str, float]:
    """Return the microseconds: floor (peaks, no launches), memory, arithmetic, launches, total."""
    moved = counts.end_bytes + (0 if given.resident else counts.weight_bytes)
    moved += 0 if given.cached else counts.between_bytes
    peak = board.int8_tops * 1e6                                      # operations a microsecond
    ops = counts.int8_ops + counts.half_ops / given.half_rate
    floor = max(moved / (board.gigabytes * 1e3), ops / peak)
    memory = moved / (board.gigabytes * 1e3 * given.bandwidth_share)
    used = min(counts.programs, board.multiprocessors) / board.multiprocessors
    arithmetic = ops / (peak * given.rate_share * used)
    launches = counts.launches * given.launch_us + given.host_us
    return {'floor_us': floor, 'memory_us': memory, 'arithmetic_us': arithmetic,
            'launches_us': launches, 'total_us': max(memory, arithmetic) + launches}


def measure(boards: tuple[Board, ...], given: Assumptions) -> dict:
    """Project each shipped model on each board through each engine."""
    rows = []
    for name in MODELS:
        model = load_model(find_model(name))
        for engine in ENGINES:
            counts = count_window(model, engine)
            rows += [{'model': name, 'engine': engine, 'board': board.name, **counts.to_dict(),
                      **project(counts, board, given)} for board in boards]
    return {'what': 'projection from counts, nothing was measured',
            'assumptions': asdict(given), 'boards': [asdict(board) for board in boards],
            'rows': rows}


def table(result: dict) -> Table:
    """Return the projection of batch 1."""
    given = ', '.join(f'{name} {value:g}' for name, value in result['assumptions'].items())
    shown = Table(title=f'Projected, not measured: one window, µs ({given})')
    for name in ('board', 'model', 'engine'):
        shown.add_column(name)
    columns = ('launches', 'programs', 'weight_bytes', 'floor_us', 'memory_us', 'arithmetic_us',
               'launches_us', 'total_us')
    for name in columns:
        shown.add_column(name.replace('_', ' '), justify='right')
    for row in sorted(result['rows'], key=lambda row: (
            [b['name'] for b in result['boards']].index(row['board']), row['model'])):
        shown.add_row(row['board'], row['model'], row['engine'], *(
            f'{row[name]:,.1f}' if name.endswith('us') else f'{row[name]:,}' for name in columns))
    return shown
