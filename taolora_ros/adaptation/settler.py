"""Learning while the network runs: a thread settles what was told, and nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from taolora_ros.adaptation.reports import Outcome
from taolora_ros.adaptation.session import Session

PERIOD = 1.0  # s between two looks at whether it is time to consolidate


class Settler:
    """Settle the feedback of one session soon after ``wake``; ``report`` hears what became of each.

    It consolidates, too. ``report`` is called in its thread; ``error`` is why the last round
    failed, '' when it did not. To be closed in the end.
    """

    def __init__(self, session: Session, report: Callable[[Outcome], None]):
        self.session, self.report = session, report
        self.error = ''
        self._changed = threading.Condition()
        self._woken = self._busy = self._closed = False
        self._thread = threading.Thread(target=self._run, name='settle_feedback', daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have what waits settled now."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all is settled, or ``timeout`` s have passed; tell which."""
        self.wake()
        with self._changed:
            return self._changed.wait_for(lambda: not (self._woken or self._busy), timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Settle what waits, then end the thread; tell whether it did so within ``timeout``."""
        done = self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return done

    def _run(self) -> None:
        """Settle and consolidate until closed; the thread's function."""
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._woken or self._closed, PERIOD)
                if self._closed:
                    return
                self._woken, self._busy = False, True
            try:
                while not self._closed and (outcome := self.session.settle_next()):
                    self.report(outcome)
                    self.session.tick()
                self.session.tick()
                self.error = ''
            except Exception as error:  # whatever it is, it is told, and the next round may succeed
                self.error = f'feedback is not learnt: {error!r}'
