"""Each bench command runs, briefly, and says what it promises; nothing here is timed."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from taolora_ros.bench import soak
from taolora_ros.bench.node import _judged
from taolora_ros.bench.processes import Process
from taolora_ros.bench.trouble import APART, EVERY, KINDS, trouble
from taolora_ros.bench.whole_node import Heard, State, cost, decided, engine_of
from taolora_ros.cli import main
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import IMU_FALLS

ORIGIN = {'commit', 'date', 'machine', 'system', 'python', 'numpy', 'torch', 'rclpy'}


def heard(lost=0, missing=()):
    """Return what a node says that takes 100 messages and 20 ms of CPU a second."""
    said = Heard(sent=1000 + lost)
    hop = round(IMU_FALLS.hop * NANOSECONDS)
    said.results = [('s0', i * hop, i * hop + 5_000_000) for i in range(30) if i not in missing]
    said.states = [State(float(t), 3.0 + 0.02 * t, {'s0': min(100 * t, 1000)},
                         {'late': 2, 'gap': 1}, intake_break=20.0 + t,
                         arrival=t * NANOSECONDS + 3_000_000 * (t >= 5)) for t in range(14)]
    said.idle = [(i, 1.0) for i in range(100)]
    said.calls = [(i * NANOSECONDS // 20, 99.0 if i < 20 or i > 190 else 2.0 if i < 160 else 4.0)
                  for i in range(300)]  # slow before the first window and after the last
    return said


def test_cost_is_that_of_the_time_in_which_messages_came():
    cpu, messages, seconds = cost(heard())
    assert cpu / messages == pytest.approx(200e-6)
    assert messages == 100 * seconds > 0


def test_a_node_that_reads_nothing_is_an_error():
    said = heard()
    said.states = [state._replace(messages={'s0': 0}) for state in said.states]
    with pytest.raises(RuntimeError, match='read no messages'):
        cost(said)


def test_lost_samples_and_missing_decisions_are_told():
    whole, holes = _judged(heard(), 1, None), _judged(heard(7, (10, 11, 20)), 1, None)
    assert whole['latency_ms'] == {'p50': 5.0, 'p99': 5.0, 'max': 5.0}
    assert whole['decisions'] == whole['decisions_due']
    assert holes['decisions'] == holes['decisions_due'] - 3
    assert whole['sent'] == whole['delivered'] == whole['taken'] + 2 == 1000
    assert holes['sent'] - holes['delivered'] == 7
    assert whole['drops'] == {'late': 2}


def test_waiting_is_that_of_others_while_windows_are_decided():
    case = _judged(heard(), 1, None)
    assert case['idle_service_ms'] == {'p50': 1.0, 'p99': 1.0, 'max': 1.0}
    assert case['service_ms'] == {'p50': 2.0, 'p99': 4.0, 'max': 4.0}
    assert 2.5 < case['diagnostics_jitter_ms'] <= 3.0
    assert case['intake_break_ms'] == 29.0  # windows end after 9.3 s
    said = heard()
    said.calls, said.idle = [], []
    assert _judged(said, 1, None)['service_ms'] is None


def test_a_stream_that_stops_is_not_a_decision():
    assert not decided(SimpleNamespace(channel_names=['silence']))
    assert decided(SimpleNamespace(channel_names=['acc_norm', 'gyro_norm']))
    assert decided(SimpleNamespace(channel_names=[]))


def test_each_stream_has_each_trouble_in_turn_and_rest_between():
    times = np.arange(0.0, EVERY * (len(KINDS) + 1), 0.01)
    for stream in range(3):
        kinds = [trouble(t, stream) for t in times]
        began = [kind for kind, before in zip(kinds[1:], kinds) if kind and kind != before]
        assert began[:len(KINDS)] == list(KINDS) and kinds[0] == ''
        assert kinds.count('') > len(kinds) / 2
    assert trouble(EVERY / 2 + 0.01, 0) == trouble(EVERY / 2 + APART + 0.01, 1) == KINDS[0]


def test_messages_with_trouble_are_as_long_as_others_and_differ_in_what_is_wrong(ros):
    from taolora_ros.bench.publisher import Scene
    from taolora_ros.cdr import read_imu
    scene, stamp = Scene(100.0), 1_700_000_000_500_000_000
    kinds = ('', 'impact', 'nan', 'spike', 'back')
    read = read_imu([scene.message(7, stamp, kind) for kind in kinds])
    assert read.unreadable == 0
    assert read.stamps.tolist() == [stamp] * 4 + [stamp - 2 * NANOSECONDS]
    largest = np.abs(read.values).max(1)
    assert largest[0] == largest[4] < 40.0 < largest[1] < 100.0
    assert math.isnan(largest[2]) and largest[3] == 1e30


def soaked(growth, seconds=600, lost=0):
    """Return a soak in which memory rises by 20 MB at first and by ``growth`` MB afterwards."""
    looks = []
    for t in range(0, seconds + 1, 5):
        mb = 300.0 + 20.0 * min(t / 60.0, 1.0) + growth * max(t - 120, 0) / (seconds - 120)
        looks.append(soak.Look(State(float(t), 0.07 * t, {'s0': 50 * t, 's1': 50 * t},
                                     {'skipped_windows': t // 100}, 6 * t), mb, 18))
    return soak.Soak(looks, Counter(fall=3), 100 * seconds + lost)


def test_soak_counts_growth_from_the_end_of_its_warm_up():
    flat, leaking = soak.judged(soaked(0.0)), soak.judged(soaked(30.0, lost=5))
    assert flat['growth_mb'] == 0.0 and flat['warm_up_s'] == 120.0
    assert leaking['growth_mb'] == pytest.approx(30.0, abs=2.0)
    assert leaking['peak_growth_mb'] >= leaking['growth_mb']
    assert flat['samples_lost'] == 0 and leaking['samples_lost'] == 5
    assert flat['windows_skipped'] == flat['skipped'][-1] == 6
    assert flat['cpu_percent'][1:] == pytest.approx([7.0] * 120)
    assert soak.judged(soaked(0.0, 500))['warm_up_s'] == 100.0


def test_a_soak_that_saw_nothing_is_an_error():
    with pytest.raises(RuntimeError, match='too few'):
        soak.judged(soak.Soak(soaked(0.0).looks[:2]))


def test_memory_of_a_process_is_read_while_it_runs():
    with Process('http.server', '--bind', '127.0.0.1', '0') as process:
        while process.memory()[0] < 1.0:
            assert process.runs()
        assert process.memory()[1] >= 1
    assert process.memory() == (0.0, 0)


def test_soak_prints_a_table_and_writes_the_figures(ros, tmp_path, capsys):
    file = tmp_path / 'soak.json'
    assert main(['bench', 'soak', '--minutes', '0.15', '--streams', '2', '--rate', '100',
                 '--json', str(file)]) == 0
    result = json.loads(file.read_text())
    assert (result['minutes'], result['streams'], result['rate']) == (0.15, 2, 100.0)
    looks = len(result['time_s'])
    assert looks >= 3 and result['time_s'] == sorted(result['time_s'])
    assert all(len(result[name]) == looks for name in (
        'rss_mb', 'threads', 'cpu_percent', 'delivered', 'decisions', 'skipped'))
    assert min(result['rss_mb']) > 10.0 and min(result['threads']) >= 3
    assert result['decisions'][-1] == result['windows_decided'] > 0
    assert 0 < result['delivered'][-1] <= result['samples_sent'] <= 2 * 900
    assert {'growth_mb', 'samples_lost', 'windows_skipped', 'machine', 'load'} <= set(result)
    assert ORIGIN <= set(result['provenance'])
    assert 'RSS, MB' in capsys.readouterr().out


def test_ingest_prints_a_table_and_writes_the_figures(ros, tmp_path, capsys):
    file = tmp_path / 'ingest.json'
    assert main(['bench', 'ingest', '--runs', '1', '--seconds', '1', '--json', str(file)]) == 0
    result = json.loads(file.read_text())
    assert set(result['us_per_message']) == {'plain', 'ours'}
    assert all(us > 0 for us in result['us_per_message'].values())
    assert ORIGIN <= set(result['provenance'])
    assert result['node_us_per_message'] > 0 and set(result['ratio']) == {'ours', 'node'}
    assert 'plain rclpy subscriber' in capsys.readouterr().out


def test_node_prints_a_table_and_writes_the_figures(ros, tmp_path, capsys):
    file = tmp_path / 'node.json'
    assert main(['bench', 'node', '--seconds', '4', '--case', '2x100', '--device', 'cpu',
                 '--engine', 'reference', '--json', str(file)]) == 0
    told = json.loads(file.read_text())
    assert ORIGIN <= set(told['provenance'])
    case, = told['cases']
    assert (case['streams'], case['rate_hz']) == (2, 100.0)
    assert (case['engine'], case['engine_reason']) == ('reference on cpu', 'asked for')
    assert set(case['latency_ms']) == {'p50', 'p99', 'max'}
    assert case['service_ms']['max'] > 0 and case['idle_service_ms']['max'] > 0
    assert case['diagnostics_jitter_ms'] >= 0 and case['intake_break_ms'] > 0
    assert {'cpu_percent', 'sent', 'delivered', 'taken', 'drops', 'decisions', 'decisions_due',
            'decisions_per_s', 'decisions_per_s_due', 'hop_s'} <= set(case)
    assert 0 < case['taken'] <= case['delivered'] <= case['sent']
    assert 'latency p50, p99' in capsys.readouterr().out


def test_which_engine_runs_is_read_from_what_the_node_says():
    said = ('[WARN] [1.2] [taolora]: imu_falls runs by native, since mega cannot be used: it '
            'runs on a CUDA device, not on cpu\n'
            '[INFO] [1.3] [taolora]: native on cpu: native 0.61 ms a window, reference 4.02 ms\n'
            '[INFO] [1.4] [taolora]: ready: s0 (/s0/imu, imu_falls on native on cpu)\n')
    assert engine_of(said) == ('native on cpu', 'native 0.61 ms a window, reference 4.02 ms')


@pytest.mark.parametrize('option, complaint', [
    ('device=cuda', 'no CUDA'), ('engine=fast', 'is not one of')])
def test_node_measures_nothing_where_it_cannot_run_as_asked(ros, option, complaint, capsys):
    if option == 'device=cuda' and torch.cuda.is_available():
        pytest.skip('it can run on a GPU here')
    assert main(['bench', 'node', f'--{option}']) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize('arguments, complaint', [
    (['node', '--case', '8'], 'streams x Hz'), (['node', '--case', '0x9'], '1 to 64'),
    (['ingest', '--seconds', '0'], 'over 0'), (['soak', '--minutes', '0'], 'over 0'),
    (['soak', '--streams', '65'], '1 to 64')])
def test_wrong_options_say_what_is_right(arguments, complaint, capsys):
    with pytest.raises(SystemExit):
        main(['bench', *arguments])
    assert complaint in capsys.readouterr().err
