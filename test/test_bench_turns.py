"""Networks of the GPU bench are timed by turns, and what fails is told and loses nothing else."""

import os
import time
from collections import Counter

import pytest

from taolora_ros.bench import gpu_cases, turns
from conftest import ROOT


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Let processes write down what they are asked for; give the file."""
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}{os.pathsep}{ROOT / "test"}')
    monkeypatch.setenv('TURNS', str(tmp_path / 'asked'))
    return tmp_path / 'asked'


def take(*ways, seconds=60.0, batches=(1,), alone=()):
    cases = [{'part': 'networks', 'model': 'm', 'batch': batch, 'way': way}
             for batch in batches for way in ways]
    return list(turns.take_turns('turning_worker', cases, time.monotonic() + seconds, 'peer',
                                 alone, lambda *told: None))


def test_each_round_times_each_way_once_in_another_order(asked):
    peer, ours = take('peer', 'ours')
    lines = [line.split() for line in asked.read_text().splitlines()]
    assert sorted(lines[:2]) == [['make', '1', 'ours'], ['make', '1', 'peer']]
    timed = [way for step, _, way in lines[2:]]
    assert timed == ['peer', 'ours', 'ours', 'peer'] * (turns.ROUNDS // 2) + ['peer', 'ours']
    assert peer['rounds'] == ours['rounds'] == turns.ROUNDS
    # the host got five times slower meanwhile: rounds of both did
    assert ours['p50_us_of_rounds'][-1] / ours['p50_us_of_rounds'][0] > 3
    low, high = ours['times_faster_range']
    assert low == pytest.approx(400 * 3 / (100 * 4)) and high == pytest.approx(4 * 6 / 5)
    assert low < ours['times_faster'] < high and peer['times_faster_range'] == [1.0, 1.0]
    assert ours['p50_us'] == sorted(ours['p50_us_of_rounds'])[turns.ROUNDS // 2]


def test_all_processes_are_awake_before_the_first_network_is_made(asked):
    assert [row['awake'] for row in take('peer', 'ours', 'third', batches=(1, 2))] == [3] * 6


def test_jitter_is_that_of_medians_of_rounds(asked):
    assert take('ours')[0]['jitter_us'] == 2.0  # one was interrupted
    assert 'times_faster' not in take('ours')[0]  # there is no peer to compare with


def test_ways_that_fail_say_why_and_lose_nothing_else(asked):
    rows = take('peer', 'missing', 'fails', 'ends', 'ours')
    assert [row['way'] for row in rows] == ['peer', 'missing', 'fails', 'ends', 'ours']
    notes = {row['way']: row.get('note') for row in rows}
    assert notes == {'peer': None, 'ours': None, 'missing': 'not installed (no_such_package)',
                     'fails': 'failed: RuntimeError: no such kernel',
                     'ends': 'failed: the process ended'}
    assert not any('lost' in row for row in rows)
    assert rows[-1]['rounds'] == turns.ROUNDS and rows[-1]['peak_bytes'] == 5


def test_a_way_lost_twice_is_not_tried_again(asked):
    rows = take('peer', 'ends', batches=(1, 2, 3))
    notes = [row['note'] for row in rows if row['way'] == 'ends']
    assert notes == ['failed: the process ended'] * 2 + [gpu_cases.LEFT_OUT]


def test_what_takes_too_long_to_make_leaves_time_for_the_others(asked, monkeypatch):
    monkeypatch.setitem(gpu_cases.CASE_SECONDS, 'networks', 4.0)
    ours, slow = take('ours', 'slow', seconds=30.0)
    assert slow['note'].startswith('failed: no answer within 4 s')
    assert ours['rounds'] == turns.ROUNDS


def test_ways_that_time_what_they_make_are_made_alone_and_last(asked):
    take('ours', 'peer', alone=('ours',))
    assert asked.read_text().splitlines()[:2] == ['make 1 peer', 'make 1 ours']


def test_rounds_end_with_their_share_of_the_time(asked, monkeypatch):
    now = [0.0]
    told = Counter()

    def step(workers, case, name, seconds):
        told[case['way']] += 1
        now[0] += 3.0
        return {'p50_us': 1.0}

    monkeypatch.setattr(turns, 'step', step)
    monkeypatch.setattr(turns.time, 'monotonic', lambda: now[0])
    cases = [{'way': 'a'}, {'way': 'b'}]
    rounds, failed = turns.time_all({}, cases, 13.0, 100.0)  # a third would end at 18
    assert told == {'a': 2, 'b': 2} and not failed
    now[0] = 99.0
    rounds, failed = turns.time_all({}, cases, 13.0, 100.0)  # the first is never left out
    assert len(rounds['a']) == 1 and failed == {'b': {'note': gpu_cases.SKIPPED}}


def test_without_time_each_row_says_so(asked):
    rows = take('peer', 'ours', seconds=-1.0, batches=(1, 2))
    assert [(row['batch'], row['note']) for row in rows] == [
        (batch, gpu_cases.SKIPPED) for batch in (1, 1, 2, 2)]
    assert not asked.exists()
