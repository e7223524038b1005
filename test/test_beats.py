import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from taolora_ros.beats import BeatDecoder
from taolora_ros.decode import INFO, START, WARNING, Tokens
from taolora_ros.spec import ECG_BEATS, OFFSET_MARGIN

ECG_BEATS = dataclasses.replace(ECG_BEATS, bias=(0.0, 0.0))
RATE, PATCH = ECG_BEATS.rate, ECG_BEATS.patch
START_NS = 1_700_000_000_000_000_000


def tokens_of(beats, seconds, centre=None, noise=0.0, seed=0, invalid=(), threshold=0.5,
              refractory=0.19, blur=0.5):
    """Return what a good network would say of ``beats``, pairs of time (s) and class name.

    A beat up to a margin beyond a token's patch shows in that token too, less and less within
    ``blur`` samples of the margin's edge.
    """
    rng = np.random.default_rng(seed)
    if centre is None:
        centre = np.arange(PATCH / 2, seconds * RATE, PATCH)
    probability = np.zeros((len(centre), 5), np.float32)
    probability[:, 1:] = noise * rng.random((len(centre), 4)) / 4
    offset = rng.random(len(centre)).astype(np.float32)
    for time, name in beats:
        at = time * RATE - (centre - PATCH / 2)  # from each token's start
        inside = np.minimum(at, PATCH - at) + OFFSET_MARGIN * PATCH  # samples from the edge
        share = np.clip((inside + blur) / (2 * blur), 0, 1)
        for i in np.flatnonzero(share > 0):
            probability[i] = 0
            probability[i, ECG_BEATS.classes.index(name)] = share[i] * 0.97
            offset[i] = at[i] / PATCH
    probability[:, 0] = 1 - probability[:, 1:].sum(1)
    valid = np.ones(len(centre), bool)
    for begin, end in invalid:
        valid[(centre > begin * RATE) & (centre < end * RATE)] = False
    return Tokens(START_NS, centre.astype(float), probability, offset,
                  rng.random(len(centre)) < 0.2, valid, threshold, refractory)


def part(tokens, start, stop):
    return dataclasses.replace(tokens, **{name: getattr(tokens, name)[start:stop] for name in (
        'centre', 'probability', 'offset', 'gate', 'valid')})


def decode(tokens, cuts=(), spec=ECG_BEATS):
    decoder, events = BeatDecoder(spec, 'ecg'), []
    bounds = [0, *cuts, len(tokens.centre)]
    for start, stop in zip(bounds, bounds[1:]):
        events += decoder.push(part(tokens, start, stop))
    return events + decoder.finish()


def times(events):
    return [(event.stamp_ns - START_NS) / 1e9 for event in events]


def rhythm(seed, seconds=30.0):
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.uniform(0.28, 1.3, 200))
    at = at[at < seconds - 0.1]
    return [(t, 'V' if rng.random() < 0.2 else 'N') for t in at]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.24))
def test_every_beat_is_found_once_where_it_is(seed, noise):
    beats = rhythm(seed)
    events = decode(tokens_of(beats, 30.0, noise=noise, seed=seed))
    np.testing.assert_allclose(times(events), [t for t, _ in beats], atol=0.1 * PATCH / RATE)
    assert [e.label for e in events] == ['veb' if c == 'V' else 'beat' for _, c in beats]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 468), max_size=20))
def test_any_pushes_give_the_same_beats(seed, cuts):
    tokens = tokens_of(rhythm(seed), 30.0, noise=0.3, seed=seed)
    whole = decode(tokens)
    assert decode(tokens, sorted(cuts)) == whole
    assert decode(tokens, range(1, len(tokens.centre))) == whole


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 11))
def test_the_density_of_tokens_does_not_matter(seed, hop):
    """Tokens as they come from windows that follow each other every ``hop`` samples."""
    beats, centre, decided = rhythm(seed), [], 0.0
    for end in range(512, round(30 * RATE), hop):
        grid = end - 512 + (np.arange(64) + 0.5) * PATCH
        grid = grid[(grid > decided) & (grid <= end - 120)]
        centre += grid.tolist()
        decided = centre[-1]
    beats = [(t, c) for t, c in beats if t < decided / RATE - 0.1]
    events = decode(tokens_of(beats, 30.0, np.array(centre), noise=0.1, seed=seed))
    np.testing.assert_allclose(times(events), [t for t, _ in beats], atol=0.1 * PATCH / RATE)


@pytest.mark.parametrize('at', [1.024, 1.028, 1.022, 1.056])
def test_a_beat_on_the_border_of_two_patches_is_one_sure_beat(at):
    event, = decode(tokens_of([(at, 'V')], 3.0, blur=2.0))
    assert event.label == 'veb' and event.score > 0.9
    assert times([event])[0] == pytest.approx(at, abs=0.004)


def test_a_beat_is_told_before_the_next_one_could_come():
    tokens = tokens_of([(1.0, 'N')], 3.0)
    decoder = BeatDecoder(ECG_BEATS, 'ecg')
    told = next(i for i in range(len(tokens.centre)) if decoder.push(part(tokens, i, i + 1)))
    assert tokens.centre[told] / RATE - 1.0 < 0.5


def test_what_an_event_holds():
    first, second = decode(tokens_of([(1.0, 'N'), (1.8, 'V')], 3.0))
    assert (first.label, first.severity, first.phase) == ('beat', INFO, START)
    assert (second.label, second.severity) == ('veb', WARNING)
    assert first.id == f'ecg-{START_NS}-1' and second.id == f'ecg-{START_NS}-2'
    assert first.start_ns < first.stamp_ns < first.stop_ns
    assert 0 <= first.transient_fraction <= 1
    assert set(first.values) == {'veb_score'} and first.values['veb_score'] < 0.1
    assert second.values['rr_s'] == pytest.approx(0.8, abs=0.01)
    assert second.values['heart_rate_bpm'] == pytest.approx(75, abs=1)
    assert second.score == second.values['veb_score'] > 0.9


def test_heart_rate_is_the_median_of_eight_intervals():
    at = np.cumsum([1.0] + [0.8] * 8 + [2.0] + [0.8] * 3)
    events = decode(tokens_of([(t, 'N') for t in at], 20.0))
    assert events[-1].values['heart_rate_bpm'] == pytest.approx(75, abs=1)
    assert events[9].values['rr_s'] == pytest.approx(2.0, abs=0.02)


def test_nothing_is_found_in_a_gap_and_the_rhythm_starts_again():
    beats = [(t, 'N') for t in [*np.arange(1.0, 5.1, 0.8), *np.arange(5.5, 9.5, 0.5)]]
    events = decode(tokens_of(beats, 10.0, invalid=[(4.0, 5.2)]))
    kept = [t for t, _ in beats if not 3.95 < t < 5.25]
    np.testing.assert_allclose(times(events), kept, atol=0.005)
    after = next(e for e, t in zip(events, times(events)) if t > 5)
    assert 'rr_s' not in after.values
    rates = [e.values.get('heart_rate_bpm') for e in events[events.index(after) + 1:]]
    assert rates == pytest.approx([120] * len(rates), abs=2)


def test_the_threshold_is_on_the_biased_score():
    tokens = tokens_of([(1.0, 'N')], 3.0)
    tokens.probability[:, 1] *= 0.4
    tokens.probability[:, 0] = 1 - tokens.probability[:, 1]
    assert decode(tokens) == []
    assert len(decode(dataclasses.replace(tokens, event_threshold=0.3))) == 1
    eager = dataclasses.replace(ECG_BEATS, bias=(1.0, 0.0))
    assert decode(tokens, spec=eager)[0].score > 0.5


def test_the_ventricular_score_is_given_that_there_is_a_beat():
    tokens = tokens_of([(1.0, 'V')], 3.0)
    beat = tokens.probability[:, 3] > 0.5
    tokens.probability[beat] = [0.3, 0.3, 0, 0.4, 0]
    event, = decode(tokens)
    assert event.label == 'veb' and event.score == pytest.approx(4 / 7, abs=0.01)


def test_only_the_stronger_of_two_close_peaks_is_a_beat():
    tokens = tokens_of([(0.96, 'N'), (1.14, 'N')], 3.0)
    weak = np.abs(tokens.centre / RATE - 0.96) < 0.03
    tokens.probability[weak] = [0.4, 0.6, 0, 0, 0]
    for cuts in ((), range(1, len(tokens.centre))):
        assert times(decode(tokens, cuts)) == [pytest.approx(1.14, abs=0.01)]


def test_a_longer_refractory_time_holds_back_what_comes_sooner():
    beats = [(t, 'N') for t in (1.0, 1.4, 1.8, 2.2)]
    found = times(decode(tokens_of(beats, 4.0, refractory=0.7)))
    np.testing.assert_allclose(found, [1.0, 1.8], atol=0.01)


def test_a_shorter_refractory_time_lets_faster_beats_through():
    beats = [(t, 'N') for t in np.arange(1.0, 3.0, 0.13)]
    found = times(decode(tokens_of(beats, 4.0, refractory=0.1)))
    np.testing.assert_allclose(found, [t for t, _ in beats], atol=0.005)
    assert len(decode(tokens_of(beats, 4.0))) < len(beats)


def test_patches_that_disagree_a_little_meet_in_the_middle():
    tokens = tokens_of([(1.024, 'N')], 3.0)  # on a border
    left, right = np.flatnonzero(tokens.probability[:, 0] < 0.5)
    tokens.offset[left] -= 0.2
    tokens.probability[left] = tokens.probability[right]
    event, = decode(tokens)
    assert times([event])[0] == pytest.approx(1.024 - 0.1 * PATCH / RATE, abs=0.0005)


def test_finish_tells_the_last_beat_and_forgets_the_rhythm():
    decoder = BeatDecoder(ECG_BEATS, 'ecg')
    tokens = tokens_of([(0.95, 'N')], 1.024)
    assert decoder.push(tokens) == []
    assert times(decoder.finish()) == [pytest.approx(0.95, abs=0.01)]
    assert decoder.finish() == []
    event, = decoder.push(tokens_of([(0.5, 'N')], 1.024)) + decoder.finish()
    assert 'rr_s' not in event.values
