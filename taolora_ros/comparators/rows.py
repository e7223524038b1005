"""The rows of the comparison: how each network is made, and how its gate is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from taolora_ros.comparators import methods
from taolora_ros.comparators.calibration import Calibration, replace_layers, tune_branches
from taolora_ros.comparators.variants import tao, tao_svd, tao_tuned
from taolora_ros.network import TaoNetwork

Make = Callable[[Calibration], TaoNetwork]
WIDER = 2  # compact variants: times the rank


@dataclass(frozen=True)
class Row:
    """One line of a table: ``gate`` is 'auto', 'open' or 'closed', as the detector's setting.

    ``gated`` says whether there is a gate at all, ``exact`` that nothing is below 32 bits.
    """

    method: str
    make: Make
    gate: str = 'auto'
    gated: bool = True
    exact: bool = False


def layerwise(method: str, make, exact: bool = False) -> Row:
    """Return the row of a method that makes each layer by itself, without a gate."""
    return Row(method, lambda calibration: replace_layers(
        calibration, make, calibration.options.rank, exact), gated=False, exact=exact)


def _qlora_tuned(calibration: Calibration) -> TaoNetwork:
    return tune_branches(calibration, replace_layers(calibration, methods.qlora,
                                                     calibration.options.rank))


def _compact(make: Callable, calibration: Calibration, **changes) -> TaoNetwork:
    return make(calibration, rank=WIDER * calibration.options.rank, lora_bits=4, scale_bits=16,
                **changes)


def comparators() -> list[Row]:
    """Return the methods of METHOD section 7, and ours at both ends of its gate."""
    return [
        layerwise('FP32', methods.fp32, exact=True),
        layerwise('FP16', methods.fp16),
        layerwise('mixed precision: FP16 + FP16 LoRA', methods.mixed),
        layerwise('RTN W4A16', methods.w4a16),
        layerwise('RTN W4A8', methods.w4a8),
        layerwise('RTN W4A4', methods.w4a4),
        layerwise('RTN W4A4, scale per token', methods.w4a4_dynamic),
        layerwise('QLoRA (NF4, A16), LoRA at its start', methods.qlora),
        Row('QLoRA (NF4, A16), LoRA tuned', _qlora_tuned, gated=False),
        layerwise('LoftQ (NF4, A16)', methods.loftq_nf4),
        layerwise('R-Sparse (A16)', methods.r_sparse),
        layerwise('L2QER W4A8', methods.l2qer_w4a8),
        layerwise('L2QER W4A4', methods.l2qer_w4a4),
        layerwise('EoRA W4A16', methods.eora_w4a16),
        layerwise('EoRA W4A4', methods.eora_w4a4),
        layerwise('SVDQuant W4A4', methods.svdquant),
        Row('TAO-LoRA W4A4, no LoRA', partial(tao, rank=0, scale_bits=16), 'closed'),
        Row('TAO-LoRA W4A4, no LoRA, tuned', partial(tao_tuned, rank=0, scale_bits=16), 'closed'),
        Row('TAO-LoRA W4A4, gate closed', tao, 'closed'),
        Row('TAO-LoRA W4A4', tao),
        Row('TAO-LoRA W4A4, gate open', tao, 'open'),
        Row('TAO-LoRA W4A4, tuned', tao_tuned),
        Row('TAO-LoRA W4A4, 4-bit LoRA', partial(_compact, tao)),
        Row('TAO-LoRA W4A4, 4-bit LoRA, tuned', partial(_compact, tao_tuned)),
        Row('TAO-LoRA W4A4, 4-bit LoRA, tuned with codes',
            partial(_compact, tao_tuned, codes=True)),
        Row('TAO-LoRA W4A4, 4-bit LoRA, always on', partial(_compact, tao, fit_gate=False), 'open')]


def ablation() -> list[Row]:
    """Return our layer with one thing changed at a time."""
    lora = (('none', {'rank': 0}, 'closed'), ('on X', {'buffer': 'x'}, 'auto'),
            ("on X'", {}, 'auto'))
    rows = [Row(f'clip {clip}, LoRA {name}', partial(tao, clip=clip, **changes), gate)
            for clip in ('all', 'steady', 'searched') for name, changes, gate in lora]
    rows += [Row('LoRA none, tuned', partial(tao_tuned, rank=0), 'closed'),
             Row('LoRA SVD of W - Q4(W)', tao_svd),
             Row('LoRA SVD of W - Q4(W), tuned', partial(tao_tuned, start=tao_svd)),
             Row('LoRA on X, tuned', partial(tao_tuned, buffer='x')),
             Row("LoRA on X', tuned", tao_tuned),
             Row("LoRA on X' and codes, tuned", partial(tao_tuned, codes=True)),
             Row('no channel smoothing', partial(tao, smooth=False)),
             Row('no zero point', partial(tao, zero_point=False)),
             Row('plain rounding', partial(tao, feedback=False)),
             Row('gate off', tao, 'closed'), Row('gate on', tao),
             Row('gate always, LoRA of transient tokens', tao, 'open'),
             Row('gate always, LoRA of all tokens', partial(tao, fit_gate=False), 'open')]
    rows += [Row(f'rank {rank}', partial(tao, rank=rank)) for rank in (2, 4, 8, 16)]
    rows += [Row(f'weight scales: {groups} for each output', partial(tao, groups=groups))
             for groups in (2, 4)]
    rows += [Row('scales in 16 bits', partial(tao, scale_bits=16)),
             Row('scales powers of two', partial(tao, scale_bits=8)),
             Row('LoRA in 8 bits', partial(tao, lora_bits=8)),
             Row('LoRA in 4 bits', partial(tao, lora_bits=4)),
             Row('LoRA in 4 bits, rank 16', partial(tao, lora_bits=4, rank=16)),
             Row('LoRA in 4 bits, rank 16, scales in 16 bits',
                 partial(tao, lora_bits=4, rank=16, scale_bits=16))]
    return rows
