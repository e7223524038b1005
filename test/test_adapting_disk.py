"""What a node has learnt stays whole, and is taken back, whatever happens to its folder."""

import fcntl
import json
import threading
import time
from types import SimpleNamespace

import pytest
from learning import ON, Log, beats, make, reject

from taolora_ros import shipped
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.adapting import Adapting
from taolora_ros.detector import Detector
from taolora_ros.engine import make_engine
from taolora_ros.model_file import load_model


@pytest.fixture(scope='module')
def model():
    path = shipped.find_model('ecg_beats')
    return path, load_model(path)



def test_damaged_checkpoint_is_told_kept_aside_and_does_not_stop_learning(model, tmp_path):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    reject(adapting, beats(feeds[0]))
    assert adapting.save()[0]
    adapting.close()
    manifest = next(tmp_path.rglob('checkpoint.json'))
    manifest.write_text('{broken')
    adapting, feeds, log = make(model, tmp_path, 'chest')
    assert any('begins anew' in text and 'checkpoint.json' in text for text in log)
    aside = [path for path in tmp_path.rglob('checkpoint.json') if '.refused-' in str(path)]
    assert len(aside) == 1 and aside[0].read_text() == '{broken'
    assert reject(adapting, beats(feeds[0]), 1) == ['', '']
    assert adapting.save()[0] and adapting.problem('chest') == ''
    adapting.close()


@pytest.mark.parametrize('fault', ['newer', 'unreadable'])
def test_whole_checkpoint_that_cannot_be_read_now_is_neither_moved_nor_lost(model, tmp_path, fault,
                                                                            monkeypatch):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    reject(adapting, beats(feeds[0]))
    learnt = [e.score for e in beats(feeds[0])]
    adapting.close()
    manifest = next(tmp_path.rglob('checkpoint.json'))
    kept = manifest.read_text()
    before = sorted(path.name for path in tmp_path.rglob('*'))
    with monkeypatch.context() as then:
        if fault == 'newer':
            manifest.write_text(json.dumps({**json.loads(kept), 'version': 99}))
        else:
            def full(*given):
                raise OSError(24, 'Too many open files')
            then.setattr('taolora_ros.adapted_model.load_checkpoint', full)
        reason = 'install a newer one' if fault == 'newer' else 'Too many open files'
        adapting, feeds, log = make(model, tmp_path, 'chest')
        assert any('cannot learn' in text and reason in text for text in log)
        assert reason in adapting.problem('chest') and reason in adapting.save()[1]
        assert reason in adapting.take(beats(feeds[0])[3].id, True, '', 1.0, 0)
        adapting.tick()
    assert sorted(path.name for path in tmp_path.rglob('*')) == before
    manifest.write_text(kept)  # as when the fault is gone
    adapting.apply(AdaptationSettings())
    adapting.apply(ON)
    assert adapting.problem('chest') == ''
    assert [e.score for e in beats(feeds[0])] == pytest.approx(learnt, abs=2e-3)
    adapting.close()


def test_reset_removes_a_checkpoint_that_cannot_be_read_and_learning_begins(model, tmp_path):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    assert adapting.save()[0]
    adapting.close()
    manifest = next(tmp_path.rglob('checkpoint.json'))
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), 'version': 99}))
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    assert adapting.problem('chest') and adapting.reset()[0]
    assert adapting.problem('chest') == ''
    assert reject(adapting, beats(feeds[0]), 1) == ['', '']
    adapting.close()


def test_a_checkpoint_that_appears_meanwhile_is_told_and_not_overwritten(model, tmp_path):
    adapting, feeds, log = make(model, tmp_path, 'chest')  # before its disk is there
    other, others, _ = make(model, tmp_path, 'chest')
    reject(other, beats(others[0]))
    learnt = [e.score for e in beats(others[0])]
    other.close()
    kept = next(tmp_path.rglob('checkpoint.json')).read_bytes()
    reject(adapting, beats(feeds[0]), 1)
    good, told = adapting.save()
    assert not good and 'written by somebody else meanwhile' in told
    adapting.tick()
    assert 'written by somebody else' in adapting.problem('chest')
    adapting.close()
    assert any('written by somebody else' in text for text in log)
    assert next(tmp_path.rglob('checkpoint.json')).read_bytes() == kept
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    assert [e.score for e in beats(feeds[0])] == pytest.approx(learnt, abs=2e-3)
    reject(adapting, beats(feeds[0]), 1)
    assert adapting.save()[0]  # that was its own
    adapting.close()


def test_reset_takes_back_what_somebody_else_wrote_too(model, tmp_path):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    other, others, _ = make(model, tmp_path, 'chest')
    reject(other, beats(others[0]))
    other.close()
    assert adapting.reset()[0] and adapting.save()[0]
    adapting.close()
    frozen, learnt = (beats(make(model, folder, 'chest')[1][0]) for folder in (
        tmp_path / 'nothing', tmp_path))
    assert [e.score for e in frozen] == [e.score for e in learnt]


def test_a_reset_that_fails_is_done_later_and_what_was_learnt_does_not_return(
        model, tmp_path, monkeypatch):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    frozen = [e.score for e in beats(feeds[0])]
    reject(adapting, beats(feeds[0]))
    adapting.close()
    monkeypatch.setattr('taolora_ros.adapted_model.SETTLE', 0.0)
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    with open(next(tmp_path.rglob('lock')), 'rb') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        good, told = adapting.reset()
        assert not good and 'another process has held it' in told
        assert [e.score for e in beats(feeds[0])] == frozen
        assert list(tmp_path.rglob('lock')) and list(tmp_path.rglob('checkpoint.json'))
    for _ in range(3):
        adapting.tick()
        assert adapting._models['chest'].saver.flush(60.0)
    assert adapting.problem('chest') == ''
    adapting.close()
    again, feeds, _ = make(model, tmp_path, 'chest')
    assert [e.score for e in beats(feeds[0])] == frozen
    again.close()


@pytest.mark.parametrize('settings', [ON, AdaptationSettings()])
def test_a_reset_before_anything_began_is_done_when_it_begins(model, tmp_path, settings):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    frozen = [e.score for e in beats(feeds[0])]
    reject(adapting, beats(feeds[0]))
    adapting.close()
    with open(next(tmp_path.rglob('lock')), 'rb') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        adapting, feeds, _ = make(model, tmp_path, 'chest', settings=settings)
        assert not adapting.reset()[0]
    adapting._models['chest'].tick(time.monotonic() + 3600.0)
    adapting.apply(AdaptationSettings())
    adapting.apply(ON)
    assert adapting.problem('chest') == '' and adapting.status('chest')['adaptation_norm'] == '0'
    assert [e.score for e in beats(feeds[0])] == frozen
    adapting.close()


def test_a_reset_of_what_somebody_else_wrote_is_done_later_too(model, tmp_path, monkeypatch):
    monkeypatch.setattr('taolora_ros.adapted_model.SETTLE', 0.0)
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    frozen = [e.score for e in beats(feeds[0])]
    other, others, _ = make(model, tmp_path, 'chest')
    reject(other, beats(others[0]))
    other.close()
    with open(next(tmp_path.rglob('lock')), 'rb') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not adapting.reset()[0]
    for _ in range(3):
        adapting.tick()
        assert adapting._models['chest'].saver.flush(60.0)
    adapting.close()
    again, feeds, _ = make(model, tmp_path, 'chest')
    assert [e.score for e in beats(feeds[0])] == frozen and again.problem('chest') == ''
    again.close()


def test_a_limit_that_leaves_nothing_loses_nothing(model, tmp_path):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    reject(adapting, beats(feeds[0]))
    adapting.close()
    adapting, feeds, log = make(model, tmp_path, 'chest', settings=ON.changed(max_norm=0.0))
    assert any('begins anew' in text and 'max_norm' in text for text in log)
    assert [path for path in tmp_path.rglob('checkpoint.json') if '.refused-' in str(path)]
    adapting.close()


def test_reset_works_where_the_folder_is_a_link(model, tmp_path):
    adapting, feeds, _ = make(model, tmp_path / 'kept', 'chest')
    reject(adapting, beats(feeds[0]))
    adapting.close()
    folder = next((tmp_path / 'kept').rglob('checkpoint.json')).parent
    folder.rename(tmp_path / 'elsewhere')
    folder.symlink_to(tmp_path / 'elsewhere')
    for settings in (ON, AdaptationSettings()):
        adapting, feeds, _ = make(model, tmp_path / 'kept', 'chest', settings=settings)
        assert adapting.reset()[0]
        adapting.close()
    assert folder.is_symlink() and not list((tmp_path / 'elsewhere').glob('*.safetensors'))


def test_a_manifest_damaged_while_running_is_written_anew(model, tmp_path):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    reject(adapting, beats(feeds[0]), 1)
    assert adapting.save()[0]
    next(tmp_path.rglob('checkpoint.json')).write_bytes(b'\0' * 300)
    learnt = [e.score for e in beats(feeds[0])]
    good, told = adapting.save()
    assert good, told
    adapting.close()
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    assert [e.score for e in beats(feeds[0])] == pytest.approx(learnt, abs=2e-3)
    adapting.close()


def test_a_file_damaged_while_running_is_written_anew(model, tmp_path):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    reject(adapting, beats(feeds[0]), 1)
    assert adapting.save()[0]
    for path in tmp_path.rglob('*.safetensors'):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    reject(adapting, beats(feeds[0]), 1)
    learnt = [e.score for e in beats(feeds[0])]
    assert adapting.save()[0]
    adapting.close()
    adapting, feeds, log = make(model, tmp_path, 'chest')
    assert not any('begins anew' in text for text in log)
    assert [e.score for e in beats(feeds[0])] == pytest.approx(learnt, abs=2e-3)
    adapting.close()


def test_a_folder_that_another_process_holds_is_told_soon_and_asked_for_again(model,
                                                                                 tmp_path):
    adapting, feeds, _ = make(model, tmp_path, 'chest')
    reject(adapting, beats(feeds[0]), 1)
    adapting.close()
    with open(next(tmp_path.rglob('lock')), 'rb') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        adapting, feeds, log = make(model, tmp_path, 'chest')
        assert 'another process has held it' in adapting.problem('chest')
        assert feeds[0].detector.engine.keeps_embedding is False
        adapting.tick()
    assert adapting.problem('chest')
    adapting._models['chest'].tick(time.monotonic() + 3600.0)  # nobody has to ask for it
    assert adapting.problem('chest') == ''
    adapting.close()


@pytest.mark.parametrize('folder, robot, said', [
    ('~nosuchuser/x', 'r2', 'directory of checkpoints'), ('', 'r' * 300, 'too long'),
    ('file', 'r2', 'ot a')])
def test_folders_that_cannot_be_are_named_and_stop_nothing_else(model, tmp_path, folder, robot,
                                                                said):
    (tmp_path / 'file').write_text('')
    directory = folder if folder.startswith('~') else str(tmp_path / folder)
    path, loaded = model
    engine = make_engine(loaded, device='cpu')
    for settings in (AdaptationSettings(), ON):
        adapting = Adapting(settings, directory, robot, '/taolora', Log())
        feed = SimpleNamespace(name='chest', lock=threading.Lock(),
                               detector=Detector(loaded.spec, engine, name='chest'))
        adapting.attach(path, engine, feed)
        assert beats(feed)
        good, told = adapting.reset()
        assert not good and (said in told or settings is not ON and 'nothing was learnt' in told)
        assert settings is not ON or said in adapting.problem('chest')
        adapting.close()


def test_a_save_that_failed_is_tried_again(model, tmp_path, monkeypatch):
    monkeypatch.setattr('taolora_ros.adapted_model.SETTLE', 0.0)
    adapting, feeds, log = make(model, tmp_path, 'chest')
    reject(adapting, beats(feeds[0]))
    with monkeypatch.context() as patch:
        def full(*given):
            raise OSError(28, 'No space left on device')
        patch.setattr('taolora_ros.adaptation.saver.save_checkpoint', full)
        assert 'No space left' in adapting.save()[1]
        adapting.tick()
        assert any('No space left' in text for text in log)
    assert not list(tmp_path.rglob('checkpoint.json'))
    adapting.close()
    assert list(tmp_path.rglob('checkpoint.json'))
