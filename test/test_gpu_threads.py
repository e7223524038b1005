"""Engines on a GPU as the node uses them: from threads, with weights written meanwhile."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from taolora_ros.engine.reference import ReferenceEngine
from test_gpu_engines import ENGINES, Played

WAYS = {'mega': {}, 'mega, a launch a stage': {'persistent': False},
        'mega, tiles of 32': {'block_m': 32},
        'fused': {}, 'fused, sparing': {'lora': 2}, 'streams': {}}


def on_gpu(model, way):
    """Return an engine made in one of WAYS."""
    from taolora_ros.engine.gpu import make_gpu_engine
    return make_gpu_engine(way.split(',')[0], model, 'cuda', **WAYS[way])


def in_threads(*works):
    """Run functions side by side, each in a thread of its own, as the node runs its engine."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]


@pytest.mark.gpu
@pytest.mark.parametrize('way', WAYS)
def test_windows_from_a_thread_with_weights_written_in_between(way):
    played = Played('ecg_beats')
    engine, reference = on_gpu(played.model, way), ReferenceEngine(played.model, 'cpu')
    slot, shape, rng = engine.slot(1), played.gates[:1].shape, np.random.default_rng()

    def work():
        for i in range(300):
            window = played.windows[[i % 2]]
            gates = rng.random(shape) < rng.random()
            first, again = engine.run(window, gates), engine.run(window, gates)
            assert np.array_equal(first.probability, again.probability)
            assert np.array_equal(first.anomaly, again.anomaly)
            if i % 20 == 0:
                name = ('head.bias', 'blocks.1.up.lora_b', 'blocks.3.mix.inner.lora_a')[i // 20 % 3]
                value = engine.read_weights(name)[name]
                value = value + 0.02 * rng.standard_normal(value.shape)
                change = {name: value.astype(np.float16).astype(np.float32)}
                reference.write_weights(change)
                engine.write_weights(change)
                first = engine.run(window, gates)
            wanted = reference.run(window, gates)
            assert np.abs(first.probability - wanted.probability).mean() < 0.02

    in_threads(work)
    assert engine.slot(1) is slot


@pytest.mark.gpu
@pytest.mark.parametrize('name', ENGINES)
def test_weights_written_by_another_thread_are_seen_whole(name):
    played = Played('ecg_beats')
    engine = on_gpu(played.model, name)
    windows, gates = played.windows.repeat(10, 0), np.ones_like(played.gates).repeat(10, 0)
    old = engine.read_weights('head.bias', 'blocks.2.down.lora_b')
    new = {key: (value + 0.5).astype(np.float16).astype(np.float32) for key, value in old.items()}
    known = []
    for weights in (old, new):
        engine.write_weights(weights)
        known.append(engine.run(windows[:1], gates[:1]).probability)
    assert not np.array_equal(*known)
    done = threading.Event()

    def learn():
        while not done.is_set():
            for weights in (old, new):
                engine.write_weights(weights)

    def work():
        try:
            for i in range(300):
                got = engine.run(windows[:1], gates[:1]).probability
                assert any(np.array_equal(got, one) for one in known)
                if i == 100:  # sizes that are captured meanwhile
                    assert [len(engine.run(windows[:size], gates[:size]).offset)
                            for size in (9, 20)] == [9, 20]
        finally:
            done.set()

    in_threads(work, learn)


@pytest.mark.gpu
def test_two_models_run_side_by_side():
    played = [Played('ecg_beats'), Played('imu_falls')]
    engines = [on_gpu(one.model, 'mega') for one in played]

    def work(engine, one):
        windows, gates = one.windows.repeat(16, 0), one.gates.repeat(16, 0)
        first = engine.run(windows, gates)
        for _ in range(200):
            assert np.array_equal(engine.run(windows, gates).probability, first.probability)

    in_threads(*(lambda pair=pair: work(*pair) for pair in zip(engines, played)))
