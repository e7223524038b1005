"""What cannot be right in a file of recordings: each check raises ValueError with file and key."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from taolora_ros.beat_symbols import BEATS, GROUPS

RATES = {'imu': (5.0, 10_000.0), 'ecg': (20.0, 20_000.0)}  # Hz, from and to
GRAVITY = 9.80665   # m/s^2
NEAR = 2.0          # times more or less than gravity; measured files lie within 1.05
GRAVITY_IN = {'g': GRAVITY, 'mg': GRAVITY / 1000}  # what 1 of these units is, in m/s^2


def open_npz(path: Path) -> np.lib.npyio.NpzFile:
    """Return the open file."""
    try:
        data = np.load(path)
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise fault(path, 'not a readable .npz file: ', error) from error
    if not isinstance(data, np.lib.npyio.NpzFile):
        raise ValueError(f'{path}: a single array, not an .npz file')
    return data


def fault(path: Path, what: str, error: Exception) -> ValueError:
    """Return an error of one line, whatever the file's own says."""
    return ValueError(f'{path}: {what}{" ".join(str(error).split()):.200}')


def positive(path: Path, key: str, value) -> float:
    """Return ``value`` as a number; it must be finite and above 0."""
    number = float(value)
    if not 0 < number < np.inf:
        raise ValueError(f'{path}: {key} is {number}, it must be a positive number')
    return number


def pick_rate(path: Path, kind: str, nominal, measured=np.nan) -> float:
    """Return the rate of a recording in Hz: ``measured`` (fs_eff), or where that is NaN fs."""
    key, rate = ('fs', nominal) if np.isnan(measured) else ('fs_eff', measured)
    low, high = RATES[kind]
    if not low <= rate <= high:
        raise ValueError(f'{path}: {key} is {float(rate)}, it must be a rate in Hz, '
                         f'{low:g} to {high:g} for {kind}')
    return float(rate)


def decode(path: Path, arrays: dict, key: str) -> np.ndarray:
    """Return the int16 counts (channels, N) behind ``key``."""
    delta = arrays[key]
    if delta.ndim != 2 or delta.dtype != np.int16:
        raise ValueError(f'{path}: {key} is {delta.dtype} {delta.shape}, not int16 [channels, N]')
    return np.cumsum(delta, axis=1, dtype=np.int16)


def per_recording(path: Path, arrays: dict, key: str, count: int) -> np.ndarray | None:
    """Return the column ``key`` of a value for each of ``count``, None when there is none."""
    column = arrays.get(key)
    if column is not None and np.shape(column) != (count,):
        raise ValueError(f'{path}: {key} has shape {np.shape(column)}, expected ({count},)')
    return column


def check_gravity(path: Path, acc: np.ndarray) -> None:
    """Refuse acceleration (3, N), in m/s^2, of a whole file that gravity shows to be in g or mg.

    Somebody's median is gravity, give or take 5 %; a half and a double of it are let pass.
    """
    median = float(np.median(np.linalg.norm(acc, axis=0))) if acc.size else GRAVITY
    for unit, size in GRAVITY_IN.items():
        if 1 / NEAR < median * size / GRAVITY < NEAR:
            raise ValueError(f'{path}: acc_scale: the median of |acc| is {median:.4g}, as if it '
                             f'were in {unit}; acc_scale must give m/s^2, gravity being 9.8')


def check_fall(path: Path, index: int, row: dict, length: int) -> None:
    """Refuse annotations of recording ``index`` that lie outside its ``length`` samples."""
    for key, last in (('peak_index_derived', length - 1), ('fall_start', length - 1),
                      ('fall_end', length)):  # an end may be the first sample after the fall
        at = row.get(key, -1)
        if not -1 <= at <= last or at != int(at):
            raise ValueError(f'{path}: {key}[{index}] is {at}, it must be a sample of the '
                             f'recording, 0 to {last}, or -1 for none')
    start, end = row.get('fall_start', -1), row.get('fall_end', -1)
    if 0 <= end < start:
        raise ValueError(f'{path}: fall_end[{index}] is {end}, before fall_start, {start}')
    if row.get('is_fall', 0) not in (0, 1):
        raise ValueError(f"{path}: is_fall[{index}] is {row['is_fall']!r:.60}, it must be True or "
                         'False')


def check_lead_scales(path: Path, gain: np.ndarray, zero: np.ndarray) -> None:
    """Refuse a ``gain`` of a lead that is not above 0, and a ``zero`` that is no number.

    A lead of the other polarity has other counts, not a negative gain.
    """
    for lead, (counts, base) in enumerate(zip(gain, zero)):
        positive(path, f'gain[{lead}]', counts)
        if not np.isfinite(base):
            raise ValueError(f'{path}: zero[{lead}] is {base}, it must be a number of counts')


def check_samples(path: Path, key: str, samples: np.ndarray, length: int, apart: bool) -> None:
    """Refuse positions of annotations outside the signal, or that fall; ``apart``: or are equal."""
    if samples.ndim != 1 or samples.dtype.kind not in 'iuf':
        raise ValueError(f'{path}: {key} is {samples.dtype} {samples.shape}, expected numbers (N,)')
    for i in np.flatnonzero(~((samples >= 0) & (samples < length)))[:1]:
        raise ValueError(f'{path}: {key}[{i}] is {samples[i]}, it must be a sample of the signal, '
                         f'0 to {length - 1}')
    rises = samples[1:] > samples[:-1] if apart else samples[1:] >= samples[:-1]
    for i in np.flatnonzero(~rises)[:1]:
        raise ValueError(f'{path}: {key}[{i + 1}] is {samples[i + 1]} after {samples[i]}, samples '
                         'must rise')


def check_beats(path: Path, aami: np.ndarray | None, symbols: np.ndarray | None) -> None:
    """Refuse groups of beats other than AAMI's, and symbols that are not those of beats."""
    for key, column, known in (('beat_aami', aami, GROUPS), ('beat_symbol', symbols, BEATS)):
        for i, value in enumerate(() if column is None else column):
            if str(value) not in known:
                raise ValueError(f'{path}: {key}[{i}] is {str(value)!r:.60}, it must be one of '
                                 f'{" ".join(known)}')


def check_noise(path: Path, snr_db: float, start: float, length: int) -> None:
    """Refuse added noise of no strength, or that begins outside the signal."""
    if not np.isfinite(snr_db):
        raise ValueError(f'{path}: snr_db is {snr_db}, it must be a number')
    if not 0 <= start < length:
        raise ValueError(f'{path}: noise_start is {start}, it must be a sample of the signal, '
                         f'0 to {length - 1}')
