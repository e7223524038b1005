"""Start the node taolora: ros2 launch taolora_ros taolora.launch.py device:=cuda."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

CONFIG = Path(__file__).resolve().parents[1] / 'config' / 'taolora.yaml'
ARGUMENTS = (
    ('namespace', '', 'namespace of the node; its topics are below it'),
    ('params_file', str(CONFIG), 'parameter file'),
    ('device', '', 'auto, cpu or cuda; empty: as in params_file'),
    ('autostart', 'true', 'false: wait for a lifecycle manager'),
    ('use_sim_time', 'false', 'true: take time from /clock'),
    ('log_level', 'info', 'debug, info, warn or error'),
)


def start(context):
    """Return the node as the arguments say."""
    values = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    changes = {name: _switch(name, values[name]) for name in ('autostart', 'use_sim_time')}
    if values['device']:
        changes['device'] = values['device']
    return [Node(
        package='taolora_ros', executable='taolora_node', name='taolora',
        namespace=values['namespace'], parameters=[values['params_file'], changes],
        arguments=['--ros-args', '--log-level', values['log_level']], output='screen',
        emulate_tty=True)]


def _switch(name, value):
    if value.lower() not in ('true', 'false'):
        raise ValueError(f'{name}: {value!r} is neither true nor false')
    return value.lower() == 'true'


def generate_launch_description():
    """Return the launch description."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in ARGUMENTS),
        OpaqueFunction(function=start)])
