"""taolora_msgs: what the messages call things is what the code calls them, and they travel."""

import subprocess
import sys

import pytest

from taolora_ros import decode

pytestmark = pytest.mark.usefixtures('ros')

PUBLISH = """
import time, rclpy
from taolora_msgs.msg import Event
rclpy.init()
node = rclpy.create_node('other_process')
publisher = node.create_publisher(Event, 'taolora/events', 10)
while not publisher.get_subscription_count():
    time.sleep(0.02)
publisher.publish(Event(id='imu-1', label='fall', severity=Event.CRITICAL, phase=Event.END))
publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=10))
rclpy.shutdown()
"""


def test_severities_and_phases_are_those_of_the_decoder():
    from taolora_msgs.msg import Event
    for name in ('INFO', 'WARNING', 'CRITICAL', 'START', 'ONGOING', 'END'):
        assert getattr(Event, name) == getattr(decode, name), name


def test_modalities_are_distinct():
    from taolora_msgs.msg import Biosignal
    names = ('OTHER', 'ECG', 'EMG', 'PPG', 'EEG', 'EDA', 'RESP')
    assert len({getattr(Biosignal, name) for name in names}) == len(names)


def test_event_of_another_process_arrives(ros):
    from taolora_msgs.msg import Event
    context = ros.context.Context()
    ros.init(context=context)
    node = ros.create_node('this_process', context=context)
    executor = ros.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    received = []
    node.create_subscription(Event, 'taolora/events', received.append, 10)
    other = subprocess.Popen([sys.executable, '-c', PUBLISH])
    try:
        for _ in range(600):
            if received:
                break
            executor.spin_once(timeout_sec=0.1)
        assert [(event.id, event.label, event.severity, event.phase) for event in received] == [
            ('imu-1', 'fall', Event.CRITICAL, Event.END)]
        assert other.wait(60) == 0
    finally:
        other.kill()
        executor.shutdown()
        node.destroy_node()
        ros.shutdown(context=context)
