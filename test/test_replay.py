"""Replaying recordings and bags: events as they come, and in words what was read."""

import argparse
import io
import json

import numpy as np
import pytest

pytest.importorskip('rosbags', reason='rosbags is not installed')

from rich.console import Console  # noqa: E402
from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: E402

from rule_engine import RuleCandidate  # noqa: E402
from taolora_ros import cli  # noqa: E402
from taolora_ros.arguments import add_replay  # noqa: E402
from taolora_ros.bags import BIOSIGNAL_DEFINITION  # noqa: E402
from taolora_ros.conversions import BIOSIGNAL, IMU  # noqa: E402
from taolora_ros.converter import STAMPS  # noqa: E402
from taolora_ros.recordings import save_ecg, save_imu  # noqa: E402
from taolora_ros.replay import Source, replay  # noqa: E402
from taolora_ros.synthetic import ecg_record, imu_recording, imu_scene  # noqa: E402
from test_bags import START, imu, write  # noqa: E402


def run(path, label=None, **source):
    """Replay ``path``; return what was played and the text printed."""
    console = Console(width=200, file=io.StringIO())
    played = replay(Source(path, **source), lambda kind: RuleCandidate('rules', kind=kind),
                    console, label)
    return played, console.file.getvalue()


@pytest.fixture(scope='module')
def recordings(tmp_path_factory):
    path = tmp_path_factory.mktemp('npz') / 'S.npz'
    save_imu(path, [imu_recording('walk', 1), imu_recording('fall', 2), imu_recording('jump', 3)])
    return path


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(BIOSIGNAL_DEFINITION, BIOSIGNAL))
    scene = imu_scene(('walk', 'fall', 'get_up', 'walk', 'fall'), 4)
    stamps = START + np.arange(len(scene.values)) * 10**7
    stamps[700] = stamps[699]  # repeated
    messages = [(int(ns), imu(store.types, int(ns), row[:3], row[3:]))
                for ns, row in zip(stamps, scene.values)]
    folder = tmp_path_factory.mktemp('bags')
    return write(folder / 'bag', store, {'/imu/data': (IMU, messages)}), scene


def test_a_bag_stamped_on_arrival_is_evened_out_when_that_is_said(tmp_path):
    store = get_typestore(Stores.ROS2_JAZZY)
    scene = imu_scene(('walk', 'fall', 'get_up'), 5)
    taken = START + np.arange(len(scene.values)) * 10**7
    messages = [(int(ns), imu(store.types, int(-(-ns // 10**8) * 10**8), row[:3], row[3:]))
                for ns, row in zip(taken, scene.values)]
    path = write(tmp_path / 'bag', store, {'/imu/data': (IMU, messages)})
    (raw,), _ = run(path)
    (even,), _ = run(path, stamps='arrival')
    assert raw.counts['repeated'] > len(taken) // 2 and not even.counts
    assert [e['phase'] for e in even.events if e['label'] == 'fall'] == ['start', 'end']


def test_all_recordings_of_a_file_are_played(recordings):
    played, text = run(recordings)
    assert [one.name for one in played] == ['walk-1 (walk)', 'fall-2 (fall)', 'jump-3 (jump)']
    assert [sum(e['phase'] == 'start' for e in one.events) for one in played] == [0, 1, 0]
    assert 'at 100.0 Hz' in text and 'dropped or mended: nothing' in text
    assert 'found: fall 1; transient path open for' in text
    event = played[1].events[0]
    assert f'annotated: a fall at {event["time_s"]:.0f}'[:-1] in text
    assert text.count('severity') == 1 and 'critical' in text  # one heading, before the events


@pytest.mark.parametrize('name', ['fall-2', '1'])
def test_one_recording_is_chosen_by_name_or_number(recordings, name):
    played, _ = run(recordings, recording=name)
    assert [one.name for one in played] == ['fall-2 (fall)']


def test_a_bag_is_played_and_its_defects_are_told(bag):
    path, scene = bag
    (played,), text = run(path)
    starts = [e['time_s'] for e in played.events if e['phase'] == 'start' and e['label'] == 'fall']
    np.testing.assert_allclose(starts, scene.falls_s, atol=0.5)
    assert played.first_ns == START and played.rate == pytest.approx(100, abs=0.2)
    assert f'/imu/data (sensor_msgs/msg/Imu, {len(scene.values)} messages): read' in text
    assert 'repeated 1' in text


def test_events_can_be_filtered_by_label(tmp_path):
    record = ecg_record(60.0, 3, veb_share=0.2)
    save_ecg(tmp_path / 'e.npz', record)
    (everything,), _ = run(tmp_path / 'e.npz')
    (ventricular,), text = run(tmp_path / 'e.npz', label='veb')
    assert {e['label'] for e in everything.events} == {'beat', 'veb'}
    assert {e['label'] for e in ventricular.events} == {'veb'}
    assert 'lead MLII' in text and f'annotated: {len(record.beat_times_s)} beats' in text


def test_what_does_not_fit_is_named(recordings, bag):
    with pytest.raises(ValueError, match="no recording 'x' in it; it holds 0 to 2: walk-1"):
        run(recordings, recording='x')
    with pytest.raises(ValueError, match='an .npz file has no topics'):
        run(recordings, topic='/imu')
    with pytest.raises(ValueError, match='--recording is for .npz files'):
        run(bag[0], recording='1')
    with pytest.raises(ValueError, match='no topic /ecg; topics: /imu/data'):
        run(bag[0], topic='/ecg')


def test_commands_write_what_they_show(recordings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, '_candidate',
                        lambda args, kind: RuleCandidate('rules', kind=kind))
    out = tmp_path / 'out.json'
    assert cli.main(['replay', str(recordings), '--recording', 'fall-2', '--json', str(out)]) == 0
    (played,) = json.loads(out.read_text())
    assert played['name'] == 'fall-2 (fall)' and played['events'][0]['label'] == 'fall'
    assert 'fall-2 (fall): read' in capsys.readouterr().out
    assert cli.main(['evaluate', 'imu', '--data', str(recordings), '--processes', '1',
                     '--json', str(out)]) == 0
    result = json.loads(out.read_text())
    assert result['fall']['falls'] == 1 and result['fall']['se'] == 1.0
    assert 'activities only' in capsys.readouterr().out


def test_what_stamps_may_tell_is_as_for_the_node():
    parser = argparse.ArgumentParser()
    add_replay(parser)
    for stamps in STAMPS:
        assert parser.parse_args(['bag', '--stamps', stamps]).stamps == stamps
    assert parser.parse_args(['bag']).stamps == STAMPS[0]
    assert f'{{{",".join(STAMPS)}}}' in parser.format_help()
