#!/usr/bin/env python3
"""
Make .venv: a Python environment with ROS 2, torch, taolora_msgs and this project, editable.

Run by `make setup`; needs nothing but the standard library, a C++ compiler and the network. A
ROS 2 environment that is sourced is used; otherwise ROS 2 comes as wheels. What was done is
stamped in .venv/set_up (logs lie there too), and only what changed is done again:

    step          done again when one of these changes
    environment   the Python, the ROS 2, the place of the repository
    packages      the pins in requirements/, tools/ros_environment.py
    messages      taolora_msgs/
    project       setup.py, setup.cfg
"""

from __future__ import annotations  # so that a Python that is too old gets to say so

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
PYTHON = VENV / 'bin' / 'python'
STATE = VENV / 'set_up'
START = ROOT / 'tools' / 'ros_environment.py'     # run whenever .venv's Python starts
PURELIB = f'lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages'
# What sourcing a ROS 2 environment sets and .venv remembers.
ROS_VALUES = ('ROS_DISTRO', 'ROS_PYTHON_VERSION', 'ROS_VERSION')
ROS_PATHS = ('AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH', 'LD_LIBRARY_PATH', 'PATH', 'PYTHONPATH')


class SetUpError(Exception):
    """What is wrong, and what would be right."""


def main() -> int:
    """Do every step whose inputs changed; return the exit status."""
    parser = argparse.ArgumentParser(description='Make .venv, ready to run and to test.')
    parser.add_argument('--ros', default='jazzy', help='wheels to use when no ROS 2 is sourced')
    wanted = parser.parse_args().ros
    started = time.monotonic()
    # One set-up at a time: the lock is on the folder itself and ends with this process.
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print('set-up: waiting for another one in this folder to end', flush=True)
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        ros = choose_ros(wanted)
        steps = (environment, packages, messages, project)
        # A step that ran makes those behind it run too: each builds on what lies before it.
        ran = False
        for number, step in enumerate(steps, start=1):
            ran = perform(step, f'{number}/{len(steps)}', ros, force=ran)
    except SetUpError as error:
        print(f'set-up: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if ran:
        print(f'set-up: .venv is ready, after {time.monotonic() - started:.0f} s')
    return 0


def choose_ros(wanted: str) -> str:
    """Return which ROS 2 to use: 'sourced DISTRO at PREFIX' or 'DISTRO wheels'."""
    if os.environ.get('ROS_DISTRO') and os.environ.get('AMENT_PREFIX_PATH'):
        distro = os.environ['ROS_DISTRO']
        probe = subprocess.run([base_python(), '-c', 'import rclpy'], capture_output=True)
        if probe.returncode:
            raise SetUpError(
                f'ROS 2 {distro} is sourced, but {base_python()} (Python '
                f'{platform.python_version()}) does not load its rclpy: name the Python it was '
                'made for, e.g. make PYTHON=/usr/bin/python3, or use a shell that sources none')
        return f'sourced {distro} at {os.environ["AMENT_PREFIX_PATH"].split(os.pathsep)[-1]}'
    # An environment made with a sourced ROS 2 remembers it: it needs no sourcing to stay in use.
    stamp = STATE / 'environment'
    made_with = json.loads(stamp.read_text())['ros'] if stamp.exists() else ''
    if made_with.startswith('sourced') and Path(made_with.split(' at ')[1]).exists():
        return made_with
    if (platform.system(), platform.machine()) != ('Linux', 'x86_64'):
        raise SetUpError(f'there are no ROS 2 wheels for {platform.system()} on '
                         f'{platform.machine()}: source a ROS 2 environment first')
    known = sorted(path.stem[4:] for path in (ROOT / 'requirements').glob('ros-*.txt'))
    known.remove('sourced')
    if wanted not in known:
        raise SetUpError(f'ROS={wanted}: its wheels have no pins in requirements/; say '
                         f'{" or ".join(f"ROS={name}" for name in known)}, or source a ROS 2 '
                         'environment first')
    return f'{wanted} wheels'


def perform(step, count: str, ros: str, force: bool) -> bool:
    """Do one step unless its stamp says that it is done; return whether it was."""
    inputs = step.inputs(ros)
    stamp = STATE / step.__name__
    if not force and stamp.exists() and json.loads(stamp.read_text()) == inputs:
        return False
    print(f'set-up {count}: {step.__doc__.splitlines()[0].format(ros=ros)}', flush=True)
    stamp.unlink(missing_ok=True)
    step(ros)
    stamp.write_text(json.dumps(inputs))
    return True


def depends_on(inputs):
    """Attach to a step the function that tells, as JSON values, what it depends on."""
    def attach(step):
        step.inputs = inputs
        return step
    return attach


@depends_on(lambda ros: {'ros': ros, 'python': sys.version, 'root': str(ROOT)})
def environment(ros: str) -> None:
    """Make .venv for {ros}"""
    if sys.version_info < (3, 10):
        raise SetUpError(f'Python {platform.python_version()} is too old: 3.10 or newer is needed')
    if not shutil.which(os.environ.get('CXX', 'c++')):
        raise SetUpError('no C++ compiler for the messages: install one (Debian: build-essential)')
    header = Path(sysconfig.get_paths()['include']) / 'Python.h'
    if not header.exists():
        raise SetUpError(f'{header} is missing: install Python\'s headers (Debian: python3-dev)')
    sourced = ros.startswith('sourced')
    command = [base_python(), '-m', 'venv', '--clear', str(VENV)]
    if subprocess.run(command + ['--system-site-packages'] * sourced).returncode:
        raise SetUpError('python3 -m venv failed: install it (Debian: python3-venv)')
    STATE.mkdir()
    if sourced:
        paths = {name: os.environ.get(name, '') for name in ROS_PATHS}
        # Of the places of programs only those of ROS 2: the others are the user's to order.
        prefixes = tuple(f'{prefix}/' for prefix in paths['AMENT_PREFIX_PATH'].split(os.pathsep))
        paths['PATH'] = os.pathsep.join(
            path for path in paths['PATH'].split(os.pathsep) if path.startswith(prefixes))
        remember_environment(paths, {name: os.environ[name] for name in ROS_VALUES
                                     if name in os.environ})


def remember_environment(paths: dict[str, str], values: dict[str, str]) -> None:
    """Let every Python of .venv have this environment, with .venv itself put first."""
    own = {'AMENT_PREFIX_PATH': VENV, 'CMAKE_PREFIX_PATH': VENV, 'PATH': VENV / 'bin',
           'LD_LIBRARY_PATH': VENV / 'lib'}
    recorded = {'values': values, 'paths': {}}
    for name in ROS_PATHS:
        wanted = [str(own[name])] if name in own else []
        recorded['paths'][name] = wanted + [p for p in paths.get(name, '').split(os.pathsep) if p]
    (STATE / 'ros.json').write_text(json.dumps(recorded, indent=1))


@depends_on(lambda ros: digest(*requirements(ros), START))
def packages(ros: str) -> None:
    """Install the pinned packages (minutes the first time)"""
    pins = '\n'.join(file.read_text() for file in requirements(ros))
    if ros.startswith('sourced') and torch_of_the_machine():
        pins = re.sub(r'(?m)^(torch|triton)==.*', '', pins)
    chosen = STATE / 'pins.txt'
    chosen.write_text(pins)
    run('packages', [PYTHON, '-m', 'pip', 'install', '--disable-pip-version-check', '-r', chosen])
    if ros.endswith('wheels'):
        correct_exported_includes()
        libraries = os.pathsep.join(map(str, sorted((VENV / PURELIB).glob('ros_*.libs'))))
        remember_environment({'LD_LIBRARY_PATH': libraries},
                             {'_ROS_WHEELS_BOOTSTRAP_COMPLETE': '1'})
    shutil.copy(START, VENV / PURELIB)
    (VENV / PURELIB / f'{START.stem}.pth').write_text(f'import {START.stem}; {START.stem}.main()\n')


def torch_of_the_machine() -> bool:
    """Say whether torch is there outside .venv: on a Jetson only that build knows its GPU."""
    find = 'import importlib.util as u; s = u.find_spec("torch"); print(s.origin if s else "")'
    origin = subprocess.run([PYTHON, '-c', find], check=True, capture_output=True,
                            text=True).stdout.strip()
    return bool(origin) and VENV not in Path(origin).parents


def requirements(ros: str) -> list[Path]:
    """Return the files of pins for this ROS 2."""
    which = 'sourced' if ros.startswith('sourced') else ros.split()[0]
    return [ROOT / 'requirements' / 'development.txt', ROOT / 'requirements' / f'ros-{which}.txt']


def correct_exported_includes() -> None:
    """Rewrite the include paths of the wheels' build machine: CMake refuses missing ones."""
    numpy = subprocess.run([PYTHON, '-c', 'import numpy; print(numpy.get_include())'],
                           check=True, capture_output=True, text=True).stdout.strip()
    python = sysconfig.get_paths()['include']
    for file in VENV.glob('share/*/cmake/*.cmake'):
        text = file.read_text()
        new = re.sub(r'/opt/python/[^";]*/numpy/_core/include', lambda _: numpy, text)
        new = re.sub(r'/opt/python/[^/";]*/include/python[\d.]+t?', lambda _: python, new)
        if new != text:
            file.write_text(new)


@depends_on(lambda ros: digest(*sorted((ROOT / 'taolora_msgs').rglob('*'))))
def messages(ros: str) -> None:
    """Build taolora_msgs"""
    work = STATE / 'messages.build'
    leftovers = [work, VENV / PURELIB / 'taolora_msgs', VENV / 'include' / 'taolora_msgs',
                 VENV / 'share' / 'taolora_msgs']
    for folder in leftovers:
        shutil.rmtree(folder, ignore_errors=True)
    run('messages', [
        PYTHON, '-m', 'colcon', '--log-base', work / 'log', 'build',
        '--base-paths', 'taolora_msgs', '--packages-select', 'taolora_msgs',
        '--build-base', work, '--merge-install', '--install-base', VENV,
        '--event-handlers', 'console_direct+',
        '--cmake-args', f'-DPython3_EXECUTABLE={PYTHON}', '-DBUILD_TESTING=OFF',
    ])
    run('import', [PYTHON, '-c', 'import rclpy, taolora_msgs.msg'])


@depends_on(lambda ros: digest(ROOT / 'setup.py', ROOT / 'setup.cfg'))
def project(ros: str) -> None:
    """Install this project, editable"""
    run('project', [PYTHON, '-m', 'pip', 'install', '--disable-pip-version-check', '--no-deps',
                    '--no-build-isolation', '-e', ROOT])


def run(name: str, command: list) -> None:
    """Run a command into STATE/name.log; raise SetUpError with the log's end when it fails."""
    log = STATE / f'{name}.log'
    started = time.monotonic()
    with log.open('w') as output:
        process = subprocess.Popen([str(part) for part in command], cwd=ROOT, stdout=output,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        while True:
            try:
                status = process.wait(0.5)
                break
            except subprocess.TimeoutExpired:
                show_waiting(log, time.monotonic() - started)
    if sys.stdout.isatty():
        print('\r\033[K', end='')
    if status:
        end = '\n'.join(log.read_text(errors='replace').splitlines()[-25:])
        raise SetUpError(f'{name} failed (all of it: {log})\n{end}')


def show_waiting(log: Path, seconds: float) -> None:
    """Show on a terminal how long a step takes and what it is at."""
    if sys.stdout.isatty():
        lines = log.read_text(errors='replace').splitlines()
        at = lines[-1].strip()[:80] if lines else ''
        print(f'\r\033[K  {seconds:3.0f} s  {at}', end='', flush=True)


def digest(*files: Path) -> str:
    """Return a digest of the names and contents of files, folders among them left out."""
    total = hashlib.sha256()
    for file in files:
        if file.is_file():
            total.update(str(file.relative_to(ROOT)).encode() + b'\0' + file.read_bytes() + b'\0')
    return total.hexdigest()


def base_python() -> str:
    """Return the Python behind the one that runs this, should that be .venv's own."""
    return getattr(sys, '_base_executable', None) or sys.executable


if __name__ == '__main__':
    sys.exit(main())
