"""The launch file starts the node as its arguments say."""

import pytest

pytest.importorskip('launch_pytest', reason='launch_pytest is not installed (it comes with ROS)')
pytest.importorskip('launch_ros', reason='launch_ros is not installed (it comes with ROS)')

from pathlib import Path  # noqa: E402

import launch  # noqa: E402
import launch_pytest  # noqa: E402
from launch.actions import IncludeLaunchDescription  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from running_node import Talker, wait_for  # noqa: E402

from ament_index_python.packages import PackageNotFoundError, get_package_prefix  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from taolora_msgs.msg import ModelInfo  # noqa: E402

try:
    get_package_prefix('taolora_ros')
except PackageNotFoundError:
    pytest.skip('taolora_ros is not built with colcon and sourced', allow_module_level=True)
LAUNCH = Path(__file__).parents[1] / 'launch' / 'taolora.launch.py'


@launch_pytest.fixture
def description():
    included = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH)), launch_arguments={
            'namespace': 'robot', 'device': 'cpu', 'use_sim_time': 'true',
            'log_level': 'warn'}.items())
    return launch.LaunchDescription([included, launch_pytest.actions.ReadyToTest()])


@pytest.mark.launch(fixture=description)
def test_node_runs_in_its_namespace_with_its_arguments(description):
    talker = Talker()
    try:
        heard = talker.listen(ModelInfo, '/robot/taolora/model_info', QoSProfile(
            depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        wait_for(lambda: {info.stream for info in heard} == {'imu', 'ecg'}, 60)
        assert talker.get('device', 'use_sim_time', 'imu.topic', node='/robot/taolora') \
            == ['cpu', True, 'imu/data']
    finally:
        talker.close()
