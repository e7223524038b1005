"""A process that writes a file and flushes it to the disk, again and again, until it is ended.

What inference feels of it comes from the disk and the machine, for the two share nothing else.
"""

from __future__ import annotations

import os
import sys

SIZE = 60000  # bytes, about what one save writes


def flush_without_end(path: str) -> None:
    """Write to ``path``."""
    data = bytes(SIZE)
    print('started', flush=True)
    while True:
        with open(path, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


if __name__ == '__main__':
    try:
        flush_without_end(sys.argv[1])
    except KeyboardInterrupt:
        pass
