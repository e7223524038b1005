"""A process that makes networks and says times of its own invention, for those that take turns.

What it is asked for goes to the file TURNS, a line each. A host that gets slower is in all times:
they grow with the number of lines there.
"""

import os
import time
from pathlib import Path

from taolora_ros.bench.isolated import serve

US = {'peer': 400.0, 'ours': 100.0, 'fails': 1.0, 'ends': 1.0, 'slow': 1.0, 'third': 1.0}


def answer(case):
    """Yield a row for one step of a case."""
    file, way = Path(os.environ['TURNS']), case['way']
    awake = file.with_suffix('.awake')
    if case['step'] == 'wake':
        with awake.open('a') as lines:
            lines.write(f'{way}\n')
        yield {}
        return
    with file.open('a') as lines:
        lines.write(f'{case["step"]} {case["batch"]} {way}\n')
    asked = len(file.read_text().splitlines())
    if case['step'] == 'make':
        if way == 'missing':
            import no_such_package  # noqa: F401
        if way == 'slow':
            time.sleep(600)
        yield {'peak_bytes': 5, 'awake': len(awake.read_text().splitlines())}
        return
    if asked > 8 and way == 'fails':
        raise RuntimeError('no such kernel')
    if way == 'ends':
        os._exit(3)
    yield {'p50_us': US[way] * asked, 'closed_p99_us': 7.0 + 90 * (asked == 6),
           'open_p99_us': 9.0}


if __name__ == '__main__':
    serve(answer, lambda: True)
