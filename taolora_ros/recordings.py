"""Recordings of IMUs and ECGs in ``.npz`` files, read and written.

The format (channel-first, delta-coded int16; differences wrap, so decoding is exact)::

    IMU, one file per subject, R recordings one after the other
      acc_delta  int16 [3,N]    x, y, z          acc_scale   float   m/s^2 per count, > 0
      gyro_delta int16 [3,N]    may be missing   gyro_scale  float   rad/s per count, > 0
      fs         float          nominal rate, Hz
      offset     int   [R+1]    recording i is columns offset[i]:offset[i+1]; one when missing
      fs_eff     float [R]      measured rate, used instead of fs where present
      is_fall    bool  [R]      the annotation: without it a file cannot be scored or trained on
      peak_index_derived int [R]   sample of the impact, -1 for none; then the largest |acc| inside
      fall_start, fall_end int [R] (samples, -1 for none), or of the whole recording
      name, code, label  str [R]   subject  str                          all may be missing

    ECG, one file per record
      sig_delta  int16 [leads,N]   gain float [leads] counts/mV, > 0   zero int [leads] counts
      fs         float             lead str [leads]               record str
      beat_sample int [B]       the annotation, with one of
      beat_aami  str [B]        N, S, V, F or Q, and
      beat_symbol str [B]       as MIT-BIH writes beats (NLRBejn AaJS VEr F /fQ?), '/' a paced one
      ann_sample, ann_symbol    '[' and ']' bound ventricular flutter; may be missing
      snr_db     float          set where noise was added on purpose, from sample noise_start on

A file that cannot be right is refused: recording_checks.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taolora_ros.beat_symbols import episodes, groups, is_paced
from taolora_ros.recording_checks import (
    as_text, beat_samples, check_beats, check_gravity, check_lead_scales, check_noise, decode,
    fall_index, fault, flutter_marks, is_fall, open_npz, per_recording, pick_rate, place, positive)

KINDS = ('imu', 'ecg')


@dataclass
class Recording:
    """One unbroken recording, with its annotation where there is one.

    ``values`` is (N, C) float64: IMU acc x, y, z (m/s^2) and gyro x, y, z (rad/s, NaN where not
    recorded); ECG one column per lead (mV). ``rate`` in Hz; ``stamps`` (N,) int64 nanoseconds,
    or None when the samples are uniform. ``source`` is the name of the file's folder, ``folders``
    has those above it, too. Times are seconds from the first sample.
    """

    name: str
    subject: str
    source: str
    kind: str
    rate: float
    values: np.ndarray
    stamps: np.ndarray | None = None
    is_fall: bool | None = None  # IMU, from here on; None when nothing is annotated
    fall_time_s: float | None = None
    code: str = ''
    label: str = ''
    leads: tuple[str, ...] = ()  # ECG, from here on
    beat_times_s: np.ndarray | None = None
    beat_aami: np.ndarray | None = None
    flutter_s: tuple[tuple[float, float], ...] = ()
    paced: bool = False
    snr_db: float | None = None
    noise_start_s: float = 0.0  # where the added noise begins
    folders: tuple[str, ...] = ()  # that the file lies in, the nearest first

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.values) / self.rate

    @property
    def annotated(self) -> bool:
        """Whether this recording can be scored."""
        return self.is_fall is not None if self.kind == 'imu' else self.beat_times_s is not None

    def lead(self, preferred: tuple[str, ...] = ('MLII', 'ML2', 'II')) -> int:
        """Return the column of the first of the ``preferred`` leads, 0 when there is none."""
        return next((self.leads.index(name) for name in preferred if name in self.leads), 0)


def load_recordings(data: str | Path, kind: str, skipped: dict[str, str] | None = None
                    ) -> Iterator[Recording]:
    """Yield every annotated recording of ``kind`` in the .npz files below ``data``, in path order.

    Files left out are written to ``skipped`` (path: reason). Raise ValueError when ``data`` is
    missing, holds no annotated recording of ``kind``, or a file cannot be decoded.
    """
    for path in find_files(data, kind, skipped):
        yield from read_npz(path)


def find_files(data: str | Path, kind: str, skipped: dict[str, str] | None = None,
               damaged: dict[str, str] | None = None) -> list[Path]:
    """Return the .npz files at or below ``data`` with annotated recordings of ``kind``, sorted.

    Errors and ``skipped`` as for ``load_recordings``; no signal is decoded. With ``damaged``, files
    that cannot be read are written there (path: reason) and are no error while others are found.
    """
    if kind not in KINDS:
        raise ValueError(f'kind: {kind!r} is neither imu nor ecg')
    data = Path(data)
    if not data.exists():
        raise ValueError(f'{data}: no such file or folder')
    found: list[Path] = []
    for path in [data] if data.is_file() else sorted(data.rglob('*.npz')):
        try:
            reason = _unusable(path, kind)
        except ValueError as error:
            if damaged is None:
                raise
            damaged[str(path)] = reason_of(path, error)
            continue
        if reason is None:
            found.append(path)
        elif skipped is not None:
            skipped[str(path)] = reason
    if not found:
        raise ValueError(f'{data}: no .npz file with annotated {kind} recordings'
                         + ''.join(f'; {path}: {why}' for path, why in (damaged or {}).items()))
    return found


def reason_of(path: Path, error: ValueError) -> str:
    """Return what ``error`` says of the file at ``path``, without naming it again."""
    return str(error).removeprefix(f'{path}: ')


def read_npz(path: str | Path) -> Iterator[Recording]:
    """Yield the recordings of one .npz file, annotated or not; raise ValueError naming a fault."""
    path = Path(path)
    with open_npz(path) as data:
        kind = _kind(data.files)
        if kind is None:
            raise ValueError(f'{path}: neither acc_delta (IMU) nor sig_delta (ECG) inside')
        try:
            arrays = {key: as_text(data[key]) for key in data.files}
        except Exception as error:  # zipfile, zlib and numpy each raise their own
            raise fault(path, 'cannot be decoded: ', error) from error
    try:
        yield from (_imu if kind == 'imu' else _ecg)(path, arrays)
    except KeyError as error:
        raise ValueError(f'{path}: key {error} is missing') from error
    except (TypeError, ValueError, IndexError, OverflowError, MemoryError) as error:
        if str(path) in str(error):
            raise
        raise fault(path, 'an array is not as it should be: ', error) from error


def save_imu(path: str | Path, recordings: Iterable[Recording]) -> None:
    """Write IMU recordings, all of one subject and one rate, to ``path`` in the format above.

    Values are rounded to the finest int16 scale that holds them; errors are ValueErrors.
    """
    recordings = list(recordings)
    if len({(r.rate, r.subject) for r in recordings}) != 1:
        raise ValueError(f'{path}: needs recordings of one subject and one rate')
    values = np.concatenate([r.values for r in recordings]).T  # (6, N)
    acc, acc_scale = _encode(values[:3])
    arrays = {'acc_delta': acc, 'acc_scale': acc_scale, 'fs': recordings[0].rate,
              'offset': np.cumsum([0] + [len(r.values) for r in recordings]),
              'subject': recordings[0].subject}
    if np.isfinite(values[3:]).all():
        arrays['gyro_delta'], arrays['gyro_scale'] = _encode(values[3:])
    for key in ('name', 'code', 'label'):
        arrays[key] = np.array([getattr(r, key) for r in recordings])
    if all(r.annotated for r in recordings):
        arrays['is_fall'] = np.array([r.is_fall for r in recordings])
        arrays['peak_index_derived'] = np.array([
            round(r.fall_time_s * r.rate) if r.is_fall else _peak(r.values) for r in recordings])
    np.savez_compressed(path, **arrays)


def save_ecg(path: str | Path, recording: Recording) -> None:
    """Write one ECG record to ``path`` in the format above, rounded as for ``save_imu``."""
    delta, scale = _encode(recording.values.T)
    arrays = {'sig_delta': delta, 'gain': np.full(len(delta), 1 / scale),
              'zero': np.zeros(len(delta), np.int32), 'fs': recording.rate,
              'lead': np.array(recording.leads), 'record': recording.name}
    if recording.annotated:
        arrays['beat_sample'] = np.round(recording.beat_times_s * recording.rate).astype(np.int32)
        arrays['beat_aami'] = np.asarray(recording.beat_aami, 'U1')
    if recording.snr_db is not None:
        arrays['snr_db'] = recording.snr_db
    np.savez_compressed(path, **arrays)


def _kind(keys: list[str]) -> str | None:
    return 'imu' if 'acc_delta' in keys else 'ecg' if 'sig_delta' in keys else None


def _unusable(path: Path, kind: str) -> str | None:
    """Return why ``path`` cannot be used for ``kind``, or None."""
    with open_npz(path) as data:
        keys, holds = data.files, _kind(data.files)
    if holds != kind:
        return f'holds {holds or "no"} recordings'
    annotated = ('is_fall' in keys if kind == 'imu' else
                 'beat_sample' in keys and ('beat_aami' in keys or 'beat_symbol' in keys))
    return None if annotated else 'no annotations'


def _encode(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return delta-coded counts (channels, N) int16 and the scale that undoes them."""
    scale = max(float(np.abs(values).max(initial=0.0)), 1e-9) / 32767
    counts = np.round(values / scale).astype(np.int64)
    return np.diff(counts, axis=1, prepend=0).astype(np.int16), scale  # wraps on purpose


def _imu(path: Path, arrays: dict) -> Iterator[Recording]:
    acc_scale = positive(path, 'acc_scale', arrays['acc_scale'])
    acc = decode(path, arrays, 'acc_delta') * acc_scale  # (3, N)
    gyro = np.full(acc.shape, np.nan)
    if 'gyro_delta' in arrays:
        gyro_scale = positive(path, 'gyro_scale', arrays['gyro_scale'])
        gyro = decode(path, arrays, 'gyro_delta') * gyro_scale
    if acc.shape[0] != 3 or gyro.shape != acc.shape:
        raise ValueError(f'{path}: acc {acc.shape} and gyro {gyro.shape} must both be [3, N]')
    check_gravity(path, acc)
    values = np.concatenate([acc, gyro]).T  # (N, 6)
    offset = np.asarray(arrays.get('offset', [0, len(values)]), int)
    if offset[0] < 0 or offset[-1] > len(values) or (np.diff(offset) <= 0).any():
        raise ValueError(f'{path}: offset must rise from 0 to at most {len(values)}')
    columns = {key: per_recording(path, arrays, key, len(offset) - 1)
               for key in ('name', 'code', 'label', 'is_fall', 'fs_eff', 'peak_index_derived',
                           'fall_start', 'fall_end')}
    for i, (start, stop) in enumerate(zip(offset[:-1], offset[1:])):
        row = {key: column[i] for key, column in columns.items() if column is not None}
        yield _imu_recording(path, arrays, i, row, values[start:stop])


def _imu_recording(path: Path, arrays: dict, index: int, row: dict, values: np.ndarray
                   ) -> Recording:
    rate = pick_rate(path, 'imu', arrays.get('fs', np.nan), row.get('fs_eff', np.nan))
    fell, peak = None, -1
    if 'is_fall' in row:
        fell = is_fall(path, index, row['is_fall'])
    if fell:
        peak, start, end = fall_index(path, index, row, len(values))
        if peak < 0:
            first = max(start, 0)
            peak = first + _peak(values[first:end + 1 if end >= first else None])
    return Recording(
        name=str(row.get('name', f'{path.stem}-{index}')), kind='imu', rate=rate, values=values,
        subject=str(arrays.get('subject', path.stem)), is_fall=fell,
        fall_time_s=float(peak) / rate if fell else None, **place(path),
        code=str(row.get('code', '')), label=str(row.get('label', '')))


def _ecg(path: Path, arrays: dict) -> Iterator[Recording]:
    counts = decode(path, arrays, 'sig_delta').astype(float)  # (leads, N)
    gain, zero = (np.broadcast_to(arrays.get(k, d), len(counts))
                  for k, d in (('gain', 1), ('zero', 0)))
    check_lead_scales(path, gain, zero)
    rate = pick_rate(path, 'ecg', arrays.get('fs', np.nan))
    if 0 in counts.shape or len(np.atleast_1d(arrays.get('lead', counts[:, 0]))) != len(counts):
        raise ValueError(f'{path}: sig_delta {counts.shape} needs samples and one lead name a row')
    record = Recording(
        name=str(arrays.get('record', path.stem)), subject=str(arrays.get('record', path.stem)),
        kind='ecg', rate=rate, **place(path),
        values=((counts - zero[:, None]) / gain[:, None]).T,
        leads=tuple(str(name) for name in np.atleast_1d(arrays.get('lead', range(len(counts))))))
    _annotate_ecg(path, arrays, record)
    yield record


def _annotate_ecg(path: Path, arrays: dict, record: Recording) -> None:
    """Write to ``record`` what ``arrays`` tells of its beats, flutter and added noise."""
    length = len(record.values)
    if 'snr_db' in arrays:
        start = float(arrays.get('noise_start', 0))
        record.snr_db, record.noise_start_s = float(arrays['snr_db']), start / record.rate
        check_noise(path, record.snr_db, start, length)
    if 'beat_sample' in arrays and ('beat_aami' in arrays or 'beat_symbol' in arrays):
        samples = beat_samples(path, arrays['beat_sample'], length)
        record.beat_times_s = samples / record.rate
        aami, symbols = (per_recording(path, arrays, key, len(samples))
                         for key in ('beat_aami', 'beat_symbol'))
        if aami is None:
            check_beats(path, symbols, 'beat_symbol')
            aami = groups(symbols)
        check_beats(path, aami, 'beat_aami')
        record.beat_aami, record.paced = aami, is_paced(symbols, aami)
    symbols, samples = flutter_marks(path, arrays, length)
    record.flutter_s = episodes(symbols, samples / record.rate, record.duration_s)


def _peak(values: np.ndarray) -> int:
    """Return the row of the largest acceleration in ``values`` (N, >=3)."""
    return int(np.argmax(np.linalg.norm(values[:, :3], axis=1)))
