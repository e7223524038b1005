"""Checkpoints: what is kept, what is written, what is refused, and crashes at every moment."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from endless_saver import MODEL, states

from taolora_ros.adaptation import blocks, checkpoint
from taolora_ros.adaptation.checkpoint import (
    FORMAT_VERSION, NewerVersionError, checkpoint_folder, load_checkpoint, save_checkpoint)
from taolora_ros.adaptation.lora import AdaptedLayer

KILLS = 200


def learnt(k=37, n=23):
    """Return a layer that has learnt something in both tiers."""
    draws = np.random.default_rng()
    layer = AdaptedLayer(k, n, seed=int(draws.integers(99)))
    for _ in range(5):
        x, gradient = (draws.standard_normal(size, np.float32) for size in (k, n))
        layer.learn(x, gradient, 0.01)
        layer.accumulate(x, gradient)
    layer.update_base(2e-5)  # so little that plain float16 would lose precision
    layer.learn(x, gradient, 0.01)
    layer.accumulate(x, gradient)
    return layer


def check(loaded, n):
    """Fail unless ``loaded`` is all of the n-th save of states() and nothing else."""
    assert loaded.statistics == {'n': n}
    expected = states(n)
    assert list(loaded.layers) == list(expected)
    for layer, state in expected.items():
        assert set(loaded.layers[layer]) == set(state)
        for name, array in state.items():
            np.testing.assert_array_equal(loaded.layers[layer][name], array)


def test_what_was_learnt_comes_back(tmp_path):
    layers = {'head': learnt(), 'blocks.1.mix.inner': learnt(11, 33)}
    before = datetime.now(timezone.utc)
    saved = save_checkpoint(tmp_path / 'a/b', 'm 1', {n: a.state() for n, a in layers.items()},
                            {'updates': 7, 'accuracy': 0.5})
    loaded = load_checkpoint(tmp_path / 'a/b', 'm 1')
    assert loaded.statistics == {'updates': 7, 'accuracy': 0.5}
    assert loaded.version == FORMAT_VERSION and loaded.time == saved.time
    assert timedelta(0) <= loaded.time - before < timedelta(minutes=1)
    for name, layer in layers.items():
        again = AdaptedLayer(layer.in_features, layer.out_features)
        again.load(loaded.layers[name])
        assert again.counts == layer.counts
        state, kept = layer.state(), again.state()
        for part in ('micro', 'micro_momentum', 'base_momentum', 'gradients'):
            np.testing.assert_array_equal(kept[part], state[part])
        for part in ('base_a', 'base_b'):
            largest = np.abs(state[part]).max(1, keepdims=True)
            assert (np.abs(kept[part] - state[part])
                    <= 2.0 ** -11 * np.abs(state[part]) + 2.0 ** -24 * largest).all()
        assert np.abs(state['base_b']).max() < 2.0 ** -14
        assert np.linalg.norm(again.delta() - layer.delta()) < 2.0 ** -10 * layer.norm()


def test_extreme_rows_are_kept(tmp_path):
    rows = np.array([[1e30, -3e29], [1e-30, 2e-31], [0.0, 0.0], [65520.0, 1.0]], np.float32)
    save_checkpoint(tmp_path, 'm', {'a': {'base_a': rows}})
    kept = load_checkpoint(tmp_path, 'm').layers['a']['base_a']
    np.testing.assert_allclose(kept, rows, rtol=2.0 ** -11)
    rows[1, 1] = np.nan
    with pytest.raises(ValueError, match='base_a: a value is not a finite number'):
        save_checkpoint(tmp_path, 'm', {'a': {'base_a': rows}})


def test_only_blocks_that_changed_are_written(tmp_path):
    layers = {name: learnt() for name in ('a', 'b', 'c')}

    def save():
        return save_checkpoint(tmp_path, 'm', {n: a.state() for n, a in layers.items()})

    first = save()
    assert (first.written, first.blocks) == (6, 6)
    file, = tmp_path.glob('*.safetensors')
    before = file.stat()
    assert save().written == 0
    layers['b'].learn(np.ones(37, np.float32), np.ones(23, np.float32), 0.1)
    second = save()
    assert second.written == 1 and second.bytes < first.bytes / 3
    layers['c'].accumulate(np.ones(37, np.float32), np.ones(23, np.float32))
    assert save().written == 2  # the sum of gradients, and how many they are
    after = file.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert len(list(tmp_path.glob('*.safetensors'))) == 3
    del layers['a']
    assert save().blocks == 4


def test_old_blocks_never_take_more_room_than_live_ones(tmp_path):
    layers = [learnt(300, 200) for _ in range(9)]
    one = (np.ones(300, np.float32), np.ones(200, np.float32))
    for turn in range(len(layers)):
        for layer in layers[turn:]:  # fewer and fewer: each file keeps a layer that is in use
            layer.learn(*one, 0.1)
            layer.accumulate(*one)
        saved = save_checkpoint(tmp_path, 'm', {str(i): a.state() for i, a in enumerate(layers)})
        whole = saved.bytes if turn == 0 else whole
        held = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert held < 2.1 * whole + 2 ** 16, turn
    loaded = load_checkpoint(tmp_path, 'm')
    for i, layer in enumerate(layers):
        np.testing.assert_array_equal(loaded.layers[str(i)]['micro'], layer.state()['micro'])


def test_nothing_kept_is_no_error(tmp_path):
    assert load_checkpoint(tmp_path, 'm') is None
    assert load_checkpoint(tmp_path / 'missing', 'm') is None
    assert not (tmp_path / 'missing').exists()


def test_each_robot_and_model_has_a_folder_below_ros_home(monkeypatch, tmp_path):
    monkeypatch.setenv('ROS_HOME', str(tmp_path))
    assert checkpoint_folder('imu_falls', 'r2') == tmp_path / 'taolora/r2/imu_falls'
    assert checkpoint_folder('../m', '/fleet/r2').parts[-2:] == ('fleet_r2', '_m')
    assert checkpoint_folder('m', 'r', tmp_path / 'x') == tmp_path / 'x/r/m'
    assert checkpoint_folder('m').parent.name not in ('', 'taolora')
    monkeypatch.delenv('ROS_HOME')
    monkeypatch.setenv('HOME', '/home/somebody')
    assert checkpoint_folder('m', 'r') == Path('/home/somebody/.ros/taolora/r/m')


def test_older_versions_load(tmp_path, monkeypatch):
    """Version 1 had plain float16 factors, without powers of two."""
    layer = learnt()
    state = layer.state()
    with monkeypatch.context() as then:
        then.setattr(blocks, 'HALVED', ())
        then.setattr(checkpoint, 'FORMAT_VERSION', 1)
        halves = {name: state[name].astype(np.float16) for name in ('base_a', 'base_b')}
        save_checkpoint(tmp_path, 'm', {'head': {**state, **halves}})
    loaded = load_checkpoint(tmp_path, 'm')
    assert loaded.version == 1
    np.testing.assert_array_equal(loaded.layers['head']['base_a'], halves['base_a'])
    AdaptedLayer(37, 23).load(loaded.layers['head'])


def test_newer_versions_and_other_models_are_refused(tmp_path):
    save_checkpoint(tmp_path, 'm 1', states(1))
    with pytest.raises(ValueError, match="checkpoint.json: learnt for 'm 1', not for 'm 2'"):
        load_checkpoint(tmp_path, 'm 2')
    path = tmp_path / 'checkpoint.json'
    manifest = json.loads(path.read_text())
    newer = 'version .* reads up to 2, install a newer one'
    for version, said in ((FORMAT_VERSION + 1, newer), *(
            (version, 'damaged: version') for version in (0, '2', None, True))):
        path.write_text(json.dumps({**manifest, 'version': version, 'new': 'thing'}))
        with pytest.raises(NewerVersionError if said == newer else ValueError, match=said):
            load_checkpoint(tmp_path, 'm 1')
        with pytest.raises(ValueError, match=said):  # rather than overwrite it
            save_checkpoint(tmp_path, 'm 1', states(2))


@pytest.mark.parametrize('which', ['checkpoint.json', '*.safetensors'])
def test_damage_gives_one_clear_error(tmp_path, which):
    save_checkpoint(tmp_path, 'm', states(3), {'n': 3})
    path = next(tmp_path.glob(which))
    whole, draws = path.read_bytes(), random.Random()
    damaged = [b'', b'garbage', whole[:-1], whole[:len(whole) // 2], os.urandom(500), b'[' * 9999]
    if which != 'checkpoint.json':
        place = draws.randrange(len(whole))
        damaged += [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:], whole + b'\0']
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f'{path.name}: damaged.*begin anew'):
            load_checkpoint(tmp_path, 'm')
    manifest = json.loads(whole) if which == 'checkpoint.json' else {}
    for key in manifest.keys() - {'writer'}:  # which only who saves asks for
        for value in (None, 7, 'x', ['x'], *([{'x.y': 'z'}] if key != 'statistics' else [])):
            path.write_text(json.dumps({**manifest, key: value}))
            with pytest.raises(ValueError, match='checkpoint.json|z: missing'):
                load_checkpoint(tmp_path, 'm')
    if not manifest:
        path.unlink()
        with pytest.raises(ValueError, match=f'{path.name}: missing'):
            load_checkpoint(tmp_path, 'm')


class Crash(Exception):
    """The process ends here."""


def steps(monkeypatch, crash_at=None):
    """Record what saving does to the disk; crash before step number ``crash_at``."""
    done, names = [], {}

    def watch(owner, function, tell):
        real = getattr(owner, function)

        def watched(*args, **options):
            if len(done) == crash_at:
                raise Crash
            done.append((function, tell(*args)))
            result = real(*args, **options)
            if function == 'open':
                names[result] = Path(args[0]).name
            return result
        monkeypatch.setattr(owner, function, watched)

    watch(os, 'replace', lambda a, b: Path(b).name)
    watch(os, 'open', lambda path, *_: Path(path).name)
    watch(os, 'fsync', lambda number: os.readlink(f'/proc/self/fd/{number}').split('/')[-1])
    watch(Path, 'unlink', lambda path: path.name)
    return done


def test_a_crash_between_any_two_steps_loses_nothing(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        save_checkpoint(tmp_path / 'whole', MODEL, states(3), {'n': 3})
        total = steps(patch)
        save_checkpoint(tmp_path / 'whole', MODEL, states(4), {'n': 4})
    for crash_at in range(len(total)):
        folder = tmp_path / str(crash_at)
        save_checkpoint(folder, MODEL, states(3), {'n': 3})
        with monkeypatch.context() as patch:
            done = steps(patch, crash_at)
            with pytest.raises(Crash):
                save_checkpoint(folder, MODEL, states(4), {'n': 4})
        renamed = ('replace', 'checkpoint.json') in done
        check(load_checkpoint(folder, MODEL), 4 if renamed else 3)
        save_checkpoint(folder, MODEL, states(5), {'n': 5})
        check(load_checkpoint(folder, MODEL), 5)
        assert len(list(folder.iterdir())) <= 4  # what the crash left behind is gone


def test_a_full_disk_is_told_and_not_filled_further(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, MODEL, states(3), {'n': 3})
    real = os.fsync
    for n in range(4, 9):
        room = iter([True] * (n % 3))

        def fsync(number):
            if not next(room, False):
                raise OSError(28, 'No space left on device')
            real(number)
        monkeypatch.setattr(os, 'fsync', fsync)
        with pytest.raises(OSError, match='No space'):
            save_checkpoint(tmp_path, MODEL, states(n), {'n': n})
        assert len(list(tmp_path.iterdir())) <= 5
    check(load_checkpoint(tmp_path, MODEL), 3)


def test_a_loss_of_power_finds_names_only_of_what_is_on_the_disk(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, MODEL, states(3), {'n': 3})
    done = steps(monkeypatch)
    save_checkpoint(tmp_path, MODEL, states(4), {'n': 4})
    renames = [i for i, (what, _) in enumerate(done) if what == 'replace']
    assert len(renames) == 2
    for i in renames:
        assert ('fsync', f'{done[i][1]}.partial') in done[:i]
    manifest = done.index(('replace', 'checkpoint.json'))
    assert manifest == renames[-1]
    folder = ('fsync', tmp_path.name)
    assert folder in done[renames[-2]:manifest]
    first_removed = min(i for i, (what, _) in enumerate(done) if what == 'unlink')
    assert folder in done[manifest:first_removed]


def test_killed_at_any_moment_nothing_saved_is_lost(tmp_path):
    """Kill a process that saves without end, 200 times; it goes on from what it finds."""
    script, done = Path(__file__).with_name('endless_saver.py'), 0
    with subprocess.Popen([sys.executable, script, tmp_path], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        for kill in range(KILLS):
            process.stdin.write('go\n')
            process.stdin.flush()
            child = int(process.stdout.readline())  # of the process; what follows are saves
            if kill % 2:  # however slow the disk is
                done = int(process.stdout.readline())
            time.sleep(random.uniform(0.0, 0.035))
            os.kill(child, signal.SIGKILL)
            while (line := process.stdout.readline().strip()) != 'dead':
                done = int(line)
            loaded = load_checkpoint(tmp_path, MODEL)
            if loaded is None:
                assert done == 0
                continue
            n = loaded.statistics['n']
            assert done <= n <= done + 1, f'kill {kill}'
            check(loaded, n)
            done = n
        process.stdin.close()
    assert done >= KILLS // 2, done
    assert len(list(tmp_path.iterdir())) <= 8  # nothing piles up
