"""What made the figures of a bench, alike in the file of each."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib import metadata

from taolora_ros.bench.processes import machine
from taolora_ros.origin import commit

PACKAGES = ('numpy', 'torch')  # whose versions are told by all


def provenance(*packages: str) -> dict[str, str]:
    """Return commit, date (UTC), machine, system, and versions of PACKAGES and ``packages``.

    Call it before measuring: files may be edited meanwhile.
    """
    versions = {}
    for name in (*PACKAGES, *packages):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = 'not installed'
    return {'commit': commit(), 'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'machine': machine(), 'system': platform.platform(),
            'python': platform.python_version(), **versions}
