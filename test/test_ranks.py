"""Training that is killed and goes on, and training of several processes together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train_tiny
from taolora_ros.training.ranks import Ranks
from taolora_ros.training.train import TrainOptions, task_loss, train
from taolora_ros.training.windows import WindowSampler
from tiny import imu_corpus, tiny_spec

HERE = Path(__file__).resolve().parent
CPU = torch.device('cpu')


def start(*command, **environment):
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get('PYTHONPATH', '')])
    return subprocess.Popen([sys.executable, *map(str, command)], stderr=subprocess.PIPE,
                            env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1',
                                 **environment})


def finish(process):
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said.decode()


def alone(steps, save_every, checkpoint=None):
    """Train here, on from a checkpoint if there is one, in one thread as the processes do."""
    spec, threads = tiny_spec(), torch.get_num_threads()
    torch.set_num_threads(1)
    network = train(spec, imu_corpus(spec), train_tiny.options(steps, save_every), CPU,
                    checkpoint, resume=checkpoint is not None)
    torch.set_num_threads(threads)
    return network


def test_training_that_was_killed_goes_on_to_the_same_weights(tmp_path):
    steps, checkpoint = 100, tmp_path / 'c.checkpoint'
    process = start(HERE / 'train_tiny.py', tmp_path, steps, 5)
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / '0.weights').exists(), 'it was done before it was killed'
    assert 0 < torch.load(checkpoint, weights_only=True)['step'] < steps
    resumed, wanted = alone(steps, 5, checkpoint).state_dict(), alone(steps, 5).state_dict()
    for name, tensor in wanted.items():
        assert torch.equal(resumed[name], tensor), name
    with pytest.raises(ValueError, match='other options'):
        train(tiny_spec(), imu_corpus(tiny_spec()), TrainOptions(steps=steps, seed=5), CPU,
              checkpoint, resume=True)
    known = imu_corpus(tiny_spec())
    known.subject[0] = 'somebody else'
    with pytest.raises(ValueError, match='other options or subjects'):
        train(tiny_spec(), known, train_tiny.options(steps, 5), CPU, checkpoint, resume=True)


def test_two_processes_learn_what_one_learns(tmp_path):
    steps = 60
    process = start('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2,
                    HERE / 'train_tiny.py', tmp_path, steps, 30)
    one = alone(steps, 30)
    finish(process)
    together, other = (torch.load(tmp_path / f'{rank}.weights', weights_only=True)
                       for rank in range(2))
    assert all(torch.equal(together[name], other[name]) for name in other)
    spec = tiny_spec()
    corpus = imu_corpus(spec)
    batch = WindowSampler(spec, corpus, CPU, torch.Generator().manual_seed(7)).draw(200)

    def loss(network):
        with torch.no_grad():
            return float(task_loss(network, batch, *network(batch.windows), TrainOptions()))

    of_one = loss(one)
    one.load_state_dict(together)
    assert loss(one) == pytest.approx(of_one, rel=0.15)
    assert loss(one) < 0.9 * loss(alone(1, 30))
    with pytest.raises(ValueError, match='was written by 2 processes, not by 1'):
        train(spec, corpus, train_tiny.options(steps, 30), CPU, tmp_path / 'c.checkpoint',
              resume=True)


def start_two(folder, steps):
    """Start two processes that train together, without one that watches over them."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    return [start(HERE / 'train_tiny.py', folder, steps, 5, RANK=str(rank), WORLD_SIZE='2',
                  MASTER_ADDR='127.0.0.1', MASTER_PORT=port) for rank in range(2)]


def test_two_processes_that_were_killed_go_on_to_the_same_weights(tmp_path):
    steps, killed, whole = 120, tmp_path / 'killed', tmp_path / 'whole'
    killed.mkdir()
    whole.mkdir()
    processes = start_two(killed, steps)
    while not (killed / 'c.checkpoint').exists():
        assert processes[0].poll() is None
        time.sleep(0.005)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate()
    assert not list(killed.glob('*.weights')), 'it was done before it was killed'
    assert 0 < torch.load(killed / 'c.checkpoint', weights_only=True)['step'] < steps
    for folder in (killed, whole):
        for process in start_two(folder, steps):
            finish(process)
    for rank in range(2):
        resumed, wanted = (torch.load(folder / f'{rank}.weights', weights_only=True)
                           for folder in (killed, whole))
        for name, tensor in wanted.items():
            assert torch.equal(resumed[name], tensor), name


def test_every_window_of_a_batch_is_drawn_by_one_process():
    for count in (1, 2, 3, 7):
        ranks = [Ranks(i, count) for i in range(count)]
        assert sum(one.share(23) for one in ranks) == 23
        assert max(one.share(23) for one in ranks) - min(one.share(23) for one in ranks) <= 1
        assert len({one.seed(4) for one in ranks}) == count
    assert Ranks().seed(4) == 4
    with pytest.raises(ValueError, match='batch: 2 windows for 3 processes'):
        Ranks(0, 3).share(2)
