import threading

import numpy as np
import pytest
import torch

from taolora_ros.engine import make_engine
from taolora_ros.model_file import load_model
from tiny import tiny_batch, tiny_models


@pytest.fixture
def model(tmp_path):
    return load_model(tiny_models(tmp_path))


def run(engine, batch):
    return engine.run(batch.windows.numpy(), batch.gates.numpy())


def test_scores_are_those_of_the_network_in_float64(model):
    batch = tiny_batch(model.spec, 7, seed=11)
    scores = run(make_engine(model, device='cpu'), batch)
    with torch.inference_mode():
        logits, offset, _ = model.network(batch.windows, batch.gates)
    wanted = torch.softmax(logits.double(), -1).numpy()
    assert np.abs(scores.probability - wanted).max() < 1e-6
    assert np.allclose(scores.probability.sum(-1), 1, atol=1e-5)
    assert np.allclose(scores.offset, offset.numpy())


@pytest.mark.parametrize('sizes', [(1,) * 7, (3, 4), (7,)])
def test_batching_does_not_change_scores(model, sizes):
    batch = tiny_batch(model.spec, 7, seed=2)
    engine = make_engine(model, device='cpu')
    whole = run(engine, batch)
    first = 0
    for size in sizes:
        part = engine.run(batch.windows[first:first + size].numpy(),
                          batch.gates[first:first + size].numpy())
        assert np.allclose(part.probability, whole.probability[first:first + size], atol=2e-3)
        first += size


def test_gate_is_read(model):
    batch = tiny_batch(model.spec, 3)
    engine = make_engine(model, device='cpu')
    opened = engine.run(batch.windows.numpy(), np.ones((3, 16), bool))
    closed = engine.run(batch.windows.numpy(), np.zeros((3, 16), bool))
    assert np.abs(opened.probability - closed.probability).max() > 1e-6


def test_anomaly_is_one_where_the_rebuilding_error_meets_its_scale(model):
    batch = tiny_batch(model.spec, 4)
    with torch.inference_mode():
        rebuilt = model.network(batch.windows, batch.gates)[2]
    error = (model.network.patches(batch.windows) - rebuilt).double().numpy()
    rms = np.sqrt((error.reshape(4, -1, 8) ** 2).mean(1))
    model.anomaly_scale = torch.from_numpy(rms[2].astype(np.float32))
    anomaly = run(make_engine(model, device='cpu'), batch).anomaly
    assert np.allclose(anomaly[2], 1, atol=1e-4)
    assert np.allclose(anomaly, rms / rms[2], rtol=1e-4)


def test_wrong_shapes_and_names_are_refused(model):
    engine = make_engine(model, device='cpu')
    with pytest.raises(ValueError, match='expected'):
        engine.run(np.zeros((2, 5, 8), np.float32), np.zeros((2, 16), bool))
    with pytest.raises(ValueError, match='warp'):
        make_engine(model, engine='warp')
    with pytest.raises(ValueError, match='tpu'):
        make_engine(model, device='tpu')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_missing_gpu_is_an_error_when_asked_for_and_cpu_otherwise(model):
    with pytest.raises(ValueError, match='finds no CUDA device; auto takes'):
        make_engine(model, device='cuda')
    assert make_engine(model, device='auto').device == 'cpu'


def test_embeddings_are_what_the_head_reads_and_kept_only_when_asked(model):
    batch = tiny_batch(model.spec, 5, seed=int(np.random.default_rng().integers(2 ** 31)))
    engine = make_engine(model, device='cpu')
    plain = run(engine, batch)
    assert plain.embedding is None
    engine.keeps_embedding = True
    scores = run(engine, batch)
    assert (scores.probability == plain.probability).all()
    head = engine.read_weights('head.weight', 'head.bias')
    logits = (scores.embedding.astype(float) @ head['head.weight'][:-1].T.astype(float)
              + head['head.bias'][:-1])
    e = np.exp(logits - logits.max(-1, keepdims=True))
    assert np.abs(e / e.sum(-1, keepdims=True) - scores.probability).max() < 1e-5


@pytest.mark.parametrize('name', ['native', 'reference'])
def test_written_weights_hold_from_the_next_run_and_go_back_bit_by_bit(model, name):
    batch = tiny_batch(model.spec, 3, seed=5)
    engine = make_engine(model, engine=name, device='cpu')
    before = run(engine, batch)
    names = ('head.weight', 'head.bias', 'blocks.1.mix.inner.lora_b')
    kept = engine.read_weights(*names)
    engine.write_weights({name: 1.3 * value + 0.01 for name, value in kept.items()})
    assert np.abs(run(engine, batch).probability - before.probability).max() > 1e-3
    assert engine.changes == 1
    engine.write_weights(kept)
    assert (run(engine, batch).probability == before.probability).all()
    engine.write_weights(kept)
    assert engine.changes == 2, 'what is there already is no change'


@pytest.mark.parametrize('changes, problem', [
    ({'head.bias': np.zeros(3, np.float32), 'head.weight': np.zeros((2, 2))}, 'shape'),
    ({'norm.weight': np.zeros(24)}, 'norm.weight'),
    ({'head.bias': np.full(3, np.nan)}, 'finite')])
def test_weights_that_do_not_fit_change_nothing(model, changes, problem):
    engine = make_engine(model, device='cpu')
    kept = engine.read_weights('head.weight', 'head.bias')
    with pytest.raises(ValueError, match=problem):
        engine.write_weights(changes)
    assert all((kept[name] == value).all()
               for name, value in engine.read_weights('head.weight', 'head.bias').items())


def test_a_run_sees_all_of_a_change_or_nothing(model):
    batch = tiny_batch(model.spec, 4, seed=1)
    engine = make_engine(model, device='cpu')
    kept = engine.read_weights('head.weight', 'head.bias')
    other = {name: -value for name, value in kept.items()}
    allowed = []
    for weights in (kept, other):
        engine.write_weights(weights)
        allowed.append(run(engine, batch).probability)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            engine.write_weights(kept)
            engine.write_weights(other)

    thread = threading.Thread(target=change)
    thread.start()
    seen = [run(engine, batch).probability for _ in range(60)]
    stop.set()
    thread.join(10)
    assert all(any((p == wanted).all() for wanted in allowed) for p in seen)
