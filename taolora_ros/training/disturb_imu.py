"""Make IMU windows look as if another person wore another sensor at another place.

Windows (B, L, 8) hold acceleration in g and turn rate in ``GYRO_SCALE``, with their norms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taolora_ros.features import GYRO_SCALE
from taolora_ros.training.draws import Draws, smooth

HIGH_RAIL = 16.0  # g


@dataclass(frozen=True)
class ImuDisturbance:
    """Shares of windows (0 to 1) that are disturbed in each way, and how strongly.

    ``turned`` are rotated at random; ``gain`` and ``gyro_gain`` are log-normal spreads; ``clipped``
    meet a rail of ``low_rail`` g, as in watches; ``acc_only`` lose their gyroscope; all are
    stretched in time by ``slowest`` to ``fastest``.
    """

    turned: float = 0.6
    gain: float = 0.06
    gyro_gain: float = 0.12
    blurred: float = 0.25
    clipped: float = 0.3
    low_rail: float = 4.0
    acc_only: float = 0.4
    slowest: float = 0.85
    fastest: float = 1.15


def disturb_imu(x: Tensor, draws: Draws, how: ImuDisturbance) -> Tensor:
    """Return windows (B, L, 8) disturbed as ``how`` says."""
    batch = len(x)
    acc, gyro = x[..., :3], x[..., 4:7]
    turn = torch.where(draws.chance(batch, how.turned)[:, None, None], rotations(batch, draws),
                       torch.eye(3, device=x.device))
    acc, gyro = acc @ turn, gyro @ turn
    acc = acc * torch.exp(how.gain * draws.normal(batch, 1, 1))
    gyro = gyro * torch.exp(how.gyro_gain * draws.normal(batch, 1, 1))
    blurred = draws.chance(batch, how.blurred)[:, None, None]
    acc = torch.where(blurred, smooth(acc, 3), acc)
    acc = acc + draws.strength(batch, 0.5, 0.03)[:, None, None] * draws.normal(*acc.shape)
    gyro = gyro + draws.strength(batch, 0.5, 0.1 / GYRO_SCALE)[:, None, None] * draws.normal(
        *gyro.shape)
    rail = torch.where(draws.chance(batch, how.clipped), how.low_rail, HIGH_RAIL)[:, None, None]
    acc = acc.clamp(-rail, rail)
    gyro = gyro * (~draws.chance(batch, how.acc_only))[:, None, None]
    return torch.cat([acc, acc.norm(dim=-1, keepdim=True) - 1,
                      gyro, gyro.norm(dim=-1, keepdim=True)], dim=-1)


def rotations(batch: int, draws: Draws) -> Tensor:
    """Return uniformly random rotations (B, 3, 3) from random unit quaternions."""
    w, i, j, k = torch.nn.functional.normalize(draws.normal(batch, 4), dim=1).unbind(1)
    return torch.stack([
        1 - 2 * (j * j + k * k), 2 * (i * j - k * w), 2 * (i * k + j * w),
        2 * (i * j + k * w), 1 - 2 * (i * i + k * k), 2 * (j * k - i * w),
        2 * (i * k - j * w), 2 * (j * k + i * w), 1 - 2 * (i * i + j * j)], 1).view(-1, 3, 3)
