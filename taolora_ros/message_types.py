"""Message types by name and numbers in them by path, imported only when asked for."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np

NUMBERS = ('float', 'double', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64',
           'uint64', 'octet', 'boolean')
STEP = re.compile(r'([A-Za-z_]\w*)(?:\[(-?\d+)\])?$')


def full_name(name: str) -> str:
    """Return ``pkg/msg/Name`` for ``pkg/Name`` or ``pkg/msg/Name``; raise ValueError otherwise."""
    parts = name.split('/')
    if len(parts) == 2:
        parts.insert(1, 'msg')
    if len(parts) != 3 or parts[1] != 'msg' or not all(part.isidentifier() for part in parts):
        raise ValueError(f'{name!r}: not a message type, write package/msg/Name')
    return '/'.join(parts)


def message_class(name: str) -> type:
    """Import the message type called ``name``; raise ValueError saying what is missing."""
    package, _, message = full_name(name).split('/')
    try:
        module = importlib.import_module(f'{package}.msg')
    except ImportError as error:
        near = difflib.get_close_matches(package, packages(), 3, 0.4) or packages()
        raise ValueError(f'{name!r}: no package {package!r} with messages in this environment '
                         f'({error}); there are {", ".join(near[:12])}') from error
    if not hasattr(module, message):
        known = sorted(n for n in vars(module) if n[0].isupper() and not n.endswith('_Constants'))
        near = difflib.get_close_matches(message, known, 3, 0.5) or known[:8]
        raise ValueError(f'{name!r}: {package} has no such message; it has '
                         + ', '.join(f'{package}/msg/{n}' for n in near))
    return getattr(module, message)


def packages() -> list[str]:
    """Return the names of the packages with messages that can be imported, sorted."""
    places = (Path(place) for place in sys.path if place)
    return sorted({found.parent.name for place in places for found in place.glob('*_msgs/msg')})


def fields(message: type) -> dict[str, str]:
    """Return the fields of a message class: name to type, as in its definition."""
    return dict(message.get_fields_and_field_types())


def element(kind: str) -> tuple[str, bool]:
    """Split a field type into its element's type and whether it is an array or sequence."""
    match = re.match(r'sequence<(.*?)(?:, \d+)?>$', kind) or re.match(r'(.*)\[\d+\]$', kind)
    return (match.group(1), True) if match else (kind, False)


@lru_cache
def parse(path: str) -> tuple[tuple[str, int | None], ...]:
    """Split ``a.b[2].c`` into steps ((a, None), (b, 2), (c, None)); raise ValueError if bad."""
    steps = []
    for part in path.split('.'):
        match = STEP.match(part)
        if not match:
            raise ValueError(f'{path!r}: {part!r} is not a field, write name or name[index]')
        steps.append((match.group(1), None if match.group(2) is None else int(match.group(2))))
    return tuple(steps)


def check(message: type, path: str) -> bool:
    """Return whether ``path`` in ``message`` is an array of numbers (True) or a number (False).

    Raise ValueError naming the alternatives when there is no such field, or it is no number.
    """
    steps = parse(path)
    for depth, (name, index) in enumerate(steps):
        known = fields(message)
        if name not in known:
            raise ValueError(f'{path!r}: {_named(message)} has no field {name!r}; '
                             f'numbers in it: {", ".join(numbers(message)) or "none"}')
        kind, array = element(known[name])
        if index is not None and not array:
            raise ValueError(f'{path!r}: {name} is a single {kind}, leave [{index}] out')
        array = array and index is None
        if depth == len(steps) - 1:
            break
        if array:
            raise ValueError(f'{path!r}: {name} is an array, choose one of it: {name}[0]')
        if '/' not in kind:
            raise ValueError(f'{path!r}: {name} is {kind}, it has no field {steps[depth + 1][0]!r}')
        message = message_class(kind)
    if kind not in NUMBERS:
        inside = numbers(message_class(kind)) if '/' in kind else []
        raise ValueError(f'{path!r}: {kind} is not a number'
                         + (f'; numbers in it: {", ".join(inside)}' if inside else ''))
    return array


def numbers(message: type, prefix: str = '', depth: int = 3) -> list[str]:
    """Return the paths of all numbers and arrays of numbers in a message, header left out."""
    found = []
    for name, kind in fields(message).items():
        kind, array = element(kind)
        if kind in NUMBERS:
            found.append(prefix + name)
        elif '/' in kind and kind != 'std_msgs/Header' and not array and depth > 1:
            found += numbers(message_class(kind), f'{prefix}{name}.', depth - 1)
    return found


def value(message, path: str):
    """Return what lies at ``path`` in a message; raise ValueError for an index beyond the end."""
    for name, index in parse(path):
        message = getattr(message, name)
        if index is not None:
            if not -len(message) <= index < len(message):
                raise ValueError(f'{path}: {name} has {len(message)} elements')
            message = message[index]
    return message


def column(message, path: str) -> np.ndarray:
    """Return the number or numbers at ``path`` as (N,) float64, N = 1 for a single number."""
    return np.asarray(value(message, path), np.float64).reshape(-1)


def _named(message: type) -> str:
    return f'{message.__module__.split(".")[0]}/msg/{message.__name__}'
