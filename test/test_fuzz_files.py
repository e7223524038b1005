"""Hostile recordings, bags and model files: a clear error or what is in them, never a crash."""

import contextlib
import copy
import json
import math
import struct

import numpy as np
import pytest
from fuzzing import LONGEST, START_NS, fuzz, numbers
from hypothesis import given, settings, strategies as st

from taolora_ros.detector import Detector
from taolora_ros.recordings import read_npz
from taolora_ros.samples import Samples
from taolora_ros.spec import IMU_FALLS

junk = st.one_of(
    st.none(), st.booleans(), st.integers(-2**70, 2**70), numbers, st.text(max_size=8),
    st.sampled_from([[], {}, [[]], 'conv', [1, 'a', None], {'a': 1}, 10**9, -3, 0, 2.5, '\n']))


@contextlib.contextmanager
def clear_error(*named):
    """Let a ValueError pass that is one short line and names what is at fault."""
    try:
        with np.errstate(all='ignore'):
            yield
    except ValueError as error:
        told = str(error)
        assert told and '\n' not in told and len(told) < LONGEST, told
        assert all(name in told for name in named), told


# recordings

def imu_arrays():
    counts = np.random.default_rng(0).integers(-900, 900, (6, 300)).astype(np.int16)
    return {'acc_delta': counts[:3], 'acc_scale': 0.01, 'gyro_delta': counts[3:],
            'gyro_scale': 0.001, 'fs': 50.0, 'offset': np.array([0, 120, 300]),
            'name': np.array(['a', 'b']), 'code': np.array(['D01', 'F01']),
            'label': np.array(['walk', 'slip']), 'subject': 'S1',
            'is_fall': np.array([False, True]), 'peak_index_derived': np.array([3, 25]),
            'fall_start': np.array([-1, 20]), 'fall_end': np.array([-1, 60]),
            'fs_eff': np.array([49.0, math.nan])}


def ecg_arrays():
    counts = np.random.default_rng(1).integers(-90, 90, (2, 900)).astype(np.int16)
    return {'sig_delta': counts, 'gain': np.array([200.0, 100.0]), 'zero': np.array([1024, 0]),
            'fs': 360.0, 'lead': np.array(['V5', 'MLII']), 'record': '999',
            'beat_sample': np.array([180, 500]), 'beat_symbol': np.array(['N', 'V']),
            'beat_aami': np.array(['N', 'V']), 'ann_symbol': np.array(['[', ']']),
            'ann_sample': np.array([100, 700]), 'snr_db': 6.0}


wrong_arrays = st.one_of(
    numbers.map(np.float64), st.integers(-2**62, 2**62).map(np.int64), st.text(max_size=4).map(
        np.array),
    st.sampled_from([
        np.zeros(0), np.zeros((0, 3), np.int16), np.zeros((3, 0), np.int16), np.zeros((2, 2, 2)),
        np.zeros((6, 5), np.int16), np.array([math.nan] * 2), np.array([5, 2]),
        np.array([-9, 2**40]), np.array([2**62] * 3), np.array(['x', '']), np.array(['N']),
        np.zeros(3, complex), np.array([0, 2**63], np.uint64), np.array([None, 1], object),
        np.array(0.0), np.array([b'\xff', b'']), np.zeros(3, 'M8[s]'), np.zeros(3, bool)]))


@fuzz
@given(st.sampled_from([imu_arrays, ecg_arrays]), st.data())
def test_any_array_in_place_of_any_other(tmp_path_factory, arrays, data):
    path = tmp_path_factory.mktemp('npz') / 'spoilt.npz'
    arrays = arrays()
    for key in data.draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, max_size=3)):
        if data.draw(st.booleans()):
            arrays[key] = data.draw(wrong_arrays)
        else:
            arrays.pop(key, None)
    np.savez(path, **arrays)
    with clear_error('spoilt.npz'):
        for recording in read_npz(path):
            assert recording.values.ndim == 2 and recording.rate > 0


@fuzz
@given(st.sampled_from([imu_arrays, ecg_arrays]), st.booleans(), st.data())
def test_spoilt_bytes_of_a_recording(tmp_path_factory, arrays, packed, data):
    path = tmp_path_factory.mktemp('npz') / 'spoilt.npz'
    (np.savez_compressed if packed else np.savez)(path, **arrays())
    path.write_bytes(spoil(path.read_bytes(), data))
    with clear_error('spoilt.npz'):
        list(read_npz(path))


def spoil(whole, data):
    """Cut bytes off the end, or replace some."""
    if data.draw(st.booleans()):
        return whole[:data.draw(st.integers(0, len(whole) - 1))]
    whole = bytearray(whole)
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=8)):
        whole[at] = data.draw(st.integers(0, 255))
    return bytes(whole)


def test_an_array_of_absurd_size_is_refused(tmp_path):
    header = "{'descr': '<i2', 'fortran_order': False, 'shape': (3, 1000000000000000), }"
    header = header.ljust(117) + '\n'
    array = b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header.encode()
    import zipfile
    with zipfile.ZipFile(tmp_path / 'bomb.npz', 'w') as file:
        file.writestr('acc_delta.npy', array)
    with pytest.raises(ValueError, match='bomb.npz'):
        list(read_npz(tmp_path / 'bomb.npz'))


# bags

@pytest.fixture(scope='module')
def bags(tmp_path_factory):
    """Give {storage: folder of a small bag of sensor_msgs/Imu}."""
    pytest.importorskip('rosbags', reason='rosbags is not installed')
    from rosbags.rosbag2 import StoragePlugin
    from rosbags.typesys import Stores, get_typestore
    from test_bags import IMU, imu, write
    store = get_typestore(Stores.ROS2_JAZZY)
    messages = [(START_NS + i * 10**7, imu(store.types, START_NS + i * 10**7, (0., 0., 9.8),
                                           (0., 0., 0.))) for i in range(20)]
    folder = tmp_path_factory.mktemp('bags')
    return {plugin: write(folder / plugin.name, store, {'/imu': (IMU, messages)}, plugin)
            for plugin in (StoragePlugin.MCAP, StoragePlugin.SQLITE3)}


@fuzz
@given(st.data())
def test_spoilt_bytes_of_a_bag(bags, tmp_path_factory, data):
    from taolora_ros.bags import Bag
    source = bags[data.draw(st.sampled_from(sorted(bags, key=str)))]
    folder = tmp_path_factory.mktemp('bag') / 'spoilt'
    folder.mkdir()
    names = sorted(path.name for path in source.iterdir())
    chosen = data.draw(st.sampled_from(names))
    for name in names:
        whole = (source / name).read_bytes()
        (folder / name).write_bytes(spoil(whole, data) if name == chosen else whole)
    with clear_error('spoilt'):
        with Bag(folder) as bag:
            topic = bag.choose()
            converter = bag.converter(topic, IMU_FALLS)
            for messages, arrivals in bag.messages(topic):
                assert len(converter.convert(messages, arrivals)) <= len(messages)


# model files

@pytest.fixture(scope='module')
def model_parts(tmp_path_factory):
    """Give description and tensors of a good small model, and its bytes."""
    pytest.importorskip('torch')
    from safetensors import safe_open
    from tiny import tiny_models
    path = tiny_models(tmp_path_factory.mktemp('model'))
    with safe_open(path, 'pt') as file:
        return (json.loads(file.metadata()['taolora']),
                {name: file.get_tensor(name) for name in file.keys()}, path.read_bytes())


def places(tree, path=()):
    """Return the paths of everything in nested dictionaries and lists."""
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else (
        enumerate(tree) if isinstance(tree, list) else ())
    for key, value in items:
        found += places(value, (*path, key))
    return found


def use(path):
    """Load a model file; when it is accepted, it also has to run."""
    from taolora_ros.engine import make_engine
    from taolora_ros.model_file import load_model
    model = load_model(path)
    spec = model.spec
    detector = Detector(spec, make_engine(model, device='cpu'))
    rows = np.random.default_rng(0).normal(size=(400, len(spec.channels)))
    detector.process(Samples.uniform(START_NS, min(spec.rate, 100.0), rows))
    detector.flush()


@settings(fuzz, max_examples=200)
@given(st.data())
def test_wrong_values_in_a_models_description(model_parts, tmp_path_factory, data):
    from safetensors.torch import save_file
    path = tmp_path_factory.mktemp('model') / 'spoilt.safetensors'
    description, tensors, _ = model_parts
    description = copy.deepcopy(description)
    layers = [place for place in places(description) if place[0] == 'layers'][:6]
    others = [place for place in places(description) if place[0] != 'layers']
    *way, last = data.draw(st.sampled_from(others + layers))
    inner = description
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(junk)
    save_file(tensors, path, metadata={'taolora': json.dumps(description)})
    with clear_error('spoilt'):
        use(path)


@fuzz
@given(st.data())
def test_wrong_tensors_in_a_model(model_parts, tmp_path_factory, data):
    import torch
    from safetensors.torch import save_file
    path = tmp_path_factory.mktemp('model') / 'spoilt.safetensors'
    description, tensors, _ = model_parts
    name = data.draw(st.sampled_from(sorted(tensors)))
    good = tensors[name]
    wrong = data.draw(st.sampled_from([
        torch.zeros(0), torch.tensor(1.0), torch.zeros(1, 1, 1), good.flatten(), good.double() * 0,
        good.to(torch.int64), good.bool(), torch.full(good.shape, math.nan), good[:0],
        torch.full(good.shape, 1e38), -torch.ones(good.shape), torch.zeros(good.shape),
        good.to(torch.complex64), good.t().contiguous() if good.ndim == 2 else good[1:]]))
    save_file({**tensors, name: wrong}, path, metadata={'taolora': json.dumps(description)})
    with clear_error('spoilt'):
        use(path)


@fuzz
@given(st.data())
def test_spoilt_bytes_of_a_model(model_parts, tmp_path_factory, data):
    path = tmp_path_factory.mktemp('model') / 'spoilt.safetensors'
    path.write_bytes(spoil(model_parts[2], data))
    with clear_error('spoilt'):
        use(path)
