"""Hostile messages, samples and scores: a counted drop, bounded memory, never a crash."""

from types import SimpleNamespace as Fields

import numpy as np
import pytest
from fuzzing import LONGEST, START_NS, WILD, fuzz, numbers
from hypothesis import given, settings, strategies as st

from taolora_ros.alarms import AlarmDecoder
from taolora_ros.beats import BeatDecoder
from taolora_ros.conversions import BiosignalConverter, FieldConverter, ImuConverter
from taolora_ros.decode import Tokens
from taolora_ros.detector import Detector
from taolora_ros.samples import Samples
from taolora_ros.spec import ECG_BEATS, IMU_FALLS

SPECS = st.sampled_from([IMU_FALLS, ECG_BEATS])
ROWS = 400_000  # uniform samples a stream may hold after one message


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

class Random:
    """An engine whose scores are anything, NaN and infinities among them."""

    name, device, changes = 'random', 'cpu', 0

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
