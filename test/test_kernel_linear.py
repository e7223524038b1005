"""The fused layer on fresh random numbers, odd sizes, in float64; its integers bit by bit."""

import pytest
import torch
import torch.nn.functional as F

from taolora_ros.quantization import (QMAX, UNSIGNED_MAX, half, quantize_activation,
                                      quantize_weight)


class Case:
    """A random layer and what it must give."""

    def __init__(self, device, m, k, n, rank, groups=1, zero=None, residual=True, norm=False,
                 shift=False):
        g = torch.Generator().manual_seed(torch.seed() % 2 ** 31)

        def random(*shape):
            return torch.randn(*shape, generator=g)

        self.codes, self.scale = quantize_weight(random(k, n), groups, shift=shift)
        self.x0, self.bias = random(m, n), random(n)
        self.inverse, self.zero = 1 + 3 * torch.rand(k, generator=g), zero
        self.a = random(2 * k if residual else k, rank).half() / k ** 0.5
        self.b = random(rank, n).half()
        self.norm = (0.5 + torch.rand(k, generator=g), random(k)) if norm else None
        self.x = 2 * random(m, k)
        while self.on_a_border():
            self.x = 2 * random(m, k)
        self.gate = torch.rand(m, generator=g) < 0.5
        self.shift, self.device = shift, device

    def normed(self):
        return F.layer_norm(self.x, self.x.shape[1:], *self.norm) if self.norm else self.x

    def on_a_border(self):
        """Tell whether float32 may round a number, or one of U, to another code or float16."""
        v, inverse = self.normed().double(), self.inverse.double()
        scaled = v * inverse
        q = quantize_activation(v, inverse, self.zero)
        read = torch.cat([v - q / inverse, v], 1) if len(self.a) > v.shape[1] else v
        u = half(read) @ self.a.double()
        return (bool((scaled - scaled.floor() - 0.5).abs().min() < 2e-5)
                or not torch.equal(half(u - 5e-7), half(u + 5e-7)))

    def run(self, tiles=None, gelu=False, add=False, factors=None, **options):
        from taolora_ros.kernels.layout import Tiles, arrange
        from taolora_ros.kernels.linear import linear_launch

        def move(tensor):
            return tensor.to(self.device)

        weights = arrange(move(self.codes), move(self.scale), move(self.inverse), self.zero,
                          move(self.a), move(self.b), move(self.bias),
                          self.norm and tuple(map(move, self.norm)), self.shift, tiles or Tiles())
        if factors:
            weights.load_lora(*map(move, factors))
        out = torch.full(self.x0.shape, torch.nan, device=self.device)
        launch = linear_launch(move(self.x), weights, move(self.gate).to(torch.uint8), out,
                               move(self.x0) if add else None, gelu=gelu, **options)
        for _ in range(2):  # the second run finds what the first one left behind
            out.fill_(torch.nan)
            launch()
        return out.cpu()

    def wanted(self, gelu=False, add=False):
        from taolora_ros.kernels.linear import linear_reference
        x, gate, codes, scale, inverse, a, b, bias = (t.double() for t in (
            self.normed(), self.gate, self.codes, self.scale, self.inverse, self.a, self.b,
            self.bias))
        y = linear_reference(x, gate, codes, scale, inverse, self.zero, a, b, bias)
        y = F.gelu(y) if gelu else y
        return y + self.x0.double() if add else y


def error(got, wanted):
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize('m, k, n, rank, options', [
    (5, 24, 37, 3, {}),
    (33, 128, 70, 8, {'norm': True}),
    (17, 130, 61, 20, {'groups': 5, 'zero': 7}),
    (18, 200, 65, 32, {'residual': False, 'zero': 0}),
    (7, 150, 40, 4, {'norm': True}),
    (9, 100, 40, 4, {'norm': True}),
    (3, 40, 33, 2, {'norm': True}),
    (1, 77, 25, 1, {'groups': 7, 'shift': True})])
def test_layer_is_that_of_float64(kernels, m, k, n, rank, options):
    case = Case(kernels, m, k, n, rank, **options)
    assert error(case.run(add=True), case.wanted(add=True)) < 3e-5
    assert error(case.run(gelu=True, lora=2), case.wanted(gelu=True)) < 3e-5


@pytest.mark.parametrize('zipper', [True, False], ids=['zipper', 'apart'])
@pytest.mark.parametrize('half', [32, 64])
def test_integers_are_exact(kernels, half, zipper):
    from taolora_ros.kernels.layout import Tiles
    case = Case(kernels, 19, 131, 45, 4, zero=6)
    case.scale, case.bias = torch.ones_like(case.scale), torch.zeros_like(case.bias)
    got = case.run(Tiles(half, zipper), lora=0)
    q = quantize_activation(case.x, case.inverse, case.zero)
    assert set(q.flatten().tolist()) == set(range(-6, UNSIGNED_MAX - 5))
    assert set(case.codes.flatten().tolist()) == set(range(-QMAX, QMAX + 1))
    assert torch.equal(got.long(), q.long() @ case.codes.long())


@pytest.mark.parametrize('block_n', [16, 32, 128])
def test_tiles_of_any_width_read_the_same_weights(kernels, block_n):
    n = int(torch.randint(1, 300, ()))
    case = Case(kernels, 5, 70, n, 7, groups=2, zero=3)
    assert error(case.run(block_n=block_n), case.wanted()) < 3e-5


@pytest.mark.parametrize('k, n, split, options', [
    (128, 45, 1, {'norm': True}), (97, 33, 1, {'zero': 5}), (61, 70, 1, {'residual': False}),
    (480, 40, 4, {'zero': 9}), (250, 20, 2, {'norm': True}), (64, 16, 1, {'shift': True})])
def test_narrow_tiles_of_one_block_are_those_of_float64(kernels, k, n, split, options):
    case = Case(kernels, 21, k, n, int(torch.randint(1, 33, ())), **options)
    for block_n in (16, 32):
        got = case.run(block_n=block_n, split=split, gelu=True, add=True)
        assert error(got, case.wanted(gelu=True, add=True)) < 3e-5


def test_shared_tiles_add_up_to_the_same_bits(kernels):
    case = Case(kernels, 6, 700, 33, 5, zero=4)  # six blocks, by four: one share has none
    assert torch.equal(case.run(split=4, lora=0), case.run(lora=0))
    assert error(case.run(split=4, gelu=True), case.wanted(gelu=True)) < 3e-5


def test_closed_tokens_get_the_steady_path_alone(kernels):
    case = Case(kernels, 21, 64, 40, 8)
    both, steady = case.run(), case.run(lora=0)
    assert torch.equal(both[~case.gate], steady[~case.gate])
    assert (both[case.gate] != steady[case.gate]).any(1).all()
    case.gate[:] = False
    assert torch.equal(case.run(lora=2), steady)


def test_factors_are_replaced_in_place(kernels):
    case = Case(kernels, 7, 50, 20, 6, groups=2)
    factors = case.a, case.b
    case.a, case.b = torch.randn(100, 3).half() / 7, torch.randn(3, 20).half()
    got = case.run(factors=factors)
    case.a, case.b = factors
    assert error(got, case.wanted()) < 3e-5


def test_what_does_not_fit_is_refused(kernels):
    from taolora_ros.kernels.layout import arrange, padded_rank
    case = Case(kernels, 2, 32, 8, 4)
    with pytest.raises(ValueError, match='powers of two'):
        arrange(case.codes, case.scale * 1.1, case.inverse, None, case.a, case.b, shift=True)
    with pytest.raises(ValueError, match='33 is not 1..32'):
        padded_rank(33)
    weights = arrange(case.codes, case.scale, case.inverse, None, case.a, case.b)
    with pytest.raises(ValueError, match='room for 16'):
        weights.load_lora(torch.zeros(64, 17), torch.zeros(17, 8))
