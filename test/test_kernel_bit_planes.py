"""The product by bit planes on fresh random numbers, odd sizes; its integers bit by bit."""

import pytest
import torch

from taolora_ros.quantization import quantize_activation
from test_kernel_few_rows import arranged, prepared
from test_kernel_linear import Case, error


def random_between(low, high):
    return int(torch.randint(low, high + 1, ()))


def run(case, with_low_rank=True, **options):
    """Return what the kernel makes (M, N), poisoned before."""
    from taolora_ros.kernels.bit_planes import bit_planes_launch, bit_weights
    weights = arranged(case)
    codes, u = prepared(case, weights, 2 if weights.blocks > 1 else 1)
    gate = case.gate.to(torch.uint8).to(case.device)
    out = torch.full(case.x0.shape, torch.nan, device=case.device)
    bit_planes_launch(codes, bit_weights(weights), gate, out, u if with_low_rank else None,
                      **options)()
    return out.cpu()


@pytest.mark.parametrize('k', [1, 31, 63, 65, 333, 1100])
@pytest.mark.parametrize('zero', [None, 0, 5, 15])
def test_integers_are_exact(kernels, k, zero):
    from taolora_ros.kernels.bit_planes import bit_planes_reference
    case = Case(kernels, random_between(1, 4), k, random_between(1, 150), 3, zero=zero)
    case.codes = torch.randint(-8, 8, case.codes.shape, dtype=torch.int8)
    case.scale, case.bias = torch.ones_like(case.scale), torch.zeros_like(case.bias)
    q = quantize_activation(case.x, case.inverse, zero).long()
    wanted = q @ case.codes.long()
    assert torch.equal(run(case, with_low_rank=False).long(), wanted)
    assert torch.equal(bit_planes_reference(q, case.codes, zero), wanted)


def test_words_whose_bits_are_all_set_are_counted(kernels):
    case = Case(kernels, 1, 331, 40, 3, zero=5)
    case.x, case.codes = torch.full_like(case.x, 100.0), torch.full_like(case.codes, -1)
    case.scale, case.bias = torch.ones_like(case.scale), torch.zeros_like(case.bias)
    assert (run(case, with_low_rank=False) == -10 * 331).all()


@pytest.mark.parametrize('block_n', [16, 32, 128])
@pytest.mark.parametrize('options', [{}, {'zero': 5}, {'norm': True}, {'shift': True}])
def test_layer_is_that_of_float64(kernels, options, block_n):
    case = Case(kernels, random_between(1, 4), random_between(20, 300), random_between(1, 150), 9,
                **options)
    got = run(case, residual=case.x0.to(kernels), gelu=True, block_n=block_n)
    assert error(got, case.wanted(gelu=True, add=True)) < 1.5e-5


def test_groups_of_inputs_are_refused(kernels):
    from taolora_ros.kernels.bit_planes import bit_weights
    with pytest.raises(ValueError, match='groups: 3, bit planes take one scale for each output'):
        bit_weights(arranged(Case(kernels, 1, 96, 33, 3, groups=3)))
