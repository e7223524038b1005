"""
Give every Python of .venv the ROS 2 environment that .venv was made with: nothing to source.

tools/set_up.py copies this file into .venv, with a .pth that calls main() whenever Python starts
there, and records the environment in .venv/set_up/ros.json. Variables that Python or the dynamic
linker read before this file is reached, take executing Python once more; the wheels of ROS 2 do
that too, but trust a variable that another environment's Python may have left.
"""

import json
import os
import sys

READ_AT_START = ('LD_LIBRARY_PATH', 'PYTHONPATH')
GUARD = 'TAOLORA_ROS_ENVIRONMENT'


def complete(environment: dict, recorded: dict) -> dict:
    """Return environment with what is recorded and missing: paths put first, values set."""
    new = dict(environment)
    for name, paths in recorded['paths'].items():
        present = [path for path in environment.get(name, '').split(os.pathsep) if path]
        missing = [path for path in paths if path not in present]
        if missing:
            new[name] = os.pathsep.join(missing + present)
    for name, value in recorded['values'].items():
        new.setdefault(name, value)
    return new


def main() -> None:
    """Complete this process's environment; execute Python again if that is too late."""
    # Only what execve() begins sees this: it ends it should something take the variables away at
    # every start, and processes that this one starts decide for themselves.
    again = os.environ.pop(GUARD, None) == sys.prefix
    with open(os.path.join(sys.prefix, 'set_up', 'ros.json')) as file:
        new = complete(dict(os.environ), json.load(file))
    late = any(new.get(name) != os.environ.get(name) for name in READ_AT_START)
    if late and not again:
        new[GUARD] = sys.prefix
        os.execve(sys.executable, sys.orig_argv, new)
    os.environ.update(new)
