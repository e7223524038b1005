"""What a node's models learn from feedback, each for all streams that it runs; no ROS in here.

    feedback ─► the session of its event's model ─► engine        any thread, before the next window
    settler  ─► what feedback asks for, solved ─► engine          a thread for each model
    tick     ─► checkpoint                                        once a second
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from taolora_ros.adaptation.checkpoint import checkpoint_folder
from taolora_ros.adaptation.guards import RateLimit
from taolora_ros.adaptation.reports import Outcome
from taolora_ros.adaptation.session import Session
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.adapted_model import PATIENCE, AdaptedModel

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Engine
    from taolora_ros.feed import Feed

LINES = 120  # of the log, a minute: what is said of feedback beyond that is only counted


class Adapting:
    """The models of a node, by stream; ``log`` has ``info``, ``warning`` and ``error``.

    Checkpoints lie below ``directory``, where ``checkpoint_folder`` says when it is empty, in a
    folder of ``robot``, by default the host's name, and there of ``node``: two nodes do not share
    what they learn.
    """

    def __init__(self, settings: AdaptationSettings, directory: str, robot: str, node: str, log):
        self.settings = settings
        self._directory, self._robot, self._node = directory or None, robot, node
        self._log, self._lines = log, RateLimit(LINES, time.monotonic())
        self._lines_lock = threading.Lock()
        self._models: dict[str, AdaptedModel] = {}
        self._invalid = 0

    def attach(self, path: Path, engine: Engine, feed: Feed) -> None:
        """Let the model in ``path`` learn from what is said of the events of ``feed``."""
        same = (other for other in self._models.values() if other.engine is engine)
        model = next(same, None) or AdaptedModel(path, feed.detector.spec, engine, self._folder,
                                                 self._say, self._settled)
        model.feeds.append(feed)
        self._models[feed.name] = model
        model.apply(self.settings)

    def apply(self, settings: AdaptationSettings) -> None:
        """Let ``settings`` hold from now on."""
        if settings != self.settings:
            self.settings = settings
            for model in self._each():
                model.apply(settings)

    def take(self, event_id: str, correct: bool, label: str, quality: float, stamp_ns: int) -> str:
        """Take a feedback at once, to be settled soon; return why not, '' when it was taken.

        An ``event_id`` that is the name of a stream reports an event of ``label`` that was missed
        there at ``stamp_ns``.
        """
        stream = self._stream_of(event_id)
        session = self._models[stream].session if stream else None
        if stream is None:
            self._invalid += 1
            reason = f'no stream that {event_id!r:.99} could be of'
        elif not self.settings.enabled:
            reason = 'adaptation.enabled is false'
        elif session is None:
            reason = self._models[stream].problem
        else:
            try:
                reason = (session.miss(stream, stamp_ns, label, quality) if event_id == stream else
                          session.feedback(event_id, correct, label, quality)).reason
            except ValueError as error:
                self._invalid += 1
                reason = str(error)
        if reason:
            self._say_of(event_id, f'not used: {reason}', 'warning')
        else:
            self._models[stream].settler.wake()
        return reason

    def settle(self, timeout: float = PATIENCE) -> bool:
        """Wait until all feedback is learnt from; tell whether that was so within ``timeout`` s."""
        return all([model.settler.flush(timeout) for model in self._each() if model.settler])

    def _settled(self, session: Session, outcome: Outcome) -> None:
        """Tell what became of a feedback; called in the settler's thread."""
        if outcome.learnt:
            self._say_of(outcome.key, came_to(session), 'info')
        else:
            self._say_of(outcome.key, f'not used: {outcome.reason}', 'warning')

    def _say_of(self, event_id: str, text: str, level: str) -> None:
        with self._lines_lock:
            said = self._lines.take(time.monotonic())
        if said:
            self._say(level, f'feedback on {event_id!r:.99}: {text}')

    def tick(self) -> None:
        """Save what is due; call it about once a second."""
        now = time.monotonic()
        for model in self._each():
            model.tick(now)

    def save(self) -> tuple[bool, str]:
        """Write what was learnt to the disk; return whether all of it is there, and in words."""
        return self._tell(AdaptedModel.save)

    def reset(self) -> tuple[bool, str]:
        """Take back all that was learnt, on the disk too; return as ``save`` does."""
        return self._tell(AdaptedModel.forget)

    def status(self, stream: str) -> dict[str, str]:
        """Return for diagnostics how a stream's model adapts, '' for what is not known."""
        model = self._models[stream]
        if model.session is None:
            return {'adaptation': model.problem if self.settings.enabled else 'off'}
        found = {f'adaptation_{name}': str(value) if isinstance(value, int) else f'{value:.4g}'
                 for name, value in model.session.status().items()}
        problem = self.problem(stream)
        return {'adaptation': problem or ('on' if self.settings.enabled else 'off'),
                **found, 'adaptation_invalid': str(self._invalid)}

    def problem(self, stream: str) -> str:
        """Return in words why a stream's model cannot learn or be kept, '' when it can."""
        model = self._models[stream]
        return (model.problem or model.failed) if self.settings.enabled else ''

    def close(self) -> None:
        """Save what is not saved yet, and end all threads."""
        for model in self._each():
            model.close()
        self._models.clear()

    def _each(self) -> list[AdaptedModel]:
        return list({id(model): model for model in self._models.values()}.values())

    def _stream_of(self, event_id: str) -> str | None:
        """Return the stream whose name ``event_id`` is or begins with, the longest one."""
        fits = [name for name in self._models
                if event_id == name or event_id.startswith(f'{name}-')]
        return max(fits, key=len, default=None)

    def _folder(self, name: str) -> Path:
        """Return where the checkpoint of a model called ``name`` lies."""
        return checkpoint_folder(f'{self._node.strip("/").replace("/", "_")}-{name}', self._robot,
                                 self._directory)

    def _tell(self, act) -> tuple[bool, str]:
        good, told = bool(self._models), []
        for model in self._each():
            try:
                told.append(f'{model.spec.name}: {act(model)}')
            except (ValueError, OSError) as error:
                good = False
                told.append(f'{model.spec.name}: {error}')
        return good, '; '.join(told) or 'the node is not configured'

    def _say(self, level: str, text: str) -> None:
        # each in a line of its own: ROS tells calls of its loggers apart by where they are
        if level == 'error':
            self._log.error(text)
        elif level == 'warning':
            self._log.warning(text)
        else:
            self._log.info(text)


def came_to(session: Session) -> str:
    """Return in words what a feedback that is kept has changed."""
    norm = session.status()['norm']
    if norm == 0.0:
        return ('learnt, but nothing changes yet: an event of its label has to be confirmed or '
                f'reported first, or the limits hold it back (trust {session.trusted:.2f})')
    return f'learnt: the change is by {norm:.3g} logits now (trust {session.trusted:.2f})'
