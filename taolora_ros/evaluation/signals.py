"""The same heart seen another way: an ECG turned over or sampled at another rate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly

from taolora_ros.recordings import Recording

MOST = 1000  # denominator of the ratio of two rates


@dataclass(frozen=True)
class Change:
    """How a lead is changed: its sign, its rate (Hz, None: as recorded)."""

    name: str
    sign: float = 1.0
    rate: float | None = None


CHANGES = (Change('as recorded, 360 Hz'), Change('turned over', sign=-1.0),
           *(Change(f'{rate} Hz', rate=float(rate)) for rate in (125, 250, 500)))


def changed(record: Recording, change: Change) -> Recording:
    """Return the lead of an ECG ``record`` that a model reads, alone and changed.

    Another rate is reached by polyphase filtering; the beats stay where they are in time.
    """
    column = record.lead()
    lead = change.sign * record.values[:, column]
    rate = change.rate or record.rate
    if rate != record.rate:
        ratio = Fraction(rate / record.rate).limit_denominator(MOST)
        rest = np.median(lead)  # the filter takes what lies beyond the ends for zero
        lead = resample_poly(lead - rest, ratio.numerator, ratio.denominator) + rest
    return dataclasses.replace(record, values=lead[:, None], rate=rate, stamps=None,
                               leads=(record.leads[column],))
