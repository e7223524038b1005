"""One stream of the configured node: its feed, and what it has in ROS while the node is active."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.node import Node

from taolora_ros.diagnostics import StreamDiagnostics
from taolora_ros.feed import Feed, nothing
from taolora_ros.intake import Intake
from taolora_ros.score_topics import ScoreTopics


@dataclass
class Running:
    """``given`` are the stream's read-only parameters, ``engine`` is how its network runs.

    ``intake`` and ``diagnostics`` are there while it is subscribed, ``scores`` while asked for.
    """

    feed: Feed
    engine: str
    given: dict
    intake: Intake | None = None
    diagnostics: StreamDiagnostics | None = None
    scores: ScoreTopics | None = None

    def subscribe(self, node: Node) -> None:
        """Take messages from the stream's topic; raise ValueError when that cannot be done."""
        self.intake = Intake(node, self.given['topic'], self.given['type'],
                             self.feed.converter.raw)
        self.feed.start(self.intake.take, self.intake.obstacle)
        self.diagnostics = StreamDiagnostics(node.get_name(), self.feed, self.intake, self.engine)

    def unsubscribe(self) -> None:
        """Undo ``subscribe``."""
        self.feed.start(nothing, str)
        if self.intake:
            self.intake.close()
        self.intake = self.diagnostics = None

    def publish_scores(self, node: Node, wanted: bool) -> None:
        """Open or close the topics of scores."""
        if wanted and not self.scores:
            self.scores = ScoreTopics(node, self.feed.name, self.feed.detector.spec)
            self.feed.record(self.scores)
        elif self.scores and not wanted:
            self.feed.record(None)
            self.scores.close()
            self.scores = None
