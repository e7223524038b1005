"""One parameter of the node: its kind, default, range and meaning, and what is right for it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """One parameter: ``kind`` is str, float, int, bool or list (of str).

    ``default`` None means: none, it must be given (``dynamic`` False) or the model's own
    (``dynamic`` True). ``low`` and ``high`` bound numbers, ``choices`` names. Dynamic parameters
    can be changed while the node runs, all others are read-only.
    """

    name: str
    kind: type
    default: object
    meaning: str
    unit: str = ''
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    dynamic: bool = False

    @property
    def allowed(self) -> str:
        """Return in words what values are right."""
        if self.choices:
            return ', '.join(self.choices)
        if self.kind in (float, int):
            return f'{_short(self.low)} to {_short(self.high)} {self.unit}'.rstrip()
        return {str: 'text', list: 'names', bool: 'true, false'}[self.kind]

    def checked(self, value, name: str = ''):
        """Return ``value`` as this parameter's kind; raise ValueError saying what is right."""
        name = name or self.name
        if self.kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = float(value)
            good = self.low <= value <= self.high
        elif self.kind is int:
            good = type(value) is int and self.low <= value <= self.high
        elif self.kind is bool:
            good = isinstance(value, bool)
        elif self.kind is list:
            good = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
            value = list(value) if good else value
        else:
            good = self.kind is str and isinstance(value, str) and (
                not self.choices or value in self.choices)
        if not good:
            raise ValueError(f'{name}: {value!r} is not one of: {self.allowed}' if self.choices
                             else f'{name}: {value!r} is not right, {self.allowed} is needed')
        return value


def _short(number: float) -> str:
    return f'{number:g}'.replace('e+0', 'e')
