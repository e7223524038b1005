"""What the symbols of MIT-BIH's annotations mean: groups of beats, pacing, episodes of flutter."""

from __future__ import annotations

import numpy as np

AAMI = {symbol: group for group, symbols in (
    ('N', 'NLRBejn'), ('S', 'AaJS'), ('V', 'VEr'), ('F', 'F'), ('Q', '/fQ?')) for symbol in symbols}
GROUPS = ('N', 'S', 'V', 'F', 'Q')
BEATS = tuple(AAMI)
PACED_SHARE = 0.1  # of unclassifiable beats, from which a record without symbols counts as paced


def groups(symbols: np.ndarray) -> np.ndarray:
    """Return the AAMI group, N, S, V, F or Q, of each beat; raise KeyError for what is none."""
    return np.array([AAMI[str(s)] for s in symbols], 'U1')


def is_paced(symbols: np.ndarray | None, aami: np.ndarray) -> bool:
    """Return whether a record is paced, by its beats' symbols or else by their groups."""
    if symbols is not None:
        return '/' in symbols
    return bool((aami == 'Q').mean() > PACED_SHARE)


def episodes(symbols: np.ndarray, times_s: np.ndarray, end_s: float
              ) -> tuple[tuple[float, float], ...]:
    """Return the (start, stop) of what '[' opens and ']' closes, in seconds."""
    found, start = [], None
    for symbol, time in zip(symbols, times_s):
        if symbol == '[':
            start = float(time)
        elif symbol == ']' and start is not None:
            found.append((start, float(time)))
            start = None
    return tuple(found) + (((start, end_s),) if start is not None else ())
