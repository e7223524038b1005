"""Other people's beat detectors, as they are used by default, on the lead that ours reads.

They see a whole record at once, ours a stream of it. None of them is needed by anything else:
``pip install "taolora_ros[peers]"`` brings them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

Finder = Callable[[np.ndarray, float], np.ndarray]  # lead (N,) in mV, rate in Hz to samples (B,)


@dataclass(frozen=True)
class Peer:
    """A detector: what it is called, the package it is from, and how to get its function."""

    name: str
    package: str
    load: Callable[[], Finder]

    @property
    def fault(self) -> str:
        """Return why it cannot be used, '' when it can."""
        if importlib.util.find_spec(self.package) is None:
            return f'{self.package} is not installed'
        try:
            self.load()
        except ImportError as error:
            return f'{self.package} does not import: {error}'
        return ''

    @property
    def version(self) -> str:
        """Return the version of its package; raise PackageNotFoundError when it is missing."""
        return version(self.package)


def _neurokit(method: str) -> Finder:
    import neurokit2

    def find(lead: np.ndarray, rate: float) -> np.ndarray:
        clean = neurokit2.ecg_clean(lead, sampling_rate=rate, method=method)
        return neurokit2.ecg_peaks(clean, sampling_rate=rate, method=method)[1]['ECG_R_Peaks']
    return find


def _default_neurokit() -> Finder:
    return _neurokit('neurokit')


def _pan_tompkins() -> Finder:
    return _neurokit('pantompkins1985')


def _xqrs() -> Finder:
    from wfdb.processing import XQRS

    def find(lead: np.ndarray, rate: float) -> np.ndarray:
        detector = XQRS(sig=lead, fs=rate)
        detector.detect(verbose=False)
        return detector.qrs_inds
    return find


def _sleepecg() -> Finder:
    import sleepecg
    return lambda lead, rate: sleepecg.detect_heartbeats(lead, rate)


PEERS = (Peer('neurokit2', 'neurokit2', _default_neurokit),
         Peer('Pan-Tompkins (neurokit2)', 'neurokit2', _pan_tompkins),
         Peer('XQRS (wfdb)', 'wfdb', _xqrs),
         Peer('sleepecg', 'sleepecg', _sleepecg))
