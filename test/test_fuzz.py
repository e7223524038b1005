"""Hostile input of every kind: a clear error or a counted drop, bounded memory, never a crash."""

import contextlib
import copy
import json
import math
import struct
from types import SimpleNamespace as Fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from taolora_ros.alarms import AlarmDecoder
from taolora_ros.beats import BeatDecoder
from taolora_ros.conversions import BiosignalConverter, FieldConverter, ImuConverter
from taolora_ros.decode import Tokens
from taolora_ros.detector import Detector
from taolora_ros.recordings import read_npz
from taolora_ros.samples import NANOSECONDS, Samples
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

START_NS = 1_700_000_000 * NANOSECONDS
SPECS = st.sampled_from([IMU_FALLS, ECG_BEATS])
LONGEST = 500  # characters of an error: it has to fit a log line, whatever a message held
ROWS = 400_000  # uniform samples a stream may hold after one message

# the same examples in every run, so that a failure here is a change of the code
fuzz = settings(derandomize=True, deadline=None, max_examples=60, database=None,
                suppress_health_check=list(HealthCheck))

WILD = [0.0, -1.0, 1e-308, 1e30, 1e308, -1e308, math.inf, -math.inf, math.nan]
numbers = st.one_of(st.sampled_from(WILD), st.floats())
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


class Random:
    """An engine whose scores are anything, NaN and infinities among them."""

    name, device = 'random', 'cpu'

    def __init__(self, spec, seed=0):
        self.spec, self.rng = spec, np.random.default_rng(seed)

    def run(self, windows, gates):
        assert np.isfinite(windows).all()
        b, t = gates.shape
        shapes = {'probability': (b, t, len(self.spec.classes)), 'offset': (b, t),
                  'anomaly': (b, windows.shape[2])}
        scores = {name: self.rng.uniform(0, 1.2, shape) for name, shape in shapes.items()}
        for values in scores.values():
            values[self.rng.random(values.shape) < 0.02] = self.rng.choice(WILD)
        return Fields(**{name: np.float32(np.clip(v, -3e38, 3e38))
                         for name, v in scores.items()}, embedding=None)


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


# messages

stamps = st.builds(Fields, sec=st.one_of(st.sampled_from([0, 1_700_000_000]),
                                         st.integers(-2**31, 2**31 - 1)),
                   nanosec=st.integers(0, 2**32 - 1))
headers = st.builds(Fields, stamp=stamps, frame_id=st.text(max_size=5))
arrivals = st.integers(0, 2**62)
values = st.one_of(
    st.lists(numbers, max_size=13).map(np.float64), st.integers(0, 3000).map(np.ones),
    st.sampled_from([np.ones(2_000_000), np.full(700, 1e308), np.zeros(0)]))
rates = st.one_of(st.sampled_from([100.0, 360.0, 0.01, 1.0, 1e6]), numbers)
counts = st.one_of(st.integers(0, 8), st.integers(0, 2**32 - 1))


def digest(converter, messages, times):
    """Convert messages and let a stream take the samples; check what both say and hold."""
    spec = converter.spec
    with np.errstate(all='ignore'):
        samples = converter.convert(messages, times)
    assert samples.values.shape[1] == len(spec.channels)
    assert len(converter.problem) < LONGEST
    detector = Detector(spec)
    with np.errstate(over='ignore'):
        detector.push(samples)
        detector.due(1)
    held = sum(len(segment.values) - segment.values.first for segment in
               [track.segment for track in detector._tracks])
    assert held < ROWS
    assert len(samples) or sum(converter.counts.values()) or all(
        not len(getattr(message, 'data', [])) for message in messages)


@fuzz
@given(SPECS, st.lists(st.tuples(st.builds(
    Fields, header=headers, sample_rate=rates, unit=st.sampled_from(['', 'mV', 'g', 'furlong']),
    channel_names=st.one_of(st.lists(st.text(max_size=3), max_size=4), st.sampled_from(
        [['ecg'], ['a' * 99_999], ['lead'] * 5000])),
    sequence=counts, channels=counts, data=values), arrivals), min_size=1, max_size=4))
def test_hostile_biosignals(spec, messages):
    digest(BiosignalConverter(spec), *map(list, zip(*messages)))


@fuzz
@given(SPECS, st.booleans(), rates, st.lists(st.tuples(st.builds(
    Fields, data=values, header=headers, sample_rate=rates, layout=st.builds(
        Fields, dim=st.lists(st.builds(Fields, size=counts), max_size=3))), arrivals),
    min_size=1, max_size=4))
def test_hostile_arrays(spec, stamped, rate, messages):
    known = {'data': 'sequence<float>'}
    if stamped:
        known = {'header': 'std_msgs/Header', 'sample_rate': 'double', **known}
    kind = type('Wild', (), {'get_fields_and_field_types': staticmethod(lambda: known)})
    try:
        converter = FieldConverter('wild_msgs/msg/Wild', kind, spec, 'data', rate)
    except ValueError as error:
        assert 'sample' in str(error)
        return
    digest(converter, *map(list, zip(*messages)))


@pytest.mark.parametrize('rate, count, said', [(1.0, 601, '601 s in one message'),
                                               (1e6, 2**20 + 1, 'at most 1048576')])
def test_a_message_that_holds_too_much_is_counted(rate, count, said):
    converter = BiosignalConverter(ECG_BEATS)
    header = Fields(stamp=Fields(sec=1_700_000_000, nanosec=0), frame_id='chest')
    messages = [Fields(header=header, sample_rate=rate, unit='mV', channel_names=[], sequence=i,
                       channels=1, data=np.ones(n)) for i, n in enumerate((count, 3))]
    assert len(converter.convert(messages, [0, 0])) == 3
    assert converter.counts['unreadable'] == 1 and said in converter.problem


vectors = st.builds(Fields, x=numbers, y=numbers, z=numbers)
covariances = numbers.map(lambda first: [first] * 9)


@fuzz
@given(st.lists(st.tuples(st.builds(
    Fields, header=headers, linear_acceleration=vectors, angular_velocity=vectors,
    linear_acceleration_covariance=covariances, angular_velocity_covariance=covariances),
    arrivals), min_size=1, max_size=8))
def test_hostile_imu_messages(messages):
    digest(ImuConverter(IMU_FALLS), *map(list, zip(*messages)))


# detector and decoders

@st.composite
def wild_samples(draw, spec):
    """Draw pieces of samples: steady time, broken by stamps and values of any kind."""
    now, pieces = START_NS, []
    for _ in range(draw(st.integers(1, 6))):
        n = draw(st.integers(0, 300))
        rate = draw(st.sampled_from([20.0, 50.0, 125.0, 1000.0, 1e6, 5.0]))
        now += draw(st.one_of(st.sampled_from([0, 10**7, -10**10, 10**9, 5 * 10**9]),
                              st.integers(-2**61, 2**61)))
        piece = Samples.uniform(min(max(now, -2**62), 2**62), rate,
                                np.random.default_rng(n).normal(size=(n, len(spec.channels))))
        for at in draw(st.lists(st.integers(0, max(n - 1, 0)), max_size=5)) if n else ():
            if draw(st.booleans()):
                piece.stamps[at] = draw(st.integers(-2**63, 2**63 - 1))
            piece.values[at, draw(st.integers(0, len(spec.channels) - 1))] = draw(numbers)
        now = int(piece.stamps[-1]) if n else now
        pieces.append(piece)
    return pieces


@settings(fuzz, max_examples=40)
@given(SPECS, st.data())
def test_any_samples_go_through_the_detector(spec, data):
    detector = Detector(spec, Random(spec))
    with np.errstate(all='ignore'):
        for piece in data.draw(wild_samples(spec)):
            for result in detector.process(piece):
                assert result.score == result.score, 'a score that is no number'
        detector.flush()
    held = sum(len(track.segment.values) for track in detector._tracks)
    assert held == 0 and min(detector.counts.values(), default=1) > 0


@fuzz
@given(SPECS, st.lists(st.lists(numbers, min_size=7, max_size=7), min_size=1, max_size=30),
       st.floats(0, 1), st.sampled_from([0.0, 0.2, 5.0]))
def test_decoders_take_any_scores(spec, rows, threshold, refractory):
    decoder = (BeatDecoder if spec.kind == 'ecg' else AlarmDecoder)(spec)
    table = np.array(rows)
    n, k = len(rows), len(spec.classes)
    with np.errstate(all='ignore'):
        events = decoder.push(Tokens(
            START_NS, (np.arange(n) + 0.5) * spec.patch, np.float32(table[:, :k]),
            np.float32(table[:, 5]), table[:, 6] > 0, table[:, 6] < 1, threshold, refractory,
            n * spec.patch, np.float32(table[:, 0]) if spec.kind == 'imu' else None))
        events += decoder.finish()
    assert all(0 <= event.score <= 1 and event.start_ns <= event.stop_ns for event in events)
    assert len({(event.id, event.phase) for event in events}) == len(events)


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
