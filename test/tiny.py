"""A model small enough to make in a test: random weights, both precisions, real files."""

import dataclasses

import numpy as np
import torch

from taolora_ros.features import feature_names
from taolora_ros.model_file import save_model
from taolora_ros.network import TaoNetwork
from taolora_ros.recordings import Recording
from taolora_ros.spec import IMU_FALLS, ModelSpec, NetworkSpec
from taolora_ros.training.calibration import QuantizeOptions, quantize_network
from taolora_ros.training.corpus import build_corpus
from taolora_ros.training.windows import Batch


PLAIN = {'rank': 3, 'lora_bits': 16, 'scale_bits': 32}  # what files of version 1 hold


def tiny_spec(spec: ModelSpec = IMU_FALLS) -> ModelSpec:
    """Return ``spec`` with a network of a few thousand weights."""
    return dataclasses.replace(spec, tokens=16, delay=0.4, network=NetworkSpec(
        width=24, heads=3, kernel=5, mlp=2, bottleneck=3, blocks=('conv', 'attention')))


def tiny_batch(spec: ModelSpec, windows: int = 24, seed: int = 0) -> Batch:
    """Return random windows that are louder where the gate is open."""
    g = torch.Generator().manual_seed(seed)
    gates = torch.rand(windows, spec.tokens, generator=g) < 0.3
    x = torch.randn(windows, spec.window, len(feature_names(spec)), generator=g)
    x = x * (1 + 6 * gates.repeat_interleave(spec.patch, 1))[..., None]
    return Batch(x, gates, None, None)


def tiny_models(folder, spec: ModelSpec | None = None, seed: int = 0, **options):
    """Write a full-precision and an INT4 model; return the path of the INT4 one."""
    spec = spec or tiny_spec()
    torch.manual_seed(seed)
    network = TaoNetwork(spec).eval()
    path = folder / 'tiny.safetensors'
    scale = torch.ones(network.features)
    save_model(folder / 'tiny.fp32.safetensors', spec, network, scale, {'made': 'by a test'}, {})
    quantized = quantize_network(network, tiny_batch(spec), QuantizeOptions(**{**PLAIN, **options}))
    save_model(path, spec, quantized, scale, {'made': 'by a test'}, {})
    return path


def imu_recording(subject, is_fall, seconds=14.0, rate=80.0, seed=0):
    random = np.random.default_rng(seed)
    values = random.normal(0, 0.1, (int(seconds * rate), 6))
    values[:, 2] += 9.81
    if is_fall:
        at = int(7.0 * rate)
        values[at:at + 8, :3] *= 6
    return Recording(name=f'{subject}-{seed}', subject=subject, source='made', kind='imu',
                     rate=rate, values=values, is_fall=is_fall,
                     fall_time_s=7.0 if is_fall else None, code='F01' if is_fall else 'D01')


def imu_corpus(spec):
    return build_corpus(spec, [imu_recording(f's{i % 3}', i % 2 == 0, seed=i) for i in range(6)])
