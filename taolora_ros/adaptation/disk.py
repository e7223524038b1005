"""Files that are there whole or not at all, whatever happens, and a lock between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOCK, PARTIAL = 'lock', '.partial'
PATIENCE = 0.5  # s to wait for another process that reads or writes


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, on the disk too."""
    if folder.is_dir():
        return
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in new:
        flush_entries(one.parent)


def put_file(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, and its contents on the disk."""
    partial = path.with_name(path.name + PARTIAL)
    with open(partial, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def flush_entries(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path, how: int, instead: Path) -> Iterator[None]:
    """Hold the folder's lock, shared or alone; the system lets go of it when a process dies.

    Where there is none to share, hold that of the file ``instead``. Raise BlockingIOError when
    another process holds it for longer than ``PATIENCE``.
    """
    try:
        file = open(folder / LOCK, 'rb' if how == fcntl.LOCK_SH else 'ab')
    except FileNotFoundError:
        if how != fcntl.LOCK_SH:
            raise
        file = open(instead, 'rb')  # nobody ever wrote here, or not lately
    with file:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise BlockingIOError(f'{folder}: another process has held it for '
                                          f'{PATIENCE:g} s') from error
                time.sleep(0.01)
        yield
