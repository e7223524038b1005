"""Where figures come from: the commit of this tree."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def commit() -> str:
    """Return the commit, with a + behind it when files differ from it; 'unknown' outside git.

    TAOLORA_COMMIT names it for a copy without its history.
    """
    if 'TAOLORA_COMMIT' in os.environ:
        return os.environ['TAOLORA_COMMIT']
    told = subprocess.run(['git', 'describe', '--always', '--dirty=+'], capture_output=True,
                          text=True, cwd=Path(__file__).parent)
    return told.stdout.strip() or 'unknown'
