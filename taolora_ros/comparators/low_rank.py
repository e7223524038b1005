"""Fits of a low-rank branch A (K, r), B (r, N) to what rounding W (K, N) lost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def svd(residual: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A = U_r S_r^1/2 and B = S_r^1/2 V_r^T: the nearest matrix of that rank."""
    u, s, v = torch.linalg.svd(residual.double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(residual.dtype), (root[:, None] * v[:rank]).to(residual.dtype)


def l2qer(residual: Tensor, x: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Weigh the residual by how large each input is (Zhang et al. 2024, LQER).

    s_j = mean |x_j|, divided by its geometric middle; A = diag(s)^-1 U_r, B = S_r V_r^T of the SVD
    of diag(s) (W - Q).
    """
    s = x.abs().mean(0).clamp_min(1e-6).double()
    s = s / (s.min() * s.max()).sqrt()
    u, values, v = torch.linalg.svd(s[:, None] * residual.double(), full_matrices=False)
    return (u[:, :rank] / s[:, None]).to(x.dtype), (values[:rank, None] * v[:rank]).to(x.dtype)


def eora(residual: Tensor, x: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Weigh the residual by the inputs' second moments (Liu et al. 2024, EoRA).

    X^T X = P Lambda P^T; SVD of Lambda^1/2 P^T (W - Q); A = P Lambda^-1/2 U_r, B = S_r V_r^T.
    """
    values, p = torch.linalg.eigh(x.double().T @ x.double())
    root = values.clamp_min(1e-6 * values[-1]).sqrt()
    u, s, v = torch.linalg.svd(root[:, None] * (p.T @ residual.double()), full_matrices=False)
    return (p @ (u[:, :rank] / root[:, None])).to(x.dtype), (s[:rank, None] * v[:rank]).to(x.dtype)


def loftq(w: Tensor, rank: int, quantize: Callable[[Tensor], tuple[Tensor, int]], rounds: int = 5
          ) -> tuple[Tensor, int, tuple[Tensor, Tensor]]:
    """Alternate between rounding and the branch (Li et al. 2023, LoftQ).

    Q = q(W - A B); A, B = SVD_r(W - Q). Return Q, its bytes and the branch.
    """
    branch = (w.new_zeros(len(w), rank), w.new_zeros(rank, w.shape[1]))
    for _ in range(rounds):
        q, size = quantize(w - branch[0] @ branch[1])
        branch = svd(w - q, rank)
    return q, size, branch
