"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY = 10.0  # s between lines where there is no terminal


@contextmanager
def progress(title: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """Give a function to call with (done, total, what was just done); writes to stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(title, unit)
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
               TimeElapsedColumn(), TextColumn('{task.description}', markup=False))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task('', total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total,
                                                   description=what)


class _Lines:
    """Says where it is at most every ``LINE_EVERY`` seconds, and when all is done."""

    def __init__(self, title: str, unit: str):
        self.title, self.unit = title, unit
        self.started = self.said = time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if now - self.said >= LINE_EVERY or (done == total and self.said > self.started):
            print(f'{self.title}: {done} of {total} {self.unit} in {now - self.started:.0f} s',
                  file=sys.stderr, flush=True)
            self.said = now
