"""The engine in C: exact integers, float64's answers, whatever the processor can do."""

import ctypes
import dataclasses
import logging
import os
import shutil
import stat
import subprocess
from ctypes import byref
from pathlib import Path

import numpy as np
import pytest
import torch

from taolora_ros import recordings, shipped
from taolora_ros.detector import Detector
from taolora_ros.engine import make_engine
from taolora_ros.engine.native import NativeEngine
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.kernels.cpu import layout, library
from taolora_ros.model_file import load_model
from taolora_ros.samples import Samples
from taolora_ros.spec import ECG_BEATS, NetworkSpec
from test_quantization import oracle, random_layer
from tiny import tiny_batch, tiny_models

# name: flags, and what they make; of floats registers hold 16, 8 or 4
WAYS = {'native': ((), None), 'AVX-VNNI': (('-mno-avx512f',), 'AVX-VNNI'),
        'AVX2': (('-mno-avx512f', '-mno-avxvnni'), 'AVX2'),
        'plain C': (('-DTAOLORA_PORTABLE',), 'plain C'),
        'AVX2 beside AVX-512': (('-mno-avx512vnni', '-mno-avxvnni'), 'AVX2'),
        'registers of 4 floats': (('-mno-avx512f', '-mno-avx'), 'plain C')}


@pytest.fixture(params=WAYS, scope='module')
def flags(request):
    flags, wanted = WAYS[request.param]
    try:
        isa = library.load(flags).taolora_isa().decode()
    except RuntimeError as error:
        pytest.skip(str(error))
    if wanted not in (None, isa):
        pytest.skip(f'this compiler makes {isa} with {flags}')
    return flags


def floats(array):
    return array.ctypes.data_as(layout.Floats)


@pytest.mark.parametrize('m, k, n, rank, groups, zero, buffer', [
    (1, 1, 1, 1, 1, None, 'residual'), (7, 13, 17, 3, 1, None, 'residual'),
    (9, 24, 40, 16, 3, 2, 'residual'), (23, 130, 65, 17, 2, None, 'x'),
    (8, 511, 16, 32, 1, 5, 'residual'), (5, 36, 31, 8, 4, 15, 'x'), (64, 128, 512, 8, 1, 0, 'x')])
def test_layer_is_that_of_float64_with_exact_integers(flags, m, k, n, rank, groups, zero, buffer):
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    layer, parts = random_layer(seed, k, n, rank, groups, zero, buffer)
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((m, k)) * 3).astype(np.float32)
    gate = rng.random(m) < 0.5
    arrays = layout.Arrays()
    linear = arrays.linear('layer', layer)
    got = np.full((m, -(-n // 16) * 16), np.nan, np.float32)
    room = np.full(8 * (k + 8 * groups) + 4 * (2 * k + 32), np.nan, np.float32)
    library.load(flags).taolora_linear(
        byref(linear), m, gate.astype(np.uint8).ctypes.data_as(layout.Bytes), floats(x),
        floats(got), floats(room))
    bias = layer.bias.detach().double().numpy()
    wanted = oracle(x, gate, parts, bias, zero, buffer)
    assert np.abs(got[:, :n] - wanted).max() <= 2e-6 * np.abs(wanted).max(), f'seed {seed}'
    assert not got[:, n:].any()
    # with scales of 1 and nothing added the integers themselves come out
    ones = {**parts, 'w_scale': np.ones((groups, n)), 'b': parts['b'] * 0}
    layer.w_scale, layer.lora_b.data = torch.ones(groups, n), layer.lora_b.data * 0
    layer.bias.data.zero_()
    library.load(flags).taolora_linear(
        byref(arrays.linear('ones', layer)), m, gate.astype(np.uint8).ctypes.data_as(layout.Bytes),
        floats(x), floats(got), floats(room))
    assert np.array_equal(got[:, :n], oracle(x, gate * 0, ones, 0, zero, buffer)), f'seed {seed}'


@pytest.mark.parametrize('spec', [
    None,
    dataclasses.replace(ECG_BEATS, tokens=20, network=NetworkSpec(
        width=40, heads=2, kernel=3, mlp=3, bottleneck=5, blocks=('attention', 'conv')))])
def test_scores_are_those_of_the_reference_engine(flags, spec, tmp_path):
    model = load_model(tiny_models(tmp_path, spec, seed=os.getpid()))
    batch = tiny_batch(model.spec, 5, seed=3)
    windows, gates = batch.windows.numpy(), batch.gates.numpy()
    engines = NativeEngine(model, flags), ReferenceEngine(model, 'cpu')
    for engine in engines:
        engine.keeps_embedding = True
    got, wanted = (engine.run(windows, gates) for engine in engines)
    for field in dataclasses.fields(wanted):
        a, b = getattr(got, field.name), getattr(wanted, field.name)
        assert a.shape == b.shape and a.dtype == np.float32
        # a code on the border of two may be rounded the other way: then little, and seldom
        off = np.abs(a - b)
        assert np.median(off) < 1e-5 and off.max() < 0.15 * np.abs(b).max(), field.name


def test_every_engine_finds_the_same_events(flags):
    recording = next(recordings.read_npz(shipped.shipped('config/demo/mitdb_119_excerpt.npz')))
    values = recording.values[:40 * 360, :1]
    samples = Samples(np.arange(len(values)) * 10 ** 9 // 360, values.astype(np.float64))
    model = load_model(shipped.find_model('ecg_beats'))
    found = []
    for engine in (NativeEngine(model, flags), ReferenceEngine(model, 'cpu')):
        detector = Detector(model.spec, engine)
        found.append([(e.label, e.stamp_ns // 10 ** 7) for e in
                      [*detector.process(samples), *detector.flush()] if hasattr(e, 'label')])
    assert len(found[0]) > 30 and found[0] == found[1]


def test_closed_gate_leaves_the_lora_out_and_an_open_one_reads_it(tmp_path):
    model = load_model(tiny_models(tmp_path))
    engine = NativeEngine(model)
    windows = tiny_batch(model.spec, 2).windows.numpy()
    closed, opened = (engine.run(windows, np.full((2, 16), flag)) for flag in (False, True))
    assert np.abs(closed.probability - opened.probability).max() > 1e-6


def test_model_it_cannot_run_is_refused_by_name_and_auto_says_which_comes_next(
        tmp_path, caplog, monkeypatch):
    model = load_model(tiny_models(tmp_path))
    with pytest.raises(ValueError, match='native cannot be used: .*not quantized'):
        make_engine(load_model(tmp_path / 'tiny.fp32.safetensors'), 'native')
    odd = dataclasses.replace(model.spec, tokens=18)
    with pytest.raises(ValueError, match='tokens: 18 is no multiple of 4'):
        NativeEngine(dataclasses.replace(model, spec=odd))
    assert make_engine(model, device='cpu').name in ('native', 'reference')
    monkeypatch.setenv('CC', '/no/such/compiler')
    with caplog.at_level(logging.WARNING):
        engine = make_engine(model, device='cpu')
    assert engine.name == 'reference' and 'reference' in engine.why
    assert [r for r in caplog.records if 'native cannot be used' in r.getMessage()
            and '/no/such/compiler' in r.getMessage()]


def test_it_is_compiled_once_and_only_what_this_user_wrote_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    flags = ('-DTAOLORA_PORTABLE', '-O0')
    library.load(flags)
    made = list((tmp_path / 'taolora_ros').glob('*.so'))
    assert len(made) == 1 and stat.S_IMODE(made[0].stat().st_mode) == 0o700
    before = made[0].stat().st_mtime_ns
    library.load(flags)
    assert made[0].stat().st_mtime_ns == before
    made[0].chmod(0o777)  # anybody could have written it: made anew
    library.load(flags)
    assert stat.S_IMODE(made[0].stat().st_mode) == 0o700
    size = made[0].stat().st_size
    made[0].unlink()
    made[0].write_bytes(b'\x7fELF' * (size // 8))  # what a loss of power may leave
    made[0].chmod(0o700)
    library.load(flags)
    assert made[0].stat().st_size == size


def test_compiler_may_be_given_with_arguments(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('CC', f'{library.compiler()[0]} -O0')
    assert library.load(('-DTAOLORA_PORTABLE',)).taolora_isa() == b'plain C'


def test_failing_compiler_is_named_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    with pytest.raises(RuntimeError, match='failed with .*error'):
        library.load(('-no-such-flag',))
    assert not list((tmp_path / 'taolora_ros').iterdir())


def test_packed_weights_hold_each_code_where_the_kernel_looks_for_it():
    rng = np.random.default_rng()
    codes = rng.integers(-7, 8, (26, 19)).astype(np.int8)
    packed = layout.pack(codes, 2)                     # (2, 2, 2, 64)
    k, n = rng.integers(26), rng.integers(19)
    group, row = divmod(int(k), 13)
    step, part, j = row // 8, row % 8 // 4, row % 4
    byte = int(packed[group, n // 16, step, 4 * (n % 16) + j])
    assert (byte >> 4 * part & 15) - 8 == codes[k, n]
    with pytest.raises(ValueError, match='groups: 3'):
        layout.pack(codes, 3)
    with pytest.raises(ValueError, match='codes: 8'):
        layout.pack(np.full((2, 2), -8))


TILES = r"""
#include <stdio.h>
#include <stdlib.h>
#include "int4.h"

int main(int count, char **seed)
{
    srand(count > 1 ? atoi(seed[1]) : 0);
    for (int steps = 1; steps < 70; steps += 1 + rand() % 5) {
        static int8_t x[ROWS * 70 * STEP];
        static uint8_t w[70 * 64];
        int32_t sums[ROWS] = {0}, acc[ROWS][LANES];
        for (int m = 0; m < ROWS; m++)
            for (int k = 0; k < steps * STEP; k++)
                sums[m] += x[m * steps * STEP + k] = rand() % 31 - 15;
        for (int i = 0; i < steps * 64; i++)
            w[i] = (1 + rand() % 15) | (1 + rand() % 15) << 4;
        int4_tile(steps, x, steps * STEP, w, sums, acc);
        for (int i = 0; i < ROWS * LANES; i++)
            printf("%d ", acc[i / LANES][i % LANES]);
    }
    printf("\n%s\n", ISA);
}
"""


def test_jetson_s_processor_multiplies_to_the_same_integers(tmp_path):
    cross, emulator = (shutil.which(name) for name in
                       ('aarch64-linux-gnu-gcc', 'qemu-aarch64-static'))
    if not cross or not emulator:
        pytest.skip('no compiler for 64-bit ARM, or no emulator of it')
    source, said = tmp_path / 'tiles.c', []
    source.write_text(TILES)
    seed = str(np.random.default_rng().integers(2 ** 31))
    for compiler, flags, run in ((library.compiler(), ['-DTAOLORA_PORTABLE'], []),
                                 ([cross], ['-mcpu=cortex-a78ae'], [emulator, '-cpu', 'max'])):
        library.run([*compiler, '-O2', '-std=gnu11', '-static', *flags, '-I',
                     str(Path(library.__file__).parent), '-o', str(tmp_path / 'a'), str(source)])
        said.append(subprocess.run([*run, tmp_path / 'a', seed], capture_output=True, check=True,
                                   text=True).stdout.split('\n'))
    assert said[0][0] == said[1][0], seed
    assert said[0][1:] == ['plain C', ''] and said[1][1:] == ['NEON dot product', '']


def test_what_is_compiled_anew_when_it_changes_is_all_there_is():
    folder = Path(library.__file__).parent
    assert set(library.SOURCES) == {path.name for path in folder.iterdir()
                                    if path.suffix in ('.c', '.h')}
    assert library.SOURCES[0] == 'network.c'  # the others are included


def test_structures_are_as_large_as_the_compiler_has_them(tmp_path):
    source = tmp_path / 'sizes.c'
    source.write_text('#include "network.c"\nint sizes[] = {sizeof(Linear), sizeof(Dense), '
                      'sizeof(Block), sizeof(Network)};\n')
    target = tmp_path / 'sizes.so'
    library.run([*library.compiler(), '-shared', '-fPIC', '-std=gnu11', '-I',
                 str(Path(library.__file__).parent), '-o', str(target), str(source), '-lm'])
    sizes = (ctypes.c_int * 4).in_dll(ctypes.CDLL(str(target)), 'sizes')
    assert list(sizes) == [ctypes.sizeof(s) for s in
                           (layout.Linear, layout.Dense, layout.Block, layout.Network)]


def test_adapted_weights_and_embeddings_are_those_of_the_reference_engine(tmp_path):
    model = load_model(tiny_models(tmp_path))
    batch = tiny_batch(model.spec, 3)
    windows, gates = batch.windows.numpy(), batch.gates.numpy()
    engines = NativeEngine(model), ReferenceEngine(model, 'cpu')
    before = engines[0].run(windows, gates)
    assert before.embedding is None
    names = ('head.weight', 'head.bias', 'blocks.1.up.lora_a', 'blocks.0.mix.outer.lora_b')
    kept = engines[0].read_weights(*names)
    rng, scores = np.random.default_rng(), []
    changes = {name: rng.normal(0, 0.3, value.shape) for name, value in kept.items()}
    for engine in engines:
        engine.keeps_embedding = True
        engine.write_weights(changes)
        scores.append(engine.run(windows, gates))
        assert all(np.allclose(engine.read_weights(name)[name], changes[name]) for name in names)
    assert np.median(np.abs(scores[0].embedding - scores[1].embedding)) < 1e-5
    assert np.abs(scores[0].probability - scores[1].probability).max() < 0.15
    assert np.abs(scores[0].probability - before.probability).max() > 0.2
    engines[0].write_weights(kept)
    assert np.array_equal(engines[0].run(windows, gates).probability, before.probability)
    with pytest.raises(ValueError, match='embed.weight: not a weight'):
        engines[0].write_weights({'embed.weight': np.zeros((24, 32))})
    with pytest.raises(ValueError, match='head.bias: shape'):
        engines[0].write_weights({'head.bias': np.zeros(1), 'head.weight': changes['head.weight']})
