"""Q4 factors: the low-rank factors of a layer in four bits with scales (METHOD section 6).

    A (K, r), B (r, N) float32    codes in -7..7, two to a byte, one float16 scale for ``GROUP``
                                  numbers of a column of A or a row of B, one power of two for each
                                  column or row (the float16 scales could not hold the small ones)

A group's scale is the one of a few shrunken ranges with the least squared error (quantization.py,
as for the weights). 32 numbers take 16 bytes and their scale 2: factors are 7.1 times smaller than
in float32; 6.9 KB in place of 49 KB at 768 inputs and outputs, rank 8. Of numbers drawn from a
normal distribution each factor comes back with an error of 9 % of its norm, the product A B of
13 %: enough to carry much of what was learnt over a thin line, not to go on learning from, which
is why checkpoints keep float16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from taolora_ros.quantization import pack_int4, quantize_weight, unpack_int4

GROUP = 32


@dataclass(frozen=True)
class Q4Columns:
    """A matrix (size, r): codes (ceil(size / 2), r) uint8, scales (groups, r) float16, powers (r,).
    """

    size: int
    codes: np.ndarray
    scales: np.ndarray
    powers: np.ndarray

    @property
    def nbytes(self) -> int:
        """Return how many bytes it takes."""
        return self.codes.nbytes + self.scales.nbytes + self.powers.nbytes

    def unpack(self) -> np.ndarray:
        """Return (size, r) float32."""
        codes = unpack_int4(torch.from_numpy(self.codes), self.size).numpy().astype(np.float32)
        scales = np.ldexp(self.scales.astype(np.float32), self.powers.astype(np.int32))
        return codes * np.repeat(scales, GROUP, axis=0)[:self.size]


@dataclass(frozen=True)
class Q4Factors:
    """A and B in four bits."""

    a: Q4Columns
    b: Q4Columns  # of B transposed

    @property
    def nbytes(self) -> int:
        """Return how many bytes codes, scales and powers take."""
        return self.a.nbytes + self.b.nbytes

    def unpack(self) -> tuple[np.ndarray, np.ndarray]:
        """Return A (K, r) and B (r, N) float32, as rounded."""
        return self.a.unpack(), np.ascontiguousarray(self.b.unpack().T)


def pack_factors(a: np.ndarray, b: np.ndarray) -> Q4Factors:
    """Round A (K, r) and B (r, N) to four bits.

    Raise ValueError when their ranks differ or a value is not finite.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f'factors: {a.shape} and {b.shape}, expected (K, r) and (r, N)')
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError('factors: a value is not a finite number')
    return Q4Factors(_pack(a), _pack(b.T))


def q4_error(a: np.ndarray, b: np.ndarray) -> float:
    """Return ||Q4(A) Q4(B) - A B||_F / ||A B||_F, 0 for no change at all."""
    rounded_a, rounded_b = pack_factors(a, b).unpack()
    exact = a.astype(np.float64) @ b
    error = np.linalg.norm(rounded_a.astype(np.float64) @ rounded_b - exact)
    return float(error / max(np.linalg.norm(exact), np.finfo(float).tiny))


def _pack(columns: np.ndarray) -> Q4Columns:
    """Return (size, r) in four bits; a last group that is not full is filled with zeros."""
    size, rank = columns.shape
    groups = -(-size // GROUP)
    _, powers = np.frexp(np.abs(columns).max(axis=0))
    powers = powers.clip(-126, 126)
    padded = np.zeros((groups * GROUP, rank), np.float32)
    padded[:size] = np.ldexp(columns, -powers)
    codes, scales = quantize_weight(torch.from_numpy(padded), groups)
    return Q4Columns(size, pack_int4(codes[:size]).numpy(), scales.numpy().astype(np.float16),
                     powers.astype(np.int8))
