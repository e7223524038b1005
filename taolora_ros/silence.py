"""When a stream has stopped: no message for much longer than is usual for it."""

from __future__ import annotations

from taolora_ros.samples import NANOSECONDS

SHORTEST = 0.5   # s: shorter breaks are nothing, however fast the stream
PERIODS = 3.0    # usual breaks between messages that must pass
UNKNOWN = 3.0    # s: until a second message has told what is usual
SETTLED = 4.0    # s: until nothing is expected any more; a network may hold messages for a while
STEP = 0.25      # s: a clock that makes longer steps has jumped, or nobody looked
STOPPED, OVER, BACK = 'stopped', 'over', 'back'


class Silence:
    """Judges one stream by when its messages come; ``lasted`` is the present silence in s."""

    def __init__(self):
        self.lasted = 0.0
        self.before = 0.0     # s of the silence that ended last
        self.stopped = False
        self._over = False
        self._heard = False
        self._usual = None    # s, running mean of the breaks between messages
        self._looked = None   # ns

    @property
    def limit(self) -> float:
        """Return the seconds of silence after which the stream has stopped."""
        return max(SHORTEST, UNKNOWN if self._usual is None else PERIODS * self._usual)

    def look(self, now: int, messages: int) -> str:
        """Take how many messages have come by ``now`` (ns); return what that means.

        STOPPED once when the stream has stopped, OVER once when what it said last can be decided,
        BACK with the first message after that, '' otherwise.
        """
        step = 0 if self._looked is None else now - self._looked
        self._looked = now
        self.lasted += min(max(step / NANOSECONDS, 0.0), STEP)
        if messages:
            return self._heard_again()
        if not self._heard:
            return ''
        if not self.stopped and self.lasted > self.limit:
            self.stopped = True
            return STOPPED
        if self.stopped and not self._over and self.lasted > SETTLED:
            self._over = True
            return OVER
        return ''

    def _heard_again(self) -> str:
        was = self.stopped
        if self._heard and not was:
            usual = self.lasted if self._usual is None else self._usual
            self._usual = usual + 0.1 * (self.lasted - usual)
        self.before, self.lasted = self.lasted, 0.0
        self._heard, self.stopped, self._over = True, False, False
        return BACK if was else ''
