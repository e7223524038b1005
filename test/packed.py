"""Contents of files of recordings."""

import numpy as np


def delta(counts):
    """Delta-code int16 counts (channels, N); differences wrap."""
    return np.diff(counts, axis=1, prepend=np.int16(0)).astype(np.int16)


def imu_arrays(rng, lengths=(13, 40, 7)):
    counts = rng.integers(-32768, 32768, (2, 3, sum(lengths))).astype(np.int16)
    return counts, {
        'acc_delta': delta(counts[0]), 'acc_scale': 0.01, 'gyro_delta': delta(counts[1]),
        'gyro_scale': 0.001, 'fs': 50.0, 'offset': np.cumsum([0, *lengths]),
        'name': np.array(['a', 'b', 'c']), 'code': np.array(['D01', 'F01', 'D02']),
        'label': np.array(['walking', 'slip', 'sitting']), 'subject': 'S1',
        'is_fall': np.array([False, True, False]), 'peak_index_derived': np.array([3, 25, 2])}


def ecg_arrays(symbols='NVN', **extra):
    counts = np.random.default_rng(2).integers(-2000, 2000, (2, 900)).astype(np.int16)
    aami = np.array([{'/': 'Q', 'f': 'Q', 'L': 'N'}.get(s, s) for s in symbols])
    return counts, {
        'sig_delta': delta(counts), 'gain': np.array([200.0, 100.0]), 'zero': np.array([1024, 0]),
        'fs': 360.0, 'lead': np.array(['V5', 'MLII']), 'record': '999',
        'beat_sample': np.arange(1, len(symbols) + 1) * 180,
        'beat_symbol': np.array(list(symbols)), 'beat_aami': aami, **extra}
