"""
Start Python with the ROS 2 environment that .venv was made with, when it is not sourced.

tools/set_up.py copies this file into a .venv that uses a sourced ROS 2, with a .pth that calls
main() at every start. The dynamic linker reads LD_LIBRARY_PATH only when a process begins, so
Python has to be executed once more; the wheels of ROS 2 do the same.
"""

import json
import os
import sys

GUARD = 'TAOLORA_SOURCED_ROS'


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
    """Execute Python again if its environment lacks something."""
    with open(os.path.join(sys.prefix, 'set_up', 'ros.json')) as file:
        new = complete(dict(os.environ), json.load(file))
    if new != dict(os.environ) and os.environ.get(GUARD) != sys.prefix:
        new[GUARD] = sys.prefix
        os.execve(sys.executable, sys.orig_argv, new)
