"""Make IMU windows look as if another person wore another sensor at another place.

Windows (B, L, 8) hold acceleration in g and turn rate in ``GYRO_SCALE``, with their norms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taolora_ros.features import GYRO_SCALE
from taolora_ros.training.draws import Draws, smooth


@dataclass(frozen=True)
class ImuDisturbance:
    """Shares of windows (0 to 1) that are disturbed in each way, and how strongly.

    ``turned`` are rotated at random, ``swung`` turn to and fro, as on a limb; ``gain`` and
    ``gyro_gain`` are log-normal spreads; ``clipped`` meet a rail of ``low_rail`` to ``high_rail``
    g, as in phones and watches; ``coarse`` are rounded to steps of up to ``step`` g; ``acc_only``
    lose their gyroscope; all are stretched in time by ``slowest`` to ``fastest``.
    """

    turned: float = 0.8
    swung: float = 0.4
    gain: float = 0.12
    gyro_gain: float = 0.12
    blurred: float = 0.25
    clipped: float = 0.5
    low_rail: float = 2.0
    high_rail: float = 16.0
    coarse: float = 0.3
    step: float = 0.06
    acc_only: float = 0.6
    slowest: float = 0.85
    fastest: float = 1.15


def disturb_imu(x: Tensor, rate: float, draws: Draws, how: ImuDisturbance) -> Tensor:
    """Return windows (B, L, 8) disturbed as ``how`` says, sampled at ``rate`` Hz."""
    batch = len(x)
    acc, gyro = x[..., :3], x[..., 4:7]
    turn = torch.where(draws.chance(batch, how.turned)[:, None, None], rotations(batch, draws),
                       torch.eye(3, device=x.device))
    acc, gyro = acc @ turn, gyro @ turn
    acc, gyro = _swing(acc, gyro, rate, draws, how.swung)
    acc = acc * torch.exp(how.gain * draws.normal(batch, 1, 1))
    gyro = gyro * torch.exp(how.gyro_gain * draws.normal(batch, 1, 1))
    blurred = draws.chance(batch, how.blurred)[:, None, None]
    acc = torch.where(blurred, smooth(acc, 3), acc)
    acc = acc + draws.strength(batch, 0.5, 0.03)[:, None, None] * draws.normal(*acc.shape)
    gyro = gyro + draws.strength(batch, 0.5, 0.1 / GYRO_SCALE)[:, None, None] * draws.normal(
        *gyro.shape)
    acc = _rails(acc, draws, how)
    gyro = gyro * (~draws.chance(batch, how.acc_only))[:, None, None]
    return torch.cat([acc, acc.norm(dim=-1, keepdim=True) - 1,
                      gyro, gyro.norm(dim=-1, keepdim=True)], dim=-1)


def rotations(batch: int, draws: Draws) -> Tensor:
    """Return uniformly random rotations (B, 3, 3) from random unit quaternions."""
    return _matrix(torch.nn.functional.normalize(draws.normal(batch, 4), dim=1))


def _matrix(quaternion: Tensor) -> Tensor:
    """Return the rotations (..., 3, 3) of unit quaternions (..., 4)."""
    w, i, j, k = quaternion.unbind(-1)
    return torch.stack([
        1 - 2 * (j * j + k * k), 2 * (i * j - k * w), 2 * (i * k + j * w),
        2 * (i * j + k * w), 1 - 2 * (i * i + k * k), 2 * (j * k - i * w),
        2 * (i * k - j * w), 2 * (j * k + i * w), 1 - 2 * (i * i + j * j)
    ], -1).unflatten(-1, (3, 3))


def _swing(acc: Tensor, gyro: Tensor, rate: float, draws: Draws, share: float
           ) -> tuple[Tensor, Tensor]:
    """Turn acc and gyro (B, L, 3) to and fro about one axis, at 0.1 to 1 Hz and up to 1 rad."""
    batch, length = acc.shape[:2]
    time = torch.arange(length, device=acc.device) / rate
    pace = 6.2832 * (0.1 + 0.9 * draws.uniform(batch, 1).square())          # rad/s
    size = draws.strength(batch, share, 1.0)[:, None]
    phase = pace * time + 6.2832 * draws.uniform(batch, 1)
    angle = size * phase.sin()                                              # (B, L)
    axis = torch.nn.functional.normalize(draws.normal(batch, 1, 3), dim=2)
    turn = _matrix(torch.cat([(angle / 2).cos()[..., None], (angle / 2).sin()[..., None] * axis],
                             dim=-1))                                       # (B, L, 3, 3)
    speed = (size * pace * phase.cos() / GYRO_SCALE)[..., None] * axis
    return (acc[:, :, None] @ turn)[:, :, 0], (gyro[:, :, None] @ turn)[:, :, 0] - speed


def _rails(acc: Tensor, draws: Draws, how: ImuDisturbance) -> Tensor:
    """Clip and round acc (B, L, 3) as coarse sensors do."""
    batch = len(acc)
    rail = how.low_rail * (how.high_rail / how.low_rail) ** draws.uniform(batch)
    rail = torch.where(draws.chance(batch, how.clipped), rail, how.high_rail)[:, None, None]
    acc = torch.maximum(torch.minimum(acc, rail), -rail)
    step = draws.strength(batch, how.coarse, how.step)[:, None, None].clamp_min(1e-5)
    return (acc / step).round() * step
