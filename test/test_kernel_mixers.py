"""Attention, convolution, embedding and heads on fresh random numbers, odd sizes, in float64."""

import pytest
import torch

from taolora_ros.network import rotary_table
from taolora_ros.spec import OFFSET_MARGIN


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(torch.seed() % 2 ** 31))


def check(launch, outputs, wanted, limit=1e-5):
    """Run a launch into poisoned outputs and compare with what float64 gives."""
    for out in outputs:
        out.fill_(torch.nan)
    launch()
    for out, right in zip(outputs, wanted):
        out = out.cpu().double().reshape(right.shape)
        assert float((out - right).norm() / right.norm()) < limit


@pytest.mark.parametrize('windows, tokens, heads, size', [(2, 64, 2, 32), (3, 23, 3, 6),
                                                          (1, 5, 1, 10)])
def test_attention(kernels, windows, tokens, heads, size):
    from taolora_ros.kernels.attention import attention_launch, attention_reference
    qkv, out = 2 * random(windows * tokens, 3 * heads * size), random(windows * tokens,
                                                                      heads * size)
    table = rotary_table(tokens, size, torch.device('cpu'))
    wanted = attention_reference(qkv.double(), *(t.double() for t in table), heads)
    out = out.to(kernels)
    launch = attention_launch(qkv.to(kernels), *(t.to(kernels) for t in table), out, heads)
    check(launch, [out], [wanted])


@pytest.mark.parametrize('windows, tokens, width, taps', [(2, 64, 128, 17), (3, 19, 37, 5),
                                                          (1, 2, 16, 9)])
def test_convolution(kernels, windows, tokens, width, taps):
    from taolora_ros.kernels.convolution import convolution_launch, convolution_reference
    inner, weight, bias = random(windows * tokens, 2 * width), random(taps, width), random(width)
    wanted = convolution_reference(inner.double(), weight.double(), bias.double(), tokens)
    for tile in ({}, {'block_m': 2, 'block_d': 32, 'warps': 1}):
        out = torch.full((windows * tokens, width), torch.nan, device=kernels)
        check(convolution_launch(*(t.to(kernels) for t in (inner, weight, bias)), out, tokens,
                                 **tile), [out], [wanted])
    with pytest.raises(ValueError, match='odd'):
        convolution_launch(inner, weight[1:], bias, out, tokens)


@pytest.mark.parametrize('rows, size, width', [(64, 16, 128), (37, 30, 70)])
def test_embedding(kernels, rows, size, width):
    from taolora_ros.kernels.patches import patches_launch, patches_reference
    numbers = random(rows, size), random(size, width), random(width)
    wanted = patches_reference(*(t.double() for t in numbers))
    out = torch.empty(rows, width, device=kernels)
    check(patches_launch(*(t.to(kernels) for t in numbers), out), [out], [wanted])


@pytest.mark.parametrize('windows, tokens, width, classes, narrow, features, samples', [
    (2, 64, 128, 5, 8, 1, 16), (3, 11, 42, 2, 3, 8, 3), (1, 18, 150, 3, 4, 2, 5)])
def test_heads(kernels, windows, tokens, width, classes, narrow, features, samples):
    from taolora_ros.kernels import heads
    columns, size = classes + 1 + narrow, features * samples
    weight2 = random(columns, size)
    weight2[:classes + 1] = 0
    numbers = (random(windows * tokens, width) + 1, random(windows, tokens * size),
               random(width, columns) / 6, weight2,
               random(2 * width),
               torch.cat([random(columns + size), 0.5 + torch.rand(features)]))
    wanted = heads.heads_reference(*(t.double() for t in numbers), tokens, classes, features)
    outputs = [torch.empty(*shape, device=kernels) for shape in (
        (windows, tokens, classes), (windows, tokens), (windows, features),
        (windows * tokens, width))]
    check(heads.heads_launch(*(t.to(kernels) for t in numbers), *outputs), outputs, wanted)
    assert heads.MARGIN.value == OFFSET_MARGIN
