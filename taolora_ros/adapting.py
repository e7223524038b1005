"""What a node's models learn from feedback: one session for each, kept on disk; no ROS in here.

    feedback ─► the session of its event's model ─► engine          any thread, before the next window
    settler  ─► what feedback asks for, solved ─► engine            a thread for each model
    tick     ─► checkpoint                                          once a second
"""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from taolora_ros.adaptation.checkpoint import checkpoint_folder, load_checkpoint
from taolora_ros.adaptation.guards import RateLimit
from taolora_ros.adaptation.reference import head_digest, load_reference, reference_path
from taolora_ros.adaptation.saver import Saver
from taolora_ros.adaptation.reports import Outcome
from taolora_ros.adaptation.session import Session
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.adaptation.settler import Settler
from taolora_ros.spec import ModelSpec

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Engine
    from taolora_ros.feed import Feed

PATIENCE = 5.0  # s that somebody who asks for a save waits for the disk
SETTLE = 5.0    # s from the first feedback that is not saved yet to its save
LINES = 120     # of the log, a minute: what is said of feedback beyond that is only counted


@dataclass
class Learner:
    """One model: session, settler and saver are there once adaptation has been enabled."""

    path: Path
    spec: ModelSpec
    engine: Engine
    feeds: list[Feed] = field(default_factory=list)
    session: Session | None = None
    settler: Settler | None = None
    saver: Saver | None = None
    problem: str = ''  # in words: why it cannot learn, or not be kept
    failed: str = ''   # why the last save, or the last round of learning, failed
    saved: int = 0     # updates that are in the checkpoint
    since: float | None = None  # monotonic time of the first update that is not
    consolidated: float | None = None  # time of the last consolidation that is in it

    def __post_init__(self):
        weight = self.engine.read_weights('head.weight')['head.weight']
        # what a checkpoint was learnt for
        self.key = f'{self.spec.name}-{self.spec.version}-{head_digest(weight)}'


class Adapting:
    """The learners of a node, by stream; ``log`` has ``info``, ``warning`` and ``error``.

    Checkpoints lie below ``directory``, where ``checkpoint_folder`` says when it is empty, in a
    folder of ``robot``, by default the host's name, and there of ``node``: two nodes do not share
    what they learn.
    """

    def __init__(self, settings: AdaptationSettings, directory: str, robot: str, node: str, log):
        self.settings = settings
        self._directory, self._robot, self._node = directory or None, robot, node
        self._log, self._lines = log, RateLimit(LINES, time.monotonic())
        self._lines_lock = threading.Lock()
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
        """Take a feedback at once, to be settled soon; return why not, '' when it was taken.

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
        if reason:
            self._say_of(event_id, f'not used: {reason}', 'warning')
        else:
            self._learners[stream].settler.wake()
        return reason

    def settle(self, timeout: float = PATIENCE) -> bool:
        """Wait until all feedback is learnt from; tell whether that was so within ``timeout`` s."""
        return all([learner.settler.flush(timeout) for learner in self._each() if learner.settler])

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
        for learner in self._each():
            if learner.session is None:
                continue
            consolidated = learner.session.last_consolidation != learner.consolidated
            if learner.session.status()['updates'] == learner.saved:
                learner.since = None
            elif learner.since is None:
                learner.since = now
            if consolidated or learner.since is not None and now - learner.since >= SETTLE:
                self._save(learner)
            if learner.saver.error:
                learner.saved = -1  # nothing is known to be on the disk: try again
            error = learner.saver.error or learner.settler.error
            if error and learner.failed != error:
                self._say('error', error)
            learner.failed = error

    def save(self) -> tuple[bool, str]:
        """Write what was learnt to the disk; return whether all of it is there, and in words."""
        return self._tell(self._saved_now)

    def reset(self) -> tuple[bool, str]:
        """Take back all that was learnt, on the disk too; return as ``save`` does."""
        return self._tell(self._forgotten)

    def status(self, stream: str) -> dict[str, str]:
        """Return for diagnostics how a stream's model adapts, '' for what is not known."""
        learner = self._learners[stream]
        if learner.session is None:
            return {'adaptation': learner.problem if self.settings.enabled else 'off'}
        found = {f'adaptation_{name}': str(value) if isinstance(value, int) else f'{value:.4g}'
                 for name, value in learner.session.status().items()}
        problem = self.problem(stream)
        return {'adaptation': problem or ('on' if self.settings.enabled else 'off'),
                **found, 'adaptation_invalid': str(self._invalid)}

    def problem(self, stream: str) -> str:
        """Return in words why a stream's model cannot learn or be kept, '' when it can."""
        learner = self._learners[stream]
        return (learner.problem or learner.failed) if self.settings.enabled else ''

    def close(self) -> None:
        """Save what is not saved yet, and end all threads."""
        for learner in self._each():
            if learner.saver:
                if not learner.settler.close(PATIENCE):
                    self._say('error', f'{learner.spec.name}: feedback given last is not learnt '
                                       f'within {PATIENCE:g} s, and lost')
                if learner.session.status()['updates'] != learner.saved or learner.saver.error:
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
        folder = self._folder(learner)
        try:
            loaded = load_checkpoint(folder, key)
            if loaded:
                learner.session.load(loaded.layers)
                self._say('info', f'{learner.spec.name}: what was learnt until '
                                  f'{loaded.time:%Y-%m-%d %H:%M:%S} UTC is used ({folder})')
        except Exception as error:  # whatever a damaged file leads to, it is kept, and told
            aside = folder.with_name(f'{folder.name}.refused-{time.time_ns()}')
            try:
                folder.rename(aside)
                where = f'what there was is now in {aside}'
            except OSError as problem:
                where = learner.problem = f'{folder} stays as it is: {problem}'
            self._say('error', f'{learner.spec.name} begins anew: {error}; {where}')
        learner.settler = Settler(learner.session, partial(self._settled, learner.session))
        learner.saver = Saver(folder, key)

    def _folder(self, learner: Learner) -> Path:
        return checkpoint_folder(
            f'{self._node.strip("/").replace("/", "_")}-{learner.path.stem}-{learner.key}',
            self._robot, self._directory)

    def _save(self, learner: Learner) -> None:
        status = learner.session.status()
        learner.saved, learner.since = status['updates'], None
        learner.consolidated = learner.session.last_consolidation
        learner.saver.save(learner.session.state(), status)

    def _forgotten(self, learner: Learner) -> str:
        """Take back what was learnt, on the disk too; return in words, or raise ValueError."""
        if learner.session is None:
            folder = self._folder(learner)
            if not folder.exists():
                raise ValueError(learner.problem or 'nothing was learnt, adaptation is not enabled')
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise ValueError(f'{folder}: {error}') from error
            return f'taken back; {folder} is removed'
        learner.session.reset()
        return f'taken back; {self._saved_now(learner)}'

    def _saved_now(self, learner: Learner) -> str:
        """Save and wait; return in words where, or raise ValueError."""
        if learner.session is None:
            raise ValueError(learner.problem or 'nothing was learnt, adaptation is not enabled')
        if not learner.settler.flush(PATIENCE):
            raise ValueError(f'feedback is still being learnt after {PATIENCE:g} s')
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


def came_to(session: Session) -> str:
    """Return in words what a feedback that is kept has changed."""
    norm = session.status()['norm']
    if norm == 0.0:
        return ('learnt, but nothing changes yet: an event of its label has to be confirmed or '
                f'reported first, or the limits hold it back (trust {session.trusted:.2f})')
    return f'learnt: the change is by {norm:.3g} logits now (trust {session.trusted:.2f})'
