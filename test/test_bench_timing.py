"""Times of the GPU bench are those of the work, and rows can be compared."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from taolora_ros.bench import gpu_memory, gpu_networks, timing, turns
from taolora_ros.bench.counts import count_window
from taolora_ros.model_file import load_model
from taolora_ros.shipped import find_model


@pytest.fixture
def device(monkeypatch):
    """Give a device of its own clock (µs), which does what it is asked for at once."""
    clock = SimpleNamespace(now=0.0, slept=[])

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = clock.now

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return (end.at - self.at) / 1e3

    def sleep(cycles):
        clock.slept.append(cycles / timing.CLOCK)
        clock.now += 1e6 * clock.slept[-1]

    monkeypatch.setattr(torch.cuda, 'Event', Event)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    monkeypatch.setattr(torch.cuda, '_sleep', sleep, raising=False)
    monkeypatch.setattr(timing, 'WARM_DEVICE', 0.0)
    return clock


def test_times_from_host_to_host_are_those_of_the_work():
    times = timing.host_us(lambda: sum(range(100)), 50)
    assert 0 < times['p50_us'] <= times['p99_us']


def test_one_slow_replay_shows_in_the_p99_of_single_ones_alone(device):
    done = []

    def start():
        done.append(1)
        device.now += 200.0 if len(done) % 50 == 0 else 20.0

    told = timing.graph_times(start)
    assert told['device_us'] == pytest.approx(23.6, abs=6)  # spread over those in a row
    assert told['device_single_us'] == pytest.approx(20.0)
    assert told['device_p99_us'] == pytest.approx(200.0)
    assert len(device.slept) == timing.SINGLES
    assert timing.device_quantiles(np.arange(101.0)) == {'device_us': 50.0, 'device_p99_us': 99.0}


def test_the_device_sleeps_until_a_slow_host_has_issued_all(device):
    import time

    def start():
        time.sleep(0.002)
        device.now += 20.0

    assert timing.single_times(start, 3) == pytest.approx([20.0] * 3)
    assert min(device.slept) > 0.004


def test_calls_end_with_their_time_but_some_are_made():
    calls = []
    timing.host_us(lambda: calls.append(1), 300, 0.0, seconds=0.0)
    assert len(calls) == timing.LEAST_CALLS
    timing.host_us(lambda: calls.append(1), 300, 0.0)
    assert len(calls) == timing.LEAST_CALLS + 300


def test_a_round_has_times_of_the_device_and_of_each_gate(device):
    def work(us):
        device.now += us

    told = gpu_networks.time_round(gpu_networks.Running(
        lambda: work(20.0), lambda: work(10.0), {},
        {'closed': lambda: work(1.0), 'open': lambda: work(2.0)}))
    assert set(told) == {'p50_us', 'p99_us', 'device_us', 'device_single_us', 'device_p99_us',
                         'closed_p99_us', 'device_closed_p99_us', 'open_p99_us',
                         'device_open_p99_us'}
    assert told['device_us'] == pytest.approx(10.0)
    assert set(gpu_networks.time_round(gpu_networks.Running(lambda: work(20.0), None, {}, {}))) == {
        'p50_us', 'p99_us'}  # the reference engine has no graph


def test_a_peak_is_that_of_running_without_that_of_making(monkeypatch):
    memory = SimpleNamespace(now=100, peak=0)

    def take(count):
        memory.now += count
        memory.peak = max(memory.peak, memory.now)

    def make():
        take(1000)  # weights, and
        take(5000)  # what they were packed from
        take(-5000)
        return lambda: (take(30), take(-30))

    monkeypatch.setattr(gpu_memory, 'start_memory', lambda: memory.now)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    monkeypatch.setattr(torch.cuda, 'reset_peak_memory_stats',
                        lambda: setattr(memory, 'peak', memory.now))
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda: memory.peak)
    assert gpu_memory.with_peak(make, lambda work: (work(), {'device_us': 1.0})[1]) == {
        'device_us': 1.0, 'peak_bytes': 1030}


@pytest.mark.gpu
def test_rows_of_networks_can_be_compared():
    def row(way, batch):
        with torch.no_grad():
            made = gpu_networks.make({'model': 'imu_falls', 'way': way, 'batch': batch})
            rounds = [{**gpu_networks.time_round(made), 'round': i} for i in range(3)]
            return made.told | turns.summary(rounds, rounds)

    first = row('streams', 1)
    assert first['launches'] == 54
    assert 0 < first['device_single_us'] <= first['device_p99_us']
    assert first['device_jitter_us'] < 20
    assert first['rounds'] == 3 and first['times_faster'] == 1.0  # than itself
    peers = [row(way, 8) for way in (gpu_networks.PEERS[0], gpu_networks.JOINED)]
    assert all(peer['device_us'] > 10 and peer['peak_bytes'] > 2e6 for peer in peers)
    again = row('streams', 1)  # whatever was measured before
    assert again['peak_bytes'] == pytest.approx(first['peak_bytes'], rel=0.1)


@pytest.mark.parametrize('name', ['mega', 'fused', 'streams'])
def test_launches_are_kernels_whether_they_run_side_by_side_or_not(name):
    pytest.importorskip('triton')
    from taolora_ros.bench.compile import single
    from taolora_ros.engine.gpu import make_gpu_engine
    from taolora_ros.engine.graph import make_buffers, on_device
    model = load_model(find_model('ecg_beats'))
    engine = make_gpu_engine(name, model, 'cpu', programs=132)
    steps = engine.launches(on_device(model, make_buffers(model, 1, 'cpu'), 'cpu'))
    fetches = name == 'mega'  # by a kernel of its own
    assert len(single(steps)) == fetches + count_window(model, name).launches
