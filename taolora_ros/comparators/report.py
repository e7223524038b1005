"""The comparison as tables for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

HEADINGS = ('bytes', 'error steady', 'transient', 'recall %', 'precision %', 'M multiplies',
            'INT4 %', 'gate', 'open %')


def table(rows: list[dict], title: str) -> Table:
    """Return one table of what ``study.run`` returned."""
    result = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD)
    result.add_column('method')
    for heading in HEADINGS:
        result.add_column(heading, justify='left' if heading == 'gate' else 'right')
    for row in rows:
        result.add_row(row['method'], *cells(row))
    return result


def cells(row: dict) -> list[str]:
    """Return what stands under ``HEADINGS``."""
    share = row['macs_by_kind'].get('int4', 0) / row['macs']
    return [f'{row["bytes"]:,}', f'{row["error_steady"]:.4f}', f'{row["error_transient"]:.4f}',
            _percent(row['recall']), _percent(row['precision']), f'{row["macs"] / 1e6:.1f}',
            f'{100 * share:.0f}', row['gate'],
            '-' if row['open_share'] is None else f'{100 * row["open_share"]:.0f}']


def _percent(share: float | None) -> str:
    return '-' if share is None else f'{100 * share:.2f}'
