"""What cannot be right in a file of recordings: each check raises ValueError with file and key."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from taolora_ros.beat_symbols import BEATS, GROUPS

RATES = {'imu': (5.0, 10_000.0), 'ecg': (20.0, 20_000.0)}  # Hz, from and to
DEPTH = 3           # folders that are remembered of where a file lies
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


def as_text(array: np.ndarray) -> np.ndarray:
    """Return text for bytes, and all else as it is."""
    return np.char.decode(array, 'utf-8') if array.dtype.kind == 'S' else array


def place(path: Path) -> dict:
    """Return the folders that a file lies in, as it is called, not where a link leads to."""
    names = [part.name for part in Path(os.path.abspath(path)).parents]
    return {'source': names[0], 'folders': tuple(name for name in names if name)[:DEPTH]}


def fault(path: Path, what: str, error: Exception) -> ValueError:
    """Return an error of one line, whatever the file's own says."""
    return ValueError(f'{path}: {what}{" ".join(str(error).split()):.200}')


def number_of(path: Path, key: str, value) -> float:
    """Return ``value``, a number or an array of one."""
    value = np.asarray(value)
    if value.size != 1 or value.dtype.kind not in 'iuf':
        raise ValueError(f'{path}: {key} is {value.dtype} {value.shape}, expected a number')
    return float(value.item())


def positive(path: Path, key: str, value) -> float:
    """Return ``value`` as a number; it must be finite and above 0."""
    number = number_of(path, key, value)
    if not 0 < number < np.inf:
        raise ValueError(f'{path}: {key} is {number}, it must be a positive number')
    return number


def pick_rate(path: Path, kind: str, nominal, measured=np.nan) -> float:
    """Return the rate of a recording in Hz: ``measured`` (fs_eff), or where that is NaN fs."""
    key, rate = ('fs', number_of(path, 'fs', nominal)) if np.isnan(measured) else (
        'fs_eff', measured)
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
    column = None if column is None else np.atleast_1d(column)
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


def fall_index(path: Path, index: int, row: dict, length: int) -> tuple[int, int, int]:
    """Return peak, start and end of the fall in recording ``index`` of ``length`` samples.

    Each is -1 where it is not annotated (or NaN); start and end matter, and are checked, only
    without a peak, and an end beyond the recording is its end.
    """
    peak = _sample(path, f'peak_index_derived[{index}]', row.get('peak_index_derived', -1), length)
    if peak >= 0:
        return peak, -1, -1
    start = _sample(path, f'fall_start[{index}]', row.get('fall_start', -1), length)
    end = _sample(path, f'fall_end[{index}]', row.get('fall_end', -1), np.inf)
    if 0 <= end < start:
        raise ValueError(f'{path}: fall_end[{index}] is {end}, before fall_start, {start}')
    return -1, start, end


def is_fall(path: Path, index: int, value) -> bool:
    """Return whether recording ``index`` is one of a fall."""
    if value not in (0, 1):
        raise ValueError(f'{path}: is_fall[{index}] is {value!r:.60}, it must be True or False')
    return bool(value)


def _sample(path: Path, key: str, at, length: float) -> int:
    """Return a sample below ``length``, -1 for none."""
    if np.isnan(at) or at == -1:
        return -1
    if not 0 <= at < length or at != int(at):
        raise ValueError(f'{path}: {key} is {at}, it must be a sample of the recording, 0 to '
                         f'{length - 1}, or -1 for none')
    return int(at)


def check_lead_scales(path: Path, gain: np.ndarray, zero: np.ndarray) -> None:
    """Refuse a ``gain`` of a lead that is not above 0, and a ``zero`` that is no number.

    A lead of the other polarity has other counts, not a negative gain.
    """
    for lead, (counts, base) in enumerate(zip(gain, zero)):
        positive(path, f'gain[{lead}]', counts)
        if not np.isfinite(base):
            raise ValueError(f'{path}: zero[{lead}] is {base}, it must be a number of counts')


def beat_samples(path: Path, samples: np.ndarray, length: int) -> np.ndarray:
    """Return where beats are (N,); one at the signal's end is put at its last sample.

    Refuse positions outside the signal, or that fall: they are of another signal.
    """
    if samples.ndim != 1 or samples.dtype.kind not in 'iuf':
        raise ValueError(f'{path}: beat_sample is {samples.dtype} {samples.shape}, expected '
                         'numbers (N,)')
    for i in np.flatnonzero(~((samples >= 0) & (samples <= length)))[:1]:
        raise ValueError(f'{path}: beat_sample[{i}] is {samples[i]}, it must be a sample of the '
                         f'signal, 0 to {length - 1}')
    for i in np.flatnonzero(samples[1:] < samples[:-1])[:1]:
        raise ValueError(f'{path}: beat_sample[{i + 1}] is {samples[i + 1]} after {samples[i]}, '
                         'samples must rise')
    return np.minimum(samples, length - 1)


def flutter_marks(path: Path, arrays: dict, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the brackets (M,) around ventricular flutter and where they are, in order.

    All other annotations, wherever they are, are of no use here.
    """
    symbols = arrays.get('ann_symbol', np.zeros(0, 'U1'))
    here = np.flatnonzero(np.isin(symbols, ('[', ']')))
    if not len(here):
        return symbols[here], here
    samples = np.asarray(arrays['ann_sample'])
    if samples.shape != symbols.shape or samples.dtype.kind not in 'iuf':
        raise ValueError(f'{path}: ann_sample is {samples.dtype} {samples.shape}, expected numbers '
                         f'{symbols.shape}, one for each of ann_symbol')
    at = samples[here].astype(float)
    for i in np.flatnonzero(~np.isfinite(at))[:1]:
        raise ValueError(f'{path}: ann_sample[{here[i]}] is {at[i]}, it must be a number')
    order = np.argsort(at, kind='stable')
    return symbols[here][order], np.clip(at[order], 0, length)


def check_beats(path: Path, column: np.ndarray, key: str) -> None:
    """Refuse groups of beats other than AAMI's, and symbols that are not those of beats."""
    known = GROUPS if key == 'beat_aami' else BEATS
    for i in np.flatnonzero(~np.isin(column, known))[:1]:
        raise ValueError(f'{path}: {key}[{i}] is {str(column[i])!r:.60}, it must be one of '
                         f'{" ".join(known)}')


def check_noise(path: Path, snr_db: float, start: float, length: int) -> None:
    """Refuse added noise of no strength, or that begins outside the signal."""
    if not np.isfinite(snr_db):
        raise ValueError(f'{path}: snr_db is {snr_db}, it must be a number')
    if not 0 <= start < length:
        raise ValueError(f'{path}: noise_start is {start}, it must be a sample of the signal, '
                         f'0 to {length - 1}')
