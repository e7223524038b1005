"""Quantising, packing, the product for few rows and the join of two streams, on random numbers."""

import pytest
import torch
import torch.nn.functional as F

from taolora_ros.quantization import half
from test_kernel_linear import Case, error


def arranged(case):
    from taolora_ros.kernels.layout import Tiles, arrange

    def move(tensor):
        return tensor.to(case.device)

    return arrange(*map(move, (case.codes, case.scale, case.inverse)), case.zero,
                   *map(move, (case.a, case.b, case.bias)),
                   norm=case.norm and tuple(map(move, case.norm)), shift=case.shift,
                   tiles=Tiles(32))


def prepared(case, weights, shares, packed=True):
    """Return codes (M, blocks * H), or twice that, and U (shares, M, R), poisoned before."""
    from taolora_ros.kernels.quantize import quantize_launch
    rows = len(case.x)
    size = weights.blocks * weights.tiles.half
    codes = torch.full((rows, size if packed else 2 * size), 85, device=case.device,
                       dtype=torch.uint8 if packed else torch.int8)
    u = torch.full((shares, rows, weights.rank), torch.nan, device=case.device)
    quantize_launch(case.x.to(case.device), weights, codes, u)()
    return codes, u


@pytest.mark.parametrize('m, k, options', [(5, 24, {}), (18, 130, {'groups': 5, 'zero': 7}),
                                           (1, 333, {'zero': 0, 'residual': False})])
def test_codes_and_low_rank_products(kernels, m, k, options):
    from taolora_ros.kernels.quantize import quantize_reference
    case = Case(kernels, m, k, 20, 6, **options)
    weights = arranged(case)
    codes, u = prepared(case, weights, min(3, weights.blocks))
    wanted = quantize_reference(case.x, case.inverse, case.zero, len(case.scale), 32)
    assert torch.equal(codes.cpu(), wanted)
    x, inverse, a = case.x.double(), case.inverse.double(), case.a.double()
    low = -7 if case.zero is None else -case.zero
    dropped = x - (x * inverse).round().clamp(low, 7 if case.zero is None else 15 + low) / inverse
    read = torch.cat([dropped, x], 1) if len(a) > k else x
    assert error(u.sum(0).cpu().double()[:, :6], half(read) @ a) < 1.5e-5
    assert (u[:, :, 6:] == 0).all()


@pytest.mark.parametrize('m, k, n, block_m, options', [
    (70, 200, 45, 64, {'zero': 5}), (33, 96, 130, 32, {'groups': 3}),
    (17, 131, 65, 16, {'norm': True})])
def test_product_of_codes_made_before(kernels, m, k, n, block_m, options):
    from taolora_ros.kernels.linear import linear_launch
    case = Case(kernels, m, k, n, 9, **options)
    weights = arranged(case)
    codes, u = prepared(case, weights, 2, packed=False)
    gate = case.gate.to(torch.uint8).to(kernels)
    out = torch.full((m, n), torch.nan, device=kernels)
    linear_launch(codes, weights, gate, out, case.x0.to(kernels), u, gelu=True, lora=3,
                  block_m=block_m)()
    assert error(out.cpu(), case.wanted(gelu=True, add=True)) < 1.5e-5


def test_second_factor_has_whole_tiles_of_outputs_that_kernels_read(kernels):
    n = int(torch.randint(1, 300, ()))
    case = Case(kernels, 1, 40, n, 9)
    weights = arranged(case)
    weights.load_lora(case.a.to(kernels), -case.b.to(kernels))
    room = weights.b.shape[1] - n
    assert 0 <= room < 128 and (n + room) % 128 == 0  # of the largest tile
    factors = 2 * 2 * 32 * 16 * 2  # bytes of a block's A
    assert weights.code_step == factors + (n + room) * 32
    assert torch.equal(weights.b.cpu(), -F.pad(case.b, (0, room, 0, 16 - 9)))


def test_codes_made_before_have_no_low_rank_product_left_to_make(kernels):
    from taolora_ros.kernels.linear import linear_launch
    case = Case(kernels, 5, 64, 40, 3)
    weights = arranged(case)
    codes, _ = prepared(case, weights, 1, packed=False)
    gate, out = case.gate.to(torch.uint8).to(kernels), torch.empty(5, 40, device=kernels)
    with pytest.raises(ValueError, match='lora: 1, with codes made before it must be 0 or 3'):
        linear_launch(codes, weights, gate, out)
    with pytest.raises(ValueError, match='split: 2, with U made before it must be 1'):
        linear_launch(codes, weights, gate, out, lora=3, split=2)


@pytest.mark.parametrize('m, k, n, options', [
    (1, 200, 45, {'zero': 5}), (3, 96, 33, {'groups': 3}),
    (2, 64, 7, {'groups': 2, 'shift': True})])
def test_product_for_few_rows(kernels, m, k, n, options):
    from taolora_ros.kernels.gemv import gemv_launch
    case = Case(kernels, m, k, n, 9, **options)
    weights = arranged(case)
    codes, u = prepared(case, weights, 2 if weights.blocks > 1 else 1)
    gate = case.gate.to(torch.uint8).to(kernels)
    out = torch.full((m, n), torch.nan, device=kernels)
    gemv_launch(codes, weights, gate, out, u, case.x0.to(kernels), gelu=True)()
    assert error(out.cpu(), case.wanted(gelu=True, add=True)) < 1.5e-5
    if 'groups' not in options:
        case.scale, case.bias = torch.ones_like(case.scale), torch.zeros_like(case.bias)
        gemv_launch(codes, arranged(case), gate, out)()
        q = (case.x * case.inverse).round().clamp(-case.zero, 15 - case.zero).long()
        assert torch.equal(out.cpu().long(), q @ case.codes.long())


def test_product_with_a_low_rank_part_computed_before(kernels):
    case = Case(kernels, 19, 150, 40, 12)
    weights = arranged(case)
    assert error(case.run(weights.tiles, lora=3, u=prepared(case, weights, 2)[1]),
                 case.wanted()) < 1.5e-5


def test_join_of_two_streams(kernels):
    from taolora_ros.kernels.join import join_launch, join_reference
    steady, b = torch.randn(21, 37), torch.randn(16, 37).half()
    u = half(torch.randn(2, 21, 16))  # float32 holds their sum: it is rounded alike
    gate = torch.rand(21) < 0.5
    x0, out = torch.randn(21, 37), torch.full((21, 37), torch.nan, device=kernels)
    wanted = join_reference(steady.double(), u.double(), b.double(), gate.double(), True) + x0
    steady, u, b, x0 = (t.to(kernels) for t in (steady, u, b, x0))
    join_launch(steady, u, b, gate.to(torch.uint8).to(kernels), out, x0, gelu=True)()
    assert error(out.cpu(), wanted) < 1.5e-5
