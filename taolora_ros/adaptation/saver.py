"""Saving while the network runs: a thread writes what it is given, nobody waits for the disk."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from taolora_ros.adaptation.blocks import State
from taolora_ros.adaptation.checkpoint import Saved, remove_checkpoint, save_checkpoint

PAUSE = 1.0  # s


class Saver:
    """Write states to one folder, one after the other, in a thread of its own.

    ``save`` returns at once. While one state is being written, and for ``pause`` seconds from when
    that began, the next waits; a newer one takes its place, so that nothing piles up. ``last`` is
    the last save that is on the disk, ``error`` why the last attempt failed, None when it did
    not. A checkpoint that is neither its own nor the one with the identity ``after`` ('' for none,
    None for any) is not overwritten. To be closed in the end.

    The pause is for inference: a thread that has Python's lock when the system takes its core
    away holds up all others, on a busy machine for milliseconds.
    """

    def __init__(self, folder: str | Path, model: str, pause: float = PAUSE,
                 after: str | None = None):
        self.folder, self.model, self.pause = Path(folder), model, pause
        self._writer, self._after = uuid.uuid4().hex, after
        self.last: Saved | None = None
        self.error: str | None = None
        self._changed = threading.Condition()
        self._waiting: tuple[Mapping[str, State], Mapping] | None = None
        self._busy = self._closed = self._over = False
        self._hurry = 0  # how many wait for all to be written
        self._thread = threading.Thread(target=self._write, name='save_adaptation', daemon=True)
        self._thread.start()

    def save(self, layers: Mapping[str, State], statistics: Mapping | None = None,
             over: bool = False) -> None:
        """Have ``layers`` (states, which are not changed any more) written soon.

        With ``over`` in place of whatever there is, now or with the first save that succeeds. Raise
        ValueError after ``close``.
        """
        with self._changed:
            if self._closed:
                raise ValueError(f'{self.folder}: already closed, nothing more can be saved')
            self._waiting = (layers, statistics or {})
            self._over |= over
            self._changed.notify_all()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait, without a pause, until all is written or ``timeout`` s have passed; tell which.

        True also when writing failed, see ``error``.
        """
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(
                    lambda: self._waiting is None and not self._busy, timeout)
            finally:
                self._hurry -= 1

    def close(self, timeout: float | None = None) -> bool:
        """Write what waits, then end the thread; tell whether it did so within ``timeout``."""
        done = self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return done

    def _write(self) -> None:
        """Write what comes until closed; the thread's function."""
        rested = 0.0
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._hurry or self._closed,
                                       max(rested - time.monotonic(), 0.0))
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._waiting is None:
                    return
                rested = time.monotonic() + self.pause
                (layers, statistics), self._waiting, self._busy = self._waiting, None, True
                over = self._over
            try:
                if over:
                    remove_checkpoint(self.folder)
                    self._over = False
                self.last = save_checkpoint(self.folder, self.model, layers, statistics,
                                            self._writer, self._after)
                if self._after is not None:
                    self._after = self.last.identity
                self.error = None
            except Exception as error:  # whatever it is, it is told, and the next may succeed
                self.error = f'{self.folder}: not saved: {error}'
