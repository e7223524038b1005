"""Run cases in a process of their own: one that crashes or hangs takes only itself along.

After an illegal access a process cannot use its GPU any more, and a kernel that waits for ever
cannot be ended from within. A case goes to the process as a line of JSON, its rows come back as
such lines, and then one that says it is done.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator

LAST_WORDS = 300  # characters of what a lost process said


class Lost(RuntimeError):
    """The process ended, or was ended since it did not answer in time."""


class Isolated:
    """Python code that calls ``serve``, as a process; use it in ``with``, which ends it."""

    def __init__(self, *command: str):
        """Take what follows ``python``: '-m' and a module, or a file, and its arguments."""
        self._command, self._process = command, None

    def __enter__(self) -> Isolated:
        """Return it; the process starts with the first case."""
        return self

    def __exit__(self, *exception) -> None:
        """End the process."""
        self.end()

    def run(self, case: dict, seconds: float) -> Iterator[dict]:
        """Yield the rows of a case as they come; raise Lost, and the next case starts anew."""
        until = time.monotonic() + seconds
        if self._process is None:
            self._start()
        try:
            self._process.stdin.write(json.dumps(case) + '\n')
            self._process.stdin.flush()
            while 'done' not in (told := self._answer(until)):
                yield told
        except (OSError, queue.Empty) as error:
            why = (f'no answer within {seconds:.0f} s' if isinstance(error, queue.Empty)
                   else 'the process ended')
            raise Lost(f'{why}: {self.end()}'.rstrip(': ')) from None
        if told['done'] == 'broken':
            self.end()

    def end(self) -> str:
        """End the process, if there is one; return the last it said."""
        process, self._process = self._process, None
        if process is None:
            return ''
        process.kill()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # a driver may hold it; others can go on
            pass
        self._said.seek(0)
        return ' '.join(self._said.read().split())[-LAST_WORDS:]

    def _start(self) -> None:
        self._said = tempfile.TemporaryFile('w+', errors='replace')
        self._process = subprocess.Popen([sys.executable, *self._command], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=self._said)
        self._lines: queue.Queue = queue.Queue()
        threading.Thread(target=_pump, args=(self._process.stdout, self._lines),
                         daemon=True).start()

    def _answer(self, until: float) -> dict:
        line = self._lines.get(timeout=max(until - time.monotonic(), 0.001))
        if line is None:
            raise BrokenPipeError
        return json.loads(line)


def _pump(lines: Iterable[str], to: queue.Queue) -> None:
    for line in lines:
        to.put(line)
    to.put(None)


def serve(answer: Callable[[dict], Iterable[dict]], works: Callable[[], bool]) -> None:
    """Answer cases from standard input with rows; what is raised is a row with a note.

    When ``works`` says that nothing can be done in this process any more, it ends.
    """
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what a library prints does not come between rows

    def say(told: dict) -> None:
        out.write(json.dumps(told) + '\n')
        out.flush()

    for line in sys.stdin:
        try:
            for row in answer(json.loads(line)):
                say(row)
        except Exception as error:  # whatever a compiler, a driver or a peer may say
            say({'note': failure(error)})
        usable = works()
        say({'done': 'usable' if usable else 'broken'})
        if not usable:
            return


def failure(error: Exception) -> str:
    """Return in one line why something failed."""
    if isinstance(error, ImportError):
        return f'not installed ({error.name or error})'
    return f'failed: {type(error).__name__}: {" ".join(str(error).split()):.300}'
