"""A process that saves without end, to be killed: one line on standard input starts one.

Each is a fork of this process, which has imported what it needs; it writes its number, then
the number of every save that is done. When it has died, this process writes 'dead'. A line is one
write: whatever the buffering, none is cut in two.
"""

import os
import sys

import numpy as np

from taolora_ros.adaptation.checkpoint import load_checkpoint
from taolora_ros.adaptation.saver import Saver

MODEL = 'endless'


def say(line):
    os.write(sys.stdout.fileno(), f'{line}\n'.encode())


def states(n):
    """Return what the n-th save keeps; the base of layer b changes with every fourth only."""
    layers = {}
    for name, base in (('a', n % 1009), ('blocks.1.b', n // 4 % 1009)):  # float16 is exact
        layers[name] = {'base_a': np.full((3, 41), base, np.float32),
                        'base_b': np.full((3, 23), -base, np.float32),
                        'micro': np.full((2, 64), n / 3, np.float32),
                        'counts': np.array([n, base], np.int64)}
    return layers


def save_without_end(folder):
    """Go on from what is there."""
    found = load_checkpoint(folder, MODEL)
    n = found.statistics['n'] if found else 0
    saver = Saver(folder, MODEL, after=found.identity if found else '')
    say(os.getpid())
    while True:
        n += 1
        saver.save(states(n), {'n': n})
        saver.flush()
        if saver.error:
            say(saver.error)
            os._exit(1)
        say(n)


if __name__ == '__main__':
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            save_without_end(sys.argv[1])
        os.waitpid(child, 0)
        say('dead')
