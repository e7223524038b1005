"""One adapted layer: a base and a micro LoRA beside frozen weights (METHOD section 6).

    K  inputs    N  outputs    M  tokens    r, q  ranks of base and micro    L  loss

    dW  = alpha/r A B + beta A_m B_m                  A (K, r), B (r, N), A_m (K, q), B_m (q, N)
    y   = x dW                                        the adapted part alone; x (M, K), y (M, N)
    g   = dL/dy                                       (M, N)
    g_A = s x^T (g B^T),  g_B = s (x A)^T g           s the tier's scale: alpha/r or beta
    m   = d m + (1 - d) g_A,  A = A - step m          likewise B; d the decay

The reference text multiplies momentum by beta and adds it; beta is the scale of the tier, so it
enters the gradient by the chain rule, and the step is a number of its own that goes downhill.
A starts at random and B at zero: dW begins at zero, and the first gradient of B is not zero. (Were
both zero, neither would ever move; so "zero micro" after consolidation zeroes B_m only.)

All factors are rows of one array, (A^T | B), which is never allocated anew: a view of it taken
once, by an engine for instance, shows every later update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

NEGLIGIBLE = 1e-6  # of the largest singular value: what float32 cannot tell from zero
REST = 0.99         # of the largest norm: dW is scaled back so far, and not with every update
FLUSH_EVERY = 16   # updates between two rounds of clearing momentum too small to matter ...
FLUSH = np.float32(1e-30)  # ... which would become subnormal, and arithmetic slow
COUNTS = ('micro_updates', 'base_updates', 'accumulated', 'consolidations')


class AdaptedLayer:
    """The low-rank change of one layer's weights, and how it learns.

    ``alpha`` / ``base_rank`` and ``beta`` scale the tiers; ``decay`` is that of the momentum, 0 to
    below 1. The Frobenius norm of dW never stays over ``max_norm``: when an update passes it,
    B and B_m are scaled back to just below. ``decay`` and ``max_norm`` may be assigned at any
    time. Raise ValueError for ranks, scales, decay or norm that make no sense.
    """

    def __init__(self, in_features: int, out_features: int, base_rank: int = 8,
                 micro_rank: int = 2, alpha: float = 8.0, beta: float = 1.0, decay: float = 0.9,
                 seed: int = 0, max_norm: float = math.inf):
        _check(in_features, out_features, base_rank, micro_rank, alpha, beta, decay, max_norm)
        self.in_features, self.out_features = in_features, out_features
        self.base_rank, self.micro_rank = base_rank, micro_rank
        self.alpha, self.beta, self.seed = alpha, beta, seed
        self.decay, self.max_norm = decay, max_norm
        shape = (base_rank + micro_rank, in_features + out_features)
        self.scales = np.full(shape[0], beta, np.float32)             # (r + q,)
        self.scales[:base_rank] = alpha / base_rank
        self.factors = np.zeros(shape, np.float32)
        self.momentum = np.zeros(shape, np.float32)
        self.inputs = self.factors[:, :in_features]                   # A^T, A_m^T: a view
        self.outputs = self.factors[:, in_features:]                  # B, B_m: a view
        self._gradients = np.zeros((base_rank, shape[1]), np.float32)  # summed up for the base
        self._base = _Tier(self, slice(0, base_rank))
        self._micro = _Tier(self, slice(base_rank, None))
        self._pairs = self.scales * np.where(np.arange(len(self.scales)) < base_rank, 2, 1)
        self._base_square = self._ceiling = 0.0    # ||alpha/r A B||^2; never below ||dW||_F
        self.counts = dict.fromkeys(COUNTS, 0)
        self.reset()

    def reset(self) -> None:
        """Forget all that was learnt: dW is zero again."""
        self.outputs[:], self.momentum[:], self._gradients[:] = 0.0, 0.0, 0.0
        self.inputs[:] = self._fresh(0)
        self.counts.update(dict.fromkeys(COUNTS, 0))
        self.mark()

    def _fresh(self, time: int) -> np.ndarray:
        """Return random A^T (r + q, K) of unit expected length a row; one draw for each time."""
        random = np.random.default_rng((self.seed, time))
        shape = (self.base_rank + self.micro_rank, self.in_features)
        return random.standard_normal(shape, np.float32) / np.float32(math.sqrt(self.in_features))

    def delta(self) -> np.ndarray:
        """Return dW (K, N) float32."""
        return (self.inputs.T * self.scales) @ self.outputs

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return x dW for x (M, K) or (K,): (M, N) or (N,), the adapted part only."""
        hidden = x @ self.inputs.T                                    # (M, r + q)
        hidden *= self.scales
        return hidden @ self.outputs

    def learn(self, x: np.ndarray, gradient: np.ndarray, step: float, scale: float = 1.0) -> None:
        """Move the micro tier downhill; x (K,) or (M, K), gradient dL/dy (N,) or (M, N).

        ``scale`` weighs this gradient: a weight of the loss, or a reward (signal.py).
        Raise ValueError, with nothing changed, for numbers that are not finite.
        """
        self._micro.differentiate(x, gradient, scale * (1.0 - self.decay))
        self._descend(self._micro, step)
        self.counts['micro_updates'] += 1
        if self.counts['micro_updates'] % FLUSH_EVERY == 0:
            self.momentum += FLUSH
            self.momentum -= FLUSH

    def aim(self, x: np.ndarray) -> None:
        """Let the first micro rank that says nothing yet, B_m being zero there, listen to x (K,).

        Its row of A_m becomes x over its norm: the next ``learn`` of x moves y by the whole step,
        instead of what a random row has in common with x. There may be none: do nothing.
        """
        silent = np.flatnonzero(~self._micro.outputs.any(axis=1))
        if len(silent):
            self._micro.inputs[silent[0]] = x / np.linalg.norm(x)

    def accumulate(self, x: np.ndarray, gradient: np.ndarray) -> None:
        """Add the base tier's gradient for x (K,) or (M, K) and dL/dy to what it learns from."""
        self._base.differentiate(x, gradient, 1.0)
        self._gradients += self._base.room
        self.counts['accumulated'] += 1

    def update_base(self, step: float) -> None:
        """Move the base tier down the mean of the accumulated gradients; none: do nothing."""
        if self.counts['accumulated'] == 0:
            return
        share = (1.0 - self.decay) / self.counts['accumulated']
        np.multiply(self._gradients, share, out=self._base.room)
        self._descend(self._base, step)
        self._gradients[:] = 0.0
        self.counts['accumulated'] = 0
        self.counts['base_updates'] += 1

    def _descend(self, tier: _Tier, step: float) -> None:
        """Step with momentum along (1 - d) times the gradient, which is in the tier's room."""
        self._ceiling += tier.descend(step, self.decay)
        if tier is self._base:
            self._base_square = tier.square()
        if not self._ceiling <= self.max_norm:
            self._bound()

    def _bound(self) -> None:
        """Scale dW back when it is over ``max_norm``; its exact norm is the new ceiling.

        The base's part is known; pairs of the micro tier's rows with its rows count twice.
        """
        micro = self._micro
        gram = (micro.inputs @ self.inputs.T) * (micro.outputs @ self.outputs.T)  # (q, r + q)
        square = micro.scale * float((gram @ self._pairs).sum())
        norm = math.sqrt(max(self._base_square + square, 0.0))
        if norm > self.max_norm:
            scaled = float(np.float32(REST * self.max_norm / norm))
            norm *= scaled
            self._base_square *= scaled * scaled
            self.outputs *= scaled
        self._ceiling = norm

    def consolidate(self) -> float:
        """Fold the micro tier into the base; return the Frobenius norm of what rank r cuts off.

        Both tiers are concatenated and compressed to rank r by SVD, so the function stays the same
        up to that tail. B_m, momenta and accumulated gradients, which speak of the old factors,
        become zero. Ranks that are not used get a fresh A, so that they can learn.
        """
        r = self.base_rank
        left, core, right = _cores(self.inputs, self.scales, self.outputs)
        u, sigma, vt = np.linalg.svd(core)
        tail = float(np.linalg.norm(sigma[r:]))
        used = sigma[:r] > NEGLIGIBLE * max(float(sigma[0]), np.finfo(np.float32).tiny)
        root = np.sqrt(sigma[:r] * (r / self.alpha) * used)
        self.counts['consolidations'] += 1
        self.inputs[:] = self._fresh(self.counts['consolidations'])
        rows = (left @ u)[:, :len(root)].T * root[:, None]            # (r, K)
        self.inputs[:len(root)][used] = rows[used]
        self.outputs[:] = 0.0
        self.outputs[:len(root)] = (root[:, None] * vt[:len(root)]) @ right.T
        self.momentum[:], self._gradients[:] = 0.0, 0.0
        self.counts['accumulated'] = 0
        self._base_square = self._base.square()
        self._bound()
        return tail

    def norm(self) -> float:
        """Return the Frobenius norm of dW."""
        return float(np.linalg.norm(_cores(self.inputs, self.scales, self.outputs)[1]))

    def drift(self) -> float:
        """Return the Frobenius norm of what dW has changed by since ``mark``."""
        both = np.concatenate([self.factors, self._marked])
        scales = np.concatenate([self.scales, -self.scales])
        k = self.in_features
        return float(np.linalg.norm(_cores(both[:, :k], scales, both[:, k:])[1]))

    def mark(self) -> None:
        """Let drift be counted from here on, and ``rewind`` lead here; as after reset and load."""
        self._base_square = self._base.square()
        self._bound()
        self._marked = self.factors.copy()
        self._marked_at = self._ceiling, self._base_square, dict(self.counts)

    def rewind(self) -> None:
        """Take back all that was learnt since ``mark``, momenta included."""
        self.factors[:] = self._marked
        self.momentum[:], self._gradients[:] = 0.0, 0.0
        self._ceiling, self._base_square, counts = self._marked_at
        self.counts.update(counts, accumulated=0)

    def _learnt(self) -> dict[str, np.ndarray]:
        """Return views of the arrays that make the state, by name."""
        r = self.base_rank
        return {'base_a': self.inputs[:r], 'base_b': self.outputs[:r],
                'base_momentum': self.momentum[:r], 'gradients': self._gradients,
                'micro': self.factors[r:], 'micro_momentum': self.momentum[r:]}

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of all that was learnt, by name; ``load`` takes them back."""
        counts = np.array([self.counts[name] for name in COUNTS], np.int64)
        return {**{name: view.copy() for name, view in self._learnt().items()}, 'counts': counts}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back a ``state``, as a whole; raise ValueError naming an array that does not fit."""
        for name, expected in self.state().items():
            if name not in state:
                raise ValueError(f'{name}: missing from the state of an adapted layer')
            got = np.asarray(state[name])
            if got.shape != expected.shape:
                raise ValueError(f'{name}: shape {got.shape}, expected {expected.shape}')
            if not np.isfinite(got).all():
                raise ValueError(f'{name}: a value is not a finite number')
        for name, view in self._learnt().items():
            view[:] = state[name]
        self.counts.update(zip(COUNTS, (int(n) for n in state['counts'])))
        self.mark()


class _Tier:
    """Views of the rows of one tier, with room to compute in."""

    def __init__(self, layer: AdaptedLayer, rows: slice):
        self.scale = float(layer.scales[rows.start])
        self.factors, self.momentum = layer.factors[rows], layer.momentum[rows]
        self.inputs, self.outputs = layer.inputs[rows], layer.outputs[rows]
        self.room = np.zeros_like(self.factors)
        k = layer.in_features
        self._room_a, self._room_b = self.room[:, :k], self.room[:, k:]
        self._ends = np.zeros((2, len(self.factors), 1), np.float32)
        self._gradient_end, self._input_end = self._ends              # (rank, 1) each
        self._gradient_flat, self._input_flat = self._ends[..., 0]

    def differentiate(self, x: np.ndarray, gradient: np.ndarray, weight: float) -> None:
        """Write weight * (g_A^T | g_B) to the room (rank, K + N); raise ValueError as ``learn``."""
        weight *= self.scale
        if x.ndim == 1:
            np.matmul(self.outputs, gradient, out=self._gradient_flat)
            np.matmul(self.inputs, x, out=self._input_flat)
            np.multiply(self._ends, weight, out=self._ends)
            np.multiply(self._gradient_end, x, out=self._room_a)
            np.multiply(self._input_end, gradient, out=self._room_b)
        else:
            np.matmul((self.outputs @ gradient.T) * np.float32(weight), x, out=self._room_a)
            np.matmul((self.inputs @ x.T) * np.float32(weight), gradient, out=self._room_b)
        if not math.isfinite(np.vdot(self.room, self.room)):
            raise ValueError('x, gradient or scale: not finite, or too large for float32')

    def square(self) -> float:
        """Return ||s A B||^2, of the Frobenius norm."""
        product = (self.inputs @ self.inputs.T) * (self.outputs @ self.outputs.T)
        return self.scale ** 2 * float(product.sum())

    def descend(self, step: float, decay: float) -> float:
        """Take one step; return how far it can have moved s A B, in the Frobenius norm.

        ||s ((A - D)(B - E) - A B)|| <= s (||A|| ||E|| + ||D|| ||B|| + ||D|| ||E||)
                                     <= s (||(A, B)|| ||(D, E)|| + ||(D, E)||^2 / 2)
        """
        factors, momentum, room = self.factors, self.momentum, self.room
        np.multiply(momentum, decay, out=momentum)
        np.add(momentum, room, out=momentum)
        np.multiply(momentum, step, out=room)
        size, moved = math.sqrt(np.vdot(factors, factors)), math.sqrt(np.vdot(room, room))
        np.subtract(factors, room, out=factors)
        return self.scale * (size + moved) * moved


def _cores(inputs: np.ndarray, scales: np.ndarray, outputs: np.ndarray
           ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Q_A (K, R), core (R, R) and Q_B (N, R), float64, with Q_A core Q_B^T = A^T diag B."""
    left, upper = np.linalg.qr(inputs.T.astype(np.float64))
    right, lower = np.linalg.qr(outputs.T.astype(np.float64))
    return left, (upper * scales) @ lower.T, right


def _check(k: int, n: int, r: int, q: int, alpha: float, beta: float, decay: float,
           max_norm: float) -> None:
    """Raise ValueError for sizes and constants no layer can have."""
    for name, value in (('in_features', k), ('out_features', n), ('base_rank', r),
                        ('micro_rank', q)):
        if value < 1:
            raise ValueError(f'{name}: {value}, at least 1 is needed')
    for name, value in (('alpha', alpha), ('beta', beta), ('max_norm', max_norm)):
        if not value > 0.0:
            raise ValueError(f'{name}: {value}, a number over 0 is needed')
    if not 0.0 <= decay < 1.0:
        raise ValueError(f'decay: {decay}, a number from 0 to below 1 is needed')
