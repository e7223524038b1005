"""One model of a node that learns from feedback: its session, its threads and its checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from taolora_ros.adaptation.checkpoint import (
    Loaded, NewerVersionError, load_checkpoint, remove_checkpoint)
from taolora_ros.adaptation.reference import head_digest, load_reference, reference_path
from taolora_ros.adaptation.reports import Outcome
from taolora_ros.adaptation.saver import Saver
from taolora_ros.adaptation.session import Session
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.adaptation.settler import Settler
from taolora_ros.spec import ModelSpec

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Engine
    from taolora_ros.feed import Feed

PATIENCE = 5.0  # s to wait in the end for what is being learnt, and for the disk
RETRY = 10.0    # s until a folder that another process holds is asked for again
ASKED = 1.0     # s that somebody who asks for a save waits for the disk, and all else of the node
SETTLE = 5.0    # s from the first feedback that is not saved yet to its save


class AdaptedModel:
    """The model in ``path``; session, settler and saver are there once adaptation was enabled.

    Its checkpoint lies in the folder that ``place`` gives for its name. ``say(level, text)`` tells
    what happens, ``report(session, outcome)`` what became of a feedback, in the settler's thread.
    """

    def __init__(self, path: Path, spec: ModelSpec, engine: Engine, place: Callable[[str], Path],
                 say: Callable[[str, str], None], report: Callable[[Session, Outcome], None]):
        self.path, self.spec, self.engine = path, spec, engine
        self._say, self._report = say, report
        self.feeds: list[Feed] = []
        self.session: Session | None = None
        self.settler: Settler | None = None
        self.saver: Saver | None = None
        self.problem = ''  # in words: why it cannot learn, or not be kept
        self.failed = ''   # why the last save, or the last round of learning, failed
        self._settings = AdaptationSettings()
        self._forgotten = False  # it is still to be taken back on the disk
        self._retry: float | None = None  # monotonic time to try again to begin
        self._saved = 0    # updates that are in the checkpoint
        self._since: float | None = None  # monotonic time of the first update that is not
        self._consolidated: float | None = None  # time of the last consolidation that is in it
        digest = head_digest(engine.read_weights('head.weight')['head.weight'])
        self._key = f'{spec.name}-{spec.version}-{digest}'  # what a checkpoint was learnt for
        self._place = partial(place, f'{path.stem}-{self._key}')
        self._folder: Path | None = None  # of the checkpoint, known when it is first needed

    def apply(self, settings: AdaptationSettings) -> None:
        """Let ``settings`` hold from now on."""
        self._settings = settings
        if settings.enabled and self.session is None:
            self._open(settings)
        if self.session is None:
            return
        self.session.settings = settings
        for feed in self.feeds:
            memory = self.session.memory(feed.name) if settings.enabled else None
            with feed.lock:
                feed.detector.memory = memory

    def _open(self, settings: AdaptationSettings) -> None:
        """Begin to learn, from where it was left off; or say why not.

        Nothing begins beside a checkpoint that is whole and cannot be read now: it would be lost
        with the next save. One that is damaged is put aside.
        """
        before, self.problem, self._retry = self.problem, '', None
        try:
            weight = self.engine.read_weights('head.weight')['head.weight']
            reference = load_reference(reference_path(self.path), self.spec, weight)
            if self._forgotten:
                self._remove()
            self._folder = self._place()
            loaded = self._read()
            session = Session(self.spec, self.engine, reference, settings)
        except (ValueError, OSError, MemoryError) as error:
            self.problem = str(error) or repr(error)
            if isinstance(error.__cause__ or error, BlockingIOError):  # and may let go of it
                self._retry = time.monotonic() + RETRY
            if self.problem != before:
                self._say('error', f'{self.spec.name} cannot learn: {self.problem}')
            return
        loaded = self._load(session, loaded)
        self.session = session
        self.settler = Settler(session, partial(self._report, session))
        self.saver = Saver(self._folder, self._key, after=loaded.identity if loaded else '')

    def _read(self) -> Loaded | None:
        """Return what was learnt; raise what says that it is there and cannot be read now."""
        try:
            return load_checkpoint(self._folder, self._key)
        except (NewerVersionError, OSError, MemoryError):
            raise
        except Exception as error:  # whatever a damaged file leads to, it is kept, and told
            self._say('error', f'{self.spec.name} begins anew: {error}; {self._put_aside()}')
            return None

    def _load(self, session: Session, loaded: Loaded | None) -> Loaded | None:
        """Let a session go on from what was learnt; return it, None where it cannot be used."""
        if loaded is None:
            return None
        try:
            session.load(loaded.layers)
        except Exception as error:  # of another shape, or against the limits of now
            self._say('error', f'{self.spec.name} begins anew: {error}; {self._put_aside()}')
            return None
        self._say('info', f'{self.spec.name}: what was learnt until '
                          f'{loaded.time:%Y-%m-%d %H:%M:%S} UTC is used ({self._folder})')
        return loaded

    def _put_aside(self) -> str:
        """Rename the folder, whose contents cannot be used; return in words what became of it."""
        aside = self._folder.with_name(f'{self._folder.name}.refused-{time.time_ns()}')
        try:
            self._folder.rename(aside)
            return f'what there was is now in {aside}'
        except OSError as error:
            self.problem = f'{self._folder} stays as it is: {error}'
            return self.problem

    def tick(self, now: float) -> None:
        """Save what is due at ``now`` (monotonic, s), and tell what failed."""
        if self.session is None:
            if self._retry is not None and now >= self._retry:
                self.apply(self._settings)
            return
        consolidated = self.session.last_consolidation != self._consolidated
        if self.session.status()['updates'] == self._saved:
            self._since = None
        elif self._since is None:
            self._since = now
        if consolidated or self._since is not None and now - self._since >= SETTLE:
            self._save()
        if self.saver.error:
            self._saved = -1  # nothing is known to be on the disk: try again
        elif self.saver.last:
            self.problem = ''
        error = self.saver.error or self.settler.error
        if error and self.failed != error:
            self._say('error', error)
        self.failed = error

    def save(self) -> str:
        """Save what is learnt by now; return in words where, or raise ValueError."""
        if self.session is None:
            raise ValueError(self.problem or 'nothing was learnt, adaptation is not enabled')
        self._save()
        saved = self._written()
        waiting = self.session.status()['waiting']
        later = f'; {waiting} feedbacks are still being learnt, and saved later' if waiting else ''
        return f'{saved}{later}'

    def _written(self) -> str:
        """Wait for the disk; return in words where it is, or raise ValueError."""
        if not self.saver.flush(ASKED):
            raise ValueError(f'{self._folder}: not saved within {ASKED:g} s, it goes on')
        if self.saver.error:
            raise ValueError(self.saver.error)
        self.problem = ''
        return f'saved in {self._folder}'

    def _save(self) -> None:
        status = self.session.status()
        self._saved, self._since = status['updates'], None
        self._consolidated = self.session.last_consolidation
        self.saver.save(self.session.state(), status, over=self._forgotten)
        self._forgotten = False

    def forget(self) -> str:
        """Take back what was learnt, on the disk too; return in words, or raise ValueError."""
        self._forgotten = True
        if self.session is None:
            found = self._remove()
            self.apply(self._settings)  # may begin now
            if not found:
                raise ValueError(self.problem or 'nothing was learnt, adaptation is not enabled')
            return f'taken back; what was in {self._folder} is removed'
        self.session.reset()
        self._save()
        return f'taken back; {self._written()}'

    def _remove(self) -> bool:
        """Remove what is kept; return whether there was anything, or raise ValueError."""
        self._folder = self._place()
        try:
            found = remove_checkpoint(self._folder)
        except OSError as error:
            raise ValueError(f'{self._folder}: {error}') from error
        self._forgotten = False
        return found

    def close(self) -> None:
        """Save what is not saved yet, and end both threads."""
        if self.saver is None:
            return
        if not self.settler.close(PATIENCE):
            self._say('error', f'{self.spec.name}: feedback given last is not learnt within '
                               f'{PATIENCE:g} s, and lost')
        if self.session.status()['updates'] != self._saved or self.saver.error:
            self._save()
        if not self.saver.close(PATIENCE) or self.saver.error:
            self._say('error', self.saver.error or f'{self._folder}: not saved within '
                                                   f'{PATIENCE:g} s')
