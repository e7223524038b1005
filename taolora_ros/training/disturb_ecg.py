"""Make ECG windows look as if they came from another person, lead or recorder.

Windows (B, L, 1) are in units of the running scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taolora_ros.features import SCALE_BLOCK
from taolora_ros.training.draws import Draws, smooth


@dataclass(frozen=True)
class EcgDisturbance:
    """Shares of windows (0 to 1) whose beats are changed in each way.

    ``mixed`` leads, an ``echoed`` and a phase-``turned`` signal reshape all beats of a window
    alike; some beats of those ``implanted`` are ventricular beats of other people or, for the
    share ``own``, other beats of the same recording; ``flipped`` change polarity; all are
    stretched in time by ``slowest`` to ``fastest``.
    """

    mixed: float = 0.4
    echoed: float = 0.3
    turned: float = 0.25
    implanted: float = 0.5
    own: float = 0.3
    flipped: float = 0.15
    slowest: float = 0.8
    fastest: float = 1.25


def reshape_beats(x: Tensor, other: Tensor, rate: float, draws: Draws, how: EcgDisturbance
                  ) -> Tensor:
    """Give some windows (B, L, 1) beats of another shape, the same for all of a window.

    The two leads are mixed as if an electrode sat elsewhere, an echo widens
    and notches every QRS complex as a bundle branch block does, and a constant phase shift turns
    peaks into slopes: what is ventricular must then be told from the other beats, not by heart.
    """
    batch, length = x.shape[:2]
    angle = 3.1416 * (2 * draws.uniform(batch, 1, 1) - 1)
    mixed = draws.chance(batch, how.mixed)[:, None, None]
    x = torch.where(mixed, angle.cos() * x + angle.sin() * other, x)
    lag = (2 + 9 * draws.uniform(batch, 1)).long()
    source = (torch.arange(length, device=x.device) - lag).clamp(min=0)      # (B, L)
    echo = x.gather(1, source[..., None]) * (1.8 * draws.uniform(batch, 1, 1) - 0.9)
    echoed = draws.chance(batch, how.echoed)[:, None, None]
    x = torch.where(echoed, x + echo, x)
    turn = 2.4 * (draws.uniform(batch, 1, 1) - 0.5)
    spectrum = torch.fft.rfft(x, dim=1) * torch.polar(torch.ones_like(turn), turn)
    turned = draws.chance(batch, how.turned)[:, None, None]
    x = torch.where(turned, torch.fft.irfft(spectrum, n=length, dim=1), x)
    return torch.where(mixed | echoed | turned, rescaled(x, rate), x)


def rescaled(x: Tensor, rate: float) -> Tensor:
    """Return windows (B, L, 1) in units of their own running scale."""
    batch, length = x.shape[:2]
    block = round(SCALE_BLOCK * rate)
    whole = length // block * block
    tops = x[:, -whole:].abs().view(batch, -1, block).amax(2)                # (B, blocks)
    return x / tops.median(1).values.clamp_min(0.05)[:, None, None]


def disturb_ecg(x: Tensor, rate: float, draws: Draws, how: EcgDisturbance) -> Tensor:
    """Vary polarity, gain, wander, noise and bandwidth of ECG windows (B, L, 1)."""
    batch, length = x.shape[:2]
    time = torch.arange(length, device=x.device) / rate
    x = torch.where(draws.chance(batch, how.flipped)[:, None, None], -x, x)
    x = x * torch.exp(0.25 * draws.normal(batch, 1, 1))
    blurred = draws.chance(batch, 0.2)[:, None, None]
    x = torch.where(blurred, smooth(x, 3), x)
    turns = 0.15 + 0.5 * draws.uniform(batch)[:, None]
    wander = torch.sin(6.2832 * (turns * time + draws.uniform(batch)[:, None]))
    x = x + (draws.strength(batch, 0.3, 0.3)[:, None] * wander)[..., None]
    white = draws.normal(batch, length, 1)
    x = x + draws.strength(batch, 0.5, 0.12)[:, None, None] * white
    slow = smooth(smooth(draws.normal(batch, length, 1), 15), 15) * 15.0     # electrode motion
    x = x + draws.strength(batch, 0.3, 0.35)[:, None, None] * slow / slow.std(dim=1, keepdim=True)
    mains = torch.sin(6.2832 * ((48 + 14 * draws.uniform(batch))[:, None] * time))
    return x + (draws.strength(batch, 0.1, 0.1)[:, None] * mains)[..., None]
