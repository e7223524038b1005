"""Rounding of scales and LoRA to what files hold: against float64, and once is enough."""

import numpy as np
import pytest
import torch

from taolora_ros.storage import (code_lora, code_scale, decode_lora, decode_scale, round_lora,
                                 round_scale)


def factors(k=37, n=29, rank=5, parts=2):
    x_inv = torch.rand(k) * 3 + 0.2
    a = torch.randn(parts * k, rank) * x_inv.repeat(parts)[:, None] * (0.1 + torch.rand(rank))
    return a, torch.randn(rank, n), x_inv


@pytest.mark.parametrize('parts', [1, 2])
@pytest.mark.parametrize('bits, most', [(16, 0.001), (8, 0.02), (4, 0.25)])
def test_rounded_factors_are_near_and_stay_what_they_are(bits, most, parts):
    a, b, x_inv = factors(parts=parts)
    once = round_lora(a, b, x_inv, bits)
    for wanted, got in zip((a, b), once):
        assert float((got - wanted).double().norm() / wanted.double().norm()) < most
    for first, second in zip(once, round_lora(*once, x_inv, bits)):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=0)


@pytest.mark.parametrize('bits, largest', [(8, 127), (4, 7)])
def test_codes_stand_for_what_is_decoded(bits, largest):
    a, b, x_inv = factors()
    stored = code_lora(a, b, x_inv, bits)
    got_a, got_b = decode_lora(stored, x_inv, 29, 2, bits)
    codes = stored['lora_b'] if bits == 8 else torch.cat(
        [(stored['lora_b'].view(torch.int8) << 4) >> 4, stored['lora_b'].view(torch.int8) >> 4])
    codes = codes[:29].numpy().astype(np.float64)
    assert np.abs(codes).max() <= largest
    wanted = (codes * stored['lora_b_scale'].double().numpy()).T
    assert np.allclose(got_b.double().numpy(), wanted, rtol=1e-6)
    for got, rounded in zip((got_a, got_b), round_lora(a, b, x_inv, bits)):
        assert torch.equal(got, rounded)


@pytest.mark.parametrize('bits', [32, 16, 8])
def test_scales_come_back_as_they_were_rounded(bits):
    scale = torch.exp(torch.randn(51) * 3).clamp(1e-4, 6e4)  # what float16 holds as normal numbers
    rounded = round_scale(scale, bits)
    assert torch.equal(decode_scale(code_scale(rounded, bits)), rounded)
    assert float((rounded / scale).log2().abs().max()) <= 0.5001
    if bits == 8:
        assert torch.equal(rounded.log2(), rounded.log2().round())


def test_a_branch_of_zeros_stays_one():
    a, b = round_lora(torch.zeros(8, 3), torch.zeros(3, 5), torch.ones(8), 4)
    assert not a.any() and not b.any()
