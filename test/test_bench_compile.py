"""Kernels compile for GPUs that are not here, and what they take is read right."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from taolora_ros.bench import compile as compiling
from taolora_ros.bench.boards import BOARDS, Assumptions
from taolora_ros.bench.counts import count_window
from taolora_ros.bench.cross_compile import TARGETS, Compiled, check_fit, read_cubin
from taolora_ros.bench.orin import project
from taolora_ros.cli import main
from taolora_ros.engine.gpu import GPU_ENGINES
from taolora_ros.model_file import load_model
from taolora_ros.shipped import find_model


def python(*arguments):
    """Run Python in a process of its own: here Triton may interpret."""
    environment = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True,
                          env=environment)


def taolora(*arguments):
    """Run the command."""
    return python('-m', 'taolora_ros.cli', *arguments)


@pytest.mark.parametrize('target, engine, families', [
    ('sm_87', 'fused', {'linear', 'attention', 'convolution', 'patches', 'heads'}),
    ('sm_90', 'mega', {'fetch', 'window'})])
def test_kernels_compile_and_fit(tmp_path, target, engine, families):
    pytest.importorskip('triton')
    file = tmp_path / 'compiled.json'
    done = taolora('bench', 'compile', '--target', target, '--engine', engine, '--batch', 1,
                   '--model', 'imu_falls', '--json', file)
    assert done.returncode == 0, done.stderr
    told = json.loads(file.read_text())
    assert told['target'] == target
    assert {k['name'] for k in told['kernels']} == {f'{name}_kernel' for name in families}
    for kernel in told['kernels']:
        assert 8 < kernel['registers'] <= 255
        assert 0 <= kernel['shared_bytes'] <= TARGETS[target].shared_bytes
        assert kernel['spills'] >= 0 and kernel['instructions'] > 30


@pytest.mark.parametrize('target', TARGETS)
@pytest.mark.parametrize('engine', GPU_ENGINES)
def test_all_that_an_engine_may_launch_is_compiled(monkeypatch, target, engine):
    pytest.importorskip('triton')
    model = load_model(find_model('ecg_beats'))

    def configurations(batches):
        return {compiling.configuration(launch)
                for launch in compiling.launches(engine, model, target, batches)}

    assert configurations((1,))  # what is imported by now is for the interpreter, for other tests
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)  # launches are made, not run
    assert configurations(compiling.BATCHES) == configurations((1, 2, 4, 8, 16, 32, 64))


def test_teams_of_each_orin_are_compiled(monkeypatch):
    pytest.importorskip('triton')
    model = load_model(find_model('ecg_beats'))
    assert compiling.launches('mega', model, 'sm_87', (1,))
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)  # as in the test before

    def teams(target):
        return {launch.constants['TEAM']
                for launch in compiling.launches('mega', model, target, (1,))
                if launch.name == 'window_kernel' and launch.constants['PERSISTENT']}

    # Nano of 4 GB, of 8 GB, AGX: 4 tiles of tokens for 4, 8 and 16 multiprocessors
    assert teams('sm_87') == {1, 2, 4} and teams('sm_90') == {4}


@pytest.mark.parametrize('shared', [False, True])
def test_kernels_are_compiled_for_memory_that_is_shared_and_not(monkeypatch, shared):
    pytest.importorskip('triton')
    from taolora_ros.engine.gpu import make_gpu_engine
    from taolora_ros.engine.graph import make_buffers, on_device
    model = load_model(find_model('imu_falls'))
    for name in GPU_ENGINES:
        compiled = {compiling.configuration(launch)
                    for launch in compiling.launches(name, model, 'sm_87', (1,))}
        engine = make_gpu_engine(name, model, 'cpu', programs=8)
        buffers = make_buffers(model, 1, 'cpu')
        steps = engine.launches(buffers if shared else on_device(model, buffers, 'cpu'))
        assert {compiling.configuration(launch) for launch in compiling.single(steps)} <= compiled


@pytest.mark.parametrize('rank', [8, 16])
@pytest.mark.parametrize('size, rows', [(128, 1), (256, 64), (512, 256)])
def test_all_shapes_of_layers_are_compiled(size, rows, rank):
    pytest.importorskip('triton')
    from taolora_ros.bench.gpu_layers import layer_launches, shapes
    compiled = {compiling.configuration(launch) for launch in compiling.layers('sm_87')}
    weights = {'codes': torch.ones(size, size, dtype=torch.int8), 'w_scale': torch.ones(1, size),
               'x_inv': torch.ones(size), 'a': torch.zeros(2 * size, rank),
               'b': torch.zeros(rank, size)}
    for shape in shapes(rows, size):
        made = layer_launches(shape, torch.zeros(rows, size), weights,
                              torch.zeros(rows, dtype=torch.uint8), torch.zeros(rows, size))
        assert {compiling.configuration(launch) for launch in made} <= compiled
    early = {launch.constants.get('EARLY', False) for launch in compiling.layers('sm_90')}
    assert early == {True, False}  # one after the other, too


WIDER = '''
import sys
from torch import zeros
from taolora_ros.bench.cross_compile import cross_compile
from taolora_ros.kernels.attention import attention_launch
from taolora_ros.kernels.heads import heads_launch
attention = attention_launch(zeros(128, 768), zeros(128, 32), zeros(128, 32), zeros(128, 256), 4, 32)
heads = heads_launch(zeros(64, 512), zeros(1, 1024), zeros(512, 14), zeros(14, 16), zeros(1024),
                     zeros(31), zeros(1, 64, 5), zeros(1, 64), zeros(1, 1), zeros(64, 512))
print(max(cross_compile(one, sys.argv[1]).spills for one in (attention, heads)))
'''


@pytest.mark.parametrize('target', ['sm_87', 'sm_90'])
def test_kernels_of_wider_networks_stay_in_registers(target):
    pytest.importorskip('triton')
    done = python('-c', WIDER, target)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 128


def test_what_the_assembler_prints_is_what_is_read(tmp_path):
    pytest.importorskip('triton')
    from triton import knobs
    code = tmp_path / 'small.ptx'
    code.write_text('.version 7.5\n.target sm_87\n.address_size 64\n.visible .entry small('
                    '.param .u64 p)\n{ .local .align 4 .b8 room[48]; .reg .b64 %a, %l, %o; '
                    '.reg .b32 %v; ld.param.u64 %a, [p]; mov.u64 %l, room; '
                    'ld.global.u32 %v, [%a]; and.b32 %v, %v, 44; cvt.u64.u32 %o, %v; '
                    'st.local.u32 [%l+4], %v; add.u64 %l, %l, %o; ld.local.u32 %v, [%l]; '
                    'st.global.u32 [%a], %v; ret; }\n')
    done = subprocess.run([knobs.nvidia.ptxas.path, '-v', '--gpu-name', 'sm_87', code, '-o',
                           tmp_path / 'small.cubin'], capture_output=True, text=True, check=True)
    told = done.stdout + done.stderr
    registers = int(re.search(r'Used (\d+) registers', told)[1])
    stack = int(re.search(r'(\d+) bytes stack frame', told)[1])
    assert read_cubin((tmp_path / 'small.cubin').read_bytes(), 'small')[:2] == (registers, stack)
    assert stack > 0
    with pytest.raises(ValueError, match='large: not among'):
        read_cubin((tmp_path / 'small.cubin').read_bytes(), 'large')
    with pytest.raises(ValueError, match='not a 64-bit ELF'):
        read_cubin(b'nothing', 'small')


@pytest.mark.parametrize('registers, shared, warps, wrong', [
    (255, 170_000, 4, '170000 bytes of shared memory, sm_87 has 166912'),
    (255, 0, 16, '130560 registers a block, sm_87 has 65536')])
def test_what_does_not_fit_is_an_error(registers, shared, warps, wrong):
    with pytest.raises(ValueError, match=wrong):
        check_fit(Compiled('large', registers, 0, shared, warps, 1, {}), TARGETS['sm_87'], 'sm_87')


def test_the_interpreter_compiles_nothing(monkeypatch, capsys):
    pytest.importorskip('triton')
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    assert main(['bench', 'compile', '--target', 'sm_90']) == 2
    assert 'TRITON_INTERPRET is set' in capsys.readouterr().err
    assert main(['bench', 'compile', '--target', 'sm_90', '--engine', 'native']) == 2
    assert "'native' has no kernels" in capsys.readouterr().err


def test_counts_are_those_of_the_file():
    model = load_model(find_model('ecg_beats'))
    mega, fused = count_window(model, 'mega'), count_window(model, 'fused')
    packed = sum(t.numel() for n, t in model.tensors.items() if n.endswith('.packed'))
    lora = sum(2 * (layer.lora_a.numel() + layer.lora_b.numel())  # 16 bits on the GPU
               for layer in model.network.linears().values())
    assert mega.int8_ops == 2 * 64 * 2 * packed
    assert packed + lora < mega.weight_bytes < 1.2 * (packed + lora)
    assert (mega.launches, fused.launches) == (1, 22)
    assert fused.between_bytes > count_window(model, 'stages').between_bytes
    assert count_window(model, 'fp16').weight_bytes > 2 * mega.weight_bytes


def test_a_projection_says_that_it_is_one(capsys, tmp_path):
    file = tmp_path / 'orin.json'
    assert main(['bench', 'orin', '--launch-us', '8', '--board', 'Small,4,34,10',
                 '--json', str(file)]) == 0
    assert 'Projected, not measured' in capsys.readouterr().out
    told = json.loads(file.read_text())
    assert main(['bench', 'orin', '--launch-us', '8', '--board', 'Small,4,34,10', '--json']) == 0
    assert json.loads(capsys.readouterr().out) == told  # without a file it is all that is printed
    assert told['assumptions']['launch_us'] == 8
    assert {row['board'] for row in told['rows']} == {'Small'}
    row = next(r for r in told['rows'] if r['engine'] == 'mega')
    assert row['launches_us'] == pytest.approx(8 + 20)
    assert row['floor_us'] < row['total_us']


def test_twice_the_bandwidth_halves_the_time_of_memory():
    counts = count_window(load_model(find_model('imu_falls')), 'fused')
    once, twice = (project(counts, BOARDS[0], Assumptions(bandwidth_share=share))
                   for share in (0.4, 0.8))
    assert once['memory_us'] == pytest.approx(2 * twice['memory_us'])
    assert project(counts, BOARDS[0], Assumptions(resident=True))['memory_us'] < 1


def test_tables_of_the_documentation_are_those_printed(monkeypatch, capsys):
    root = Path(__file__).resolve().parent.parent
    page = (root / 'docs' / 'performance.md').read_text()
    monkeypatch.syspath_prepend(root / 'tools')
    import performance
    assert performance.main() == 0
    for table in capsys.readouterr().out.strip().split('\n\n'):
        assert table in page, 'put what tools/performance.py prints into docs/performance.md'
    for target in TARGETS:
        told = json.loads((root / 'docs' / 'results' / f'compile_{target}.json').read_text())
        assert told['target'] == target and '+' not in told['provenance']
