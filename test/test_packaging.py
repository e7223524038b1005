"""The package as others build and install it: colcon, colcon with symlinks, pip."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import setuptools

import taolora_ros

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = ('.git', '.venv', 'build', 'install', 'log', '*.egg-info', '__pycache__')
# Printed by an installed taolora_ros: where it and the messages come from, their C part loaded.
SHOW_PLACES = """
import taolora_ros, taolora_ros.engine, taolora_ros.kernels, taolora_msgs.msg
taolora_msgs.msg.Event.__import_type_support__()
print(taolora_ros.__file__, taolora_ros.kernels.__file__, taolora_msgs.__file__, sep='\\n')
"""


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Copy the repository: building in place leaves its products there."""
    copy = tmp_path_factory.mktemp('source') / 'taolora_ros'
    return shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE))


@pytest.fixture
def setup_arguments(monkeypatch):
    """Give what setup.py says to setup()."""
    told = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **arguments: told.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    return told


def run(command, folder, **variables):
    """Run a command and return what it prints; fail with all of it when the command fails."""
    done = subprocess.run([str(part) for part in command], cwd=folder, text=True, timeout=240,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, **variables})
    assert done.returncode == 0, done.stdout
    return done.stdout


def version_in(package_xml):
    return ElementTree.parse(package_xml).findtext('version')


def test_versions_agree(setup_arguments):
    assert version_in(ROOT / 'package.xml') == taolora_ros.__version__
    assert version_in(ROOT / 'taolora_msgs' / 'package.xml') == taolora_ros.__version__
    assert setup_arguments['version'] == taolora_ros.__version__


def test_setup_lists_every_package(setup_arguments):
    package = ROOT / 'taolora_ros'
    # rglob would not follow the symlink to kernels.
    folders = [Path(folder) for folder, _, files in os.walk(package, followlinks=True)
               if any(name.endswith('.py') for name in files)]
    names = {'.'.join(folder.relative_to(ROOT).parts) for folder in folders}
    assert names == set(setup_arguments['packages'])
    assert all((folder / '__init__.py').exists() for folder in folders)


def test_kernels_are_reached_through_a_relative_link():
    assert os.readlink(ROOT / 'taolora_ros' / 'kernels') == '../kernels'


def test_setup_installs_every_launch_and_configuration_file(setup_arguments):
    installed = {file for _, files in setup_arguments['data_files'] for file in files}
    there = {str(path.relative_to(ROOT)) for folder in ('launch', 'config')
             for path in (ROOT / folder).rglob('*')
             if path.is_file() and not is_cache(path)}
    assert there - installed == set()


def test_setup_has_lower_bounds_only(setup_arguments):
    for requirement in setup_arguments['install_requires']:
        assert re.fullmatch(r'[a-z0-9-]+>=[\d.]+', requirement), requirement


def test_colcon_is_told_to_test_with_pytest(setup_arguments):
    assert 'pytest' in setup_arguments['extras_require']['test']


def test_development_pins_every_version():
    lines = [line for file in (ROOT / 'requirements').glob('*.txt')
             for line in file.read_text().splitlines() if line and not line.startswith('#')]
    assert lines
    for line in lines:
        assert re.match(r'[a-zA-Z0-9_-]+==[\d.]+( ;|$)', line), line


def test_every_message_is_built():
    listed = re.findall(r'msg/\w+\.msg', (ROOT / 'taolora_msgs' / 'CMakeLists.txt').read_text())
    there = [f'msg/{path.name}' for path in (ROOT / 'taolora_msgs' / 'msg').iterdir()]
    assert sorted(listed) == sorted(there)


@pytest.fixture(scope='module')
def built(source, tmp_path_factory):
    """Build both packages from the root; return where they are installed."""
    return built_by_colcon(source, tmp_path_factory.mktemp('copied'), 2)


def built_by_colcon(source, folder, packages, *options):
    colcon = shutil.which('colcon', path=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ['PATH']]))
    if not colcon:
        pytest.skip('colcon is not installed')
    command = [colcon, '--log-base', folder / 'log', 'build', '--build-base', folder / 'build',
               '--install-base', folder / 'install', '--event-handlers', 'console_cohesion+']
    output = run([*command, *options], source)
    assert re.search(rf'{packages} packages? finished', output)
    return folder / 'install'


def imported(*installed):
    """Return from which files Python takes package, kernels and messages."""
    sourced = ' && '.join(f'source {install}/setup.bash' for install in installed)
    places = run(['bash', '-c', sourced + ' && "$0" -c "$1"', sys.executable, SHOW_PLACES],
                 installed[0])
    return [Path(line) for line in places.splitlines()[-3:]]


def test_colcon_builds_both_packages_from_the_root(built, ros):
    assert all(built in place.parents for place in imported(built))
    assert_installed(built)
    assert (built / 'taolora_msgs' / 'share' / 'taolora_msgs' / 'msg' / 'Event.msg').exists()


def test_colcon_with_symlinks_takes_the_source_itself(source, built, tmp_path, ros):
    install = built_by_colcon(source, tmp_path, 1, '--symlink-install', '--packages-skip',
                              'taolora_msgs')
    python, kernels, _ = imported(built, install)  # an edit counts without building again
    assert python.resolve() == source / 'taolora_ros' / '__init__.py'
    assert kernels.resolve() == source / 'kernels' / '__init__.py'
    assert_installed(install)


def assert_installed(install):
    assert_robot_files(install / 'taolora_ros')
    assert os.access(install / 'taolora_ros' / 'lib' / 'taolora_ros' / 'taolora_node', os.X_OK)


def test_pip_installs_everything(source, tmp_path):
    target = tmp_path / 'target'
    run([sys.executable, '-m', 'pip', 'install', '--disable-pip-version-check', '--no-deps',
         '--no-build-isolation', '--target', target, source], tmp_path)
    show = 'import taolora_ros.kernels, taolora_ros.engine; print(taolora_ros.kernels.__file__)'
    place = run([sys.executable, '-c', show], tmp_path, PYTHONPATH=str(target))
    assert target in Path(place.splitlines()[-1]).parents
    assert (target / 'bin' / 'taolora').exists()
    assert_robot_files(target)


def assert_robot_files(prefix):
    """Find under an installed prefix what ROS 2 tools and the node look for."""
    share = prefix / 'share'
    assert (share / 'ament_index' / 'resource_index' / 'packages' / 'taolora_ros').exists()
    assert (share / 'taolora_ros' / 'package.xml').exists()
    for folder in ('launch', 'config'):
        for file in (ROOT / folder).rglob('*.*'):
            assert (share / 'taolora_ros' / file.relative_to(ROOT)).exists() or is_cache(file)


def is_cache(file):
    """Say whether Python left this file beside a launch file that it ran."""
    return '__pycache__' in file.parts
