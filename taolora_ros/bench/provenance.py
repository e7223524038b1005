"""What made the figures of a bench, alike in the file of each."""

from __future__ import annotations

import platform
from datetime import datetime, timezone

from taolora_ros.bench.processes import machine
from taolora_ros.origin import commit, versions

PACKAGES = ('numpy', 'torch')  # whose versions are told by all


def provenance(*packages: str) -> dict[str, str]:
    """Return commit, date (UTC), machine, system, and versions of PACKAGES and ``packages``.

    Call it before measuring: files may be edited meanwhile.
    """
    return {'commit': commit(), 'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'machine': machine(), 'system': platform.platform(),
            **versions((*PACKAGES, *packages))}
