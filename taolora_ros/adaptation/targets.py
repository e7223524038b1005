"""Which layers learn: five strategies (METHOD section 6).

    AllAttention        projections of the attention blocks
    AllFFN              both layers of every block's MLP
    OutputHeadsOnly     the head that gives classes and offsets
    SpecificLayers      those named
    AdaptiveTopK        the k with the largest gradient norm, heads and blocks alike

By default heads have the micro tier and attention the base. Layers are named as in
``TaoNetwork.named_modules``; the heads that rebuild patches learn nothing, for no feedback on
events has a gradient there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from taolora_ros.spec import NetworkSpec

HEAD = 'head'
MIXERS = {'attention': 'attention', 'conv': 'convolution'}  # kind of block: kind of its layers
NO_NORMS: Mapping[str, float] = MappingProxyType({})
SYNTAX = "'attention', 'ffn', 'heads', 'top K' or names of layers with commas between"


def layer_kinds(network: NetworkSpec) -> dict[str, str]:
    """Return the layers that can learn by name, in order of execution, with their kinds.

    Kinds are 'attention', 'convolution', 'ffn' and 'head'.
    """
    kinds = {}
    for i, block in enumerate(network.blocks):
        for part in ('mix.inner', 'mix.outer'):
            kinds[f'blocks.{i}.{part}'] = MIXERS[block]
        for part in ('up', 'down'):
            kinds[f'blocks.{i}.{part}'] = 'ffn'
    kinds[HEAD] = 'head'
    return kinds


@dataclass(frozen=True)
class _AllOfAKind:
    """Choose every layer of one kind."""

    kind: ClassVar[str]

    def choose(self, kinds: Mapping[str, str], norms: Mapping[str, float] = NO_NORMS
               ) -> tuple[str, ...]:
        """Return the names, in order of execution; raise ValueError when there is none."""
        names = tuple(name for name, kind in kinds.items() if kind == self.kind)
        if not names:
            raise ValueError(f'targets: this network has no {self.kind} layer')
        return names


class AllAttention(_AllOfAKind):
    """Choose the projections of all attention blocks."""

    kind = 'attention'


class AllFFN(_AllOfAKind):
    """Choose the layers of all MLPs."""

    kind = 'ffn'


class OutputHeadsOnly(_AllOfAKind):
    """Choose the heads."""

    kind = 'head'


@dataclass(frozen=True)
class SpecificLayers:
    """Choose the layers called ``names``."""

    names: tuple[str, ...]

    def choose(self, kinds: Mapping[str, str], norms: Mapping[str, float] = NO_NORMS
               ) -> tuple[str, ...]:
        """Return the names, in order of execution; raise ValueError for one there is not."""
        for name in self.names:
            if name not in kinds:
                raise ValueError(f'targets: no layer {name!r:.99}; there are {", ".join(kinds)}')
        return tuple(name for name in kinds if name in self.names)


@dataclass(frozen=True)
class AdaptiveTopK:
    """Choose the ``k`` layers whose weights have the largest gradient."""

    k: int

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f'targets: top {self.k}, at least 1 is needed')

    def choose(self, kinds: Mapping[str, str], norms: Mapping[str, float] = NO_NORMS
               ) -> tuple[str, ...]:
        """Return the names, in order of execution; of equal norms the later layer is taken.

        ``norms`` are gradient norms by layer. Raise ValueError where one is missing, is not a
        number, or there are fewer than k layers.
        """
        if self.k > len(kinds):
            raise ValueError(f'targets: top {self.k} of {len(kinds)} layers')
        for name in kinds:
            if not norms.get(name, -1.0) >= 0.0:
                raise ValueError(f'targets: the gradient norm of {name} is {norms.get(name)}, a '
                                 'number is needed to choose by')
        order = {name: i for i, name in enumerate(kinds)}
        best = sorted(kinds, key=lambda name: (norms[name], order[name]))[-self.k:]
        return tuple(name for name in kinds if name in best)


Targets = AllAttention | AllFFN | OutputHeadsOnly | SpecificLayers | AdaptiveTopK
MICRO_TARGETS, BASE_TARGETS = OutputHeadsOnly(), AllAttention()
NAMED = {'attention': AllAttention(), 'ffn': AllFFN(), 'heads': OutputHeadsOnly()}


def parse_targets(text: str) -> Targets:
    """Return the strategy that a parameter names; raise ValueError saying what can be written."""
    text = text.strip()
    if text in NAMED:
        return NAMED[text]
    if top := re.fullmatch(r'top\s*(\d{1,4})', text):
        return AdaptiveTopK(int(top[1]))
    names = tuple(name.strip() for name in text.split(','))
    if not all(re.fullmatch(r'[\w.]+', name) for name in names):
        raise ValueError(f'targets: {text!r:.99} is none of {SYNTAX}')
    return SpecificLayers(names)


def gradient_norm(x: np.ndarray, gradient: np.ndarray) -> float:
    """Return ||x^T g||_F, the norm of the gradient in a layer's weights.

    ``x`` (K,) or (M, K) is the layer's input, ``gradient`` (N,) or (M, N) that of its output.
    """
    if x.ndim == 1:
        return float(np.linalg.norm(x) * np.linalg.norm(gradient))
    gram = (x @ x.T) * (gradient @ gradient.T)  # (M, M)
    return float(np.sqrt(max(gram.sum(dtype=np.float64), 0.0)))
