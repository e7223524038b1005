"""Spread files over processes: one task for all of them, one result for each file."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

PROCESSES = 2  # beyond that the machine's other work suffers and little is gained
Progress = Callable[[int, int, str], None]  # files done, files, the file just done
Task = Callable[[Path], Any]


def spread(files: list[Path], task: Task, processes: int | None = None
           ) -> Iterator[tuple[Path, Any]]:
    """Yield (file, what ``task`` returned for it) as they become ready.

    ``processes`` is chosen by the number of files and CPUs when it is None. Several get a copy
    of ``task`` each, that may keep what it loads; its errors come through as they are. Raise
    OSError when a process dies.
    """
    if processes is None:
        processes = min(PROCESSES, os.cpu_count() or 1, len(files))
    if processes <= 1:
        for path in files:
            yield path, task(path)
        return
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(processes, multiprocessing.get_context('spawn'),
                             _start_worker, (task,)) as pool:
        waiting = {pool.submit(_work, path): path for path in files}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise OSError('a process of the evaluation ended without a result (out of memory?); '
                          'try --processes 1') from error
        except BaseException:  # nobody wants the rest: do not wait for it
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


_task: Task | None = None  # of this worker process


def _start_worker(task: Task) -> None:
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller is interrupted and ends this one
    try:
        import torch
        torch.set_num_threads(1)  # one core each: processes share the machine evenly
    except ImportError:
        pass


def _work(path: Path) -> Any:
    return _task(path)
