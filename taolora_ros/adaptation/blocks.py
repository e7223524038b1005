"""What a checkpoint keeps of one layer: its state in two blocks, the base tier in float16.

    LAYER.base      base_a, base_b and what goes with them: changes hourly
    LAYER.micro     everything else: changes with every feedback

The factors of the base, A^T (r, K) and B (r, N), are float16, each row (a rank) with a power of two
of its own that brings its largest number to 1/2..1: nothing overflows, and what is within 2^14 of
the largest keeps 11 bits. All else is as in memory. Version 1 had no powers of two: numbers below
2^-14, as B has when little was learnt, lost precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

HALVED = ('base_a', 'base_b')  # what is kept in float16 ...
POWERS = '{}_power'            # ... and, int8, the power of two of each of its rows
OF_BASE = (*HALVED, 'base_momentum', 'gradients')
State = Mapping[str, np.ndarray]


def make_blocks(layers: Mapping[str, State]) -> dict[str, dict[str, np.ndarray]]:
    """Return the blocks of the states of layers, by name; raise ValueError for NaN or infinity."""
    blocks: dict[str, dict[str, np.ndarray]] = {}
    for layer, state in layers.items():
        for name, array in state.items():
            if not np.isfinite(array).all():
                raise ValueError(f'{layer}: {name}: a value is not a finite number and is not kept')
            block = blocks.setdefault(f'{layer}.{"base" if name in OF_BASE else "micro"}', {})
            block[name] = np.ascontiguousarray(array)
            if name in HALVED:
                block[name], block[POWERS.format(name)] = _halve(array)
    return blocks


def _halve(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (r, n) float16 and their powers of two (r,) int8."""
    _, powers = np.frexp(np.abs(rows).max(axis=1))                    # largest = 1/2..1 * 2^power
    powers = powers.clip(-127, 127)
    return np.ldexp(rows, -powers[:, None]).astype(np.float16), powers.astype(np.int8)


def restore_block(arrays: Mapping[str, np.ndarray], version: int) -> dict[str, np.ndarray]:
    """Return a block's arrays as they were in memory; raise KeyError when some are missing."""
    restored = dict(arrays)
    for name in HALVED:
        if name in restored:
            restored[name] = restored[name].astype(np.float32)
            if version > 1:
                powers = restored.pop(POWERS.format(name))[:, None].astype(np.int32)
                restored[name] = np.ldexp(restored[name], powers)
    return restored


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Return what tells one block's contents from any other's."""
    digest = hashlib.blake2b(digest_size=16)
    for name, array in arrays.items():
        digest.update(f'{name} {array.dtype} {array.shape};'.encode())
        digest.update(array)
    return digest.hexdigest()


def digest_of_bytes(data: bytes) -> str:
    """Return what tells one file's contents from any other's."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def format_blocks(blocks: Mapping[str, State]) -> bytes:
    """Return a safetensors file with the arrays of ``blocks``, called BLOCK/NAME."""
    return save({f'{block}/{name}': array for block, arrays in blocks.items()
                 for name, array in arrays.items()})


def parse_blocks(data: bytes) -> dict[str, dict[str, np.ndarray]]:
    """Invert ``format_blocks``; raise ValueError for what is no such file."""
    blocks: dict[str, dict[str, np.ndarray]] = {}
    try:
        for name, array in load(data).items():
            block, _, name = name.rpartition('/')
            blocks.setdefault(block, {})[name] = array
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f'not a safetensors file ({error})') from error
    return blocks
