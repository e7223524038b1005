"""Processes to measure: started, watched from outside, ended; and the machine they run on."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE = 90.0  # s a process may take to start on a machine that is busy


def machine() -> str:
    """Return processor, cores that can be used and Python in one line."""
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        names = [line.split(':', 1)[1].strip() for line in info.read_text().splitlines()
                 if line.startswith('model name')]
        cpu = names[0] if names else cpu
    return f'{cpu}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}'


def load() -> float:
    """Return how many processes wanted to run during the last minute, on average."""
    return round(os.getloadavg()[0], 2)


class Process:
    """A Python module as a process; use it in ``with``, which ends it.

    ``environment`` is added to that of this process.
    Raise RuntimeError with what the process said when it ends before it should.
    """

    def __init__(self, module: str, *arguments: str, **environment: str):
        self.module = module
        self._said = tempfile.TemporaryFile('w+')
        self._process = subprocess.Popen([sys.executable, '-m', module, *arguments],
                                         stdout=self._said, stderr=subprocess.STDOUT,
                                         env={**os.environ, **environment})

    def __enter__(self) -> Process:
        """Return the process."""
        return self

    def __exit__(self, *exception) -> None:
        """End it as Ctrl-C does."""
        if self.runs():
            self.interrupt()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def runs(self) -> bool:
        """Return whether it has not ended."""
        return self._process.poll() is None

    def output(self) -> str:
        """Return what it has printed so far."""
        self._said.seek(0)
        return self._said.read()

    def cpu(self) -> float:
        """Return the seconds that all its threads have run; 0 when it has ended."""
        try:  # the clock that clock_getcpuclockid(3) names for a process, in nanoseconds
            return time.clock_gettime((~self._process.pid << 3) | 2)
        except OSError:
            return 0.0

    def memory(self) -> tuple[float, int]:
        """Return the resident memory in MB and the number of threads; 0, 0 when it has ended."""
        try:
            lines = Path(f'/proc/{self._process.pid}/status').read_text().splitlines()
        except OSError:
            return 0.0, 0
        told = dict(line.split(':', 1) for line in lines)
        return (int(told.get('VmRSS', '0 kB').split()[0]) * 1024 / 1e6,
                int(told.get('Threads', '0')))

    def interrupt(self) -> None:
        """Ask it to end, as Ctrl-C does; ``result`` waits until it has."""
        self._process.send_signal(signal.SIGINT)

    def wait_for(self, text: str, timeout: float = PATIENCE) -> None:
        """Wait until it has printed ``text``."""
        end = time.monotonic() + timeout
        while text not in self.output():
            if not self.runs() or time.monotonic() > end:
                if text in self.output():
                    return
                raise RuntimeError(f'{self.module} did not say {text!r}: {self.output().strip()}')
            time.sleep(0.05)

    def result(self, timeout: float) -> str:
        """Wait until it ends; return the last line it printed."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = 'no end'
        lines = self.output().strip().splitlines()
        if status != 0 or not lines:
            raise RuntimeError(f'{self.module}: {status}: {self.output().strip()}')
        return lines[-1]
