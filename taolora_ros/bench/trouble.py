"""What goes wrong with a sensor now and then, in turn: a soak has it on every stream.

    impact  a blow of 6 g          nan    values that are not numbers    gap    messages missing
    spike   absurd values          back   stamps of some time ago        pause  nothing for longer
    reset   the sensor's clock is set back, and forward again after a while
"""

from __future__ import annotations

import math

EVERY = 10.0  # s from the beginning of one trouble on a stream to that of the next
APART = 1.3   # s from one on a stream to the same on the next stream
LASTS = {'impact': 0.05, 'nan': 0.2, 'gap': 0.5, 'spike': 0.02, 'back': 0.02, 'pause': 3.0,
         'reset': EVERY}  # s
SHIFT = {'back': -2.0, 'reset': -2.0}  # s that stamps are wrong by
VALUES = {'impact': 60.0, 'nan': math.nan, 'spike': 1e30}  # m/s^2 and rad/s, in all six values
KINDS = tuple(LASTS)


def trouble(seconds: float, stream: int) -> str:
    """Return what is the matter ``seconds`` after the start of stream number ``stream``, or ''."""
    turn, since = divmod(seconds - APART * stream - EVERY / 2, EVERY)
    if turn < 0:
        return ''
    kind = KINDS[int(turn) % len(KINDS)]
    return kind if since < LASTS[kind] else ''
