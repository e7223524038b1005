"""The process in which `taolora bench gpu` compiles or measures one case after the other."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from taolora_ros.bench import gpu_layers, gpu_networks
from taolora_ros.bench.isolated import serve
from taolora_ros.bench.timing import copy_bandwidth
from taolora_ros.threads import use_one_thread

PARTS = {'networks': gpu_networks, 'layers': gpu_layers}
MADE: list[gpu_networks.Running] = []  # one at most


def answer(case: dict) -> Iterable[dict]:
    """Return the rows of a case, or the rate of copies; ``compile`` only fills Triton's cache."""
    if case['part'] == 'copies':
        return [{'copy_gb_s': copy_bandwidth()}]
    part = PARTS[case['part']]
    if case.get('compile'):
        part.compile_case(case)
        return []
    return network_step(case) if part is gpu_networks else part.rows(case)


def network_step(case: dict) -> list[dict]:
    """Return what is told of a network once it is made, or times of the one that was made last.

    There is nothing to tell of a process that is awake: all is imported, and the GPU answers.
    """
    if case['step'] == 'wake':
        torch.cuda.synchronize()
        return [{}]
    if case['step'] == 'make':
        MADE.clear()  # or its memory would be there beside
        MADE.append(gpu_networks.make(case))
        return [MADE[0].told]
    return [gpu_networks.time_round(MADE[0])]


def works() -> bool:
    """Return whether the GPU still does what this process asks for."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


if __name__ == '__main__':
    use_one_thread()  # many of these make their networks at once
    with torch.no_grad():
        serve(answer, works)
