"""The router: its cell against the equations, its gate, its training and its comparison."""

import dataclasses

import numpy as np
import pytest
import torch

from taolora_ros.adaptation import router_study
from taolora_ros.adaptation.router import (
    Router, RouterGate, RouterInputs, input_size, load_router, router_shapes, save_router)
from taolora_ros.adaptation.router_training import (
    LOW_RANK, RouterNetwork, RouterOptions, make_track, train_router)
from taolora_ros.features import FeatureFilter
from taolora_ros.shipped import shipped
from taolora_ros.spec import ECG_BEATS, IMU_FALLS, SPECS
from taolora_ros.synthetic import ecg_record, imu_recording
from taolora_ros.training.corpus import IGNORE, parts_of

SHORT = RouterOptions(hidden=12, steps=60, batch=16, length=48, learning_rate=0.02)


def random_arrays(inputs=7, hidden=5, classes=3):
    random = np.random.default_rng()
    return {name: random.standard_normal(shape).astype(np.float32)
            for name, shape in router_shapes(inputs, hidden, classes).items()}


def by_the_equations(a, xs):
    """Return the logits for inputs (p, X), in float64, as router.py writes them."""
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))
    a = {name: array.astype(float) for name, array in a.items()}
    h, logits = np.zeros(len(a['u'])), []
    u = a['u'] + a['hidden_a'] @ a['hidden_b']
    for x in xs.astype(float):
        z = sigmoid(x @ a['w'] + h @ u + h @ a['update_a'] @ a['update_b'] + a['b_z'])
        candidate = np.tanh(x @ a['w'] + h @ u + a['b_h'])
        h = (sigmoid(a['zeta']) * (1 - z) + sigmoid(a['nu'])) * candidate + z * h
        logits.append(np.concatenate([h @ (a[f'{head}_o'] + a[f'{head}_a'] @ a[f'{head}_b'])
                                      + a[f'{head}_bias'] for head in ('class', 'gate')]))
    return np.array(logits)


def test_the_cell_follows_its_equations():
    # weights at which the cell forgets: at larger ones it is chaotic, and rounding grows
    arrays = {name: 0.3 * array for name, array in random_arrays().items()}
    xs = np.random.default_rng().standard_normal((12, 7), np.float32)
    expected = by_the_equations(arrays, xs)
    router = Router(arrays, (1,), 0.5)
    np.testing.assert_allclose([router.step(x) for x in xs], expected, atol=1e-4)
    network = RouterNetwork(7, 5, 3, arrays)
    found = network(torch.tensor(xs)[None]).detach().numpy()[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    shares = np.exp(expected[:, :3])
    router.reset()
    np.testing.assert_allclose(router.rare_probabilities(xs), shares[:, 1] / shares.sum(1),
                               atol=1e-4)


def test_ranks_are_those_of_the_method():
    shapes = router_shapes(19, 32, 5)
    assert shapes['hidden_a'] == (32, 8) and shapes['update_b'] == (2, 32)
    assert shapes['class_a'] == (32, 4) and shapes['gate_a'] == (32, 1)  # one output, rank one


def features(spec, recording):
    values = recording.values[:, :1] if spec.kind == 'ecg' else np.nan_to_num(recording.values)
    return FeatureFilter(spec).push(values[:int(20 * spec.rate)])


@pytest.mark.parametrize('spec, recording', [
    (ECG_BEATS, ecg_record(20.0, rate=125.0)), (IMU_FALLS, imu_recording('fall', rate=50.0))])
def test_any_chunks_of_a_signal_open_the_same_patches(spec, recording):
    rows, random = features(spec, recording), np.random.default_rng()
    arrays = random_arrays(input_size(spec), 6, len(spec.classes))
    gate = RouterGate(spec, Router(arrays, (1,), 0.4))
    whole = gate.push(rows)
    assert whole.dtype == bool and len(whole) == len(rows) // spec.patch
    gate.reset()
    parts, first = [], 0
    while first < len(rows):
        size = int(random.integers(1, 3 * spec.patch))
        parts.append(gate.push(rows[first:first + size]))
        first += size
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    gate.router.threshold = 0.0
    gate.reset()
    assert gate.push(rows).all()


def test_inputs_are_finite_whatever_comes():
    for spec in (ECG_BEATS, IMU_FALLS):
        shape = (40 * spec.patch, 8 if spec.kind == 'imu' else 1)
        for rows in (np.zeros(shape), np.full(shape, 1e6), np.random.standard_cauchy(shape)):
            inputs = RouterInputs(spec).inputs(rows.astype(np.float32))
            assert inputs.shape == (40, input_size(spec)) and np.isfinite(inputs).all()


@pytest.fixture(scope='module')
def tracks():
    """Synthetic ECG records, ready to train on."""
    return [make_track(ECG_BEATS, parts_of(ECG_BEATS, ecg_record(60.0, seed, veb_share=0.25))[0])
            for seed in range(3)]


def test_a_track_knows_where_events_are(tracks):
    record = ecg_record(60.0, 0, veb_share=0.25)
    at = record.beat_times_s[record.beat_aami == 'V'] * ECG_BEATS.rate // ECG_BEATS.patch
    assert len(at) > 3
    np.testing.assert_array_equal(np.flatnonzero(tracks[0].classes == 3), np.unique(at))
    fall = make_track(IMU_FALLS, parts_of(IMU_FALLS, imu_recording('fall', rate=50.0))[0])
    on = np.flatnonzero(fall.classes == 1)
    assert len(on) in (15, 16) and (np.diff(on) == 1).all()
    assert fall.classes[on[0] - 1] == fall.classes[on[-1] + 1] == IGNORE
    assert len(fall.flags) == len(fall.inputs) == len(fall.classes)


def test_recordings_of_a_subject_are_joined_to_one_stream():
    parts = [parts_of(IMU_FALLS, imu_recording('fall', seed, rate=50.0))[0] for seed in range(3)]
    alone, track = [make_track(IMU_FALLS, part) for part in parts], make_track(IMU_FALLS, *parts)
    sizes = [len(one.classes) for one in alone]
    assert len(track.inputs) == len(track.flags) == len(track.classes) == sum(sizes)
    for i, (one, start) in enumerate(zip(alone, np.cumsum([0, *sizes]))):
        here = track.classes[start:start + sizes[i]]
        np.testing.assert_array_equal(here[12:], one.classes[12:])
        assert i == 0 or (here[:12] == IGNORE).all()  # a second after the jump
        # what is steady does not begin anew: a router cannot see where a recording begins
        assert (i == 0) == np.allclose(track.inputs[start:start + 9], one.inputs[:9])


def test_training_finds_events_of_a_record_never_seen_and_adapting_spares_the_rest(tracks):
    router = train_router(ECG_BEATS, tracks[:2], SHORT)
    scores, classes = router.rare_probabilities(tracks[2].inputs), tracks[2].classes
    opened = scores >= np.quantile(scores, 0.8)
    assert opened[classes == 3].mean() > 0.8
    adapted = train_router(ECG_BEATS, tracks[2:], dataclasses.replace(SHORT, steps=3), adapt=router)
    for name, array in router.arrays.items():
        assert np.array_equal(array, adapted.arrays[name]) == (name not in LOW_RANK), name
    with pytest.raises(ValueError, match='longer than 9999 patches'):
        train_router(ECG_BEATS, tracks, dataclasses.replace(SHORT, length=9999))


def test_both_routers_are_compared_at_an_equal_share(monkeypatch):
    monkeypatch.setattr(router_study, 'PERSONAL_STEPS', 2)
    records = [dataclasses.replace(ecg_record(30.0, seed), subject=str(seed)) for seed in range(4)]
    study = router_study.Study(ECG_BEATS, records, 2)
    result = study.compare(dataclasses.replace(SHORT, steps=2))
    assert (result['subjects'], result['recordings']) == (4, 4)
    events = sum(np.isin(track.classes, study.rare).sum() for track in study.tracks)
    for row in result['rows']:
        assert row['events'] == events
        assert 0.0 <= row['open']['router'] - row['open']['thresholds'] < 0.01
        low, high = row['difference_95']
        assert low <= row['caught']['router'] - row['caught']['thresholds'] + 1e-9 and low <= high
    flags = np.concatenate([track.flags for track in study.tracks])
    assert result['rows'][0]['open']['thresholds'] == pytest.approx(flags.mean())
    opens = [row['open']['thresholds'] for row in result['rows']]
    assert opens == sorted(opens, reverse=True)
    told = router_study.personal(study, SHORT, 0.2)
    assert told['adapted'] >= 2 and [row['factor'] for row in told['rows']] == list(
        router_study.FACTORS)
    with pytest.raises(ValueError, match='--personal: 0 lasts 234 patches, 5 minutes are'):
        router_study.personal(study, SHORT, 5.0)
    router_study.show({**result, 'personal': told})


def test_a_router_is_kept_and_read_again(tmp_path):
    router = Router(random_arrays(input_size(ECG_BEATS), 6, 5), (3, 4), 0.25)
    path = tmp_path / 'r.safetensors'
    save_router(path, router, 'ecg_beats', {'made': 'by a test'})
    again = load_router(path, ECG_BEATS)
    assert (again.router.rare, again.router.threshold) == ([3, 4], 0.25)
    assert again.provenance == {'made': 'by a test'}
    x = np.random.default_rng().standard_normal((9, input_size(ECG_BEATS)), np.float32)
    np.testing.assert_array_equal(again.router.rare_probabilities(x), router.rare_probabilities(x))
    with pytest.raises(ValueError, match='r.safetensors: a router for ecg_beats, not for imu_fal'):
        load_router(path, IMU_FALLS)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match='not a complete safetensors file'):
        load_router(path, ECG_BEATS)
    save_router(path, Router(random_arrays(4, 6, 5), (3,), 0.5), 'ecg_beats', {})
    with pytest.raises(ValueError, match='inputs and classes'):
        load_router(path, ECG_BEATS)


@pytest.mark.parametrize('spec', SPECS.values(), ids=lambda spec: spec.name)
def test_shipped_routers_open_for_events_and_seldom_else(spec):
    kept = load_router(shipped(f'config/routers/{spec.name}.safetensors'), spec)
    assert len(kept.provenance['subjects']) >= 22
    recording = ecg_record(60.0, 5) if spec.kind == 'ecg' else imu_recording('fall', rate=50.0)
    part = parts_of(spec, recording)[0]  # synthetic: not what it was trained on
    flags = RouterGate(spec, kept.router).push(part['features'])
    events = np.isin(make_track(spec, part).classes, kept.router.rare)
    assert flags[events].mean() > max(3 * flags[~events].mean(), 0.3)


@pytest.mark.parametrize('change, text', [
    (lambda a: a.pop('u'), 'u is missing'), (lambda a: a.update(nu=np.float32('nan')), 'nu: a val'),
    (lambda a: a.update(w=a['w'][0]), 'no matrix'),
    (lambda a: a.update(b_z=a['b_z'][:2]), 'b_z is missing or not of shape')])
def test_weights_that_do_not_fit_are_refused(change, text):
    arrays = random_arrays()
    change(arrays)
    with pytest.raises(ValueError, match=text):
        Router(arrays, (1,), 0.5)
    for rare, threshold in (((), 0.5), ((3,), 0.5), ((1,), 1.1)):
        with pytest.raises(ValueError, match='rare classes|threshold'):
            Router(random_arrays(), rare, threshold)
