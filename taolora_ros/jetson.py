"""How fast a Jetson may run at the moment: power mode and clocks, as far as they can be read.

A board that is limited by its power mode, or whose clocks are not raised, runs the same network
several times slower; who looks for the reason finds it in the node's first lines.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

MODEL = 'proc/device-tree/model'
GPU_CLOCKS = 'sys/class/devfreq/*'  # that of the GPU is named *.gpu, *.ga10b or *.gv11b
GPU_NAMES = ('gpu', 'ga10b', 'gv11b', 'gp10b')
CPU_CLOCK = 'sys/devices/system/cpu/cpu0/cpufreq'
MEMORY_CLOCK = 'sys/kernel/debug/bpmp/debug/clk/emc'  # root's alone
PATIENCE = 3.0                     # s to wait for nvpmodel


def board_report(root: Path = Path('/')) -> list[str]:
    """Return lines on this board's power mode and clocks, none when it is not a Jetson."""
    model = _read(root / MODEL).strip('\0')
    if 'jetson' not in model.lower() and 'orin' not in model.lower():
        return []
    clocks = [clock for clock in (
        _clock('GPU', _gpu(root), 'cur_freq', 'max_freq', 1e6),
        _clock('CPU', root / CPU_CLOCK, 'scaling_cur_freq', 'cpuinfo_max_freq', 1e3),
        _clock('memory', root / MEMORY_CLOCK, 'rate', 'max_rate', 1e6)) if clock]
    lines = [f'{model}: power mode {_power_mode()}',
             'clocks: ' + (', '.join(clocks) or 'not to be read')]
    if any(_slow(clock) for clock in clocks):
        lines.append('clocks are not at their maximum: `sudo nvpmodel -m 0` and '
                     '`sudo jetson_clocks` raise them')
    return lines


def _power_mode() -> str:
    """Return what nvpmodel says, or why it says nothing."""
    try:
        told = subprocess.run(['nvpmodel', '-q'], capture_output=True, text=True,
                              timeout=PATIENCE, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return 'unknown (no nvpmodel)'
    except (OSError, subprocess.TimeoutExpired) as error:
        return f'unknown ({type(error).__name__})'
    for line in told.stdout.splitlines():
        if ':' in line and 'mode' in line.lower():
            return line.split(':', 1)[1].strip()
    return 'unknown (nvpmodel says nothing)'


def _gpu(root: Path) -> Path | None:
    """Return the folder of the GPU's clock."""
    return next((path for path in sorted(root.glob(GPU_CLOCKS))
                 if path.name.rpartition('.')[2] in GPU_NAMES), None)


def _clock(name: str, folder: Path | None, now: str, most: str, unit: float) -> str:
    """Return 'GPU 306 of 1300 MHz', or nothing when it cannot be read; ``unit`` makes MHz."""
    if folder is None:
        return ''
    texts = [_read(folder / file).strip() for file in (now, most)]
    if not all(text.isdigit() for text in texts):
        return ''
    return f'{name} {int(texts[0]) / unit:.0f} of {int(texts[1]) / unit:.0f} MHz'


def _slow(clock: str) -> bool:
    """Tell whether what ``_clock`` returned is below its maximum."""
    _, now, _, most, _ = clock.split()
    return int(now) < int(most)


def _read(path: Path) -> str:
    """Return the text of a file, nothing when it is not there or not for us."""
    try:
        return path.read_text(errors='replace')
    except OSError:
        return ''
