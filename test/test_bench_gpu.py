"""The bench of a GPU: what it says without one, its tables, and how it copes with trouble."""

import json
import os
import time
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from taolora_ros.bench import gpu, gpu_cases, gpu_layers, gpu_networks
from taolora_ros.bench.isolated import Isolated
from taolora_ros.bench.peers import LAYER_PEERS
from taolora_ros.cli import main
from conftest import ROOT

RESULT = {
    'provenance': {'gpu': 'Some GPU', 'torch': '2', 'triton': '3', 'commit': 'abc'},
    'copy_gb_s': 1000.0, 'copy_gb_s_after': 990.0,
    'networks': [
        {'model': 'm', 'way': gpu_networks.PEERS[0], 'batch': 1, 'p50_us': 200.0, 'p99_us': 210.0,
         'device_us': 190.0, 'peak_bytes': 5_000_000, 'times_faster': 1.0,
         'times_faster_range': [1.0, 1.0]},
        {'model': 'm', 'way': 'mega', 'batch': 1, 'p50_us': 40.0, 'p99_us': 44.0,
         'device_us': 30.0, 'device_p99_us': 31.5, 'jitter_us': 1.25, 'device_jitter_us': 0.31,
         'peak_bytes': 1_000_000, 'times_faster': 5.0, 'times_faster_range': [4.5, 5.25]},
        {'model': 'm', 'batch': 1, 'way': 'fused', 'note': 'failed: no reason'}],
    'layers': [
        {'size': 128, 'rows': 1, 'rank': 8, 'way': 'fp16 + LoRA', 'device_us': 8.0},
        {'size': 128, 'rows': 1, 'rank': 8, 'way': 'other', 'note': 'not installed (other)'},
        {'size': 128, 'rows': 1, 'rank': 8, 'way': gpu_layers.OURS, 'device_us': 2.5,
         'bytes': 250_000, 'shape': 'fused', 'peak_bytes': 7_250_000}]}


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_without_a_gpu_nothing_is_measured(capsys):
    assert main(['bench', 'gpu']) == 2
    assert 'finds no CUDA device' in capsys.readouterr().err


def test_only_the_ways_named_are_measured():
    found = gpu_layers.cases((128, 256), (1,), (8, 16))
    assert [case['way'] for case in found[-2:]] == [gpu_layers.SLOW] * 2  # last, rank 16 alone
    cases = {'layers': found, 'networks': gpu_networks.cases((1,))}
    got = gpu.chosen(cases, ('layers',), (gpu_layers.OURS, 'mega'))
    assert [(case['size'], case['rank']) for case in got['layers']] == [
        (128, 16), (256, 16), (128, 8), (256, 8)]
    assert list(got) == ['layers'] and gpu.chosen(cases, tuple(cases), ()) == cases


@pytest.mark.parametrize('part, way, wrong', [
    ([], 'fast', "'fast' is none of networks and layers: 'fp16 + LoRA, CUDA graph', 'mega', "),
    (['--part', 'layers'], 'mega', "'mega' is none of layers: 'fp16', 'fp16 + LoRA', "),
    (['--part', 'networks'], 'fp16', "'fp16' is none of networks: 'fp16 + LoRA, CUDA graph', ")])
def test_ways_that_would_measure_nothing_are_refused(capsys, part, way, wrong):
    assert main(['bench', 'gpu', *part, '--way', way]) == 2
    assert f'--way: {wrong}' in ' '.join(capsys.readouterr().err.split())


def test_figures_say_what_made_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: SimpleNamespace(
        name='Some GPU', major=9, minor=0, multi_processor_count=8))
    monkeypatch.setattr(gpu, 'compile_all', lambda *told: {})
    monkeypatch.setattr(gpu, 'run_case', lambda *told: [])
    monkeypatch.setattr(gpu.turns, 'take_turns', lambda *told, **named: [])
    told = gpu.measure(7.0, ('networks',), (128,), (1,), (8,), (1, 2), ('mega',), None)
    origin = told['provenance']
    assert origin['arguments'] == {'seconds': 7.0, 'part': ('networks',), 'size': (128,),
                                   'rows': (1,), 'rank': (8,), 'batch': (1, 2), 'way': ('mega',)}
    assert {'commit', 'date', 'system', 'python', 'torch', 'triton', 'gemlite'} <= set(origin)
    assert origin['driver'] and 'cores' in origin['machine'] and origin['gpu'] == 'Some GPU'


def test_tables_compare_with_the_peer_of_the_same_case():
    console = Console(width=200, record=True)
    console.print(gpu.table(RESULT))
    lines = console.export_text().splitlines()
    rows = {way: next(line for line in lines if f' {way} ' in line)
            for way in ('mega', 'fused', 'other', gpu_layers.OURS)}
    assert ' 5.00 (4.50..5.25) ' in rows['mega'] and ' 1.2 ' in rows['mega']  # and jitter
    assert ' 31.5 ' in rows['mega'] and ' 0.3 ' in rows['mega']  # of the device
    assert 'see below' in rows['fused']
    assert [line.rstrip() for line in lines].count(
        'model m, batch 1, fused: failed: no reason') == 1
    assert 'not installed (other)' in rows['other']
    assert ' 3.20 ' in rows[gpu_layers.OURS]
    assert ' 10.0 ' in rows[gpu_layers.OURS]  # per cent of the copies' rate
    assert ' 7.2 ' in rows[gpu_layers.OURS]  # memory


def test_the_page_names_what_was_not_measured_and_says_ranges(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import performance
    monkeypatch.setattr(performance, 'RESULTS', tmp_path)
    (tmp_path / 'bench_gpu_networks.json').write_text(json.dumps(RESULT))
    lines = performance.gpu_networks().splitlines()
    assert 'times faster, of rounds' in lines[0]
    assert '| 5.00 (4.50..5.25) |' in lines[3]
    assert lines[4].startswith('| model m, batch 1, fused: failed: no reason |  |')
    assert len({line.count('|') for line in lines}) == 1


@pytest.mark.parametrize('rows', gpu_layers.ROWS)
@pytest.mark.parametrize('size', gpu_layers.SIZES)
def test_shapes_are_few_and_all_different(rows, size):
    shapes = list(gpu_layers.shapes(rows, size))
    assert 5 <= len(set(shapes)) == len(shapes) <= 12
    assert all(2 * shape.half * shape.split <= max(size, 128) for shape in shapes)


def test_a_layer_is_the_same_in_every_shape(kernels):
    from taolora_ros.kernels.linear import linear_reference
    k, m = 256, 3
    x, a, b = torch.randn(m, k), torch.randn(2 * k, 8).half() / 16, torch.randn(8, k).half()
    codes = torch.randint(-7, 8, (k, k), dtype=torch.int8)
    weights = {'codes': codes, 'w_scale': torch.rand(1, k), 'x_inv': torch.ones(k), 'a': a, 'b': b}
    gate = torch.tensor([1, 0, 1], dtype=torch.uint8)
    wanted = linear_reference(x.double(), gate.double(), **{
        name: t.double() for name, t in weights.items()}, x_zero=None, bias=torch.zeros(k).double())
    weights = {name: t.to(kernels) for name, t in weights.items()}
    shapes = [gpu_layers.Shape(kind, 64, 128, 16, split) for kind, split in (
        ('fused', 2), ('two kernels', 1), ('few rows', 1), ('bit planes', 1))]
    for shape in shapes:
        out = torch.full((m, k), torch.nan, device=kernels)
        gpu_layers.our_layer(shape, x.to(kernels), weights, gate.to(kernels), out)()
        # a number of U may round to another float16
        assert float((out.cpu() - wanted).norm() / wanted.norm()) < 2e-4


@pytest.mark.parametrize('kernels', [1, 2])
def test_layers_in_a_row_overlap_and_two_kernels_share_alike(monkeypatch, kernels):
    pytest.importorskip('triton')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    from taolora_ros.kernels import launch
    alike = []
    monkeypatch.setattr(launch, 'share_alike', alike.extend)
    layer = [launch.Launch(object(), (1,), {}, {'K': i}) for i in range(kernels)]
    monkeypatch.setattr(launch, 'can_overlap', lambda: False)
    assert gpu_layers.in_a_row(layer, 3, True) == layer * 3 and not alike
    monkeypatch.setattr(launch, 'can_overlap', lambda: True)
    assert gpu_layers.in_a_row(layer, 3, False) == layer * 3 and not alike
    row = gpu_layers.in_a_row(layer, 3, True)
    assert [one.constants for one in row] == [{'K': i, 'EARLY': True} for i in range(kernels)] * 3
    assert [one.early for one in row] == [False] + [True] * (3 * kernels - 1)
    kinds = {(one.constants['K'], one.early) for one in row}  # each is a kernel of its own
    assert {(one.constants['K'], one.early) for one in alike} == (kinds if kernels > 1 else set())


def test_json_without_a_file_writes_no_file_meanwhile(monkeypatch, tmp_path, capsys):
    told = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, 'measure', lambda *given: told.append(given[-1](RESULT)) or RESULT)
    assert main(['bench', 'gpu', '--json']) == 0
    assert json.loads(capsys.readouterr().out) == RESULT
    assert told == [None] and not list(tmp_path.iterdir())


def test_peers_that_are_missing_or_fail_say_so():
    def missing():
        import no_such_package  # noqa: F401

    assert gpu_layers.attempt(missing) == {'note': 'not installed (no_such_package)'}
    assert gpu_layers.attempt(lambda: 1 / 0)['note'].startswith('failed: ZeroDivisionError')


@pytest.fixture
def worker(monkeypatch):
    """Give a process that does what cases ask for, doomed or not."""
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}{os.pathsep}{ROOT / "test"}')
    with Isolated('-m', 'doomed_worker') as process:
        yield process


def cases(*ways):
    return [{'part': 'layers', 'way': way, 'size': 128} for way in ways]


def run(worker, *ways, seconds=60.0):
    return [row for case in cases(*ways) for row in gpu_cases.run_case(worker, case, seconds)]


def run_until(worker, until, *ways):
    return list(gpu_cases.run_all(worker, cases(*ways), until, lambda *told: None))


@pytest.mark.parametrize('way, why, words, same', [
    ('fails', 'failed: RuntimeError:', ' no such kernel', True),
    ('breaks', 'failed: RuntimeError:', ' an illegal access', False),
    ('ends', 'failed: the process ended:', ' segmentation fault', False)])
def test_a_case_that_fails_loses_nothing_else(worker, way, why, words, same):
    rows = run(worker, 'runs', way, 'runs')
    assert [row.get('batch') for row in rows] == [1, 8, 1, None, 1, 8]
    assert rows[3]['note'].startswith(why) and rows[3]['note'].endswith(words)
    assert all(row['size'] == 128 and 'part' not in row for row in rows)
    assert (rows[0]['process'] == rows[-1]['process']) is same
    assert rows[0]['process'] == rows[2]['process']


def test_a_case_that_hangs_is_ended(worker):
    run(worker, 'runs')  # started
    rows = run(worker, 'hangs', seconds=2.0)
    assert rows[0]['batch'] == 1
    assert rows[1]['note'].startswith('failed: no answer within 2 s') and rows[1]['lost']
    assert run(worker, 'runs')[1]['batch'] == 8


def test_a_way_that_is_lost_again_and_again_is_left_out(worker):
    rows = run_until(worker, time.monotonic() + 100, 'ends', 'ends', 'ends', 'runs')
    assert rows[4]['note'] == 'left out: this way was lost before'
    assert rows[-1]['batch'] == 8
    assert not any('lost' in row for row in rows)


def test_what_there_is_no_time_for_says_so(worker):
    rows = run_until(worker, time.monotonic() - 1, 'runs', 'runs')
    assert [row['note'] for row in rows] == [gpu_cases.SKIPPED] * 2


def test_all_is_compiled_before_in_several_processes(worker, monkeypatch):
    monkeypatch.setattr(gpu, 'WORKER', 'doomed_worker')
    monkeypatch.setattr(gpu, 'run_case', lambda worker, case, seconds: [
        row for row in worker.run(case, seconds) if 'note' in row])
    todo = cases('runs', 'fails', 'runs')
    told = gpu.compile_all(todo, 60.0, lambda *told: None)
    assert [row['note'] for row in told['failed']] == ['failed: RuntimeError: no such kernel']
    assert gpu.compile_all(todo, 0.0, lambda *told: None)['failed'] == [
        {**case, 'note': gpu_cases.SKIPPED} for case in todo]


@pytest.mark.parametrize('capability', [(8, 7), (9, 0)])
def test_what_is_compiled_before_is_what_the_gpu_launches(monkeypatch, capability):
    pytest.importorskip('triton')
    from taolora_ros.kernels.launch import Launch
    compiled = []
    monkeypatch.setattr(Launch, 'compile', lambda self: compiled.append(self))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: capability)
    monkeypatch.setattr(torch.cuda, 'get_device_properties',
                        lambda device: SimpleNamespace(multi_processor_count=8))
    for way, begins_early in (('fused', capability >= (9, 0)), ('streams', False),
                              ('fused, one kernel after the other', False)):
        compiled.clear()
        gpu_networks.compile_case({'model': 'ecg_beats', 'way': way, 'batches': [1]})
        assert {one.early for one in compiled if one.name != 'patches_kernel'} == {begins_early}


def test_variants_are_for_the_first_batch_alone_and_peers_come_first():
    todo = gpu_networks.cases((1, 8))
    assert todo[0]['way'] == gpu_networks.PEERS[0]
    assert {case['way'] for case in todo if case['batch'] == 1} == set(gpu_networks.WAYS)
    assert {case['way'] for case in todo if case['batch'] == 8} == (
        set(gpu_networks.WAYS) - set(gpu_networks.VARIANTS))
    assert all((case['batches'] == [1]) is (case['way'] in gpu_networks.VARIANTS)
               for case in gpu_networks.to_compile((1, 8)))
    ways = {case['way'] for case in gpu_layers.cases((128,), (1,), (8, 16))}
    assert ways == {*LAYER_PEERS, gpu_layers.OURS}
    assert set(gpu_cases.SLOW) <= {case['way'] for case in todo}


def test_what_is_known_is_kept_whole(tmp_path):
    gpu.write(None, RESULT)
    gpu.write(str(tmp_path / 'kept.json'), RESULT)
    assert json.loads((tmp_path / 'kept.json').read_text())['layers'] == RESULT['layers']
    assert len(list(tmp_path.iterdir())) == 1


def test_a_row_is_said_in_a_line():
    lines = [gpu_cases.said(row) for row in (*RESULT['networks'], *RESULT['layers'])]
    assert lines[1] == ('model m, batch 1, mega: p50 40.0 µs, p99 44.0 µs, device 30.0 µs, '
                        'jitter 1.2 µs, device_jitter 0.3 µs')
    assert lines[2] == 'model m, batch 1, fused: failed: no reason'
    assert lines[3] == 'size 128, rows 1, rank 8, fp16 + LoRA: device 8.0 µs'


@pytest.mark.gpu
def test_a_layer_is_measured(tmp_path):
    file = tmp_path / 'gpu.json'
    assert main(['bench', 'gpu', '--part', 'layers', '--seconds', '100', '--size', '128',
                 '--rows', '16', '--rank', '16', '--json', str(file)]) == 0
    told = json.loads(file.read_text())
    assert told['copy_gb_s'] > 10
    assert not [row for row in told['compiling']['failed'] if row['way'] == gpu_layers.OURS]
    times = {row['way']: row.get('device_us') for row in told['layers']}
    assert times[gpu_layers.OURS] > 0.5 and times['fp16 + LoRA'] > 0.5
    peaks = {row['way']: row.get('peak_bytes', 0) for row in told['layers']}
    assert 128 * 128 / 2 < peaks[gpu_layers.OURS] < 1e6  # without cuBLAS
    assert peaks['fp16 + LoRA'] > 2 * 128 * 128
