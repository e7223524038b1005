"""What a node's models learn: one session for each model, kept on disk, whatever happens to it."""

import shutil
import threading
import time
from types import SimpleNamespace

import pytest
from doubtful_beats import DOUBTFUL, VENTRICULAR, near, with_doubtful_beats
from learning import ON, Log, beats, make, reject

from taolora_ros import shipped
from taolora_ros.adaptation.reference import reference_path
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.adapting import Adapting
from taolora_ros.detector import Detector
from taolora_ros.engine import make_engine
from taolora_ros.model_file import load_model


@pytest.fixture(scope='module')
def model():
    path = shipped.find_model('ecg_beats')
    return path, load_model(path)


def test_streams_of_one_model_learn_together_and_ids_find_their_stream(model, tmp_path):
    adapting, feeds, _ = make(model, tmp_path, 'chest', 'chest-2')
    first, second = (beats(feed) for feed in feeds)
    assert reject(adapting, first, 1) == ['', ''] == reject(adapting, second, 1)
    assert adapting.status('chest')['adaptation_updates'] == '4'
    assert adapting.status('chest') == adapting.status('chest-2')
    stamp = first[3].stamp_ns
    assert adapting.take('chest-2', False, first[3].label, 1.0, stamp) == ''
    assert 'no stream that' in adapting.take('ches-1-1', False, '', 1.0, 0)
    adapting.close()


def test_what_was_not_saved_is_saved_in_the_end_and_used_again(model, tmp_path):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    before = [e.score for e in beats(feeds[0])]
    reject(adapting, beats(feeds[0]))
    learnt = [e.score for e in beats(feeds[0])]
    adapting.close()
    assert learnt != pytest.approx(before, abs=2e-3)
    adapting, feeds, log = make(model, tmp_path, 'chest')
    assert [e.score for e in beats(feeds[0])] == pytest.approx(learnt, abs=2e-3)
    assert any('what was learnt until' in text for text in log)
    good, told = adapting.reset()
    assert good and str(tmp_path) in told and [e.score for e in beats(feeds[0])] == before
    adapting.close()
    assert [e.score for e in beats(make(model, tmp_path, 'chest')[1][0])] == before


def test_a_problem_that_is_gone_is_not_told_any_more(model, tmp_path):
    path = tmp_path / 'mine.safetensors'
    shutil.copy(model[0], path)
    adapting, feeds, _ = make((path, model[1]), tmp_path / 'kept', 'chest')
    assert 'mine.reference.safetensors: no such file' in adapting.problem('chest')
    shutil.copy(reference_path(model[0]), reference_path(path))
    adapting.apply(AdaptationSettings())
    adapting.apply(ON)
    assert adapting.problem('chest') == '' and adapting.status('chest')['adaptation'] == 'on'
    assert reject(adapting, beats(feeds[0]), 1) == ['', '']
    adapting.close()


def test_with_default_limits_a_doubtful_event_is_none_at_once_before_anything_is_settled(
        model, tmp_path, monkeypatch):
    default = AdaptationSettings(enabled=True)
    adapting, (feed,), _ = make(model, tmp_path, 'chest', settings=default)
    signal = with_doubtful_beats(feed.detector.engine, model[1].spec, 20, score=0.5)[:, None]

    def labels():
        events = {(e.stamp_ns - 10 ** 12) / 1e9: e for e in beats(feed, signal)}
        return events, [near(events, at).label for at in (VENTRICULAR, *DOUBTFUL)]
    events, before = labels()
    assert before == ['veb'] * 3
    assert adapting.take(near(events, VENTRICULAR).id, True, '', 1.0, 0) == ''
    assert adapting.settle(60.0)
    monkeypatch.setattr(adapting._models['chest'].settler, 'wake', lambda: None)
    events, before = labels()
    at = min(DOUBTFUL, key=lambda at: near(events, at).values['veb_score'])
    assert near(events, at).label == 'veb'
    assert adapting.take(near(events, at).id, False, '', 1.0, 0) == ''
    assert adapting.status('chest')['adaptation_waiting'] == '1'
    after = near(labels()[0], at)
    assert after.label == 'beat' and adapting.status('chest')['adaptation_waiting'] == '1'
    monkeypatch.undo()
    adapting.close()


def test_saving_does_not_wait_for_what_is_still_being_learnt(model, tmp_path, monkeypatch):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    events = beats(feeds[0])
    monkeypatch.setattr(adapting._models['chest'].settler, 'wake', lambda: None)
    assert [adapting.take(e.id, True, '', 1.0, 0) for e in events[:3]] == [''] * 3
    begin = time.monotonic()
    good, told = adapting.save()
    assert good and '3 feedbacks are still being learnt' in told
    assert time.monotonic() - begin < 2.5  # not the seconds that closing may take
    monkeypatch.undo()
    adapting.close()


def test_what_does_harm_is_refused_and_kept_aside(model, tmp_path, monkeypatch):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    reject(adapting, beats(feeds[0]))
    adapting.close()
    monkeypatch.setattr('taolora_ros.adaptation.learner.Learner.damage', lambda *_: (0.5, 0.0))
    adapting, feeds, log = make(model, tmp_path, 'chest', settings=ON.changed(max_lost=0.05))
    assert any('begins anew' in text and '.refused-' in text for text in log)
    adapting.close()


def test_a_norm_lowered_before_the_start_shrinks_what_is_loaded(model, tmp_path):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    reject(adapting, beats(feeds[0]))
    most = 0.4 * float(adapting.status('chest')['adaptation_norm'])
    adapting.close()
    lowered = ON.changed(max_norm=most)
    adapting, feeds, log = make(model, tmp_path, 'chest', settings=lowered)
    assert not any('begins anew' in text for text in log)
    assert 0.9 * most <= float(adapting.status('chest')['adaptation_norm']) <= most + 1e-3
    scores = [e.score for e in beats(feeds[0])]
    adapting.close()
    adapting, feeds, _ = make(model, tmp_path, 'chest')  # what was shrunk has been saved
    assert [e.score for e in beats(feeds[0])] == pytest.approx(scores, abs=2e-3)
    adapting.close()


def test_nodes_of_one_robot_do_not_share_what_they_learn(model, tmp_path):
    first, feeds, _ = make(model, tmp_path, 'chest')
    reject(first, beats(feeds[0]))
    learnt = [e.score for e in beats(feeds[0])]
    first.close()
    other = Adapting(ON, str(tmp_path), 'r2', '/ward/taolora', Log())
    path, loaded = model
    engine = make_engine(loaded, device='cpu')
    feed = SimpleNamespace(name='chest', detector=Detector(loaded.spec, engine, name='chest'),
                           lock=threading.Lock())
    other.attach(path, engine, feed)
    assert [e.score for e in beats(feed)] != pytest.approx(learnt, abs=2e-3)
    assert other.save()[0]
    other.close()
    again, feeds, _ = make(model, tmp_path, 'chest')
    assert [e.score for e in beats(feeds[0])] == pytest.approx(learnt, abs=2e-3)
    again.close()


def test_feedback_is_saved_soon_after_without_being_asked(model, tmp_path, monkeypatch):
    monkeypatch.setattr('taolora_ros.adapted_model.SETTLE', 0.0)
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    reject(adapting, beats(feeds[0]))
    adapting.tick()
    adapting.tick()
    end = time.monotonic() + 60
    while not list(tmp_path.rglob('checkpoint.json')) and time.monotonic() < end:
        time.sleep(0.02)
    assert list(tmp_path.rglob('checkpoint.json'))
    adapting.close()


def test_disabled_it_keeps_nothing_and_enabling_later_is_enough(model, tmp_path):
    adapting, feeds, _ = make(model, tmp_path, 'chest', settings=AdaptationSettings())
    assert feeds[0].detector.memory is None and adapting.status('chest') == {'adaptation': 'off'}
    events = beats(feeds[0])
    assert reject(adapting, events, 1) == ['adaptation.enabled is false'] * 2
    adapting.apply(ON)
    assert reject(adapting, beats(feeds[0]), 1) == ['', '']
    assert adapting.save()[0] and list(tmp_path.rglob('checkpoint.json'))
    learnt = [e.score for e in beats(feeds[0])]
    adapting.apply(AdaptationSettings())
    assert feeds[0].detector.memory is None
    assert [e.score for e in beats(feeds[0])] == [e.score for e in events] != learnt
    adapting.apply(ON)
    assert [e.score for e in beats(feeds[0])] == learnt
    adapting.close()
    adapting, feeds, _ = make(model, tmp_path, 'chest', settings=AdaptationSettings())
    assert adapting.reset()[0] and not list(tmp_path.rglob('checkpoint.json'))
