"""Where figures come from: the commit of this tree, and the versions it ran with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ('torch', 'numpy', 'scipy')  # that figures of a model depend on


def commit() -> str:
    """Return the commit, with a + behind it when files differ from it; 'unknown' outside git.

    It is unknown without git, too. TAOLORA_COMMIT names it for a copy without its history.
    """
    if 'TAOLORA_COMMIT' in os.environ:
        return os.environ['TAOLORA_COMMIT']
    try:
        told = subprocess.run(['git', 'describe', '--always', '--dirty=+'], capture_output=True,
                              text=True, cwd=Path(__file__).parent)
    except OSError:  # there is no git
        return 'unknown'
    return told.stdout.strip() or 'unknown'


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the version of Python and of each of ``packages``, 'not installed' without one."""
    found = {'python': platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = 'not installed'
    return found
