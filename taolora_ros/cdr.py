"""sensor_msgs/Imu as it travels: a batch of serialised messages to arrays in one go.

    offset   0  encapsulation: 0, byte order (0 big, 1 little), two bytes of options
             4  header.stamp: sec int32, nanosec uint32
            12  header.frame_id: length uint32, characters, their NUL, zeros up to a multiple of 8
    end - 296  orientation 4, its covariance 9, angular velocity 3, its covariance 9,
               linear acceleration 3, its covariance 9: float64

Only the ends of a message matter, so that messages with frame_ids of any length are read together.
Nothing here imports ROS. Source of the layout: OMG DDSI-RTPS 2.3, chapter 10, plain CDR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taolora_ros.samples import NANOSECONDS

HEAD, NUMBERS = 16, 37         # bytes before the characters of frame_id, float64 after them
TAIL = 8 * NUMBERS             # bytes
SHORTEST = 4 + 16 + TAIL       # bytes of a message whose frame_id is empty
GYRO, GYRO_COVARIANCE, ACC, ACC_COVARIANCE = 13, 16, 25, 28  # where they begin in the numbers
NOT_REPORTED = -1.0            # REP 145: covariance[0] of what a sensor does not measure


def _layout(order: str) -> np.dtype:
    """Return both ends of a message in a byte order, '<' or '>'."""
    return np.dtype([('encapsulation', 'u1', 4), ('sec', f'{order}i4'), ('nanosec', f'{order}u4'),
                     ('length', f'{order}u4'), ('numbers', f'{order}f8', NUMBERS)])


LITTLE, BIG = _layout('<'), _layout('>')


@dataclass(frozen=True)
class ImuBatch:
    """What was in N messages that could be read.

    ``stamps`` (N,) int64 in ns; ``values`` (N, 6) float64: acceleration in m/s^2, angular velocity
    in rad/s, NaN where the message says that it is not reported. ``unreadable`` counts messages
    left out, ``no_acceleration`` those without acceleration; ``frame_id`` is the last one's.
    """

    stamps: np.ndarray
    values: np.ndarray
    unreadable: int = 0
    no_acceleration: int = 0
    frame_id: str = ''


def read_imu(messages: Sequence[bytes]) -> ImuBatch:
    """Read serialised messages, leaving out those of another length than they should have."""
    whole = [m for m in messages if len(m) >= SHORTEST]
    ends = b''.join([part for m in whole for part in (m[:HEAD], m[-TAIL:])])
    sizes = np.fromiter(map(len, whole), np.int64, len(whole))
    little = np.frombuffer(ends, LITTLE)
    order = little['encapsulation'][:, 1]
    if order.all():
        stamps, lengths, numbers = _columns(little)
    else:
        swapped = order == 0
        both = zip(_columns(little), _columns(np.frombuffer(ends, BIG)))
        stamps, lengths, numbers = (
            np.where(swapped.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in both)
    right = ((sizes == 4 + ((12 + lengths + 7) & ~7) + TAIL)
             & (little['encapsulation'][:, 0] == 0) & (order <= 1))
    kept = len(whole)
    if not right.all():
        stamps, numbers = stamps[right], numbers[right]
        whole = [m for m, good in zip(whole, right.tolist()) if good]
        lengths, kept = lengths[right], len(whole)
    values = np.empty((kept, 6))
    values[:, :3], values[:, 3:] = numbers[:, ACC:ACC + 3], numbers[:, GYRO:GYRO + 3]
    no_acceleration = numbers[:, ACC_COVARIANCE] == NOT_REPORTED
    values[no_acceleration, :3] = np.nan
    values[numbers[:, GYRO_COVARIANCE] == NOT_REPORTED, 3:] = np.nan
    frame_id = whole[-1][HEAD:HEAD + int(lengths[-1])] if whole else b''
    return ImuBatch(stamps, values, len(messages) - kept, int(no_acceleration.sum()),
                    frame_id.rstrip(b'\0').decode(errors='replace'))


def _columns(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return stamps (N,) in ns, lengths of frame_id (N,) and numbers (N, 37)."""
    stamps = ends['sec'].astype(np.int64) * NANOSECONDS + ends['nanosec']
    return stamps, ends['length'].astype(np.int64), ends['numbers']
