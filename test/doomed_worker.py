"""A process that answers, fails, breaks, ends or hangs, as the way of each case says."""

import os
import time

from taolora_ros.bench.isolated import serve

BROKEN = []


def answer(case):
    """Yield a row, then do what the case asks for."""
    print('what a library prints')
    yield {'batch': 1, 'process': os.getpid()}
    if case['way'] == 'fails':
        raise RuntimeError('no such\nkernel')
    if case['way'] == 'breaks':
        BROKEN.append(True)
        raise RuntimeError('an illegal access')
    if case['way'] == 'ends':
        os.write(2, b'segmentation fault')
        os._exit(3)
    if case['way'] == 'hangs':
        time.sleep(600)
    yield {'batch': 8, 'process': os.getpid()}


if __name__ == '__main__':
    serve(answer, lambda: not BROKEN)
