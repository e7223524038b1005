"""The arrays and structures of `network.c`, made from a network's layers.

    K inputs    N outputs    G groups of weight scales    r rank    LANES columns in a block
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int32, c_uint8

import numpy as np

from taolora_ros.quantization import QMAX, UNSIGNED_MAX, TaoLinear

LANES, STEP = 16, 8
MOST_GROUPS = 64

Floats, Bytes = POINTER(c_float), POINTER(c_uint8)


class Linear(ctypes.Structure):
    """`Linear` of structures.h."""

    _fields_ = [(name, c_int32) for name in
                ('k', 'n', 'groups', 'steps', 'low', 'high', 'rank', 'residual')] + [
        ('weight', Bytes)] + [(name, Floats) for name in
                              ('scale', 'inverse', 'step', 'bias', 'a', 'b')]


class Dense(ctypes.Structure):
    """`Dense` of structures.h."""

    _fields_ = [('k', c_int32), ('n', c_int32), ('weight', Floats), ('bias', Floats)]


class Block(ctypes.Structure):
    """`Block` of structures.h."""

    _fields_ = [('attention', c_int32)] + [
        (name, Floats) for name in ('norm1', 'norm2', 'kernel')] + [
        (name, Linear) for name in ('inner', 'outer', 'up', 'down')]


class Network(ctypes.Structure):
    """`Network` of structures.h."""

    _fields_ = [(name, c_int32) for name in
                ('tokens', 'width', 'heads', 'taps', 'mlp', 'classes', 'patch', 'features',
                 'bottleneck', 'blocks')] + [
        (name, c_float) for name in ('epsilon', 'margin')] + [
        (name, Floats) for name in ('norm', 'rotary', 'anomaly')] + [
        (name, Dense) for name in ('embed', 'head', 'squeeze', 'rebuild')] + [
        ('block', POINTER(Block))]


def pad(array: np.ndarray) -> np.ndarray:
    """Return ``array`` (..., N) as float32 with columns of zeros up to a multiple of LANES."""
    array = np.asarray(array, np.float32)
    return np.ascontiguousarray(np.pad(array, [(0, 0)] * (array.ndim - 1)
                                       + [(0, -array.shape[-1] % LANES)]))


def pack(codes: np.ndarray, groups: int = 1) -> np.ndarray:
    """Pack weights (K, N) in -7..7 for `int4_tile`: (groups, blocks, steps, 64) uint8.

    Rows of a group are padded to a multiple of STEP and columns to one of LANES, with zeros. Raise
    ValueError when groups do not divide K, or a code is out of range.
    """
    k, n = codes.shape
    if groups < 1 or k % groups:
        raise ValueError(f'groups: {groups} does not divide K = {k}')
    if codes.size and np.abs(codes).max() > QMAX:
        raise ValueError(f'codes: {np.abs(codes).max()} is over {QMAX}')
    rows = np.pad(codes.reshape(groups, k // groups, n).astype(np.int8),
                  ((0, 0), (0, -(k // groups) % STEP), (0, -n % LANES)))
    parts = rows.reshape(groups, -1, 2, 4, rows.shape[2] // LANES, LANES)  # (G, S, 2, 4, B, L)
    offset = (parts + 8).astype(np.uint8).transpose(0, 4, 1, 2, 5, 3)      # (G, B, S, 2, L, 4)
    packed = offset[:, :, :, 0] | offset[:, :, :, 1] << 4
    return np.ascontiguousarray(packed.reshape(*packed.shape[:3], 4 * LANES))


class Arrays:
    """Keeps the arrays that structures point to alive, and changes some of them in place."""

    def __init__(self):
        self._kept: list[np.ndarray] = []
        # What may be adapted, by its name in the network: views of what the structures point to.
        self.adaptable: dict[str, np.ndarray] = {}

    @property
    def bytes(self) -> int:
        """Return the size of all of them."""
        return sum(array.nbytes for array in self._kept)

    def floats(self, array) -> Floats:
        """Return a pointer to ``array`` as it is, float32 and contiguous from now on."""
        array = np.ascontiguousarray(array, np.float32)
        self._kept.append(array)
        return array.ctypes.data_as(Floats)

    def dense(self, name: str, layer) -> Dense:
        """Return a torch linear layer in full precision."""
        k, n = layer.in_features, layer.out_features
        weight, bias = pad(layer.weight.detach().numpy().T), pad(layer.bias.detach().numpy())
        self.adaptable |= {f'{name}.weight': weight[:, :n].T, f'{name}.bias': bias[:n]}
        return Dense(k, n, self.floats(weight), self.floats(bias))

    def linear(self, name: str, layer: TaoLinear) -> Linear:
        """Return an INT4 layer; raise ValueError when it cannot be run."""
        if not layer.int4:
            raise ValueError(f'{name}: not quantized to four bits')
        k, n, zero = layer.in_features, layer.out_features, layer.x_zero
        groups = len(layer.w_scale)
        if groups > MOST_GROUPS:
            raise ValueError(f'{name}: {groups} groups, at most {MOST_GROUPS} can be run')
        weight = pack(layer.codes.numpy(), groups)
        self._kept.append(weight)
        low, high = (-QMAX, QMAX) if zero is None else (-zero, UNSIGNED_MAX - zero)
        inverse = layer.x_inv.numpy()
        bias = np.zeros(n) if layer.bias is None else layer.bias.detach().numpy()
        a, b = pad(layer.lora_a.numpy()), pad(layer.lora_b.numpy())
        rank = len(b)
        self.adaptable |= {f'{name}.lora_a': a[:, :rank], f'{name}.lora_b': b[:, :n]}
        return Linear(k, n, groups, weight.shape[2], low, high, rank, layer.buffer == 'residual',
                      weight.ctypes.data_as(Bytes), self.floats(pad(layer.w_scale.numpy())),
                      self.floats(inverse), self.floats(1 / inverse), self.floats(pad(bias)),
                      self.floats(a), self.floats(b))
