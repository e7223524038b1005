"""Score heart beats and ventricular beats against annotations, beat by beat.

One annotation matches at most one detection within the tolerance; never point-adjusted. A
ventricular beat (VEB) follows AAMI EC57: it is found when its beat is found and called V; a call
on a normal, supraventricular or no beat is false; a call on a fusion or unclassifiable beat is
left out of ``ppv`` and counted in ``ppv_strict``. As in EC57, what is detected inside annotated
ventricular flutter, where no beats are annotated, is left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

TOLERANCE = 0.150       # s: AAMI EC57's match window
FINE_TOLERANCE = 0.050  # s: what placing the R peak well means


def match(reference: np.ndarray, found: np.ndarray, tolerance: float
          ) -> tuple[np.ndarray, np.ndarray]:
    """Pair sorted times (s) one to one: as many pairs as possible, then as close as possible.

    Return the paired indices into ``reference`` and ``found``, both rising. A pair is at most
    ``tolerance`` apart, up to a nanosecond of rounding.
    """
    reference, found = np.asarray(reference, float), np.asarray(found, float)
    tolerance = tolerance + 1e-9
    low = np.searchsorted(found, reference - tolerance, 'left')     # reference i may take
    high = np.searchsorted(found, reference + tolerance, 'right')   # found[low:high]
    pairs = []
    start = 0
    while start < len(reference):  # independent clusters: references that share candidates
        stop = start + 1
        while stop < len(reference) and low[stop] < high[start:stop].max():
            stop += 1
        first, last = low[start], high[start:stop].max()
        pairs += _assign(reference[start:stop], found[first:last], tolerance, start, first)
        start = stop
    pairs = np.array(sorted(pairs), int).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _assign(reference: np.ndarray, found: np.ndarray, tolerance: float, row: int, column: int
            ) -> list[tuple[int, int]]:
    """Solve one cluster; return index pairs shifted by ``row`` and ``column``."""
    if len(reference) == 1:
        if len(found) == 0:
            return []
        return [(row, column + int(np.argmin(np.abs(found - reference[0]))))]
    distance = np.abs(reference[:, None] - found[None, :])  # (R, D)
    forbidden = distance > tolerance
    # one pair more is always worth more than any gain in closeness
    cost = np.where(forbidden, (len(reference) + 1) * tolerance, distance)
    rows, columns = linear_sum_assignment(cost)
    return [(row + int(r), column + int(c))
            for r, c in zip(rows, columns) if not forbidden[r, c]]


def count_beats(times_s: np.ndarray, aami: np.ndarray, found_s: np.ndarray, found_veb: np.ndarray,
                flutter_s: Sequence[tuple[float, float]] = ()) -> Counter:
    """Count hits and errors of one record.

    ``times_s`` (B,) and ``aami`` (B,) are the annotated beats; ``found_s`` (D,) the detections in
    any order and ``found_veb`` (D,) bool which of them are called ventricular; ``flutter_s`` the
    (start, stop) of flutter. All times in seconds.
    """
    order = np.argsort(found_s, kind='stable')
    found_s, found_veb = np.asarray(found_s, float)[order], np.asarray(found_veb, bool)[order]
    aami = np.asarray(aami)
    flutter = np.zeros(len(found_s), bool)
    for start, stop in flutter_s:
        flutter |= (found_s >= start) & (found_s <= stop)
    counts = Counter()
    for name, tolerance in (('beat', TOLERANCE), ('beat_50ms', FINE_TOLERANCE)):
        rows, columns = match(times_s, found_s, tolerance)
        alone = np.ones(len(found_s), bool)
        alone[columns] = False
        counts.update({f'{name}_tp': len(rows), f'{name}_fn': len(times_s) - len(rows),
                       f'{name}_fp': int((alone & ~flutter).sum())})
        if name == 'beat':
            called = aami[rows][found_veb[columns]]  # true classes of matched VEB calls
            hits = int((called == 'V').sum())
            unclear = int(np.isin(called, ('F', 'Q')).sum())
            counts.update({
                'veb_tp': hits, 'veb_fn': int((aami == 'V').sum()) - hits, 'veb_unclear': unclear,
                'veb_fp': (len(called) - hits - unclear
                           + int((found_veb & alone & ~flutter).sum())),
                'flutter_left_out': int((alone & flutter).sum())})
    return counts


def beat_figures(counts: Iterable[Counter]) -> dict[str, dict]:
    """Return ``beat``, ``beat_50ms`` and ``veb`` figures of all records' ``counts`` together.

    Ratios are fractions from 0 to 1, or None where nothing was there to divide by; ``n`` is the
    number of annotated beats.
    """
    total = sum(counts, Counter())
    figures = {}
    for name in ('beat', 'beat_50ms', 'veb'):
        tp, fp, fn = (total[f'{name}_{part}'] for part in ('tp', 'fp', 'fn'))
        figures[name] = {'se': ratio(tp, tp + fn), 'ppv': ratio(tp, tp + fp), 'n': tp + fn,
                         'tp': tp, 'fp': fp, 'fn': fn, 'f1': ratio(2 * tp, 2 * tp + fp + fn)}
    figures['veb']['ppv_strict'] = ratio(
        total['veb_tp'], total['veb_tp'] + total['veb_fp'] + total['veb_unclear'])
    figures['veb']['unclear'] = total['veb_unclear']
    return figures


def ratio(part: float, whole: float) -> float | None:
    """Return part / whole, or None when there is no whole."""
    return part / whole if whole else None
