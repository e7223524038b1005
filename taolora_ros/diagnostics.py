"""How a stream is doing, as a diagnostic_msgs/DiagnosticStatus: figures, and problems in words."""

from __future__ import annotations

from collections import Counter, deque
from statistics import median

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from taolora_ros.feed import Feed
from taolora_ros.health import Report
from taolora_ros.intake import Intake
from taolora_ros.samples import NANOSECONDS

STALE = 2.0          # s without a first message after which that is a problem
LEARNT = 60          # of the last rates: their median is expected where nobody says one
LEAST = 10           # of them before anything is expected
RECENT = 5           # rates whose mean is judged
OFF = 0.2            # a rate is wrong when it is off by more than this part
SKEW = 1.0           # s between clock and stamps from which clocks disagree ...
RECORDED = 3600.0    # s ... up to which; beyond it, it is a recording that is played
BUNCHED = 0.55       # part of the steps inside bursts; half when each message comes twice
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def plain_status(node: str, stream: str, level: bytes, text: str) -> DiagnosticStatus:
    """Return the status of a stream that is not running."""
    return DiagnosticStatus(level=level, name=f'{node}: {stream}', message=text)


class StreamDiagnostics:
    """Describes one running feed again and again, also by what changed since the last time."""

    def __init__(self, node: str, feed: Feed, intake: Intake, engine: str):
        self.feed = feed
        self.intake = intake
        self._node = node
        self._engine = engine
        self._now: int | None = None     # ns, when it was last described
        self._stamp = 0                  # ns, newest stamp then
        self._messages = 0
        self._counts = Counter(feed.counts())
        self._events: dict[str, object] = {}
        self._rates: deque[float] = deque(maxlen=LEARNT)  # samples per second of their stamps
        self._bunched: deque[float] = deque(maxlen=RECENT)
        self.notice = ''  # in words: what the log should be told once

    def status(self, now: int, intake_break: float = 0.0, adaptation: dict | None = None,
               problem: str = '') -> DiagnosticStatus:
        """Return how the stream is doing; ``now`` (ns) is by the clock of the feed's silence.

        ``intake_break`` (s) is the longest time that messages were not looked for lately,
        ``adaptation`` what to say of it, ``problem`` what is wrong with that.
        """
        feed = self.feed
        with feed.lock:
            kept, stamp, messages = feed.health.take(), feed.health.last_stamp, feed.messages
        elapsed = 0.0 if self._now is None else max(now - self._now, 0) / NANOSECONDS
        report = feed.health.judge(kept, elapsed)
        came = messages - self._messages
        if self._stamp and stamp > self._stamp:
            self._rates.append(report.samples * NANOSECONDS / (stamp - self._stamp))
        if report.samples:
            self._bunched.append(report.bunched)
        self._now, self._stamp, self._messages = now, stamp, messages
        counts, events, before = feed.counts(), self.intake.events(), self._events
        fresh, self._counts, self._events = counts - self._counts, counts, events
        level, problems = self._silence()
        if not problems:
            problems = [*self._bursts(), *self._rate(), *_fresh(fresh, feed.problem),
                        *report.problems, *_events(events, before), *self._skew(),
                        *filter(None, [problem])]
            level = WARN if problems else OK
        text = '; '.join(problems) or ('running' if feed.messages else 'waiting for messages')
        values = self._values(report, came / elapsed if elapsed else 0.0, events, counts)
        values |= {'intake_break_ms': f'{1e3 * intake_break:.1f}', **(adaptation or {})}
        return DiagnosticStatus(
            level=level, name=f'{self._node}: {feed.name}', message=text,
            hardware_id=feed.converter.frame_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])

    @property
    def expected_rate(self) -> float:
        """Return the samples per second that there should be, 0 while that is not known."""
        rates = list(self._rates)
        return self.feed.converter.expected_rate or (
            median(rates) if len(rates) >= LEAST else 0.0)

    def _values(self, report: Report, message_rate: float, events: dict, counts: Counter) -> dict:
        feed = self.feed
        return {
            'topic': self.intake.topic, 'messages': feed.messages,
            'message_rate_hz': f'{message_rate:.1f}',
            'sample_rate_hz': f'{self._rates[-1] if self._rates else 0.0:.1f}',
            'expected_rate_hz': f'{self.expected_rate:.1f}',
            'silent_s': f'{feed.silence.lasted:.2f}',
            'stamp_skew_s': f'{feed.health.skew:.3f}',
            'bunched_fraction': f'{report.bunched:.3f}',
            'missing_fraction': f'{report.missing:.3f}',
            'saturated_fraction': f'{report.railed:.3f}',
            'flat_channels': ', '.join(report.flat),
            'deadlines_missed': events.get('deadline', 0),
            'messages_lost': events.get('lost', 0),
            'incompatible_publishers': events.get('refused', 0),
            'gate_fraction': f'{feed.gate_fraction():.3f}',
            'windows_decided': feed.decided,
            'latency_p50_ms': f'{1e3 * feed.latency(0.5):.1f}',
            'latency_p99_ms': f'{1e3 * feed.latency(0.99):.1f}',
            'model': feed.detector.spec.name,
            'model_version': feed.detector.spec.version, 'engine': self._engine,
            **{f'count.{name}': count for name, count in sorted(counts.items())}}

    def _silence(self) -> tuple[bytes, list[str]]:
        """Say that no messages come, and why."""
        silence = self.feed.silence
        if not silence.stopped and (self.feed.messages or silence.lasted < STALE):
            return OK, []
        why = self.intake.obstacle()
        text = f'no message on {self.intake.topic} for {silence.lasted:.0f} s'
        return ERROR if silence.stopped else WARN, [f'{text}, {why}' if why else text]

    def _rate(self) -> list[str]:
        recent, expected = list(self._rates)[-RECENT:], self.expected_rate
        rate = sum(recent) / max(len(recent), 1)
        if len(recent) < RECENT or not expected or abs(rate - expected) <= OFF * expected:
            return []
        return [f'{rate:.1f} samples a second, {expected:.1f} expected']

    def _bursts(self) -> list[str]:
        """Say that stamps look like times of arrival."""
        if len(self._bunched) < RECENT or sum(self._bunched) <= BUNCHED * RECENT:
            return []
        self.notice = (f'samples are stamped in bursts, as if on arrival; if the driver does so, '
                       f'set {self.feed.name}.stamps to arrival')
        return [self.notice]

    def _skew(self) -> list[str]:
        skew = self.feed.health.skew
        if not SKEW < abs(skew) < RECORDED:
            return []
        return [f'stamps are {abs(skew):.1f} s {"behind" if skew > 0 else "ahead of"} the clock']


def _fresh(counts: Counter, problem: str) -> list[str]:
    """Say what was dropped, mended or restarted lately."""
    told = ', '.join(f'{count} {name}' for name, count in sorted(counts.items()))
    return [f'lately {told}' + (f': {problem}' if problem else '')] if told else []


def _events(now: dict[str, object], before: dict[str, object]) -> list[str]:
    """Say what the middleware has noticed lately."""
    problems = []
    for name, words in (('deadline', 'deadlines missed'), ('lost', 'messages lost on the way')):
        fresh = int(now.get(name, 0)) - int(before.get(name, 0))
        if fresh > 0:
            problems.append(f'{fresh} {words}')
    if now.get('refused', 0) != before.get('refused', 0):
        problems.append(f'a publisher was refused: its {now["policy"]} quality of service is not '
                        'what is asked for')
    return problems
