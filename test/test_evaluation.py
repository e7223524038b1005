"""Scoring: compared with brute force on small random cases, and worked by hand."""

from collections import Counter
import io
import itertools
import json
import math

import numpy as np
import pytest
from rich.console import Console

from taolora_ros.evaluation import report
from taolora_ros.evaluation.beats import beat_figures, count_beats, match
from taolora_ros.evaluation.detection import Found
from taolora_ros.evaluation.evaluate import judge_ecg, judge_imu, summarise
from taolora_ros.evaluation.falls import count_falls, fall_figures, poisson_upper
from taolora_ros.recordings import Recording


def best_pairing(reference, found, tolerance):
    """Return (pairs, total distance) of the best one-to-one pairing, by trying every one."""
    best = (0, 0.0)
    choices = [[None, *[j for j, f in enumerate(found) if abs(f - r) <= tolerance]]
               for r in reference]
    for choice in itertools.product(*choices):
        used = [j for j in choice if j is not None]
        if len(set(used)) != len(used):
            continue
        distance = sum(abs(reference[i] - found[j]) for i, j in enumerate(choice)
                       if j is not None)
        best = max(best, (len(used), -distance))
    return best[0], -best[1]


@pytest.mark.parametrize('spread', [0.3, 1.0, 4.0])
def test_matching_agrees_with_trying_every_pairing(spread):
    rng = np.random.default_rng()
    for _ in range(150):
        reference = np.sort(rng.uniform(0, spread, rng.integers(0, 6)))
        found = np.sort(rng.uniform(0, spread, rng.integers(0, 6)))
        rows, columns = match(reference, found, 0.15)
        assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
        distances = np.abs(reference[rows] - found[columns])
        assert (distances <= 0.15 + 1e-9).all()
        pairs, distance = best_pairing(reference, found, 0.15)
        assert len(rows) == pairs
        assert distances.sum() == pytest.approx(distance, abs=1e-9)


def test_tolerance_is_included():
    assert len(match([1.0], [1.15], 0.15)[0]) == 1
    assert len(match([1.0], [1.1501], 0.15)[0]) == 0


def reference_veb(times, aami, found, veb):
    """Count VEB hits and errors by the words of the rule, for well separated beats."""
    counts = dict(tp=0, fp=0, fn=0, unclear=0)
    taken = set()
    for time, kind in zip(times, aami):
        near = [j for j in range(len(found)) if abs(found[j] - time) <= 0.15]
        j = min(near, key=lambda j: abs(found[j] - time), default=None)
        taken.add(j)
        called = j is not None and veb[j]
        if kind == 'V':
            counts['tp' if called else 'fn'] += 1
        elif called:
            counts['fp' if kind in 'NS' else 'unclear'] += 1
    counts['fp'] += sum(veb[j] for j in range(len(found)) if j not in taken)
    return counts


def test_ventricular_beats_follow_the_rule_on_random_records():
    rng = np.random.default_rng()
    for _ in range(30):
        times = np.cumsum(rng.uniform(0.5, 1.2, 60))
        aami = rng.choice(list('NSVFQ'), 60)
        kept = times[rng.random(60) < 0.9] + 0
        found = np.sort(np.concatenate([kept + rng.uniform(-0.2, 0.2, len(kept)),
                                        rng.uniform(0, 60, 8)]))
        veb = rng.random(len(found)) < 0.4
        shuffled = rng.permutation(len(found))
        counts = count_beats(times, aami, found[shuffled], veb[shuffled])
        expected = reference_veb(times, aami, found, veb)
        assert {key: counts[f'veb_{key}'] for key in expected} == expected
        assert counts['beat_tp'] + counts['beat_fp'] == len(found)
        assert counts['beat_tp'] + counts['beat_fn'] == len(times)
        assert counts['beat_50ms_tp'] <= counts['beat_tp']


def test_figures_of_a_record_worked_by_hand():
    counts = count_beats(
        times_s=np.array([1.0, 2.0, 3.0, 4.0, 5.0]), aami=np.array(list('NVVFS')),
        found_s=np.array([1.0, 2.1, 4.02, 5.0, 6.0, 7.0]),
        found_veb=np.array([False, True, True, True, True, False]))
    figures = beat_figures([counts])
    assert figures['beat'] == {'se': 4 / 5, 'ppv': 4 / 6, 'n': 5, 'tp': 4, 'fp': 2, 'fn': 1,
                               'f1': 8 / 11}
    assert figures['beat_50ms']['se'] == 3 / 5 and figures['beat_50ms']['ppv'] == 3 / 6
    assert figures['veb'] == {'se': 1 / 2, 'ppv': 1 / 3, 'ppv_strict': 1 / 4, 'n': 2, 'tp': 1,
                              'fp': 2, 'fn': 1, 'f1': 2 / 5, 'unclear': 1}


def test_detections_in_flutter_are_left_out_unless_they_match_a_beat():
    counts = count_beats(np.array([1.0, 9.0]), np.array(['N', 'N']), np.array([1.05, 2, 3, 8]),
                         np.array([False, True, True, True]), flutter_s=[(1.0, 4.0)])
    assert counts['beat_tp'] == 1 and counts['beat_fp'] == 1 and counts['veb_fp'] == 1
    assert counts['flutter_left_out'] == 2


def test_records_are_added_up_not_averaged():
    counts = [count_beats(np.arange(n) + 1.0, np.array(['N'] * n), np.arange(found) + 1.0,
                          np.zeros(found, bool)) for n, found in ((90, 90), (10, 0))]
    assert beat_figures(counts)['beat']['se'] == 0.9
    empty = beat_figures([])
    assert empty['beat']['se'] is None and empty['veb']['ppv'] is None and empty['veb']['n'] == 0


@pytest.mark.parametrize('alarms, found, false', [
    ([], False, 0), ([8.0], True, 0), ([14.0], True, 0), ([7.9], False, 1), ([14.1], False, 1),
    ([10.0, 13.0], True, 1), ([2.0, 10.5, 30.0], True, 2)])
def test_one_alarm_near_the_peak_counts_and_all_others_are_false(alarms, found, false):
    count = count_falls('s', 15.0, 10.0, alarms)
    assert (count.found, count.false_alarms) == (found, false)


def test_every_alarm_of_an_activity_is_false():
    assert count_falls('s', 15.0, None, [1.0, 9.0]).false_alarms == 2


def test_fall_rates_come_with_their_hours_and_sources():
    counts = [count_falls('waist', 1800, 10.0, [11.0, 100.0]), count_falls('waist', 1800, 9.0, []),
              count_falls('waist', 3600, None, []), count_falls('wrist', 7200, None, [5.0, 50.0])]
    figures = fall_figures(counts)
    assert figures['se'] == 0.5 and figures['falls'] == 2 and figures['hours'] == 4.0
    assert figures['false_alarms_per_hour'] == 0.75
    assert figures['activities']['hours'] == 3.0 and figures['activities']['false_alarms'] == 2
    assert figures['sources']['wrist']['se'] is None
    assert figures['sources']['waist']['false_alarms_per_hour'] == 0.5
    waist, wrist = (figures['sources'][place]['activities'] for place in ('waist', 'wrist'))
    assert (waist['hours'], waist['false_alarms'], wrist['hours']) == (1.0, 0, 2.0)
    assert waist['false_alarms_per_hour_upper_95'] == pytest.approx(-math.log(0.05))
    assert wrist['false_alarms_per_hour_upper_95'] == pytest.approx(poisson_upper(2) / 2)


def test_poisson_bound_has_its_coverage():
    assert poisson_upper(0) == pytest.approx(-math.log(0.05))
    for count in (1, 3, 20):
        mean = poisson_upper(count)
        below = sum(math.exp(-mean) * mean ** k / math.factorial(k) for k in range(count + 1))
        assert below == pytest.approx(0.05)


def fall_recording(name, fall_time=None, source='waist'):
    return Recording(name, 'S1', source, 'imu', 50.0, np.zeros((1500, 6)),
                     is_fall=fall_time is not None, fall_time_s=fall_time, code='F01', label='slip')


def ecg_recording(name='100', aami='NVN', **extra):
    return Recording(name, name, 'mitdb', 'ecg', 100.0, np.zeros((1000, 2)), leads=('V5', 'MLII'),
                     beat_times_s=np.arange(len(aami)) + 1.0, beat_aami=np.array(list(aami)),
                     **extra)


def found(*events, transient=0.1):
    return Found(tuple(events), Counter(), transient)


def test_fall_entry_tells_what_was_found():
    entry, count = judge_imu(fall_recording('a', 9.0),
                             found(('fall', 20.0), ('fall', 9.4), ('other', 1.0)))
    assert entry['alarms_s'] == [9.4, 20.0] and entry['found'] and entry['false_alarms'] == 1
    assert count.duration_s == 30.0 and count.source == 'waist'


def test_ecg_entry_counts_a_veb_as_a_beat_too():
    entry, _ = judge_ecg(ecg_recording(), found(('beat', 3.0), ('veb', 2.01), ('beat', 1.0)))
    assert entry['beat']['se'] == entry['beat']['ppv'] == 1.0
    assert entry['veb']['se'] == 1.0 and entry['lead'] == 'MLII' and entry['left_out'] == ''


def test_paced_and_noisy_records_stay_out_of_the_totals():
    judged = [judge_ecg(recording, found(('beat', 1.0))) for recording in (
        ecg_recording('100'), ecg_recording('102', paced=True),
        ecg_recording('118e06', snr_db=6.0))]
    result = summarise('ecg', judged)
    assert result['records'] == 1 and result['beat']['n'] == 3
    assert {reason: group['beat']['n'] for reason, group in result['apart'].items()} == {
        'paced': 3, 'noise added, 6 dB': 3}


def test_reports_can_be_printed_and_written_as_json():
    imu = [judge_imu(fall_recording('a', 9.0), found(('fall', 20.0))),
           judge_imu(fall_recording('b'), found())]
    ecg = [judge_ecg(ecg_recording(), found(('beat', 1.0), ('veb', 3.0)))]
    skipped = {'not_of_kind': dict.fromkeys('ab', 'no annotations'), 'damaged': {'c': 'cut'}}
    for kind, judged, words in (('imu', imu, ('waist', '1 of 2', 'missed')),
                                ('ecg', ecg, ('MLII', '66.67', 'ventricular'))):
        assert report.notes(summarise(kind, judged))[-1].endswith('hours evaluated')
        result = {**summarise(kind, judged), 'skipped_files': skipped,
                  'seen_in_training': 1, 'seconds': 1.0}
        assert result['transient_fraction'] == pytest.approx(0.1)
        json.dumps(result)
        console = Console(record=True, width=160, file=io.StringIO())
        console.print(*report.tables(result), *report.notes(result))
        text = console.export_text()
        assert all(word in text for word in words), text
        assert '2 files left out: no annotations' in text
        assert 'damaged, left out: c: cut' in text
        assert 'of subjects or records that the model was trained on' in text
