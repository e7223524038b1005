"""All Python here runs on Python 3.10, the oldest that is supported: Ubuntu 22.04 and JetPack 6."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)
FILES = [ROOT / 'setup.py', *sorted(
    file for folder in ('kernels', 'launch', 'taolora_ros', 'test', 'tools')
    for file in (ROOT / folder).rglob('*.py'))]


def newer_features(*files):
    """Return, as ``file:line: feature``, what files use that came after OLDEST.

    A line with ``# novermin`` is left out: for what is imported only where it is there.
    """
    pytest.importorskip('vermin', reason='vermin is not installed')
    run = 'import vermin; vermin.main()'
    told = subprocess.run([sys.executable, '-c', run, '--format', 'parsable', *files],
                          capture_output=True, text=True)
    # file:line:column:version of Python 2:version of Python 3:feature, or a file as a whole
    lines = [line.split(':', 5) for line in told.stdout.splitlines()]
    assert lines and all(len(parts) == 6 for parts in lines), told.stdout + told.stderr
    return [f'{file}:{line}: {feature}' for file, line, _, _, version, feature in lines
            if feature and re.fullmatch(r'\d+\.\d+', version)
            and tuple(map(int, version.split('.'))) > OLDEST]


def test_syntax_is_that_of_the_oldest_python():
    assert len(FILES) > 50
    for file in FILES:
        ast.parse(file.read_text(), str(file), feature_version=OLDEST)


def test_library_used_is_that_of_the_oldest_python():
    assert newer_features(*FILES) == []


@pytest.mark.parametrize('newer', [
    'import tomllib', 'from datetime import UTC', 'import datetime\nprint(datetime.UTC)',
    'from typing import Self', 'from enum import StrEnum', 'import itertools\nitertools.batched',
    'try:\n    pass\nexcept* OSError:\n    pass'])
def test_what_came_later_is_found(tmp_path, newer):
    file = tmp_path / 'newer.py'
    # Of a file that Python 2 could read in places and Python 3 in others, too.
    file.write_text(f'{newer}\nfrom dataclasses import dataclass\nb"".decode(errors="replace")\n')
    assert newer_features(file)
