"""Does feedback help, and can it hurt: what ``taolora evaluate adaptation`` runs.

    subject  a record (ECG) or wearer (IMU), never one the model was trained on
    site     who shares a model: one record; or wearers of one source, about ``WEARERS`` of them
    before   the frozen model's false alarms and recall on a subject's judged part
    after    those of the model adapted to at most ``FEEDBACKS`` feedbacks on the site's other parts

Feedback comes from the first half of a record, or the earlier trials of each of a wearer's
activities; judged are the second half, or the later trials, on which no feedback was given. Each
site starts from the frozen model. The adapted one then judges all unseen subjects of other sites,
completely; and hostile operators (operators.py) take the place of the honest one: ``DRAWS`` of each
kind, who draw what they say and in which order they watch from seeds of their own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taolora_ros.adaptation.reference import load_reference, reference_path
from taolora_ros.adaptation.session import Session
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.evaluation.beats import count_beats
from taolora_ros.evaluation.decided import Decided, decide
from taolora_ros.evaluation.detection import Candidate
from taolora_ros.evaluation.falls import count_falls
from taolora_ros.evaluation.operators import HOSTILE, Operator
from taolora_ros.evaluation.outcomes import Count, summarise
from taolora_ros.recordings import Recording, find_files, read_npz
from taolora_ros.trained_on import TrainedOn

FEEDBACKS = 20
WEARERS = 5
DRAWS = 5  # of each kind of hostile operator
Part = list[tuple[Decided, float, float]]  # recordings, each from and until some time (s)
# The constants of adaptation/ were chosen on these: their figures are reported apart.
CHOSEN_ON = frozenset((
    '101', '108', '114', '115', '116', '124', '203', '208', '220', '223',
    'U01', 'U04', 'U06', 'U09', 'U11', 'U14', 'U22', 'U25', 'U28', 'U31',
    'SA01', 'SA04', 'SA07', 'SA09', 'SA12', 'SA15', 'SA17', 'SA20', 'SA23',
    'SE02', 'SE05', 'SE08', 'SE11', 'SE14'))


@dataclass
class Subject:
    """One record or wearer: the part that gets feedback, and the part that is judged."""

    name: str
    source: str
    feedback: Part
    judged: Part

    @property
    def whole(self) -> Part:
        """Return both parts."""
        return self.feedback + self.judged


def evaluate(kind: str, data: str | Path, candidates: list[Candidate],
             settings: AdaptationSettings | None = None,
             progress: Callable[[int, int, str], None] = lambda *_: None,
             only: frozenset[str] | None = None) -> dict:
    """Return the figures over all units below ``data`` that some candidate was not trained on.

    With several ``candidates``, each judges what its own training left out. Where one was trained
    on all of it, that is judged, and said. ``only`` names the subjects to keep. Raise ValueError
    for data or models that cannot be used.
    """
    settings = settings or AdaptationSettings()
    settings = settings.changed(enabled=True)
    files = find_files(data, kind)
    sites, models, trained = [], [], False
    for done, candidate in enumerate(candidates):
        described = candidate.describe()
        if described['kind'] != kind:
            raise ValueError(f'{candidate.model}: for {described["kind"]}, not {kind}')
        models.append(Path(described['file']).name)

        def report(text: str, done: int = done) -> None:
            progress(done, len(candidates), text)

        job = _Job(candidate, settings, only)
        subjects = job.subjects(files, len(candidates) > 1, report)
        if not subjects and len(candidates) == 1:
            job.trained_on, trained = TrainedOn(), True
            subjects = job.subjects(files, False, report)
        sites += job.judge(subjects, report)
        progress(done + 1, len(candidates), Path(described['file']).name)
    if not sites:
        raise ValueError(f'{data}: no annotated recording without added noise or pacing'
                         + (f' of {", ".join(sorted(only))}' if only else '')
                         + (' that one of the models left out' if len(candidates) > 1 else ''))
    return {**_figures(sites, trained), 'sites': sites, 'models': models, 'data': str(data)}


def _figures(sites: list[dict], trained: bool) -> dict:
    """Return the figures over sites, apart from those that constants were chosen on.

    Where there are no others, theirs; ``trained`` says whether the model was trained on them.
    """
    chosen = [site for site in sites if CHOSEN_ON & set(site['subjects'])]
    fresh = [site for site in sites if not CHOSEN_ON & set(site['subjects'])]
    return {**summarise(fresh or chosen), 'feedbacks': FEEDBACKS,
            'constants_chosen_on_these': not fresh, 'trained_on_these': trained,
            'chosen_on': summarise(chosen) if chosen and fresh else None,
            'all': summarise(sites) if chosen and fresh else None}


class _Job:
    """One model and all subjects that it may be judged on."""

    def __init__(self, candidate: Candidate, settings: AdaptationSettings,
                 only: frozenset[str] | None = None):
        from taolora_ros.model_file import load_model
        provenance = load_model(candidate.model).metadata.get('provenance', {})
        self.trained_on = TrainedOn.of(provenance)
        self.left_out = frozenset(provenance.get('left_out', []))
        self.spec, self.engine, self.detector = candidate.load()
        self.settings, self.only = settings, only
        self.frozen = self.engine.read_weights('head.weight', 'head.bias')
        self.reference = load_reference(reference_path(candidate.model), self.spec,
                                        self.frozen['head.weight'])
        self.engine.keeps_embedding = True

    def subjects(self, files: list[Path], several: bool, report: Callable[[str], None]
                 ) -> list[Subject]:
        """Return the unseen subjects in ``files``; of several models, those this one left out."""
        groups: dict[tuple[str, str], list[Decided]] = {}
        for path in files:
            for recording in read_npz(path):
                if self._unseen(recording, several):
                    report(f'{path.name} {recording.name}')
                    decided = decide(recording, self.spec, self.engine, self.detector)
                    if decided is not None:
                        groups.setdefault((recording.source, recording.subject),
                                          []).append(decided)
        build = _halves if self.spec.kind == 'ecg' else _trials
        return [build(subject, source, decided)
                for (source, subject), decided in sorted(groups.items())]

    def _unseen(self, recording: Recording, several: bool) -> bool:
        names = {recording.subject, recording.source}
        return (recording.annotated and not recording.paced and recording.snr_db is None
                and (self.only is None or recording.subject in self.only)
                and not self.trained_on.has(recording)
                and (bool(names & self.left_out) or not several))

    def judge(self, subjects: list[Subject], report: Callable[[str], None]) -> list[dict]:
        """Return one row for each site, with the counts of each of its subjects."""
        nothing = np.zeros((self.spec.network.width + 1, len(self.spec.classes)), np.float32)
        wholes = {id(subject): count(subject.whole, nothing) for subject in subjects}
        rows = []
        for site in _sites(self.spec.kind, subjects):
            report('+'.join(subject.name for subject in site))
            session, operator = self.adapt(site, 'honest')
            others = [s for s in subjects if not any(s is member for member in site)]
            row = {'subjects': [s.name for s in site], 'source': site[0].source,
                   'given': operator.given, 'status': session.status(),
                   'before': [count(s.judged, nothing) for s in site],
                   'after': [count(s.judged, session.delta) for s in site],
                   'others': [s.name for s in others],
                   'others_before': [wholes[id(s)] for s in others],
                   'others_after': self._whole(others, session.delta, wholes), 'hostile': {}}
            for kind in HOSTILE:
                row['hostile'][kind] = [self._hostile(site, others, wholes, kind, draw)
                                        for draw in range(DRAWS)]
            rows.append(row)
        return rows

    def _whole(self, others: list[Subject], delta: np.ndarray, frozen: dict[int, Count]
               ) -> list[Count]:
        """Return the counts of all of each subject; ``frozen`` has them where nothing changes."""
        return [count(s.whole, delta) if delta.any() else frozen[id(s)] for s in others]

    def _hostile(self, site: list[Subject], others: list[Subject], frozen: dict[int, Count],
                 kind: str, draw: int) -> dict:
        """Return what one hostile operator said, and the counts of each subject after it."""
        session, operator = self.adapt(site, kind, draw)
        return {'given': operator.given, 'rolled_back': session.counts['rolled_back'],
                'norm': session.status()['norm'],
                'after': [count(s.judged, session.delta) for s in site],
                'others_after': self._whole(others, session.delta, frozen)}

    def adapt(self, site: list[Subject], kind: str, draw: int = 0) -> tuple[Session, Operator]:
        """Return a session that an operator of some kind has taught on a site's first parts."""
        seed = f'{site[0].name}/{kind}' + (f'/{draw}' if draw else '')
        rng = np.random.default_rng(zlib.crc32(seed.encode()))
        operator = Operator(kind, FEEDBACKS * (10 if kind == 'flooded' else 1), rng)
        session = Session(self.spec, self.engine, self.reference, self.settings, operator.time)
        operator.attend(session)
        pieces = [piece for subject in site for piece in subject.feedback]
        for i in rng.permutation(len(pieces)):
            if operator.done:
                break
            operator.watch(*pieces[i])
            session.tick()
        self.engine.write_weights(self.frozen)
        return session, operator


def _sites(kind: str, subjects: list[Subject]) -> list[list[Subject]]:
    """Return who shares a model: single records; wearers of a source, dealt out by name.

    What constants were chosen on is kept apart.
    """
    if kind == 'ecg':
        return [[subject] for subject in subjects]
    sites = []
    for key in sorted({(s.source, s.name in CHOSEN_ON) for s in subjects}):
        members = [s for s in subjects if (s.source, s.name in CHOSEN_ON) == key]
        groups = max(round(len(members) / WEARERS), 1)
        sites += [members[i::groups] for i in range(groups)]
    return sites


def _halves(name: str, source: str, records: list[Decided]) -> Subject:
    """Return a subject whose records are cut in the middle."""
    first = [(d, 0.0, d.duration_s / 2) for d in records]
    return Subject(name, source, first, [(d, d.duration_s / 2, np.inf) for d in records])


def _trials(name: str, source: str, recordings: list[Decided]) -> Subject:
    """Return a subject whose trials of each activity are split, the earlier ones for feedback."""
    codes: dict[str, list[Decided]] = {}
    for decided in recordings:
        codes.setdefault(decided.recording.code, []).append(decided)
    early, late = [], []
    for trials in codes.values():
        half = (len(trials) + 1) // 2
        early += trials[:half]
        late += trials[half:]
    return Subject(name, source, [(d, 0.0, np.inf) for d in early],
                [(d, 0.0, np.inf) for d in late])


def count(part: Part, delta: np.ndarray) -> Count:
    """Return how a part is decided under a change of the head."""
    return sum((_count(*piece, delta) for piece in part), Count())


def _count(decided: Decided, from_s: float, until_s: float, delta: np.ndarray) -> Count:
    recording = decided.recording
    events = decided.events(delta, from_s, until_s)
    hours = (min(until_s, decided.duration_s) - from_s) / 3600
    if recording.kind == 'imu':
        alarms = [decided.time_s(e.stamp_ns) for e in events if e.label == 'fall']
        falls = count_falls(recording.source, decided.duration_s,
                            recording.fall_time_s if recording.is_fall else None, alarms)
        return Count(int(falls.is_fall), int(falls.found), falls.false_alarms, 1, hours)
    times = np.array([decided.time_s(e.stamp_ns) for e in events])
    veb = np.array([e.label == 'veb' for e in events], bool)
    inside = (recording.beat_times_s >= from_s) & (recording.beat_times_s < until_s)
    beats = count_beats(recording.beat_times_s[inside], recording.beat_aami[inside], times, veb,
                        recording.flutter_s)
    return Count(beats['veb_tp'] + beats['veb_fn'], beats['veb_tp'], beats['veb_fp'],
                 int(inside.sum()), hours)
