"""What a node's models learn from feedback: one session for each, kept on disk; no ROS in here.

    feedback ─► the session of its event's model ─► engine          any thread, before the next window
    tick     ─► consolidation now and then ─► checkpoint            once a second
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from taolora_ros.adaptation.checkpoint import checkpoint_folder, load_checkpoint
from taolora_ros.adaptation.reference import head_digest, load_reference, reference_path
from taolora_ros.adaptation.saver import Saver
from taolora_ros.adaptation.session import Session
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.spec import ModelSpec

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Engine
    from taolora_ros.feed import Feed

PATIENCE = 5.0  # s that somebody who asks for a save waits for the disk


@dataclass
class Learner:
    """One model: ``session`` and ``saver`` are there once adaptation has been enabled."""

    path: Path
    spec: ModelSpec
    engine: Engine
    feeds: list[Feed] = field(default_factory=list)
    session: Session | None = None
    saver: Saver | None = None
    problem: str = ''  # in words: why it cannot learn, or not be kept
    saved: int = 0     # updates that are in the checkpoint

    @property
    def key(self) -> str:
        """Return what a checkpoint was learnt for."""
        weight = self.engine.read_weights('head.weight')['head.weight']
        return f'{self.spec.name}-{self.spec.version}-{head_digest(weight)}'


class Adapting:
    """The learners of a node, by stream; ``log`` has ``info``, ``warning`` and ``error``.

    Checkpoints lie below ``directory``, where ``checkpoint_folder`` says when it is empty, in a
    folder of ``robot``, by default the host's name.
    """

    def __init__(self, settings: AdaptationSettings, directory: str, robot: str, log):
        self.settings = settings
        self._directory, self._robot, self._log = directory or None, robot, log
        self._learners: dict[str, Learner] = {}
        self._invalid = 0

    def attach(self, path: Path, engine: Engine, feed: Feed) -> None:
        """Let the model in ``path`` learn from what is said of the events of ``feed``."""
        same = (other for other in self._learners.values() if other.engine is engine)
        learner = next(same, None) or Learner(path, feed.detector.spec, engine)
        learner.feeds.append(feed)
        self._learners[feed.name] = learner
        self._apply(learner)

    def apply(self, settings: AdaptationSettings) -> None:
        """Let ``settings`` hold from now on."""
        if settings != self.settings:
            self.settings = settings
            for learner in self._each():
                self._apply(learner)

    def take(self, event_id: str, correct: bool, label: str, quality: float, stamp_ns: int) -> str:
        """Learn from a feedback at once; return why not, '' when it was learnt.

        An ``event_id`` that is the name of a stream reports an event of ``label`` that was missed
        there at ``stamp_ns``.
        """
        stream = self._stream_of(event_id)
        session = self._learners[stream].session if stream else None
        if stream is None:
            self._invalid += 1
            reason = f'no stream that {event_id!r:.99} could be of'
        elif not self.settings.enabled:
            reason = 'adaptation.enabled is false'
        elif session is None:
            reason = self._learners[stream].problem
        else:
            try:
                reason = (session.miss(stream, stamp_ns, label, quality) if event_id == stream else
                          session.feedback(event_id, correct, label, quality)).reason
            except ValueError as error:
                self._invalid += 1
                reason = str(error)
        self._say('warning' if reason else 'info', f'feedback on {event_id!r:.99}: '
                  + (f'not used: {reason}' if reason else 'learnt, which makes for a change by '
                     f'{session.status()["norm"]:.3g} logits'))
        return reason

    def tick(self) -> None:
        """Consolidate and save what is due; call it about once a second."""
        for learner in self._each():
            if learner.session and learner.session.tick():
                self._save(learner)
            error = learner.saver.error if learner.saver else None
            if error and learner.problem != error:
                learner.problem = error
                self._say('error', error)

    def save(self) -> tuple[bool, str]:
        """Write what was learnt to the disk; return whether all of it is there, and in words."""
        return self._tell(self._saved_now)

    def reset(self) -> tuple[bool, str]:
        """Take back all that was learnt, on the disk too; return as ``save`` does."""
        for learner in self._each():
            if learner.session:
                learner.session.reset()
        good, told = self._tell(self._saved_now)
        return good, f'taken back; {told}' if good else told

    def status(self, stream: str) -> dict[str, str]:
        """Return for diagnostics how a stream's model adapts, '' for what is not known."""
        learner = self._learners[stream]
        if learner.session is None:
            return {'adaptation': learner.problem if self.settings.enabled else 'off'}
        found = {f'adaptation_{name}': f'{value:.4g}'
                 for name, value in learner.session.status().items()}
        return {'adaptation': learner.problem or ('on' if self.settings.enabled else 'off'),
                **found, 'adaptation_invalid': str(self._invalid)}

    def problem(self, stream: str) -> str:
        """Return in words why a stream's model cannot learn or be kept, '' when it can."""
        return self._learners[stream].problem if self.settings.enabled else ''

    def close(self) -> None:
        """Save what is not saved yet, and end all threads."""
        for learner in self._each():
            if learner.saver:
                if learner.session.status()['updates'] != learner.saved:
                    self._save(learner)
                if not learner.saver.close(PATIENCE) or learner.saver.error:
                    self._say('error', learner.saver.error or f'{learner.saver.folder}: not saved '
                                                              f'within {PATIENCE:g} s')
        self._learners.clear()

    def _each(self) -> list[Learner]:
        return list({id(learner): learner for learner in self._learners.values()}.values())

    def _stream_of(self, event_id: str) -> str | None:
        """Return the stream whose name ``event_id`` is or begins with, the longest one."""
        fits = [name for name in self._learners
                if event_id == name or event_id.startswith(f'{name}-')]
        return max(fits, key=len, default=None)

    def _apply(self, learner: Learner) -> None:
        if self.settings.enabled and learner.session is None:
            self._open(learner)
        if learner.session is None:
            return
        learner.session.settings = self.settings
        for feed in learner.feeds:
            memory = learner.session.memory(feed.name) if self.settings.enabled else None
            with feed.lock:
                feed.detector.memory = memory

    def _open(self, learner: Learner) -> None:
        """Begin to learn, from where it was left off; or say why not."""
        engine, key = learner.engine, learner.key
        try:
            weight = engine.read_weights('head.weight')['head.weight']
            learner.session = Session(learner.spec, engine, load_reference(
                reference_path(learner.path), learner.spec, weight), self.settings)
        except ValueError as error:
            learner.problem = str(error)
            self._say('error', f'{learner.spec.name} cannot learn: {error}')
            return
        folder = checkpoint_folder(key, self._robot, self._directory)
        try:
            loaded = load_checkpoint(folder, key)
            if loaded:
                learner.session.load(loaded.layers)
                self._say('info', f'{learner.spec.name}: what was learnt until '
                                  f'{loaded.time:%Y-%m-%d %H:%M:%S} UTC is used ({folder})')
        except (ValueError, OSError) as error:
            learner.problem = str(error)
            self._say('error', f'{learner.spec.name} begins anew: {error}')
        learner.saver = Saver(folder, key)

    def _save(self, learner: Learner) -> None:
        status = learner.session.status()
        learner.saved = status['updates']
        learner.saver.save(learner.session.state(), status)

    def _saved_now(self, learner: Learner) -> str:
        """Save and wait; return in words where, or raise ValueError."""
        if learner.session is None:
            raise ValueError(learner.problem or 'nothing was learnt, adaptation is not enabled')
        self._save(learner)
        if not learner.saver.flush(PATIENCE):
            raise ValueError(f'{learner.saver.folder}: not saved within {PATIENCE:g} s')
        if learner.saver.error:
            raise ValueError(learner.saver.error)
        return f'saved in {learner.saver.folder}'

    def _tell(self, act) -> tuple[bool, str]:
        good, told = bool(self._learners), []
        for learner in self._each():
            try:
                told.append(f'{learner.spec.name}: {act(learner)}')
            except ValueError as error:
                good = False
                told.append(f'{learner.spec.name}: {error}')
        return good, '; '.join(told) or 'the node is not configured'

    def _say(self, level: str, text: str) -> None:
        # each in a line of its own: ROS tells calls of its loggers apart by where they are
        if level == 'error':
            self._log.error(text)
        elif level == 'warning':
            self._log.warning(text)
        else:
            self._log.info(text)
