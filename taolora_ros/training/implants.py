"""Beats put where they were not: ventricular ones of other people, and early ones of one's own.

A ventricular beat is one that is unlike its owner's other beats. Few people are in the data, so
what theirs look like can be learnt by heart; among other people's beats only the contrast is left.
A beat of the usual shape that only comes early is not ventricular.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from taolora_ros.training.draws import Draws

SHARES = (1.0, 0.5, 0.3)    # how often a first, second and third beat of a window is replaced
EARLY = 0.4                 # of the interval before it, by which a beat comes early at most
NOTABLY = 0.12              # of that interval, from which a usual beat is supraventricular
BEFORE, AFTER = 0.2, 0.45   # s of a donor that are kept around its peak
RAMP = 0.08                 # s over which it is faded in and out


@dataclass(frozen=True)
class Donor:
    """One beat for each of B windows.

    ``signal`` gives, for times (B, L) in samples from the peak, its values (B, L); ``label`` (B, 1)
    is its class, ``own`` (B, 1) bool whether it is of the window's own recording.
    """

    signal: Callable[[Tensor], Tensor]
    label: Tensor
    own: Tensor


def implant(x: Tensor, place: Tensor, label: Tensor, inside: Tensor, donor: Donor,
            classes: tuple[str, ...], rate: float, draws: Draws, share: float
            ) -> tuple[Tensor, Tensor, Tensor]:
    """Replace normal beats in a ``share`` of the windows x (B, L, 1) by those of ``donor``.

    ``place`` (B, S) samples, ``label`` (B, S) and ``inside`` (B, S) bool are the beats of each
    window, in the order of time. Return x, place and label anew.
    """
    batch, length = x.shape[:2]
    place = place.to(x.dtype)
    chosen = draws.chance(batch, share)
    interval = torch.diff(place, dim=1, prepend=place[:, :1] - 0.8 * rate)
    interval = interval.clamp(0.3 * rate, 1.5 * rate)                        # (B, S)
    normal = label == classes.index('N')
    fits = inside & normal & (place > 0.5 * rate) & (place < length - 0.2 * rate)
    best, slot = (draws.uniform(*place.shape) * fits * chosen[:, None]).topk(len(SHARES), dim=1)
    wanted = draws.uniform(batch, len(SHARES))                               # (B, 3)
    wanted = torch.stack([wanted[:, k] < share for k, share in enumerate(SHARES)], 1) & (best > 0)
    time = torch.arange(length, device=x.device) + 0.5                       # (L,)
    usual = donor.label == classes.index('N')
    for k in range(len(SHARES)):
        take, at = wanted[:, k:k + 1], slot[:, k:k + 1]
        early = EARLY * draws.uniform(batch, 1) * (draws.uniform(batch, 1) < 0.7)
        kind = torch.where(usual & (early > NOTABLY), classes.index('S'), donor.label)
        early = early * interval.gather(1, at)
        old = place.gather(1, at)
        since = time - (old - early)                                         # (B, L)
        stop = (early + 0.12 * rate).clamp(min=AFTER * rate)
        fade = torch.minimum((since + BEFORE * rate) / (RAMP * rate),
                             (stop - since) / (2 * RAMP * rate)).clamp(0, 1) * take
        sign = 1.0 - 2.0 * ((draws.uniform(batch, 1) < 0.3) & ~donor.own)
        gain = sign * torch.exp(0.25 * draws.normal(batch, 1) * ~donor.own)
        x = x + (fade * (donor.signal(since) * gain - x[..., 0]))[..., None]
        place = place.scatter(1, at, torch.where(take, old - early, old))
        label = label.scatter(1, at, torch.where(take, kind, label.gather(1, at)))
    return x, place, label
