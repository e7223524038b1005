import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taolora_ros import quantization
from taolora_ros.quantization import (TaoLinear, integer_matmul, lora_loss, pack_int4,
                                      quantize_weight, unpack_int4)


def random_layer(seed, k, n, rank, groups=1, zero=None, buffer='residual'):
    """Return an INT4 TaoLinear with random contents, and those contents as float64 arrays."""
    g = torch.Generator().manual_seed(seed)
    parts = {
        'codes': torch.randint(-7, 8, (k, n), generator=g, dtype=torch.int8),
        'w_scale': torch.rand(groups, n, generator=g) * 0.02 + 1e-3,
        'x_inv': torch.rand(k, generator=g) * 3 + 0.5,
        'a': torch.randn(k * (2 if buffer == 'residual' else 1), rank, generator=g) * 0.1,
        'b': torch.randn(rank, n, generator=g) * 0.1}
    layer = TaoLinear(k, n)
    layer.load_int4(parts['codes'], parts['w_scale'], parts['x_inv'], zero, parts['a'],
                    parts['b'], buffer)
    return layer, {name: t.double().numpy() for name, t in parts.items()}


def oracle(x, gate, parts, bias, zero=None, buffer='residual'):
    """Y = Q4(X) Q4(W) + g * X' A B + b in float64, the sum over K in exact integers."""
    low, high = (-7, 7) if zero is None else (-zero, 15 - zero)
    # the product is float32 by definition, so that the rounding is the same everywhere
    scaled = (x.astype(np.float32) * parts['x_inv'].astype(np.float32)).astype(np.float64)
    q = np.clip(np.rint(scaled), low, high).astype(np.int64)
    groups, k = len(parts['w_scale']), x.shape[1]
    y = sum((q[:, rows] @ parts['codes'].astype(np.int64)[rows]) * parts['w_scale'][i]
            for i, rows in enumerate(np.split(np.arange(k), groups)))
    reads = x if buffer == 'x' else np.hstack([x - q / parts['x_inv'], x])
    return y + bias + gate[:, None] * (reads @ parts['a'] @ parts['b'])


@given(st.integers(0, 2 ** 31), st.integers(1, 37), st.integers(1, 29))
def test_packed_codes_come_back_exactly(seed, k, n):
    codes = torch.randint(-8, 8, (k, n), generator=torch.Generator().manual_seed(seed),
                          dtype=torch.int8)
    packed = pack_int4(codes)
    assert packed.shape == ((k + 1) // 2, n) and packed.dtype == torch.uint8
    assert torch.equal(unpack_int4(packed, k), codes)


def test_codes_beyond_four_bits_are_refused():
    with pytest.raises(ValueError, match='do not fit'):
        pack_int4(torch.tensor([[9]], dtype=torch.int8))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2 ** 31), st.integers(1, 67), st.sampled_from([3, 33, 129, 512]),
       st.integers(1, 45), st.integers(1, 9), st.sampled_from([None, 0, 2, 7]),
       st.sampled_from(['x', 'residual']))
def test_layer_agrees_with_the_float64_oracle(seed, m, k, n, rank, zero, buffer):
    layer, parts = random_layer(seed, k, n, rank, groups=3 if k % 3 == 0 else 1, zero=zero,
                                buffer=buffer)
    random = np.random.default_rng(seed)
    x = (random.standard_normal((m, k)) * random.choice([0.5, 8.0], (m, 1))).astype(np.float32)
    gate = random.random(m) < 0.4
    rows = torch.from_numpy(np.flatnonzero(gate))
    with torch.inference_mode():
        y = layer(torch.from_numpy(x), rows).double().numpy()
    wanted = oracle(x.astype(np.float64), gate, parts, layer.bias.detach().double().numpy(), zero,
                    buffer)
    assert np.abs(y - wanted).max() <= 2e-5 * max(1.0, np.abs(wanted).max())


def test_steady_path_is_exact_integer_arithmetic_at_the_largest_codes():
    k, n = 4097, 11
    random = np.random.default_rng()
    q = random.choice([-15, 15, 14, 7], (19, k))
    w = random.choice([-7, 7, 6], (k, n))
    got = integer_matmul(torch.from_numpy(q).float(), torch.from_numpy(w).float())
    assert np.array_equal(got.numpy().astype(np.int64), q @ w)


def test_sums_that_could_lose_exactness_are_refused():
    with pytest.raises(ValueError, match='exactness'):
        integer_matmul(torch.zeros(1, 200_000), torch.zeros(200_000, 1))


def test_gate_opens_the_low_rank_path_for_its_tokens_only():
    layer, _ = random_layer(3, 21, 13, 2)
    x = torch.randn(9, 21) * 5
    with torch.inference_mode():
        closed, opened = layer(x, torch.tensor([], dtype=torch.long)), layer(x, None)
        some = layer(x, torch.tensor([2, 5]))
    assert torch.allclose(some[[2, 5]], opened[[2, 5]], atol=1e-6)  # other batch, other order
    rest = [0, 1, 3, 4, 6, 7, 8]
    assert torch.equal(some[rest], closed[rest]) and not torch.equal(opened, closed)


@pytest.mark.parametrize('buffer', ['x', 'residual'])
def test_what_the_lora_multiplies_is_rounded_to_float16_where_it_is_to_be(buffer):
    layer, parts = random_layer(5, 33, 13, 3, buffer=buffer)
    x = torch.randn(9, 33)
    given = x.numpy()
    with torch.inference_mode():
        closed, exact = layer(x, torch.tensor([], dtype=torch.long)), layer(x, None)
        layer.half_lora = True
        added = (layer(x, None) - closed).double().numpy()
        assert torch.equal(layer(x, torch.tensor([], dtype=torch.long)), closed)
    q = np.clip(np.rint(given * parts['x_inv'].astype(np.float32)), -7, 7)
    reads = given if buffer == 'x' else np.hstack([given - q / parts['x_inv'], given])
    u = reads.astype(np.float16).astype(float) @ parts['a']
    wanted = u.astype(np.float16).astype(float) @ parts['b']
    off = np.abs(added - wanted).mean()
    assert off < 0.1 * np.abs((exact - closed).double().numpy() - wanted).mean()


@pytest.mark.parametrize('groups', [1, 4])
def test_rounded_weights_are_closer_than_the_full_range_would_be(groups):
    w = torch.randn(64, 17) ** 3
    codes, scale = quantize_weight(w, groups)
    assert codes.dtype == torch.int8 and int(codes.abs().max()) <= 7
    back = (codes.view(groups, -1, 17) * scale[:, None]).view(64, 17)
    plain = w.abs().amax(0) / 7
    naive = (w / plain).round().clamp(-7, 7) * plain
    assert (back - w).norm() <= (naive - w).norm() * 1.001


@pytest.mark.parametrize('k, n, groups, shift', [(74, 5, 2, False), (33, 17, 1, True),
                                                 (96, 128, 4, False), (1, 1, 1, False)])
@pytest.mark.parametrize('at_once', [1, 40_000, 1 << 22])
def test_the_scale_is_the_best_of_those_tried(monkeypatch, k, n, groups, shift, at_once):
    monkeypatch.setattr(quantization, 'AT_ONCE', at_once)
    w = torch.randn(k, n) ** 3
    codes, scale = quantize_weight(w, groups, shift=shift)
    parts = w.view(groups, -1, n)
    tried = []
    for shrink in torch.linspace(1.0, 0.6, 21).tolist():
        one = parts.abs().amax(1).clamp_min(1e-5) * shrink / 7
        one = torch.exp2(one.log2().round()) if shift else one.half().float()
        back = (parts / one[:, None]).round().clamp(-7, 7) * one[:, None]
        tried.append((one, (back - parts).double().square().sum(1)))
    least = torch.stack([error for _, error in tried]).amin(0)
    chosen = ((codes.view(groups, -1, n) * scale[:, None]) - parts).double().square().sum(1)
    assert torch.allclose(chosen, least, rtol=1e-5)
    assert all((torch.stack([one for one, _ in tried]) == scale).any(0).flatten())


def test_groups_must_divide_the_rows():
    with pytest.raises(ValueError, match='does not divide'):
        quantize_weight(torch.randn(10, 3), 4)


def test_wrong_shapes_are_named():
    layer = TaoLinear(5, 3)
    good = {'codes': torch.zeros(5, 3), 'w_scale': torch.ones(1, 3), 'x_inv': torch.ones(5),
            'x_zero': None, 'lora_a': torch.zeros(10, 2), 'lora_b': torch.zeros(2, 3)}
    with pytest.raises(ValueError, match='x_inv'):
        layer.load_int4(**{**good, 'x_inv': torch.ones(4)})
    with pytest.raises(ValueError, match='buffer'):
        layer.load_int4(**good, buffer='y')


def test_loss_adds_the_frobenius_norm_of_what_the_adapter_leaves():
    w, q = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    a, b = torch.randn(6, 2, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    wanted = 1.5 + 0.3 * np.sqrt(((w - q - a @ b).numpy() ** 2).sum())
    assert float(lora_loss(torch.tensor(1.5), w, q, a, b, 0.3)) == pytest.approx(wanted)
