"""Results kept in docs/results, and how tables of the documentation show them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / 'docs' / 'results'
PLACES = 6     # decimals kept
BY_LINE = ('recordings', 'sites', 'rows')


def load(name: str) -> dict:
    """Return one file of results."""
    return json.loads((RESULTS / f'{name}.json').read_text())


def rows_of(name: str) -> list[dict]:
    """Return the rows of a file that holds one table."""
    return load(name)['rows']


def origin(command: str) -> dict:
    """Return what made results, to be kept beside them: call it before they are made."""
    from taolora_ros.origin import commit, versions
    return {'command': command, 'code': commit(), 'date': date.today().isoformat(), **versions()}


def rounded(value):
    """Return ``value`` with all floats in it rounded."""
    if isinstance(value, float):
        return round(value, PLACES)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def as_text(results: dict) -> str:
    """Return JSON with one line for each recording, or row of a table."""
    lines: list[str] = []

    def number(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in BY_LINE and isinstance(inner, list):
                    value[key] = [f'@{len(lines) + i}@' for i in range(len(inner))]
                    lines.extend(json.dumps(entry) for entry in inner)
                else:
                    number(inner)

    number(results)
    text = json.dumps(results, indent=2)
    for i, line in enumerate(lines):
        text = text.replace(f'"@{i}@"', line)
    return text + '\n'


def seeds(name: str) -> list[dict]:
    """Return the results in the files NAME0.json, NAME1.json and so on, by seed."""
    found = sorted(RESULTS.glob(f'{name}*.json'),
                   key=lambda path: int(path.stem.removeprefix(name)))
    return [load(path.stem) for path in found]


def percent(share: float) -> str:
    """Return a fraction as per cent."""
    return f'{100 * share:.2f}'


def rate(value: float) -> str:
    """Return hours, or how often an hour something happens."""
    return f'{value:.2f}'


def count(number: float) -> str:
    """Return a number of things, or the mean of several."""
    return f'{number:.1f}'.removesuffix('.0')


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """Return the mean of ``values`` and, where they look different, from where to where they go."""
    low, high = form(min(values)), form(max(values))
    mean = form(sum(values) / len(values))
    return mean if low == high else f'{mean} ({low} .. {high})'


def table(*rows: list[str]) -> str:
    """Return a Markdown table, its first row the heading."""
    lines = [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join([lines[0], '| --- |' + ' ---: |' * (len(rows[0]) - 1), *lines[1:]]) + '\n'
