import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from taolora_ros.features import FeatureFilter
from taolora_ros.resampling import resample
from taolora_ros.samples import Samples
from taolora_ros.spec import ECG_BEATS, IMU_FALLS
from taolora_ros.stream import Rows, Stream, segments

START = 1_700_000_000_000_000_000


def noise(spec, n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, len(spec.channels)))


def run(spec, samples, cuts=()):
    """Push in pieces that end at ``cuts``, close, return the stream."""
    stream = Stream(spec)
    for stamps, values in zip(np.split(samples.stamps, cuts), np.split(samples.values, cuts)):
        stream.push(Samples(stamps, values))
    stream.close()
    return stream


def contents(stream):
    return [(s.start_ns, s.values.get().tobytes(), s.features.get().tobytes(),
             s.valid.get().tobytes()) for s in stream.segments]


def clean(samples, keep):
    return segments(IMU_FALLS, Samples(samples.stamps[keep], samples.values[keep]))[0]


def test_a_recording_is_resampled_and_filtered():
    samples = Samples.uniform(START, 360.0, noise(ECG_BEATS, 3601))
    segment, = segments(ECG_BEATS, samples)
    values, valid = resample(samples.stamps, samples.values, 125.0)
    assert len(segment) == 1250 and segment.closed and segment.start_ns == START
    assert np.array_equal(segment.values.get(), values) and segment.valid.get().all()
    assert np.array_equal(segment.features.get(), FeatureFilter(ECG_BEATS).push(values))


def test_stamps_are_the_centres_of_bins():
    segment, = segments(ECG_BEATS, Samples.uniform(START, 360.0, noise(ECG_BEATS, 361)))
    assert segment.time_ns(0) == START and segment.time_ns(125) == START + 10**9
    assert segment.stamp_ns(0) == START + 4_000_000


@st.composite
def troubled(draw, spec):
    """Samples with every kind of trouble at random places."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 900))
    rate = draw(st.sampled_from([20.0, 50.0, 104.0, 360.0]))
    samples = Samples.uniform(START, rate, rng.normal(size=(n, len(spec.channels))))
    stamps, values = samples.stamps.copy(), samples.values.copy()
    for _ in range(draw(st.integers(0, 8))):
        at = int(rng.integers(n))
        end = at + int(rng.choice([1, 1, 5, 40]))
        trouble = draw(st.sampled_from(['nan', 'inf', 'wild', 'zero', 'back', 'gap', 'jump']))
        channel = slice(None) if rng.random() < 0.5 else int(rng.integers(values.shape[1]))
        if trouble in ('nan', 'inf', 'wild'):
            values[at:end, channel] = {'nan': np.nan, 'inf': -np.inf, 'wild': 1e30}[trouble]
        elif trouble == 'zero':
            stamps[at:end] = -rng.integers(0, 2)
        elif trouble == 'gap':
            stamps[at:] += int(rng.choice([3e8, 9e8, 1.1e9, 5e9]))
        else:
            step = int(rng.choice([3e7, 1.2e9, 1e12]))
            stamps[at:end] += step if trouble == 'jump' else -step
    return Samples(stamps, values)


@pytest.mark.parametrize('spec', [IMU_FALLS, ECG_BEATS], ids=lambda spec: spec.kind)
@pytest.mark.parametrize('size', [1, 7, 100, None])
def test_any_chunks_give_the_same_bits(spec, size):
    @settings(deadline=None, max_examples=25)
    @given(troubled(spec), st.lists(st.integers(0, 900), max_size=9))
    def check(samples, cuts):
        whole = run(spec, samples)
        cuts = np.minimum(sorted(cuts), len(samples)) if size is None else \
            np.arange(size, len(samples), size)
        parts = run(spec, samples, cuts)
        assert contents(parts) == contents(whole)
        assert parts.counts == whole.counts
        for segment in whole.segments:
            assert np.isfinite(segment.features.get()).all()
    check()


def test_unusable_samples_are_dropped_and_counted_as_if_never_sent():
    samples = Samples.uniform(START, 100.0, noise(IMU_FALLS, 500))
    stamps, values = samples.stamps.copy(), samples.values.copy()
    values[100, 1] = np.nan
    values[200:203, 0] = np.inf
    values[300, 2] = 1e30
    values[301, 2] = -2001.0
    stamps[400] = 0
    stamps[401] = -5
    stream = run(IMU_FALLS, Samples(stamps, values))
    assert +stream.counts == {'nonfinite': 4, 'out_of_range': 2, 'invalid_stamp': 2}
    keep = np.setdiff1d(np.arange(500), [100, 200, 201, 202, 300, 301, 400, 401])
    expected = clean(samples, keep)
    assert np.array_equal(stream.segments[0].features.get(), expected.features.get())


def test_a_recording_without_gyro_reads_zero_and_counts_nothing():
    values = noise(IMU_FALLS, 500)
    values[:, 3:] = np.nan
    stream = run(IMU_FALLS, Samples.uniform(START, 100.0, values))
    assert not +stream.counts
    assert (stream.segments[0].values.get()[:, 3:] == 0).all()
    assert (stream.segments[0].features.get()[:, 4:] == 0).all()


def test_a_missing_gyro_value_keeps_the_last_one_for_a_quarter_second():
    values = np.ones((400, 6))
    values[50:60, 3:] = np.nan     # 0.1 s
    values[100:101, 4] = 1e30
    values[200:, 3:] = np.nan      # for good
    stream = run(IMU_FALLS, Samples.uniform(START, 100.0, values))
    assert +stream.counts == {'filled': 10 + 1 + 25, 'out_of_range': 1}
    gyro = stream.segments[0].values.get()[:, 3:]
    np.testing.assert_allclose(gyro[:112], 1.0)
    assert (gyro[114:] == 0).all()


def test_a_bridged_gap_is_counted_and_invalid():
    samples = Samples.uniform(START, 100.0, noise(IMU_FALLS, 500))
    keep = np.r_[:200, 260:500]
    stream = run(IMU_FALLS, Samples(samples.stamps[keep], samples.values[keep]))
    segment, = stream.segments
    assert +stream.counts == {'gap': 1}
    assert np.flatnonzero(~segment.valid.get()).tolist() == list(range(99, 130))


def test_a_long_gap_starts_a_segment_with_fresh_filters():
    samples = Samples.uniform(START, 360.0, noise(ECG_BEATS, 3600))
    keep = np.r_[:1000, 1500:3600]
    stream = run(ECG_BEATS, Samples(samples.stamps[keep], samples.values[keep]))
    first, second = stream.segments
    assert +stream.counts == {'gap_restart': 1} and first.closed
    alone, = segments(ECG_BEATS, samples[1500:])
    assert second.start_ns == samples.stamps[1500]
    assert np.array_equal(second.features.get(), alone.features.get())


def test_after_close_the_next_sample_starts_a_segment():
    samples = Samples.uniform(START, 100.0, noise(IMU_FALLS, 400))
    stream = Stream(IMU_FALLS)
    stream.push(samples[:200])
    stream.close()
    stream.push(samples[200:])
    assert [s.start_ns for s in stream.segments] == [START, int(samples.stamps[200])]
    assert not stream.segments[1].closed


def test_closing_an_empty_stream_does_nothing():
    stream = Stream(IMU_FALLS)
    stream.close()
    stream.push(Samples(np.zeros(0, int), np.zeros((0, 6))))
    assert stream.segments == [] and not +stream.counts


def test_a_wrong_channel_count_is_named():
    with pytest.raises(ValueError, match='values: 3 channels, imu_falls needs 6 .acc_x'):
        Stream(IMU_FALLS).push(Samples.uniform(START, 50.0, np.zeros((5, 3))))


def test_the_caller_may_reuse_its_arrays():
    samples = Samples.uniform(START, 100.0, noise(IMU_FALLS, 400))
    stream, stamps, values = Stream(IMU_FALLS), np.zeros(1, np.int64), np.zeros((1, 6))
    for i in range(400):
        stamps[:], values[:] = samples.stamps[i], samples.values[i]
        stream.push(Samples(stamps, values))
    stream.close()
    assert contents(stream) == contents(run(IMU_FALLS, samples))


def test_released_rows_are_forgotten_and_the_rest_keeps_its_numbers():
    rows, rng, expected = Rows((2,), np.float32), np.random.default_rng(1), np.zeros((0, 2))
    for _ in range(400):
        more = rng.normal(size=(int(rng.integers(0, 40)), 2)).astype(np.float32)
        rows.append(more)
        expected = np.concatenate([expected, more])
        rows.release(len(rows) - 100)
        assert len(rows) == len(expected)
        assert np.array_equal(rows.get(rows.first), expected[rows.first:])
    assert rows.first == len(rows) - 100
    assert len(rows._data) <= 512, 'memory is bounded by what is kept'
    with pytest.raises(IndexError, match='rows 0 to'):
        rows.get(0)
