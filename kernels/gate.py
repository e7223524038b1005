"""The transient detector on the GPU: `taolora_ros.gate.Gate` for many streams at once.

For each patch and feature: the variance, the energy of the second difference, the energy above a
cut-off (a second-order high-pass), their logarithms beside their own running steady scale, and one
flag with hysteresis. What is sequential stays so: one program walks along one stream, its features
side by side, in float64 as the reference does. The state stays on the device, so flags follow
samples without the host; work per sample is constant.

    features (S, n, F) float32, n a multiple of the patch P -> flags (S, n / P) uint8
    state (S, 7 F + 4) float64: 2 rows before, 2 of the filter, 3 of the steady scale; then whether
    it has begun, whether it is open, the share of open patches, and how many shaped the scale
    constants float64: b0, b1, b2, a1, a2, 2 steady states of the filter, floor**2, memory in
    patches, log of the hysteresis, STEP, MOSTLY; opening (3, F): logarithms of the thresholds

Moved at least: 4 S n F + S n / P + 2 x 8 S (7 F + 4) bytes.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from scipy import signal
from torch import Tensor

from taolora_ros.features import feature_names
from taolora_ros.gate import HYSTERESIS, MOSTLY, STEP
from taolora_ros.kernels.launch import Launch
from taolora_ros.spec import ModelSpec


@triton.jit
def over(energy, steady, opening, closing, is_open, f_ok):
    """Return how far a statistic is over its steady scale, and whether over its limit."""
    above = energy - steady
    limit = tl.where(is_open > 0.0, opening + closing, opening)
    return above, tl.max(((above >= limit) & f_ok).to(tl.int32), 0)


@triton.jit
def follow(steady, above, step, most, moves):
    """Move a steady scale."""
    held = tl.minimum(tl.maximum(above, 0.0 - most), most)
    return tl.where(moves, steady + step * held, steady)


@triton.jit(do_not_specialize=['patches'])
def gate_kernel(features, state, constants, flags, patches, F: tl.constexpr, P: tl.constexpr,
                BF: tl.constexpr):
    """Walk along one stream."""
    stream = tl.program_id(0)
    f = tl.arange(0, BF)
    ok = f < F
    state += stream * (7 * F + 4)
    features += stream * patches * P * F
    b0, b1, b2 = tl.load(constants), tl.load(constants + 1), tl.load(constants + 2)
    a1, a2 = tl.load(constants + 3), tl.load(constants + 4)
    floor, memory = tl.load(constants + 7), tl.load(constants + 8)
    closing, most, mostly = (tl.load(constants + 9), tl.load(constants + 10),
                             tl.load(constants + 11))
    limits = constants + 12 + f
    limit0 = tl.load(limits, mask=ok, other=0.0)
    limit1 = tl.load(limits + F, mask=ok, other=0.0)
    limit2 = tl.load(limits + 2 * F, mask=ok, other=0.0)
    begun, is_open = tl.load(state + 7 * F), tl.load(state + 7 * F + 1)
    share, seen = tl.load(state + 7 * F + 2), tl.load(state + 7 * F + 3)
    # As if the first row had always been there.
    first = tl.load(features + f, mask=ok, other=0.0).to(tl.float64)
    is_new = begun == 0.0
    before2 = tl.where(is_new, first, tl.load(state + f, mask=ok, other=0.0))
    before1 = tl.where(is_new, first, tl.load(state + F + f, mask=ok, other=0.0))
    z0 = tl.where(is_new, first * tl.load(constants + 5),
                  tl.load(state + 2 * F + f, mask=ok, other=0.0))
    z1 = tl.where(is_new, first * tl.load(constants + 6),
                  tl.load(state + 3 * F + f, mask=ok, other=0.0))
    steady0 = tl.load(state + 4 * F + f, mask=ok, other=0.0)
    steady1 = tl.load(state + 5 * F + f, mask=ok, other=0.0)
    steady2 = tl.load(state + 6 * F + f, mask=ok, other=0.0)
    for patch in range(patches):
        total, bends, highs = first * 0.0, first * 0.0, first * 0.0
        row = features + patch * P * F + f
        for i in range(P):
            x = tl.load(row + i * F, mask=ok, other=0.0).to(tl.float64)
            total += x
            bend = x - (before1 + before1) + before2
            bends += bend * bend
            high = b0 * x + z0
            z0 = b1 * x - a1 * high + z1
            z1 = b2 * x - a2 * high
            highs += high * high
            before2, before1 = before1, x
        mean, spread = total / P, first * 0.0
        for i in range(P):
            away = tl.load(row + i * F, mask=ok, other=0.0).to(tl.float64) - mean
            spread += away * away
        log0, log1 = tl.log(spread / P + floor), tl.log(bends / P + floor)
        log2 = tl.log(highs / P + floor)
        starts = begun == 0.0
        steady0 = tl.where(starts, log0, steady0)
        steady1 = tl.where(starts, log1, steady1)
        steady2 = tl.where(starts, log2, steady2)
        begun = begun * 0.0 + 1.0
        above0, over0 = over(log0, steady0, limit0, closing, is_open, ok)
        above1, over1 = over(log1, steady1, limit1, closing, is_open, ok)
        above2, over2 = over(log2, steady2, limit2, closing, is_open, ok)
        any_over = (over0 + over1 + over2) > 0
        is_open = any_over.to(tl.float64)
        share += (is_open - share) / memory
        moves = (is_open == 0.0) | (share > mostly)
        seen += moves.to(tl.float64)
        step = 1.0 / tl.minimum(memory, seen + 1.0)
        steady0 = follow(steady0, above0, step, most, moves)
        steady1 = follow(steady1, above1, step, most, moves)
        steady2 = follow(steady2, above2, step, most, moves)
        tl.store(flags + stream * patches + patch, any_over.to(tl.uint8))
    tl.store(state + f, before2, mask=ok)
    tl.store(state + F + f, before1, mask=ok)
    tl.store(state + 2 * F + f, z0, mask=ok)
    tl.store(state + 3 * F + f, z1, mask=ok)
    tl.store(state + 4 * F + f, steady0, mask=ok)
    tl.store(state + 5 * F + f, steady1, mask=ok)
    tl.store(state + 6 * F + f, steady2, mask=ok)
    tl.store(state + 7 * F, begun)
    tl.store(state + 7 * F + 1, is_open)
    tl.store(state + 7 * F + 2, share)
    tl.store(state + 7 * F + 3, seen)


def gate_constants(spec: ModelSpec, device: torch.device) -> Tensor:
    """Return the constants of a model's gate; its thresholds may be replaced in place."""
    sos = signal.butter(2, spec.gate.cutoff, 'highpass', fs=spec.rate, output='sos')
    b0, b1, b2, _, a1, a2 = sos[0]
    thresholds = np.log([spec.gate.variance, spec.gate.curvature, spec.gate.hf_energy])
    numbers = [b0, b1, b2, a1, a2, *signal.sosfilt_zi(sos)[0], spec.gate.floor ** 2,
               spec.gate.memory * spec.rate / spec.patch, np.log(HYSTERESIS), STEP, MOSTLY]
    return torch.tensor([*numbers, *np.repeat(thresholds, len(feature_names(spec)))],
                        dtype=torch.float64, device=device)


def gate_state(spec: ModelSpec, streams: int, device: torch.device) -> Tensor:
    """Return the state (S, 7 F + 4) of streams that have not begun."""
    return torch.zeros(streams, 7 * len(feature_names(spec)) + 4, dtype=torch.float64,
                       device=device)


def gate_launch(features: Tensor, state: Tensor, constants: Tensor, flags: Tensor) -> Launch:
    """Return the launch that judges features (S, n, F) into flags (S, n / P) and moves state."""
    streams, samples, count = features.shape
    patches = flags.shape[1]
    if patches == 0 or samples % patches:
        raise ValueError(f'features: {samples} samples are not {patches} whole patches')
    return Launch(gate_kernel, (streams,), {
        'features': features, 'state': state, 'constants': constants, 'flags': flags,
        'patches': patches}, {'F': count, 'P': samples // patches,
                              'BF': triton.next_power_of_2(count)}, warps=1)
