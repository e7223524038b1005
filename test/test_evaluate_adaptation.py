"""Kept tokens give the decisions of the detector; operators and figures of the evaluation."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from adapting import World
from rule_engine import RuleEngine
from taolora_ros.decode import START
from taolora_ros.detector import Detector
from taolora_ros.engine import Scores
from taolora_ros.evaluation.adaptation import _halves, _Job, _sites, _trials, count
from taolora_ros.evaluation.adaptation_report import find_candidates, notes, plain, tables
from taolora_ros.evaluation.decided import Decided, decide
from taolora_ros.evaluation.detection import recording_samples
from taolora_ros.evaluation.operators import HOSTILE, Operator, truth
from taolora_ros.evaluation.outcomes import Count, bootstrap, summarise
from taolora_ros.recordings import read_npz
from taolora_ros.spec import SPECS
from taolora_ros.synthetic import write_dataset
from taolora_ros.trained_on import TrainedOn

WIDTH = 128


class Embedding(RuleEngine):
    """The engine of rules, with random tokens that a change of the head can read."""

    keeps_embedding = True

    def run(self, windows, gates):
        scores = super().run(windows, gates)
        rng = np.random.default_rng(len(windows))
        embedding = rng.standard_normal((*gates.shape, WIDTH)).astype(np.float32)
        return Scores(scores.probability, scores.offset, scores.anomaly, embedding)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    write_dataset(folder, seed=int(np.random.default_rng().integers(1000)), subjects=1, records=1)
    return folder


def recordings(data, kind):
    return [r for path in sorted(data.rglob('*.npz')) for r in read_npz(path) if r.kind == kind]


def nothing(spec):
    return np.zeros((WIDTH + 1, len(spec.classes)), np.float32)


@pytest.mark.parametrize('source, unseen', [('ecg', False), ('elsewhere', True)])
def test_unseen_are_those_of_other_sources_too(data, source, unseen):
    (recording,) = recordings(data, 'ecg')
    job = object.__new__(_Job)
    job.only, job.left_out = None, frozenset()
    job.trained_on = TrainedOn({source: frozenset([recording.subject])})
    assert job._unseen(recording, False) == unseen


@pytest.mark.parametrize('kind', ['imu', 'ecg'])
def test_kept_tokens_give_the_events_of_the_detector(data, kind):
    spec = SPECS[kind]
    for recording in recordings(data, kind):
        detector = Detector(spec, Embedding(spec))
        found = detector.process(recording_samples(recording, spec)) + detector.flush()
        wanted = [e for e in found if getattr(e, 'phase', None) == START]
        kept = decide(recording, spec, Embedding(spec), None)
        events = kept.events(nothing(spec))
        assert [e.label for e in events] == [e.label for e in wanted]
        assert np.allclose([e.stamp_ns for e in events], [e.stamp_ns for e in wanted], rtol=0,
                           atol=1000)
        assert np.allclose([list(e.values.values()) for e in events if len(e.values) > 1],
                           [list(e.values.values()) for e in wanted if len(e.values) > 1],
                           atol=1e-4)
        silent = nothing(spec)
        silent[-1, 0] = 1e3
        assert kept.events(silent) == []


def test_a_subject_is_judged_on_what_gave_no_feedback(data):
    spec = SPECS['imu']
    kept = [decide(r, spec, Embedding(spec), None) for r in recordings(data, 'imu')]
    for i, decided in enumerate(kept):
        decided.recording.code = f'D{i}'
    subject = _trials('S1', 'made', kept + kept[:3])
    feedback = {id(d) for d, *_ in subject.feedback}
    assert len(subject.whole) == len(kept) + 3
    assert all(d.recording.code in {k.recording.code for k in kept} for d, *_ in subject.judged)
    assert len(feedback) == len(kept) and len(subject.judged) == 3
    ecg = decide(recordings(data, 'ecg')[0], SPECS['ecg'], Embedding(SPECS['ecg']), None)
    halves = _halves('r', 'made', [ecg])
    before, after = count(halves.feedback, nothing(SPECS['ecg'])), count(
        halves.judged, nothing(SPECS['ecg']))
    whole = count([(ecg, 0.0, np.inf)], nothing(SPECS['ecg']))
    assert before.events + after.events == whole.events
    assert before.hours + after.hours == pytest.approx(whole.hours)
    assert abs(before.found + after.found - whole.found) <= 2
    groups = _sites('imu', [dataclasses.replace(subject, name=f'X{i}') for i in range(11)])
    assert sorted(s.name for g in groups for s in g) == sorted(f'X{i}' for i in range(11))
    assert len(groups) == 2


@pytest.mark.parametrize('kind', ['honest', *HOSTILE])
def test_operators_say_what_they_are_to(data, kind):
    spec = SPECS['ecg']
    decided = decide(recordings(data, 'ecg')[0], spec, Embedding(spec), None)
    said = []
    operator = Operator(kind, 15, np.random.default_rng())

    class Listener:
        delta, spec = nothing(SPECS['ecg']), SPECS['ecg']

        def memory(self, stream):
            return World(0).memory

        def feedback(self, event_id, correct):
            said.append(correct)
            return dataclasses.make_dataclass('Outcome', ['learnt'])(True)

        def miss(self, stream, stamp_ns, label):
            said.append(None)
            return dataclasses.make_dataclass('Outcome', ['learnt'])(True)

        def settle(self):
            return []

    operator.attend(Listener())
    operator.memory = dataclasses.make_dataclass('Memory', [])()
    operator.memory.decided = lambda tokens, events: None
    operator.watch(decided)
    true = truth(decided)
    assert sum(operator.given.values()) == len(said) <= 15
    if kind in ('inverted', 'flooded') and len(true.events):
        assert False in said  # right alarms are rejected
    if kind == 'honest' and operator.given['rejected'] == 0:
        assert True not in said  # nothing to make up for


def test_a_simulated_detector_forgets_what_was_said_when_the_head_changes(data, monkeypatch):
    spec, forgotten = SPECS['ecg'], []
    decided = decide(recordings(data, 'ecg')[0], spec, Embedding(spec), None)
    made = Decided.decoder

    def decoder(self, name=''):
        one = made(self, name)
        monkeypatch.setattr(one, 'forget', lambda: forgotten.append(session.asked))
        return one

    class Session:
        spec, asked = SPECS['ecg'], 0

        @property
        def delta(self):
            self.asked += 1
            return nothing(self.spec) + 0.01 * (self.asked > 9)

        def memory(self, stream):
            return World(0).memory

        def settle(self):
            return []

        def __getattr__(self, name):
            return lambda *_: dataclasses.make_dataclass('Outcome', ['learnt'])(True)
    monkeypatch.setattr(Decided, 'decoder', decoder)
    session, operator = Session(), Operator('flooded', 10**6, np.random.default_rng())
    operator.attend(session)
    operator.memory = SimpleNamespace(decided=lambda tokens, events: None)
    operator.watch(decided)
    assert len(forgotten) == 1 and 9 < forgotten[0] < session.asked


def site(name, before, after, hostile, others):
    empty = [Count(events=50, found=40, false=2, cases=550)]
    return {'subjects': [name], 'given': {'rejected': 1, 'confirmed': 0, 'missed': 0},
            'status': {'rolled_back': 0, 'norm': 0.1 * (name == 'a')},
            'before': [before], 'after': [after], 'others_before': 2 * empty,
            'others_after': [Count(50, found, 2, 550) for found in others],
            'hostile': {'inverted': [
                {'after': [Count(100, found, false, 1000, 0.5)],
                 'others_after': [*empty, Count(50, 40, 2 + false, 550)]}
                for found, false in hostile]}}


def test_figures_are_sums_over_subjects():
    a, b = Count(100, 80, 10, 1000, 0.5), Count(100, 90, 30, 1000, 0.5)
    sites = [site('a', a, Count(100, 82, 4, 1000, 0.5), ((79, 9), (78, 10), (80, 11)), (42, 39)),
             site('b', b, Count(100, 89, 12, 1000, 0.5), ((90, 30), (87, 34), (90, 35)), (40, 40))]
    figures = summarise(sites)
    assert (figures['false_alarms_before'], figures['false_alarms_after']) == (40, 16)
    assert figures['false_alarms_change'] == pytest.approx(-0.6)
    assert figures['false_alarms_change_interval'] == pytest.approx((-0.6, -0.6))
    assert figures['recall_change'] == pytest.approx(0.5)
    assert figures['hostile_draws']['inverted'] == pytest.approx([-0.5, -2.5, 0.0])
    assert figures['hostile_change']['inverted'] == pytest.approx(-1.0)
    assert figures['hostile_interval']['inverted'] == pytest.approx((-1.0, -1.0))
    assert figures['hostile_worst_change'] == pytest.approx(-1.0)
    assert figures['hostile_worst_draw'] == pytest.approx(-2.5)
    assert figures['hostile_worst_site']['inverted'] == pytest.approx(-1.0)
    assert figures['hostile_false_alarms_change']['inverted'] == pytest.approx(3 / 40)
    # 39, 44 and 46 false alarms more among 2000 ordinary cases of others
    assert figures['hostile_others_change']['inverted'] == pytest.approx(
        {'recall': 0.0, 'specificity': -100 * 43 / 2000})
    assert figures['hostile_others_worst_change'] == pytest.approx(-2.15)
    assert figures['others_change'] == pytest.approx({'recall': 0.5, 'specificity': 0.0})
    assert figures['others_worst_subject'] == pytest.approx({'recall': -2.0, 'specificity': 0.0})
    assert figures['others_worst_change'] == 0.0 and figures['hours'] == 1.0
    assert (figures['site_count'], figures['sites_that_learnt']) == (2, 1)
    low, high = figures['recall_change_interval']
    assert low <= 0.5 <= high and (low, high) == pytest.approx((-1.0, 2.0))
    result = {**figures, 'feedbacks': 20, 'constants_chosen_on_these': False,
              'trained_on_these': False, 'chosen_on': None, 'all': None, 'sites': sites}
    assert json.loads(json.dumps(plain(result)))['sites'][0]['before'][0]['found'] == 80
    said = notes(result)
    assert len(tables(result)) == 2 and 'worst change on others +0.00' in said[0]
    assert 'recall -2.00' in said[0] and 'inverted -1.00; on others -2.15' in said[1]
    assert '1 of 2 sites' in said[2] and 'inverted -2.50 .. +0.00' in said[3]
    assert bootstrap([], lambda rows: 1.0) is None


def test_folders_without_models_of_folds_are_refused(tmp_path):
    candidate = dataclasses.make_dataclass('C', ['model'])('m')
    candidate.describe = lambda: {'name': 'ecg_beats'}
    with pytest.raises(ValueError, match='no ecg_beats'):
        find_candidates(str(tmp_path), candidate)
    assert find_candidates(None, candidate) == [candidate]
