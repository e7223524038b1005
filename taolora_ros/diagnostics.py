"""What happened on a stream, as a diagnostic_msgs/DiagnosticStatus."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from taolora_ros.intake import Intake
from taolora_ros.samples import NANOSECONDS
from taolora_ros.worker import Feed

STALE = 2.0  # s without a message after which a stream is said to be silent


class StreamDiagnostics:
    """Describes one feed again and again, also by what changed since the last time."""

    def __init__(self, node: str, feed: Feed, intake: Intake, engine: str):
        self.feed = feed
        self.intake = intake
        self.engine = engine
        self._name = f'{node}: {feed.name}'
        self._began = time.time_ns()
        self._last = (self._began, 0, 0)  # time in ns, messages, messages or samples in counts

    def status(self) -> DiagnosticStatus:
        """Return how the stream is doing."""
        now = time.time_ns()
        feed, counts = self.feed, self.feed.counts()
        since, messages, counted = self._last
        self._last = (now, feed.messages, sum(counts.values()))
        rate = (feed.messages - messages) / max((now - since) / NANOSECONDS, 1e-3)
        level, text = self._judge(now, sum(counts.values()) - counted)
        values = {
            'topic': self.intake.topic, 'messages': feed.messages,
            'message_rate_hz': f'{rate:.1f}', 'gate_fraction': f'{feed.gate_fraction():.3f}',
            'latency_p50_ms': f'{1e3 * feed.latency(0.5):.1f}',
            'latency_p99_ms': f'{1e3 * feed.latency(0.99):.1f}',
            'model': feed.detector.spec.name, 'engine': self.engine,
            **{f'count.{name}': count for name, count in sorted(counts.items())}}
        return DiagnosticStatus(
            level=level, name=self._name, message=text, hardware_id=feed.converter.frame_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])

    def _judge(self, now: int, fresh: int) -> tuple[bytes, str]:
        """Return level and message; ``fresh`` counts what was dropped or mended lately."""
        feed = self.feed
        silent = (now - (feed.arrived or self._began)) / NANOSECONDS
        if silent > STALE:
            why = self.intake.obstacle()
            text = f'no message on {self.intake.topic} for {silent:.0f} s'
            return DiagnosticStatus.WARN, f'{text}, {why}' if why else text
        if fresh:
            return DiagnosticStatus.WARN, f'{fresh} dropped or mended lately' + (
                f': {feed.problem}' if feed.problem else '')
        return DiagnosticStatus.OK, 'running' if feed.arrived else 'waiting for messages'
