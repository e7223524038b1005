"""
What tests share: a ROS 2 domain of their own, the recordings, and why a test is skipped.

    ros          rclpy with the messages; skips where they are missing, but not in .venv
    talker       a ROS node of the test module's own that publishes, listens and calls services
    shared_data  the folder of recordings; skips where there is none
    gpu          marker: skips without a CUDA device
    kernels      the torch device on which Triton's kernels run: CUDA, or the CPU in its
                 interpreter where there is no driver of a GPU
"""

import ctypes
import fcntl
import importlib
import os
import random
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent


def reserve_domain():
    """Lock a ROS domain that no other test session here uses; return (domain, open lock)."""
    # Ports of the domains 1 to 101 lie below those that Linux hands out to anybody.
    domains = list(range(1, 102))
    random.SystemRandom().shuffle(domains)
    for domain in domains:
        path = Path(tempfile.gettempdir()) / f'taolora_ros_domain_{domain}_{os.getuid()}.lock'
        lock = path.open('w')
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return domain, lock
    raise RuntimeError('all ROS domains from 1 to 101 are in use by test sessions')


def pytest_configure(config):
    """Keep this session's messages to itself, in its child processes too."""
    # At once, not in a fixture: rclpy reads these when a test module first initialises it.
    domain, config.ros_domain_lock = reserve_domain()
    # Tests' networks are small: threads that wait for each other on busy cores only cost time.
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ['ROS_DOMAIN_ID'] = str(domain)
    if os.environ.get('ROS_DISTRO') == 'humble':
        os.environ['ROS_LOCALHOST_ONLY'] = '1'
    else:
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    # Triton reads this when it is first imported, by whichever test. A library that loads says
    # that there is a GPU without waking it.
    try:
        ctypes.CDLL('libcuda.so.1')
    except OSError:
        os.environ['TRITON_INTERPRET'] = '1'
    # A busy machine is no fault of an example's.
    settings.register_profile('patient', deadline=None,
                              suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile('patient')
    config.ros_logs = tempfile.TemporaryDirectory(prefix='taolora_ros_log_')
    os.environ['ROS_LOG_DIR'] = config.ros_logs.name


def pytest_unconfigure(config):
    """Remove the log files of the nodes that were started."""
    config.ros_logs.cleanup()


def pytest_report_header():
    """Name the domain, so that `ros2 topic echo` can join a run that hangs."""
    return f'ROS_DOMAIN_ID={os.environ["ROS_DOMAIN_ID"]}'


def pytest_itemcollected(item):
    """Let `-m gpu` choose the tests of kernels, too, where they run on a GPU."""
    if 'kernels' in getattr(item, 'fixturenames', ()) and 'TRITON_INTERPRET' not in os.environ:
        item.add_marker('gpu')


def pytest_runtest_setup(item):
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker('gpu'):
        torch = pytest.importorskip('torch')
        if not torch.cuda.is_available():
            pytest.skip('no CUDA device')


@pytest.fixture(scope='session')
def ros():
    """Give rclpy, not initialised; skip where it or taolora_msgs is missing."""
    for name in ('rclpy', 'taolora_msgs.msg'):
        try:
            importlib.import_module(name)
        except ImportError as error:
            if Path(sys.prefix) == ROOT / '.venv':
                raise  # `make setup` promises them: missing there is a fault
            pytest.skip(f'{name} does not import ({error}): run `make setup`')
    return importlib.import_module('rclpy')


@pytest.fixture(scope='session')
def kernels():
    """Give the torch device that kernels run on; skip without Triton, but not in .venv."""
    torch = pytest.importorskip('torch')
    if Path(sys.prefix) != ROOT / '.venv':
        pytest.importorskip('triton')
    if os.environ.get('TRITON_INTERPRET') == '1':
        return torch.device('cpu')
    if not torch.cuda.is_available():
        pytest.skip('there is a driver, but no CUDA device')
    return torch.device('cuda')


@pytest.fixture(scope='module')
def talker():
    """Give a node that publishes, listens and calls services."""
    from running_node import Talker
    talker = Talker()
    yield talker
    talker.close()


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Give the folder of recorded data; TAOLORA_DATA names another one than ../shared/data."""
    path = Path(os.environ.get('TAOLORA_DATA', ROOT.parent / 'shared' / 'data'))
    if not path.is_dir():
        pytest.skip(f'no recordings: {path} does not exist (TAOLORA_DATA names the folder)')
    return path
