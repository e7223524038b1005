"""Turn a trained network into INT4 plus gated LoRA, layer by layer (METHOD sections 2 and 3).

    X  (M, K) what a layer reads in the partly quantized network     Y  (M, N) what it should give
    E = Y - Q4(X) Q4(W)                                              X' = [X - Q4(X), X], or X

Layers are done in order of execution, each on the inputs that the ones before it now produce and
towards the output of the full-precision network, so that a layer also mends what was lost before
it. Per layer the clip and the smoothing are searched for the least output error *after* the
low-rank branch; weights are rounded with error feedback (Frantar et al. 2022, GPTQ).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from taolora_ros.network import TaoNetwork
from taolora_ros.quantization import (QMAX, UNSIGNED_MAX, TaoLinear, quantize_activation,
                                      quantize_weight, round_clamp)
from taolora_ros.storage import round_lora, round_scale
from taolora_ros.training.windows import Batch

SEARCH_ROWS = 6144
SMOOTHING = (0.0, 0.35, 0.6)
CLIPS = (1.0, 0.85, 0.7, 0.55, 0.42, 0.32)


@dataclass(frozen=True)
class QuantizeOptions:
    """``clip`` is 'searched', 'all' (largest value) or 'steady' (largest of ungated tokens).

    ``lora_bits`` and ``scale_bits`` are how the file keeps LoRA and scales (storage.py). Without
    ``smooth`` all channels of an input share one scale, without ``zero_point`` it is symmetric
    behind a GELU too, without ``feedback`` weights go to the nearest code; a ``rank`` of 0 leaves
    the LoRA out. The defaults made the shipped models.
    """

    rank: int = 16
    buffer: str = 'residual'
    groups: int = 1
    clip: str = 'searched'
    windows: int = 512
    ridge: float = 1e-4
    seed: int = 1
    lora_bits: int = 4
    scale_bits: int = 16
    smooth: bool = True
    zero_point: bool = True
    feedback: bool = True


@dataclass
class Candidate:
    """One way to quantize a layer's input: smoothing s (K,), clip and zero point."""

    x_inv: Tensor
    x_zero: int | None


def quantize_network(network: TaoNetwork, batch: Batch, options: QuantizeOptions,
                     report: Callable[[str, float, float], None] = lambda *_: None,
                     chosen: dict[str, Candidate] | None = None) -> TaoNetwork:
    """Return an INT4 copy of ``network`` fitted on ``batch`` (no augmentation).

    ``report`` gets each layer's name and relative output error on steady and transient tokens;
    ``chosen`` are clips and smoothings by layer that are taken as they are instead of searched.
    """
    quantized = copy.deepcopy(network)
    for parameter in quantized.parameters():
        parameter.data = parameter.data.half().float()  # as the model file keeps them
    layers = quantized.linears()
    wanted = layer_inputs(network, batch, list(layers))
    gate = batch.gates.flatten()
    for name, layer in layers.items():
        read = layer_inputs(quantized, batch, [name])[name]
        target = wanted.pop(name) @ layer.weight.T.detach()
        errors = quantize_layer(layer, read, target, gate, options, (chosen or {}).get(name))
        report(name, *errors)
    return quantized


@torch.no_grad()
def layer_inputs(network: TaoNetwork, batch: Batch, names: list[str]) -> dict[str, Tensor]:
    """Return what the named layers read, (M, K) each, when ``network`` runs ``batch``."""
    seen: dict[str, Tensor] = {}
    layers = network.linears()
    hooks = [layers[name].register_forward_pre_hook(
        lambda _, args, name=name: seen.__setitem__(name, args[0].detach())) for name in names]
    network(batch.windows, batch.gates)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def quantize_layer(layer: TaoLinear, x: Tensor, y: Tensor, gate: Tensor,
                   options: QuantizeOptions, chosen: Candidate | None = None
                   ) -> tuple[float, float]:
    """Quantize ``layer`` on inputs x (M, K), wanted outputs y (M, N) and gate (M,).

    Return the relative output error on steady and on transient tokens.
    """
    weight = layer.weight.T.detach()                                       # (K, N)
    best = chosen or _search(weight, x, y, gate, options)
    q = quantize_activation(x, best.x_inv, best.x_zero)
    codes, scale = _rounded(weight / best.x_inv[:, None], q, options)
    error = y - _steady(q, codes, scale)
    shift = error[~gate].mean(0) if bool((~gate).any()) else error.mean(0)
    reads = _reads(x, q, best, options)
    a, b = fit_branch(reads, error - shift, gate, options)
    a, b = _stored_branch(a, b, reads[gate], (error - shift)[gate], best.x_inv, options)
    left = _after(error - shift, reads, a, b, gate)
    if layer.bias is not None:
        layer.bias.copy_((layer.bias + shift).half().float())
    layer.load_int4(codes, scale, best.x_inv, best.x_zero, a, b, options.buffer)
    layer.lora_bits, layer.scale_bits = options.lora_bits, options.scale_bits
    return _relative(left, y, ~gate), _relative(left, y, gate)


def _rounded(weight: Tensor, q: Tensor, options: QuantizeOptions) -> tuple[Tensor, Tensor]:
    shift = options.scale_bits == 8
    if not options.feedback:
        return quantize_weight(weight, options.groups, shift=shift)
    return round_with_feedback(weight, q, options.groups, shift=shift)


def _search(weight: Tensor, x: Tensor, y: Tensor, gate: Tensor, options: QuantizeOptions
            ) -> Candidate:
    """Return the clip and smoothing with the least error of y (M, N) after the branch."""
    rows = torch.randperm(len(x), device=x.device)[:SEARCH_ROWS]
    best, least = None, float('inf')
    for candidate in _candidates(x, weight, gate, options):
        codes, scale = quantize_weight(weight / candidate.x_inv[:, None], options.groups,
                                       shift=options.scale_bits == 8)
        q = quantize_activation(x[rows], candidate.x_inv, candidate.x_zero)
        error = y[rows] - _steady(q, codes, scale)
        a, b = fit_branch(_reads(x[rows], q, candidate, options), error, gate[rows], options)
        left = _after(error, _reads(x[rows], q, candidate, options), a, b, gate[rows])
        if left.square().sum() < least:
            best, least = candidate, left.square().sum()
    return best


def _candidates(x: Tensor, weight: Tensor, gate: Tensor, options: QuantizeOptions
                ) -> list[Candidate]:
    """List the clips and smoothings to try for inputs x (M, K)."""
    seen = x[~gate] if options.clip == 'steady' and bool((~gate).any()) else x
    top = seen.abs().amax(0).clamp_min(1e-5)                               # (K,)
    reach = weight.abs().amax(1).clamp_min(1e-5)
    one_sided = options.zero_point and bool(-seen.min() < 0.25 * seen.max())  # after a GELU
    found = []
    for strength in SMOOTHING if options.clip == 'searched' and options.smooth else (0.0,):
        smooth = top ** strength / reach ** (strength > 0 and 1 - strength)
        smooth = smooth / smooth.log().mean().exp()
        span = seen / smooth
        for share in CLIPS if options.clip == 'searched' else (1.0,):
            if one_sided:
                low, high = -float(span.min()), float(span.max()) * share
                step = (low + high) / UNSIGNED_MAX
                x_inv, zero = 1 / (smooth * step), round(low / step)
            else:
                step = float(span.abs().max()) * share / QMAX
                x_inv, zero = 1 / (smooth * step), None
            found.append(Candidate(round_scale(x_inv, options.scale_bits), zero))
    return found


def _steady(q: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    groups = len(scale)
    weight = codes.float().view(groups, -1, codes.shape[1]) * scale[:, None]
    return q @ weight.view(codes.shape)


def _reads(x: Tensor, q: Tensor, candidate: Candidate, options: QuantizeOptions) -> Tensor:
    """Return X', what the branch reads: (M, K) or (M, 2K)."""
    return x if options.buffer == 'x' else torch.cat([x - q / candidate.x_inv, x], dim=1)


def _after(error: Tensor, reads: Tensor, a: Tensor, b: Tensor, gate: Tensor) -> Tensor:
    return error - gate[:, None] * ((reads @ a) @ b)


def _relative(error: Tensor, y: Tensor, where: Tensor) -> float:
    return float(error[where].norm() / y[where].norm().clamp_min(1e-12))


def fit_branch(reads: Tensor, error: Tensor, gate: Tensor, options: QuantizeOptions
               ) -> tuple[Tensor, Tensor]:
    """Return A, B of the best rank-r map from X' to E on gated tokens.

    Reduced-rank regression: C = (X'^T X' + eps I)^-1 X'^T E, V the leading right singular
    vectors of X' C, A = C V, B = V^T. Rank and ridge come from ``options``.
    """
    reads, error = reads[gate].double(), error[gate].double()
    if len(reads) == 0 or options.rank == 0:
        k, n = reads.shape[1], error.shape[1]
        return reads.new_zeros(k, options.rank).float(), reads.new_zeros(options.rank, n).float()
    gram = reads.T @ reads
    damp = options.ridge * gram.diagonal().mean() + options.ridge * gram.diagonal()
    c = torch.linalg.solve(gram + damp.diag(), reads.T @ error)            # (K', N)
    fitted = reads @ c
    _, vectors = torch.linalg.eigh(fitted.T @ fitted)                      # ascending
    v = vectors[:, -options.rank:].flip(1)                                 # (N, r)
    a, b = c @ v, v.T
    balance = (a.norm(dim=0) / b.norm(dim=1)).clamp_min(1e-12).sqrt()      # alike in fp16
    return (a / balance).float(), (b * balance[:, None]).float()


def _stored_branch(a: Tensor, b: Tensor, reads: Tensor, error: Tensor, x_inv: Tensor,
                   options: QuantizeOptions) -> tuple[Tensor, Tensor]:
    """Return A and B as the file keeps them; with coarse codes, B is fitted to the rounded A."""
    bits = options.lora_bits
    if bits < 16 and len(reads):
        a, _ = round_lora(a, b, x_inv, bits)
        seen = (reads @ a).double()                                        # (m, r)
        gram = seen.T @ seen
        damp = options.ridge * gram.diagonal().mean().clamp_min(1e-12)
        gram += damp * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        b = torch.linalg.solve(gram, seen.T @ error.double()).float()
    return round_lora(a, b, x_inv, bits)


def round_with_feedback(weight: Tensor, q: Tensor, groups: int, damp: float = 0.01,
                        shift: bool = False) -> tuple[Tensor, Tensor]:
    """Round ``weight`` (K, N) row by row, letting later rows absorb each row's error.

    Inputs q (M, K) are the integers the product will see. Return codes (K, N) int8 and scales
    (groups, N), as ``quantize_weight`` does.
    """
    codes, scale = quantize_weight(weight, groups, shift=shift)
    k = len(weight)
    hessian = q.double().T @ q.double()
    hessian += damp * hessian.diagonal().mean().clamp_min(1e-6) * torch.eye(k, device=q.device)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(
        torch.linalg.cholesky(hessian)), upper=True)                       # (K, K)
    left = weight.double().clone()
    for row in range(k):
        step = scale[row * groups // k].double()
        code = round_clamp(left[row] / step, -QMAX, QMAX)
        codes[row] = code.to(torch.int8)
        lost = (left[row] - code * step) / inverse[row, row]
        left[row + 1:] -= inverse[row, row + 1:, None] * lost
    return codes, scale
