"""The node as a process of its own, and a ROS node that talks to it over DDS."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

rclpy = pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('taolora_msgs.msg', reason='taolora_msgs is not built')
pytest.importorskip('torch', reason='torch is not installed')

from taolora_ros.shipped import MODELS, find_model  # noqa: E402

try:
    _ = [find_model(name) for name in MODELS]
except ValueError as missing:
    pytest.skip(f'no trained models: {missing}', allow_module_level=True)

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import GetParameters, SetParameters  # noqa: E402
from rcl_interfaces.srv import SetParametersAtomically  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402

COMMAND = (sys.executable, '-m', 'taolora_ros.node')
TYPES = {bool: 'bool', int: 'integer', float: 'double', str: 'string'}


class NodeProcess:
    """``python -m taolora_ros.node`` with parameters; what it prints is in ``output``."""

    def __init__(self, *arguments, command=COMMAND, **parameters):
        given = [part for name, value in parameters.items()
                 for part in ('-p', f'{name.replace("__", ".")}:={value}')]
        # to the end, always: the node shares the file's position with whoever reads it here
        self._file = tempfile.TemporaryFile('ab+')
        self.process = subprocess.Popen([*command, '--ros-args', *given, *arguments],
                                        stdout=self._file, stderr=subprocess.STDOUT,
                                        env={**os.environ, 'PYTHONFAULTHANDLER': '1'})

    @property
    def output(self):
        number = self._file.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors='replace')

    def ready(self, timeout=60.0):
        """Wait until the node says that it is ready; fail with what it said instead."""
        wait_for(lambda: 'ready:' in self.output or self.process.poll() is not None, timeout)
        assert 'ready:' in self.output, self.output
        return self

    def end(self, number=signal.SIGINT, timeout=60.0):
        """Send a signal; return the exit status and all output."""
        self.process.send_signal(number)
        return self.process.wait(timeout), self.output

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Talker:
    """A node in this process that publishes, listens and calls services."""

    def __init__(self, name='talker'):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node(name, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._clients = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        while not self._stopping:
            self._executor.spin_once(timeout_sec=0.05)

    def close(self):
        self._stopping = True
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def listen(self, kind, topic, qos=1000):
        """Return a list to which the messages of a topic are appended."""
        heard = []
        self.node.create_subscription(kind, topic, heard.append, qos)
        return heard

    def publisher(self, kind, topic, qos=1000):
        """Return a publisher to which somebody has subscribed, and who knows of it."""
        publisher = self.node.create_publisher(kind, topic, qos)
        wait_for(lambda: publisher.get_subscription_count() > 0, 60)
        time.sleep(0.5)  # the other side's half of discovery cannot be seen from here
        return publisher

    def call(self, kind, service, request=None, timeout=60.0):
        """Call a service; return the response."""
        key = (kind, service)
        if key not in self._clients:
            self._clients[key] = self.node.create_client(kind, service)
        assert self._clients[key].wait_for_service(timeout), service
        future = self._clients[key].call_async(request or kind.Request())
        wait_for(future.done, timeout)
        return future.result()

    def get(self, *names, node='/taolora'):
        """Return the values of parameters."""
        values = self.call(GetParameters, f'{node}/get_parameters',
                           GetParameters.Request(names=list(names))).values
        kinds = {getattr(ParameterType, f'PARAMETER_{name.upper()}'): f'{name}_value'
                 for name in TYPES.values()}
        return [getattr(value, kinds[value.type]) for value in values]

    def set(self, node='/taolora', **values):
        """Set parameters one by one, as ``ros2 param set`` does; return the results."""
        return self.call(SetParameters, f'{node}/set_parameters',
                         SetParameters.Request(parameters=_parameters(values))).results

    def set_together(self, node='/taolora', **values):
        """Set parameters all or none; return the result."""
        return self.call(SetParametersAtomically, f'{node}/set_parameters_atomically',
                         SetParametersAtomically.Request(parameters=_parameters(values))).result


def _parameters(values):
    return [Parameter(name=name.replace('__', '.'), value=ParameterValue(**{
        'type': getattr(ParameterType, f'PARAMETER_{TYPES[type(value)].upper()}'),
        f'{TYPES[type(value)]}_value': value})) for name, value in values.items()]


def reliable(*topics):
    """Return arguments that make a node's subscriptions reliable."""
    return [part for topic in topics for part in (
        '-p', f'qos_overrides.{topic}.subscription.reliability:=reliable')]


def wait_for(condition, timeout):
    """Wait until ``condition()`` is true; fail after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f'not within {timeout} s'
        time.sleep(0.02)
