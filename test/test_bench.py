"""Each bench command runs, briefly, and says what it promises; nothing here is timed."""

import json

import pytest

from taolora_ros.bench.node import _judged
from taolora_ros.bench.whole_node import Heard, cost
from taolora_ros.cli import main
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import IMU_FALLS


def heard(lost=0, missing=()):
    """Return what a node says that takes 100 messages and 20 ms of CPU a second."""
    said = Heard(sent=1000 + lost)
    hop = round(IMU_FALLS.hop * NANOSECONDS)
    said.results = [('s0', i * hop, i * hop + 5_000_000) for i in range(30) if i not in missing]
    said.states = [(float(t), 3.0 + 0.02 * t, {'s0': min(100 * t, 1000)}, {'late': 2, 'gap': 1})
                   for t in range(14)]
    return said


def test_cost_is_that_of_the_time_in_which_messages_came():
    cpu, messages, seconds = cost(heard())
    assert cpu / messages == pytest.approx(200e-6)
    assert messages == 100 * seconds > 0


def test_a_node_that_reads_nothing_is_an_error():
    said = heard()
    said.states = [(t, cpu, {'s0': 0}, {}) for t, cpu, *_ in said.states]
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


def test_ingest_prints_a_table_and_writes_the_figures(ros, tmp_path, capsys):
    file = tmp_path / 'ingest.json'
    assert main(['bench', 'ingest', '--runs', '1', '--seconds', '1', '--json', str(file)]) == 0
    result = json.loads(file.read_text())
    assert set(result['us_per_message']) == {'plain', 'ours'}
    assert all(us > 0 for us in result['us_per_message'].values())
    assert result['node_us_per_message'] > 0 and set(result['ratio']) == {'ours', 'node'}
    assert 'plain rclpy subscriber' in capsys.readouterr().out


def test_node_prints_a_table_and_writes_the_figures(ros, tmp_path, capsys):
    file = tmp_path / 'node.json'
    assert main(['bench', 'node', '--seconds', '4', '--case', '2x100', '--json', str(file)]) == 0
    case, = json.loads(file.read_text())['cases']
    assert (case['streams'], case['rate_hz']) == (2, 100.0)
    assert set(case['latency_ms']) == {'p50', 'p99', 'max'}
    assert {'cpu_percent', 'sent', 'delivered', 'taken', 'drops', 'decisions', 'decisions_due',
            'decisions_per_s', 'decisions_per_s_due', 'hop_s'} <= set(case)
    assert 0 < case['taken'] <= case['delivered'] <= case['sent']
    assert 'latency p99' in capsys.readouterr().out


@pytest.mark.parametrize('arguments, complaint', [
    (['node', '--case', '8'], 'streams x Hz'), (['ingest', '--seconds', '0'], 'over 0')])
def test_wrong_options_say_what_is_right(arguments, complaint, capsys):
    with pytest.raises(SystemExit):
        main(['bench', *arguments])
    assert complaint in capsys.readouterr().err
