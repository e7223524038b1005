"""Train a router (router.py) on annotated recordings.

    B  sequences    S  patches in each    X  inputs    C  classes    N  patches of all recordings

Each step draws sequences, half of them around a rare event, and sums up two losses: the
cross-entropy of the patch's class, rare ones weighted up, and of the threshold router's flag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from taolora_ros.adaptation.router import RARE, Router, RouterInputs, input_size, router_shapes
from taolora_ros.gate import gate_flags
from taolora_ros.spec import ModelSpec
from taolora_ros.training.corpus import IGNORE
from taolora_ros.training.windows import FALL_IGNORED, FALL_POSITIVE

LOW_RANK = ('hidden_a', 'hidden_b', 'update_a', 'update_b', 'class_a', 'class_b', 'gate_a',
            'gate_b')
JUMP = 1.0  # s at the start of a recording that follows another


@dataclass(frozen=True)
class RouterOptions:
    """How to train; the same for every signal, and not tuned to any."""

    hidden: int = 32
    steps: int = 800
    batch: int = 64
    length: int = 96       # patches
    warm_up: int = 12      # patches at the start of a sequence that no loss counts
    learning_rate: float = 1e-2
    rare_weight: float = 8.0
    gate_weight: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Track:
    """One stream, patch by patch: inputs (p, X), classes (p,) int64, flags (p,) bool."""

    subject: str
    inputs: np.ndarray
    classes: np.ndarray
    flags: np.ndarray


def joined(spec: ModelSpec, parts: Sequence[dict]) -> np.ndarray:
    """Return the features (n, F) of entries of ``corpus.parts_of`` as one stream."""
    return np.concatenate([part['features'][:len(part['features']) // spec.patch * spec.patch]
                           for part in parts])


def make_track(spec: ModelSpec, *parts: dict) -> Track:
    """Return what a router learns from entries of ``corpus.parts_of``, joined to one stream.

    The flags are those of the threshold router with its default thresholds. Nothing is learnt
    from the jump where one recording follows another.
    """
    features = joined(spec, parts)
    classes = [patch_classes(spec, part, len(part['features']) // spec.patch) for part in parts]
    for after in classes[1:]:
        after[:round(JUMP * spec.rate / spec.patch)] = IGNORE
    return Track(parts[0]['subject'], RouterInputs(spec).inputs(features),
                 np.concatenate(classes), gate_flags(spec, features))


def patch_classes(spec: ModelSpec, part: dict, patches: int) -> np.ndarray:
    """Return each patch's class (p,): a beat lies in it, or a fall is on; IGNORE near falls."""
    classes = np.zeros(patches, np.int64)
    if spec.kind == 'imu':
        centre = (np.arange(patches) + 0.5) * spec.patch
        for at in part['event_at']:
            apart = (centre - at) / spec.rate                       # s
            classes[(apart > FALL_IGNORED[0]) & (apart < FALL_IGNORED[1])] = IGNORE
            classes[(apart >= FALL_POSITIVE[0]) & (apart <= FALL_POSITIVE[1])] = 1
        return classes
    hidden = part['masked'][:patches * spec.patch].reshape(patches, spec.patch).any(axis=1)
    patch = (part['event_at'] // spec.patch).astype(int)
    inside = patch < patches
    classes[patch[inside]] = part['event_class'][inside]
    classes[hidden] = IGNORE
    return classes


class RouterNetwork(nn.Module):
    """The cell of router.py over sequences, with gradients."""

    def __init__(self, inputs: int, hidden: int, classes: int, arrays: dict | None = None):
        super().__init__()
        for name, shape in router_shapes(inputs, hidden, classes).items():
            value = torch.zeros(shape)
            if arrays is not None:
                value = torch.tensor(arrays[name])
            elif name in ('w', 'u', 'class_o', 'gate_o') or name.endswith('_a'):
                value = torch.randn(shape) / shape[0] ** 0.5
            elif name in ('zeta', 'b_z'):
                value = torch.ones(shape)   # remember, at first
            elif name == 'nu':
                value = torch.full(shape, -4.0)
            setattr(self, name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, S, C + 1) of sequences (B, S, X)."""
        hidden = self.u + self.hidden_a @ self.hidden_b
        both = torch.cat([hidden + self.update_a @ self.update_b, hidden], dim=1)   # (H, 2H)
        zeta, nu = self.zeta.sigmoid(), self.nu.sigmoid()
        start = (x @ self.w).repeat(1, 1, 2) + torch.cat([self.b_z, self.b_h])      # (B, S, 2H)
        h, states = x.new_zeros(len(x), len(self.b_z)), []
        for now in start.unbind(1):
            z, candidate = (now + h @ both).chunk(2, dim=1)
            z = z.sigmoid()
            h = (zeta * (1 - z) + nu) * candidate.tanh() + z * h
            states.append(h)
        heads = torch.cat([self.class_o + self.class_a @ self.class_b,
                           self.gate_o + self.gate_a @ self.gate_b], dim=1)
        return torch.stack(states, 1) @ heads + torch.cat([self.class_bias, self.gate_bias])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights for ``Router``."""
        return {name: value.detach().numpy().copy() for name, value in self.named_parameters()}


def train_router(spec: ModelSpec, tracks: list[Track], options: RouterOptions,
                 report: Callable[[int, float], None] = lambda step, loss: None,
                 adapt: Router | None = None) -> Router:
    """Return a router trained on ``tracks``; threshold 0.5, to be chosen by who uses it.

    ``adapt`` is a trained one of which only the low-rank parts learn. Raise ValueError when no
    track is longer than a sequence.
    """
    tracks = [track for track in tracks if len(track.inputs) > options.length]
    if not tracks:
        raise ValueError(f'router: no recording is longer than {options.length} patches')
    torch.manual_seed(options.seed)
    random = np.random.default_rng(options.seed)
    rare = tuple(spec.classes.index(name) for name in RARE[spec.kind])
    network = RouterNetwork(input_size(spec), options.hidden, len(spec.classes),
                            adapt.arrays if adapt else None)
    learning = [value for name, value in network.named_parameters()
                if adapt is None or name in LOW_RANK]
    weight = torch.ones(len(spec.classes))
    weight[list(rare)] = options.rare_weight
    draw = _Sequences(tracks, rare, options, random)
    with _one_thread():
        _fit(network, learning, draw, weight, options, report)
    return Router(network.arrays(), rare, 0.5)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: thousands of small products only wait for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit(network: RouterNetwork, learning: list[nn.Parameter], draw: _Sequences, weight: Tensor,
         options: RouterOptions, report: Callable[[int, float], None]) -> None:
    """Take all steps; ``weight`` (C,) is that of each class."""
    optimizer = torch.optim.Adam(learning, lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate,
                                                   total_steps=options.steps)
    for step in range(options.steps):
        x, classes, flags = draw()
        logits, classes, flags = (
            each[:, options.warm_up:] for each in (network(x), classes, flags))
        loss = F.cross_entropy(logits[..., :-1].flatten(0, 1), classes.flatten(), weight,
                               ignore_index=IGNORE)
        loss = loss + options.gate_weight * F.binary_cross_entropy_with_logits(
            logits[..., -1], flags)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        report(step, loss.item())


class _Sequences:
    """Draws sequences from tracks: subjects evenly, every other one around a rare event."""

    def __init__(self, tracks: list[Track], rare: tuple[int, ...], options: RouterOptions,
                 random: np.random.Generator):
        self.tracks, self.options, self.random = tracks, options, random
        self.events = [np.flatnonzero(np.isin(track.classes, rare)) for track in tracks]
        self.with_events = [i for i, events in enumerate(self.events) if len(events)]

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs (B, S, X), classes (B, S) and flags (B, S) of one batch."""
        length, random, parts = self.options.length, self.random, []
        for i in range(self.options.batch):
            aimed = i % 2 and self.with_events
            which = random.choice(self.with_events) if aimed else random.integers(len(self.tracks))
            track, first = self.tracks[which], None
            if aimed:
                first = random.choice(self.events[which]) - random.integers(length)
            last = len(track.inputs) - length
            first = random.integers(last + 1) if first is None else np.clip(first, 0, last)
            here = slice(first, first + length)
            parts.append((track.inputs[here], track.classes[here], track.flags[here]))
        x, classes, flags = (np.stack(arrays) for arrays in zip(*parts))
        return torch.tensor(x), torch.tensor(classes), torch.tensor(flags, dtype=torch.float32)
