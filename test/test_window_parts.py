"""tools/window_parts.py: variants replace what there is, and compile."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / 'tools' / 'window_parts.py'


@pytest.fixture(scope='module')
def tool():
    """Give the module; skip without Triton."""
    pytest.importorskip('triton')
    spec = importlib.util.spec_from_file_location('window_parts', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parameters(kernel):
    return list(inspect.signature(kernel.fn).parameters)


def test_what_variants_replace_is_in_the_kernels_with_the_same_parameters(tool):
    for way, variant in tool.VARIANTS.items():
        for name, function in variant.instead.items():
            replaced = [getattr(m, name) for m in tool.MODULES if hasattr(m, name)]
            assert replaced, f'{way}: no {name} in {tool.MODULES}'
            assert all(parameters(f) == parameters(function) for f in replaced), (way, name)


def test_engine_takes_the_options_of_variants(tool):
    from taolora_ros.engine.graph import GraphEngine
    from taolora_ros.engine.mega import MegaEngine
    taken = {name for engine in (GraphEngine, MegaEngine)
             for name in inspect.signature(engine).parameters}
    assert not [way for way, variant in tool.VARIANTS.items() if variant.options.keys() - taken]


def test_variant_compiles_and_is_not_the_kernel_as_it_is(tool, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    counted = []
    for part in ('as it is', 'no GELU'):
        file = tmp_path / 'parts.json'
        done = subprocess.run([sys.executable, TOOL, '--compile-only', 'sm_90', '--only',
                               part, '--json', file], capture_output=True, text=True,
                              env={**environment, 'PYTHONPATH': str(ROOT)}, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        row, = json.loads(file.read_text())['rows']
        assert part in done.stdout
        counted.append(row['instructions'])
    assert 100 < counted[1] < counted[0]
