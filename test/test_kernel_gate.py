"""The gate on the GPU opens for the same patches as the one that streams are judged by."""

import dataclasses

import numpy as np
import pytest
import torch

from taolora_ros.features import feature_names
from taolora_ros.gate import Gate
from taolora_ros.spec import ECG_BEATS, IMU_FALLS, GateSpec

TOUCHY = GateSpec(variance=3.0, curvature=6.0, hf_energy=6.0, cutoff=5.0, memory=2.0)


def bursts(streams, samples, count, seed):
    """Return noise (S, n, F) that is louder now and then, with another offset each stream."""
    rng = np.random.default_rng(seed)
    loud = 1 + 5 * (rng.random((streams, -(-samples // 40), 1)) < 0.25)
    noise = rng.standard_normal((streams, samples, count)) * 0.1
    return (noise * loud.repeat(40, 1)[:, :samples] + np.arange(streams)[:, None, None]).astype(
        np.float32)


@pytest.mark.parametrize('spec, streams, chunks', [(IMU_FALLS, 2, (13, 1, 30)),
                                                   (ECG_BEATS, 3, (9, 7))])
def test_flags_are_those_of_the_gate(kernels, spec, streams, chunks):
    from taolora_ros.kernels.gate import gate_constants, gate_launch, gate_state
    spec = dataclasses.replace(spec, patch=4, gate=TOUCHY)
    features = bursts(streams, 4 * sum(chunks), len(feature_names(spec)), seed=len(chunks))
    wanted = np.stack([Gate(spec).push(one) for one in features])
    constants, state = gate_constants(spec, kernels), gate_state(spec, streams, kernels)
    found, first = [], 0
    for patches in chunks:
        part = torch.as_tensor(features[:, first:first + 4 * patches]).contiguous().to(kernels)
        flags = torch.full((streams, patches), 7, dtype=torch.uint8, device=kernels)
        gate_launch(part, state, constants, flags)()
        found.append(flags.cpu().numpy())
        first += 4 * patches
    found = np.concatenate(found, 1)
    assert 0.1 < wanted.mean() < 0.9
    assert set(found.ravel()) == {0, 1}
    assert np.array_equal(found.astype(bool), wanted)


def test_half_a_patch_is_refused(kernels):
    from taolora_ros.kernels.gate import gate_constants, gate_launch, gate_state
    features = torch.zeros(1, 9, 8, device=kernels)
    with pytest.raises(ValueError, match='9 samples are not 2 whole patches'):
        gate_launch(features, gate_state(IMU_FALLS, 1, kernels),
                    gate_constants(IMU_FALLS, kernels),
                    torch.zeros(1, 2, dtype=torch.uint8, device=kernels))
