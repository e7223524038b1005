"""Units that messages may come in, and what turns them into a model's."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from taolora_ros.spec import ModelSpec

UNITS = {  # name: (dimension, size in the dimension's SI unit)
    'V': ('voltage', 1.0), 'mV': ('voltage', 1e-3), 'uV': ('voltage', 1e-6),
    'µV': ('voltage', 1e-6), 'μV': ('voltage', 1e-6), 'nV': ('voltage', 1e-9),
    'm/s^2': ('acceleration', 1.0), 'm/s²': ('acceleration', 1.0), 'g': ('acceleration', 9.80665),
    'mg': ('acceleration', 9.80665e-3),
    'rad/s': ('turn rate', 1.0), 'deg/s': ('turn rate', math.pi / 180.0),
}


@lru_cache(maxsize=64)
def factors(spec: ModelSpec, unit: str) -> np.ndarray:
    """Return what each of the model's channels is multiplied with, (C,).

    ``unit`` is the unit of the values, or several by commas, one for each kind of quantity
    ('g,deg/s'); '' is the model's. Raise ValueError when one of them fits no channel.
    """
    scale = np.ones(len(spec.channels))
    for name in (part.strip() for part in unit.split(',')):
        fits = [i for i, target in enumerate(spec.units) if _same_quantity(name, target)]
        if name and not fits:
            why = 'unknown' if name not in UNITS else f'a {UNITS[name][0]}'
            raise ValueError(f'unit: {name!r}: {why}; model {spec.name} reads '
                             f'{", ".join(dict.fromkeys(spec.units))}')
        for i in fits:
            if name != spec.units[i]:
                scale[i] = UNITS[name][1] / UNITS[spec.units[i]][1]
    return scale


def _same_quantity(unit: str, target: str) -> bool:
    return unit == target or (unit in UNITS and target in UNITS
                              and UNITS[unit][0] == UNITS[target][0])
