"""Hard negatives: moments that a network in training takes for something rare, drawn more often.

At some points of a training, windows of activities (of a heart: windows without a rare beat), one
every half window, are scored by the network as it stands, undisturbed. From then on a share of the
windows is aimed at the moments that it is most wrong about, in proportion to how wrong it is (hard
negatives: Felzenszwalb et al. 2010, Object detection with discriminatively trained part-based
models; by what is lost: Shrivastava et al. 2016, Training region-based object detectors with online
hard example mining).

    W  windows scored      M  moments mined
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from taolora_ros.network import TaoNetwork
from taolora_ros.training.ranks import Ranks
from taolora_ros.training.windows import Moments, WindowSampler

POINTS = (Fraction(1, 3), Fraction(2, 3))  # of the steps of a training
TOP = 0.05   # of the windows scored, the worst
CAP = 0.02   # of the draws from one recording at most: its annotation may be wrong
BATCH = 512  # windows scored at once
ORDINARY = ('none', 'N')  # classes that are not rare
Told = Callable[[int, dict[str, float]], None]  # step, share of what is drawn by group


class Miner:
    """Mines for ``sampler`` in a training of so many ``steps``; with a ``share`` of 0 never."""

    def __init__(self, sampler: WindowSampler, group: np.ndarray, share: float, steps: int,
                 told: Told = lambda step, shares: None):
        self.sampler, self.group, self.share, self.told = sampler, group, share, told
        self.due = {int(point * steps) for point in POINTS} if share else set()
        self.found: dict[int, Tensor] = {}  # step: (3, M), for a checkpoint

    def mine(self, step: int, network: TaoNetwork, ranks: Ranks) -> None:
        """Look for hard negatives if it is time; all ranks take what the first one finds."""
        if step in self.due:
            self.restore({**self.found, step: ranks.gather(hardest(network, self.sampler))[0]})

    def restore(self, found: dict[int, Tensor]) -> None:
        """Go on with what was found until now."""
        for step in sorted(set(found) - set(self.found)):
            recording, at, weight = found[step].to(self.sampler.device)
            self.sampler.hard = Moments(recording.long(), at, weight)
            self.sampler.hard_share = self.share if len(at) else 0.0
            self.told(step, by_group(found[step], self.group))
        self.found = found


@torch.inference_mode()
def hardest(network: TaoNetwork, sampler: WindowSampler) -> Tensor:
    """Return recording, row and share of the draws (3, M) of what ``network`` is worst at."""
    plain = copy.copy(sampler)
    plain.augment = False
    network.eval()
    recording, end = _grid(plain)
    if not len(recording):
        return torch.zeros(3, 0, dtype=torch.float64)
    parts = [_worst(network, plain, *part) for part in zip(recording.split(BATCH),
                                                           end.split(BATCH))]
    at, wrong = (torch.cat(part).cpu().numpy() for part in zip(*parts))
    recording = recording.cpu().numpy()
    count = int(np.ceil(TOP * (wrong > 0).sum()))
    worst = np.argsort(-wrong, kind='stable')[:count]
    share = capped(wrong[worst], recording[worst], CAP)
    return torch.from_numpy(np.stack([recording[worst].astype(float), at[worst], share]))


def _grid(sampler: WindowSampler) -> tuple[Tensor, Tensor]:
    """Return recording and end (W,) of windows that cover recordings, each by half.

    Those of a fall are left out: where in them it begins and ends is not known exactly.
    """
    fall = set(sampler.event_recording.tolist()) if sampler.spec.kind == 'imu' else set()
    step = sampler.spec.window // 2
    bounds = zip(sampler.start.tolist(), sampler.stop.tolist())
    ends = {i: torch.arange(stop, min(start + step, stop - 1), -step)
            for i, (start, stop) in enumerate(bounds) if i not in fall}
    empty = torch.zeros(0, dtype=torch.long)
    recording = torch.cat([empty, *(torch.full_like(each, i) for i, each in ends.items())])
    end = torch.cat([empty, *ends.values()])
    return recording.to(sampler.device), end.double().to(sampler.device)


def _worst(network: TaoNetwork, sampler: WindowSampler, recording: Tensor, end: Tensor
           ) -> tuple[Tensor, Tensor]:
    """Return the row that each window is worst at, and the probability missing there (W,).

    It is 0 for windows with something rare in them, or something that no loss counts.
    """
    spec = sampler.spec
    batch = sampler.cut(recording, end, torch.ones_like(end))
    ordinary = torch.tensor([*(name in ORDINARY for name in spec.classes), False],
                            device=sampler.device)
    known = batch.classes.clamp_min(-1)                                      # ignored: the last
    right = network(batch.windows)[0].softmax(-1).gather(-1, known.clamp_min(0)[..., None])
    wrong, token = (1 - right[..., 0].double()).max(-1)
    at = end - spec.window + (token + 0.5) * spec.patch
    start = sampler.start[recording].double()  # what lies before it is its first sample, held
    return torch.maximum(at, start), wrong * ordinary[known].all(-1)


def capped(weight: np.ndarray, recording: np.ndarray, cap: float) -> np.ndarray:
    """Return shares (M,) in proportion to ``weight``, no recording above ``cap``.

    What it may not have goes to the others; if they are too few for that, all have the same.
    """
    _, member = np.unique(recording, return_inverse=True)
    total = np.bincount(member, weights=weight)
    cap, full = max(cap, 1 / max(len(total), 1)), np.zeros(len(total), bool)
    share = total / total.sum()
    while not full.all() and (share > cap * (1 + 1e-9)).any():
        full |= share > cap
        rest = np.where(full, 0.0, total)
        share = np.where(full, cap, rest / max(rest.sum(), 1e-30) * (1 - cap * full.sum()))
    return share[member] * weight / total[member]


def by_group(found: Tensor, group: np.ndarray) -> dict[str, float]:
    """Return the share of what is drawn by group (kind of activity, record), largest first."""
    recording, _, weight = found.numpy()
    names, member = np.unique(group[recording.astype(int)], return_inverse=True)
    shares = np.bincount(member, weights=weight, minlength=len(names))
    return {str(names[i]): round(float(shares[i]), 4) for i in np.argsort(-shares, kind='stable')}
