"""A Jetson's files about its clocks; as a program, the node on such a board.

    python jetson_board.py ROOT [arguments of the node]
"""

import sys
from functools import partial
from pathlib import Path

from taolora_ros import jetson


def write_board(root):
    """Write the files of an Orin Nano whose clocks rest; return their root."""
    def write(path, text):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write(jetson.MODEL, 'NVIDIA Jetson Orin Nano Developer Kit\0')
    write('sys/class/devfreq/15340000.vic/cur_freq', '1\n')
    write('sys/class/devfreq/17000000.gpu/cur_freq', '306000000\n')
    write('sys/class/devfreq/17000000.gpu/max_freq', '624750000\n')
    write(f'{jetson.CPU_CLOCK}/scaling_cur_freq', '1510400\n')
    write(f'{jetson.CPU_CLOCK}/cpuinfo_max_freq', '1510400\n')
    return root


if __name__ == '__main__':
    root = Path(sys.argv.pop(1))
    jetson.board_report = partial(jetson.board_report, root)
    from taolora_ros.node import main  # whose report reads that root
    sys.exit(main())
