"""Whether a model's description makes sense: files come from anywhere.

What passes here can be allocated, filtered, gated and decoded; nothing later has to ask.
"""

from __future__ import annotations

import math

from taolora_ros.features import ECG_BAND
from taolora_ros.settings import Settings
from taolora_ros.spec import ModelSpec

MOST_WEIGHTS = 2**28    # in one network
LONGEST_WINDOW = 2**16  # samples
RATES = (1.0, 1e5)      # Hz
STRONGEST_BIAS = 50.0   # logits: a probability of 1e-22
MOST_ALIKE = 2**12      # beats
CHANNELS = {'imu': 6, 'ecg': 1}


def check_spec(spec: ModelSpec) -> None:
    """Raise ValueError naming the first field that cannot be."""
    _check_names(spec)
    _check_network(spec)
    _check_times(spec)
    _check_gate(spec)
    _check_bias(spec)
    _check_alike(spec)
    try:
        Settings.default(spec).validate(spec)
    except ValueError as error:
        raise ValueError(f'spec: {error}') from error


def _check_names(spec: ModelSpec) -> None:
    for field in ('name', 'version', 'kind'):
        if not isinstance(getattr(spec, field), str):
            raise ValueError(f'spec: {field} = {getattr(spec, field)!r:.60} must be text')
    for field in ('labels', 'classes', 'channels', 'units', 'optional'):
        names = getattr(spec, field)
        if not all(isinstance(name, str) for name in names) or len(names) > 64:
            raise ValueError(f'spec: {field} = {names!r:.60} must be names')
    if spec.kind not in CHANNELS:
        raise ValueError(f"spec: kind {spec.kind!r:.60} must be 'imu' or 'ecg'")
    if len(spec.channels) != CHANNELS[spec.kind] or len(spec.units) != len(spec.channels):
        raise ValueError(f'spec: {len(spec.channels)} channels with {len(spec.units)} units, '
                         f'{spec.kind} has {CHANNELS[spec.kind]} of each')
    if not set(spec.optional) < set(spec.channels):
        raise ValueError(f'spec: optional {spec.optional!r:.60} must be some of the channels')
    if len(spec.classes) < 2 or not spec.labels:
        raise ValueError('spec: at least two classes and one label are needed')
    if spec.kind == 'imu' and not set(spec.labels) <= set(spec.classes):
        raise ValueError(f'spec: labels {spec.labels!r:.60} must be among the classes')
    if spec.kind == 'ecg' and len(spec.labels) != 2:
        raise ValueError(f'spec: {len(spec.labels)} labels, ecg has those of beat and veb')


def _check_network(spec: ModelSpec) -> None:
    """Refuse shapes no model file could hold, before anything is allocated."""
    n = spec.network
    whole = {'patch': spec.patch, 'tokens': spec.tokens, 'width': n.width, 'heads': n.heads,
             'kernel': n.kernel, 'mlp': n.mlp, 'bottleneck': n.bottleneck}
    for name, value in whole.items():
        if type(value) is not int or not 1 <= value <= 4096:
            raise ValueError(f'spec: {name} = {value!r:.60} must be a whole number in 1..4096')
    if not 1 <= len(n.blocks) <= 64 or n.width % (2 * n.heads) or n.kernel % 2 == 0:
        raise ValueError('spec: blocks must be 1..64, width a multiple of 2 * heads, kernel odd')
    if n.mlp * n.width ** 2 * len(n.blocks) > MOST_WEIGHTS:
        raise ValueError('spec: the network is larger than a model file may be')
    if not 8 <= spec.window <= LONGEST_WINDOW:
        raise ValueError(f'spec: a window of {spec.window} samples, 8 to {LONGEST_WINDOW} can be')


def _check_times(spec: ModelSpec) -> None:
    for name in ('rate', 'hop', 'delay', 'refractory'):
        _number(name, getattr(spec, name), 0.0)
    if not RATES[0] <= spec.rate <= RATES[1]:
        raise ValueError(f'spec: rate {spec.rate} lies outside {RATES[0]:g} to {RATES[1]:g} Hz')
    if spec.kind == 'ecg' and spec.rate <= 2 * ECG_BAND[1]:
        raise ValueError(f'spec: rate {spec.rate} Hz is too low for an ECG up to {ECG_BAND[1]} Hz')


def _check_gate(spec: ModelSpec) -> None:
    gate = spec.gate
    for name in ('variance', 'curvature', 'hf_energy', 'cutoff', 'memory', 'floor'):
        _number(f'gate.{name}', getattr(gate, name), 1e-9)
    if gate.cutoff >= spec.rate / 2:
        raise ValueError(f'spec: gate.cutoff {gate.cutoff} Hz is not below half the rate')
    if type(gate.dilation) is not int or not 0 <= gate.dilation <= spec.tokens:
        raise ValueError(f'spec: gate.dilation = {gate.dilation!r:.60} must be in 0..tokens')


def _check_bias(spec: ModelSpec) -> None:
    if len(spec.bias) not in (0, len(spec.labels)):
        raise ValueError(f'spec: {len(spec.bias)} biases for {len(spec.labels)} labels')
    for bias in spec.bias:
        _number('bias', bias, -STRONGEST_BIAS, STRONGEST_BIAS)


def _check_alike(spec: ModelSpec) -> None:
    most = MOST_ALIKE if spec.kind == 'ecg' else 0
    if type(spec.alike) is not int or not 0 <= spec.alike <= most:
        raise ValueError(f'spec: alike = {spec.alike!r:.60} must be in 0..{most} ({spec.kind})')


def _number(name: str, value, low: float, high: float = 1e9) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (good and math.isfinite(value) and low <= value <= high):
        raise ValueError(f'spec: {name} = {value!r:.60} must be a number from {low:g} to {high:g}')
