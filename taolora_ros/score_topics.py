"""Scores and gate of one stream as topics, for plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rclpy.node import Node
from taolora_msgs import msg

from taolora_ros.decode import Tokens
from taolora_ros.event_messages import time_message
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import ModelSpec
from taolora_ros.stream import Segment

if TYPE_CHECKING:  # the detector calls the recorder, not the other way round
    from taolora_ros.detector import Window

DEPTH = 100  # messages


class ScoreTopics:
    """A recorder (see recorder.py) that publishes ``~/score/STREAM`` and ``~/gate/STREAM``."""

    def __init__(self, node: Node, stream: str, spec: ModelSpec):
        self.spec = spec
        self._node = node
        self._stream = stream
        self._scores = node.create_publisher(msg.Score, f'~/score/{stream}', DEPTH)
        self._gates = node.create_publisher(msg.Gate, f'~/gate/{stream}', DEPTH)

    def close(self) -> None:
        """Take the topics away."""
        for publisher in (self._scores, self._gates):
            self._node.destroy_publisher(publisher)

    def grown(self, segment: Segment, first: int) -> None:
        """Take samples, of which nothing is published."""

    def decided(self, window: Window, tokens: Tokens, scores: np.ndarray,
                anomaly: np.ndarray | None) -> None:
        """Publish decided tokens, stamped with their middle, and the window's anomaly."""
        unusual = float('nan') if anomaly is None else float(np.max(anomaly))
        for centre, row, is_open in zip(tokens.centre, scores, tokens.gate):
            stamp = time_message(
                window.start_ns + round(float(centre) * NANOSECONDS / self.spec.rate))
            score = msg.Score(stream=self._stream, labels=list(self.spec.labels),
                              scores=[float(value) for value in row],
                              threshold=tokens.event_threshold, anomaly=unusual)
            gate = msg.Gate(stream=self._stream, is_open=bool(is_open))
            score.header.stamp = gate.header.stamp = stamp
            self._scores.publish(score)
            self._gates.publish(gate)
