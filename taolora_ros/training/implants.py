"""Ventricular beats of one person put into the ECG of another.

A ventricular beat is one that is unlike its owner's other beats. Few people are in the data, so
what theirs look like can be learnt by heart; among other people's beats only the contrast is left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from taolora_ros.training.draws import Draws

MOST = 3                # beats that are replaced in one window
EARLY = 0.4             # of the interval before it, by which a beat comes early at most
BEFORE, AFTER = 0.2, 0.45   # s of a donor that are kept around its peak
RAMP = 0.08             # s over which it is faded in and out


def implant(x: Tensor, place: Tensor, label: Tensor, inside: Tensor, donor: Tensor, normal: int,
            ventricular: int, rate: float, draws: Draws, share: float
            ) -> tuple[Tensor, Tensor, Tensor]:
    """Replace normal beats of some windows x (B, L, 1) by donors.

    ``place`` (B, S) samples, ``label`` (B, S) and ``inside`` (B, S) bool are the beats of each window,
    in the order of time. ``donor`` is a function that gives, for positions (B, L) in samples from a
    donor's peak, the signal of one random donor per window. Return x, place and label anew.
    """
    batch, length = x.shape[:2]
    chosen = draws.chance(batch, share)
    before = torch.cat([place[:, :1] - 0.8 * rate, place[:, :-1]], 1)
    interval = (place - before).clamp(0.3 * rate, 1.5 * rate)                # (B, S)
    fits = inside & (label == normal) & (place > 0.5 * rate) & (place < length - 0.2 * rate)
    rank = draws.uniform(*place.shape) * fits * chosen[:, None]
    best, slot = rank.topk(MOST, dim=1)                                      # (B, MOST)
    wanted = draws.uniform(batch, MOST) < torch.tensor([1.0, 0.5, 0.3], device=x.device)
    wanted = wanted & (best > 0)
    time = torch.arange(length, device=x.device) + 0.5                       # (L,)
    for k in range(MOST):
        take, at = wanted[:, k:k + 1], slot[:, k:k + 1]
        early = EARLY * draws.uniform(batch, 1) * interval.gather(1, at) * (
            draws.uniform(batch, 1) < 0.7)
        old = place.gather(1, at)
        new = old - early                                                    # (B, 1)
        since = time - new                                                   # (B, L)
        stop = torch.maximum(early + 0.12 * rate, torch.full_like(early, AFTER * rate))
        fade = torch.minimum((since + BEFORE * rate) / (RAMP * rate),
                             (stop - since) / (2 * RAMP * rate)).clamp(0, 1) * take
        gain = torch.exp(0.25 * draws.normal(batch, 1)) * torch.where(
            draws.uniform(batch, 1) < 0.3, -1.0, 1.0)
        x = x + (fade * (donor(since) * gain - x[..., 0]))[..., None]
        place = place.scatter(1, at, torch.where(take, new, old))
        label = label.scatter(1, at, torch.where(take, ventricular, label.gather(1, at)))
    return x, place, label
