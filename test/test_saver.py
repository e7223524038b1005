"""Saving in the background: nobody waits, the newest state wins, failures are told."""

import threading
import time

import pytest
from endless_saver import states

from taolora_ros.adaptation import saver as module
from taolora_ros.adaptation.checkpoint import load_checkpoint
from taolora_ros.adaptation.saver import Saver


@pytest.fixture
def slow(monkeypatch):
    """Let saving wait until told to go on; list what was begun."""
    begun, go_on, real = [], threading.Event(), module.save_checkpoint

    def save(folder, model, layers, statistics, *more):
        begun.append(statistics['n'])
        assert go_on.wait(60.0)
        return real(folder, model, layers, statistics, *more)
    monkeypatch.setattr(module, 'save_checkpoint', save)
    return begun, go_on


def test_saving_keeps_nobody_waiting_and_the_newest_state_wins(tmp_path, slow):
    begun, go_on = slow
    saver = Saver(tmp_path, 'm')
    for n in range(1, 6):
        saver.save(states(n), {'n': n})
        while not begun:
            time.sleep(0.001)
    assert saver.last is None and not saver.flush(0.01)
    go_on.set()
    assert saver.close(60.0)
    assert begun == [1, 5]
    assert load_checkpoint(tmp_path, 'm').statistics == {'n': 5}
    assert saver.last.time == load_checkpoint(tmp_path, 'm').time
    with pytest.raises(ValueError, match='already closed'):
        saver.save(states(6))


def test_a_failure_is_told_and_the_next_save_succeeds(tmp_path):
    folder = tmp_path / 'a'
    folder.write_text('not a folder')
    saver = Saver(folder, 'm')
    saver.save(states(1))
    assert saver.flush(60.0)
    assert str(folder) in saver.error and saver.last is None
    folder.unlink()
    saver.save(states(2), {'n': 2})
    assert saver.close(60.0) and saver.error is None and saver.last.blocks == 4
    assert load_checkpoint(folder, 'm').statistics == {'n': 2}


def test_saves_are_a_pause_apart(tmp_path, monkeypatch):
    begun, real = [], module.save_checkpoint

    def save(*args):
        begun.append(args[3]['n'])
        return real(*args)
    monkeypatch.setattr(module, 'save_checkpoint', save)
    saver, start, n = Saver(tmp_path, 'm', pause=0.3), time.monotonic(), 0
    while len(begun) < 4:
        n += 1
        saver.save(states(n % 9), {'n': n})
        time.sleep(0.002)
    assert time.monotonic() - start >= 3 * 0.3
    assert saver.close(60.0) and begun[-1] == n


def test_who_waits_for_a_save_waits_for_no_pause(tmp_path):
    saver = Saver(tmp_path, 'm', pause=3600.0)
    for n in (1, 2):
        saver.save(states(n), {'n': n})
        assert saver.flush(60.0)
        assert load_checkpoint(tmp_path, 'm').statistics == {'n': n}
    saver.save(states(3), {'n': 3})
    assert saver.close(60.0)
    assert load_checkpoint(tmp_path, 'm').statistics == {'n': 3}
