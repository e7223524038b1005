import dataclasses

import numpy as np
import pytest

from taolora_ros.alike import AFTER, BEFORE, DISTANCE, NEAREST, SAY, AlikeBeats
from taolora_ros.beats import BeatDecoder
from taolora_ros.decode import Tokens
from taolora_ros.detector import Detector
from taolora_ros.engine import Scores
from taolora_ros.samples import Samples
from taolora_ros.spec import ECG_BEATS
from taolora_ros.spec_check import check_spec
from taolora_ros.stream import segments

RATE, PATCH = ECG_BEATS.rate, ECG_BEATS.patch
START_NS = 1_700_000_000_000_000_000
N, V = ECG_BEATS.classes.index('N'), ECG_BEATS.classes.index('V')


def beat_shape(since, width):
    """Return a QRS complex of a ``width`` (s), with a T wave, at times ``since`` its peak (s)."""
    return (np.exp(-(since / width) ** 2) - 0.4 * np.exp(-((since - 1.4 * width) / width) ** 2)
            + 0.2 * np.exp(-((since - 0.22) / 0.04) ** 2))


def lead(beats, seconds, noise=0.0, seed=0):
    """Return the samples (n,) of a lead in mV with ``beats``, pairs of time and width (s)."""
    rng = np.random.default_rng(seed)
    t = (np.arange(round(seconds * RATE)) + 0.5) / RATE
    return (sum(beat_shape(t - at, width) for at, width in beats)
            + noise * rng.standard_normal(len(t))).astype(np.float32)


def bare(trace, end=None):
    """Return tokens that hold nothing but a trace."""
    none = np.zeros(0)
    return Tokens(START_NS, none, np.zeros((0, 5)), none, none, none, 0.5, 0.19,
                  len(trace) if end is None else end, trace)


def expected(trace, places, said, alike):
    """Return in float64, beat by beat, what is agreed on; written for clarity alone."""
    offsets = np.arange(-round(BEFORE * RATE), round(AFTER * RATE))
    shapes, odds, agreed = [], [], []
    for place, p in zip(places, said):
        shape = np.interp(place + offsets, np.arange(len(trace)) + 0.5, trace.astype(float))
        shape = shape - shape.mean()
        own = np.log(p / (1 - p))
        past = list(zip(shapes, odds))[-alike:]
        apart = [((shape - s) ** 2).sum() / ((shape ** 2).sum() + (s ** 2).sum())
                 for s, _ in past]
        near = np.argsort(apart)[:NEAREST]
        say = np.array([SAY * np.exp(-apart[i] / DISTANCE) for i in near])
        told = np.array([past[i][1] for i in near])
        total = (own + (say * told).sum()) / (1 + say.sum())
        agreed.append(1 / (1 + np.exp(-total)))
        shapes.append(shape)
        odds.append(own)
    return agreed


@pytest.mark.parametrize('alike', [1, 3, 7, 300])
def test_a_beat_is_averaged_with_those_most_like_it_of_the_last_ones(alike):
    rng = np.random.default_rng()
    times = 1 + 0.9 * np.arange(31) + rng.uniform(-0.1, 0.1, 31)
    trace = lead([(at, rng.choice([0.02, 0.03, 0.05])) for at in times], 30.0, 0.05)
    places = times * RATE + rng.uniform(-0.5, 0.5, 31)
    said = rng.uniform(0.01, 0.99, 31)
    beats = AlikeBeats(dataclasses.replace(ECG_BEATS, alike=alike))
    got = [beats.agreed(bare(trace), place, p) for place, p in zip(places, said)]
    np.testing.assert_allclose(got, expected(trace, places, said, alike), rtol=2e-3)
    assert np.abs(np.subtract(got, said)).max() > 0.05


def test_only_the_newest_part_of_the_signal_is_needed():
    rng = np.random.default_rng()
    trace = rng.standard_normal(2000).astype(np.float32)
    whole, ring = AlikeBeats(ECG_BEATS), AlikeBeats(ECG_BEATS)
    for place in np.sort(rng.uniform(40, 1900, 17)):
        p, end = rng.uniform(), int(place) + 61
        first = max(end - 301, 0)
        assert whole.agreed(bare(trace), place, p) == pytest.approx(
            ring.agreed(bare(trace[first:end], end), place, p), abs=1e-9)


def test_a_beat_whose_surroundings_are_not_held_is_judged_alone_and_not_remembered():
    trace = np.random.default_rng().standard_normal(500).astype(np.float32)
    beats = AlikeBeats(ECG_BEATS)
    for tokens, place in ((bare(trace), 5.0), (bare(trace), 499.0),
                          (bare(trace[300:], 500), 250.0),
                          (dataclasses.replace(bare(trace), trace=None), 250.0)):
        assert beats.agreed(tokens, place, 0.97) == 0.97
    assert beats.agreed(bare(trace), 250.0, 0.3) == pytest.approx(0.3)


def test_a_flat_lead_and_probabilities_of_0_and_1_give_numbers():
    beats = AlikeBeats(ECG_BEATS)
    for p in (0.0, 1.0, 0.5, 1.0):
        assert 0 <= beats.agreed(bare(np.zeros(500, np.float32)), 250.0, p) <= 1


def decided(beats, says, seconds, spec=ECG_BEATS):
    """Return the events of a decoder for ``beats`` (time, width) of which ``says`` gives P(V)."""
    decoder, trace = BeatDecoder(spec), lead(beats, seconds, 0.01)
    centre = np.arange(PATCH / 2, seconds * RATE, PATCH)
    probability, offset = np.zeros((len(centre), 5), np.float32), np.full(len(centre), 0.5)
    probability[:, 0] = 1
    for (at, _), p in zip(beats, says):
        i = int(at * RATE // PATCH)
        probability[i] = 0
        probability[i, [N, V]] = 1 - p, p
        offset[i] = at * RATE / PATCH - i
    events = []
    for part in np.array_split(np.arange(len(centre)), 9):
        end = min(int(centre[part[-1]]) + 130, len(trace))
        events += decoder.push(Tokens(
            START_NS, centre[part], probability[part], offset[part], np.zeros(len(part), bool),
            np.ones(len(part), bool), 0.5, 0.19, end, trace[max(end - 1024, 0):end]))
    return events + decoder.finish()


def test_doubt_about_a_beat_is_settled_by_those_of_its_shape():
    spec = dataclasses.replace(ECG_BEATS, bias=(0.0, 0.0))
    beats = [(1.06 + 0.8 * i, 0.05 if i % 3 == 2 else 0.02) for i in range(24)]
    wide = [width == 0.05 for _, width in beats]
    says = [0.95 if is_wide else 0.05 for is_wide in wide]
    says[20], says[21] = 0.4, 0.6  # a wide one and a narrow one that the network is unsure of
    alone = decided(beats, says, 22.0, dataclasses.replace(spec, alike=0))
    together = decided(beats, says, 22.0, spec)
    labels = ['veb' if is_wide else 'beat' for is_wide in wide]
    assert [e.label for e in together] == labels
    assert [e.label for e in alone] == [*labels[:20], 'beat', 'veb', *labels[22:]]
    assert [e.stamp_ns for e in alone] == [e.stamp_ns for e in together]


def test_a_new_shape_is_judged_alone():
    spec = dataclasses.replace(ECG_BEATS, bias=(0.0, 0.0))
    beats = [(1.06 + 0.8 * i, 0.02) for i in range(20)] + [(17.2, 0.05)]
    says = [0.02] * 20 + [0.6]
    events = decided(beats, says, 19.0, spec)
    assert [e.label for e in events] == ['beat'] * 20 + ['veb']
    assert events[-1].values['veb_score'] == pytest.approx(0.6, abs=0.05)


def test_a_beat_that_was_scored_before_the_weights_changed_is_not_remembered():
    spec = dataclasses.replace(ECG_BEATS, bias=(0.0, 0.0))
    trace = lead([(1.06, 0.03), (2.3, 0.03), (3.2, 0.03)], 5.0)  # 2.3 s is not certain at 2.56
    decoder, events = BeatDecoder(spec), []
    for begin, at, p, forget in ((0, 1.06, 0.99, False), (10, 2.3, 0.99, True),
                                 (20, 3.2, 0.3, False)):
        centre = (begin + np.arange(10) + 0.5) * PATCH
        probability, offset = np.zeros((10, 5), np.float32), np.full(10, 0.5)
        probability[:, 0] = 1
        i = int(at * RATE // PATCH) - begin
        probability[i] = [0, 1 - p, 0, p, 0]
        offset[i] = at * RATE / PATCH - begin - i
        end = int(centre[-1]) + 130
        events += decoder.push(Tokens(START_NS, centre, probability, offset, np.zeros(10, bool),
                                      np.ones(10, bool), 0.5, 0.19, end, trace[:end]))
        if forget:
            decoder.forget()
    events += decoder.finish()
    assert [e.values['veb_score'] for e in events] == pytest.approx([0.99, 0.99, 0.3], abs=1e-3)


def test_what_a_detector_compares_lies_around_the_peaks_that_it_tells():
    rng = np.random.default_rng()
    beats = [(1.0 + 0.85 * i, rng.choice([0.02, 0.028, 0.04])) for i in range(40)]
    samples = Samples.uniform(START_NS, RATE, lead(beats, 36.0, 0.02)[:, None].astype(float))
    engine, spec = Opinion(), dataclasses.replace(ECG_BEATS, bias=(0.0, 0.0))
    engine.says = lambda at: 0.1 + 0.8 * (np.round(at) * 7 % 11) / 11  # of the patch's tallest
    detector = Detector(spec, engine)
    events = [e for e in detector.process(samples) + detector.flush() if hasattr(e, 'label')]
    (segment,) = segments(spec, samples)
    places = [(e.stamp_ns - segment.start_ns) * 1e-9 * RATE for e in events]
    alone = Detector(dataclasses.replace(spec, alike=0), engine)
    said = [e.values['veb_score'] for e in alone.process(samples) + alone.flush()
            if hasattr(e, 'label')]
    wanted = expected(segment.features.get()[:, 0], places, said, spec.alike)
    got = [e.values['veb_score'] for e in events]
    assert len(got) == len(said) > 35 and np.std(said) > 0.1
    np.testing.assert_allclose(got[1:-1], wanted[1:-1], atol=1e-3)
    assert np.abs(np.subtract(got, said)).max() > 0.1


class Opinion:
    """An engine that finds the lead's peaks and says ``p`` of each, or what its height says."""

    name, device, changes, p, says = 'opinion', 'cpu', 0, 0.99, None

    def run(self, windows, gates):
        shape = (*gates.shape, len(ECG_BEATS.classes))
        out = Scores(np.zeros(shape, np.float32), np.zeros(gates.shape, np.float32),
                     np.zeros((len(windows), 1), np.float32))
        patches = windows[..., 0].reshape(*gates.shape, -1)
        is_beat = patches.max(-1) > 0.6
        out.probability[..., 0] = ~is_beat
        p = self.p if self.says is None else self.says(1000 * patches.max(-1))
        out.probability[..., N], out.probability[..., V] = (1 - p) * is_beat, p * is_beat
        out.offset[:] = (patches.argmax(-1) + 0.5) / PATCH
        return out


@pytest.mark.parametrize('told', [True, False])
def test_what_a_network_said_before_its_weights_changed_is_forgotten(told):
    engine = Opinion()
    detector = Detector(ECG_BEATS, engine)
    samples = Samples.uniform(START_NS, RATE, lead(
        [(1.06 + 0.8 * i, 0.02) for i in range(60)], 50.0)[:, None].astype(float))
    before = detector.process(samples[:len(samples) // 2])
    engine.p, engine.changes = 0.3, engine.changes + told
    after = detector.process(samples[len(samples) // 2:]) + detector.flush()
    assert {e.label for e in before if hasattr(e, 'label')} == {'veb'}
    later = [e.label for e in after if getattr(e, 'label', '') in ('beat', 'veb')][2:6]
    assert later == ['beat' if told else 'veb'] * 4, 'but for two that were decided before'


@pytest.mark.parametrize('alike', [-1, 2.5, True, '300', 2**13])
def test_a_model_that_would_remember_no_number_of_beats_is_refused(alike):
    with pytest.raises(ValueError, match='alike'):
        check_spec(dataclasses.replace(ECG_BEATS, alike=alike))


def test_nothing_is_remembered_beyond_a_break():
    beats = [(1.06 + 0.8 * i, 0.05) for i in range(12)]
    samples = Samples.uniform(START_NS, RATE, lead(beats, 12.0)[:, None].astype(float))
    engine = Opinion()
    detector = Detector(ECG_BEATS, engine)
    detector.process(samples)
    engine.p = 0.3
    again = Samples(samples.stamps + 20 * 10**9, samples.values)
    events = [e for e in detector.process(again) + detector.flush() if hasattr(e, 'label')]
    later = [e.label for e in events if e.stamp_ns > START_NS + 20 * 10**9]
    assert later == ['beat'] * len(later) and len(later) > 8
