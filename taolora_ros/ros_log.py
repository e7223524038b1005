"""What the core says through Python's logging, said in the node's log."""

from __future__ import annotations

import logging


class RosLog(logging.Handler):
    """Hand warnings and errors of ``taolora_ros`` to a ROS logger."""

    def __init__(self, logger):
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Say one record."""
        say = self._logger.error if record.levelno >= logging.ERROR else self._logger.warning
        say(record.getMessage())
