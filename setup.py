"""Install taolora_ros: for colcon (ament_python) and for pip alike."""

import os

from setuptools import setup

NAME = 'taolora_ros'


def shared(top):
    """List the files below a folder as data_files that keep their place under share/."""
    walk = [entry for entry in os.walk(top) if not entry[0].endswith('__pycache__')]
    return [(f'share/{NAME}/{folder}', [f'{folder}/{name}' for name in sorted(names)])
            for folder, _, names in walk if names]


setup(
    name=NAME,
    version='0.1.0',
    description='Events and anomalies from IMU and biosignal streams through the TAO network',
    license='Apache-2.0',
    maintainer='taolora_ros maintainers',
    maintainer_email='maintainers@taolora.example',
    # Named one by one: find_packages() does not follow the symlink to kernels.
    packages=[
        NAME,
        f'{NAME}.adaptation',
        f'{NAME}.bench',
        f'{NAME}.comparators',
        f'{NAME}.engine',
        f'{NAME}.evaluation',
        f'{NAME}.kernels',
        f'{NAME}.kernels.cpu',
        f'{NAME}.report',
        f'{NAME}.training',
    ],
    package_data={f'{NAME}.report': ['page.html'], f'{NAME}.kernels.cpu': ['*.c', '*.h']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        *shared('launch'),
        *shared('config'),
    ],
    python_requires='>=3.10',
    # Lower bounds only: what a robot's own distribution brings is to be enough. The versions
    # that development uses are pinned in requirements/. ROS packages are named in package.xml.
    install_requires=[
        'numpy>=1.21',
        'rich>=11',
        'rosbags>=0.10',
        'safetensors>=0.4',
        'scipy>=1.8',
        'threadpoolctl>=3.0',
        'torch>=2.4',
    ],
    extras_require={
        'report': ['plotly>=6.0'],
        'peers': ['neurokit2>=0.2', 'sleepecg>=0.5', 'wfdb>=4.1'],  # to compare with
        'test': ['pytest'],  # without it colcon test looks for unittest's and runs none
    },
    zip_safe=False,
    entry_points={
        'console_scripts': [
            f'taolora = {NAME}.cli:main',
            f'taolora_node = {NAME}.node:main',
        ],
    },
)
