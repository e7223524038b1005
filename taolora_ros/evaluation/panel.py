"""Which model judges whom: one model all recordings, or each fold those that it never saw."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from taolora_ros.evaluation.detection import Candidate
from taolora_ros.recordings import Recording
from taolora_ros.trained_on import person

FOLD_FILES = '*.fold*.safetensors'  # as ``taolora train --folds`` names them


@dataclass
class Panel:
    """``candidate`` judges, or with ``folds`` (model file by subject) the one a subject has.

    Folds run as ``candidate`` does, with its precision, engine and settings.
    """

    candidate: Candidate
    folds: dict[str, Path] | None = None
    _loaded: dict = field(default_factory=dict)

    def load(self, recording: Recording) -> tuple:
        """Return (spec, engine, settings) of who judges ``recording``; keep the newest of them.

        Raise ValueError when no fold has left out its subject.
        """
        path = self.candidate.model if self.folds is None else self._fold(recording)
        if path not in self._loaded:
            candidate = self.candidate
            if self.folds is not None:
                candidate = dataclasses.replace(candidate, model=path)
            self._loaded = {path: candidate.load()}
        return self._loaded[path]

    def knows(self, recording: Recording) -> bool:
        """Tell whether somebody can judge ``recording``."""
        return self.folds is None or person(recording) in self.folds

    def _fold(self, recording: Recording) -> Path:
        if not self.knows(recording):
            raise ValueError(f'{recording.name}: no model of the folds has left it out')
        return self.folds[person(recording)]


def find_folds(folder: str | Path, kind: str) -> dict[str, Path]:
    """Return by subject (record) the INT4 model in ``folder`` that left it out.

    What all of them left out, such as a source, is judged by none. Raise ValueError when there is
    no model of ``kind``, or two left out the same subject.
    """
    left_out = _left_out(folder, kind)
    common = frozenset.intersection(*left_out.values()) if len(left_out) > 1 else frozenset()
    if common in left_out.values():  # then these are not folds
        common = frozenset()
    folds: dict[str, Path] = {}
    for path, subjects in left_out.items():
        for subject in sorted(subjects - common):
            if subject in folds:
                raise ValueError(f'{folder}: {subject} was left out by {folds[subject].name} and '
                                 f'by {path.name}; keep the folds of one training in a folder')
            folds[subject] = path
    if not folds:
        raise ValueError(f'{folder}: no {FOLD_FILES} of {kind} that has left somebody out '
                         f'(taolora train {kind} --folds N writes them)')
    return folds


def _left_out(folder: str | Path, kind: str) -> dict[Path, frozenset[str]]:
    """Return whom each INT4 model of ``kind`` in ``folder`` has left out, if somebody."""
    from taolora_ros.model_file import BESIDE, load_model
    found = {}
    for path in sorted(Path(folder).glob(FOLD_FILES)):
        if not path.name.endswith(BESIDE):
            model = load_model(path)
            subjects = frozenset(model.metadata['provenance'].get('left_out', []))
            if model.spec.kind == kind and subjects:
                found[path] = subjects
    return found
