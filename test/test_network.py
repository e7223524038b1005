import dataclasses

import numpy as np
import pytest
import torch

from taolora_ros.network import TaoNetwork, rotary_table, rotate
from taolora_ros.spec import ECG_BEATS, IMU_FALLS, OFFSET_MARGIN, NetworkSpec

SMALL = NetworkSpec(width=24, heads=3, kernel=5, mlp=2, bottleneck=3)


def small(spec=ECG_BEATS):
    torch.manual_seed(5)
    return TaoNetwork(dataclasses.replace(spec, tokens=13, network=SMALL)).eval()


@pytest.mark.parametrize('spec', [ECG_BEATS, IMU_FALLS])
def test_shapes(spec):
    network = small(spec)
    x = torch.randn(3, 13 * spec.patch, network.features)
    logits, offset, rebuilt = network(x)
    assert logits.shape == (3, 13, len(spec.classes))
    assert offset.shape == (3, 13)
    assert bool(((offset > -OFFSET_MARGIN) & (offset < 1 + OFFSET_MARGIN)).all())
    assert rebuilt.shape == network.patches(x).shape


def test_windows_of_a_batch_do_not_see_each_other():
    network = small()
    x = torch.randn(5, 13 * ECG_BEATS.patch, 1)
    with torch.inference_mode():
        together = network(x)[0]
        alone = torch.cat([network(w[None])[0] for w in x])
    assert torch.allclose(together, alone, atol=1e-5)


def test_every_token_sees_the_whole_window():
    network = small()
    x = torch.randn(1, 13 * ECG_BEATS.patch, 1, requires_grad=True)
    network(x)[0][0, 6].sum().backward()
    per_patch = x.grad.view(13, ECG_BEATS.patch).abs().sum(1)
    assert bool((per_patch > 0).all())


def test_rotation_keeps_length_and_depends_on_distance_only():
    cos, sin = rotary_table(40, 8, torch.device('cpu'))
    q, k = torch.randn(8), torch.randn(8)
    q, k = q / q.norm(), k / k.norm()
    turned_q, turned_k = rotate(q.expand(40, 8), cos, sin), rotate(k.expand(40, 8), cos, sin)
    assert torch.allclose(turned_q.norm(dim=1), torch.ones(40), atol=1e-5)
    products = (turned_q @ turned_k.T).numpy()
    for distance in (0, 3, 17):
        assert np.ptp(np.diagonal(products, distance)) < 1e-4


def test_patches_hold_their_samples_in_order():
    network = small(IMU_FALLS)
    x = torch.arange(13 * 4 * 8.0).view(1, 13 * 4, 8)
    assert torch.equal(network.patches(x)[0, 2].view(4, 8), x[0, 8:12])


def test_unknown_block_is_named():
    spec = dataclasses.replace(ECG_BEATS, network=dataclasses.replace(SMALL, blocks=('lstm',)))
    with pytest.raises(ValueError, match='lstm'):
        TaoNetwork(spec)
