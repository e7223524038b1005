"""One launch of a kernel as data: run now, captured in a graph, or compiled for another GPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

POINTERS = {'float64': '*fp64', 'float32': '*fp32', 'float16': '*fp16', 'bfloat16': '*bf16',
            'uint8': '*u8', 'int8': '*i8', 'int32': '*i32', 'int64': '*i64', 'bool': '*i1'}
ALIGNED = 16  # bytes: what Triton asks of a pointer to load vectors through it
CARVEOUT = 9  # CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT of the CUDA driver API


@dataclass(frozen=True)
class Launch:
    """A kernel, its grid, its arguments by name (tensors, integers, None) and its constants.

    ``early``: it may begin before the launch in front of it has ended.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any] = field(default_factory=dict)
    warps: int = 4
    stages: int = 2
    early: bool = False

    def __call__(self) -> None:
        """Run the kernel on the current stream, or in the interpreter."""
        self.kernel[self.grid](**self.arguments, **self.constants, **self._options())

    def compile(self) -> Any:
        """Compile the kernel for the GPU of this machine, into Triton's cache; return Triton's."""
        return self.kernel.warmup(**self.arguments, **self.constants, **self._options(),
                                  grid=self.grid)

    def _options(self) -> dict[str, int | bool]:
        early = {'launch_pdl': True} if self.early else {}
        return {'num_warps': self.warps, 'num_stages': self.stages, **early}

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return self.kernel.__name__

    def signature(self) -> dict[str, str]:
        """Return Triton's type of each argument, in the kernel's order."""
        types = {}
        for name in self.kernel.arg_names:
            value = self.arguments.get(name)
            if name in self.constants or value is None:
                types[name] = 'constexpr'
            elif isinstance(value, int):
                types[name] = 'i32'
            else:
                types[name] = POINTERS[str(value.dtype).removeprefix('torch.')]
        return types

    def aligned(self) -> list[int]:
        """Return the positions of the pointers that may be taken to be multiples of 16."""
        return [position for position, name in enumerate(self.kernel.arg_names)
                if hasattr(self.arguments.get(name), 'data_ptr')
                and self.arguments[name].data_ptr() % ALIGNED == 0]


def overlapped(launches: Iterable[Launch]) -> list[Launch]:
    """Return launches that begin while the one before ends (compute capability 9.0 and newer).

    Programmatic dependent launch of the CUDA C++ Programming Guide. All of the kernels must call
    `wait_for_previous`; the first launch waits for its stream as usual.
    """
    first, *others = launches
    first = replace(first, constants={**first.constants, 'EARLY': True})
    return [first, *(replace(one, constants={**one.constants, 'EARLY': True}, early=True)
                     for one in others)]


def share_alike(launches: Iterable[Launch]) -> None:
    """Have all kernels divide a multiprocessor's memory alike, most of it shared.

    The driver chooses by what a kernel needs, and one that wants another division than the one
    before cannot begin on a multiprocessor until that has ended there. For two kernels that take
    turns (taolora_ros/bench/gpu_layers.py); those of the engines are divided alike by themselves.
    Raise RuntimeError where the driver refuses.
    """
    driver = ctypes.CDLL('libcuda.so.1')
    for launch in launches:
        compiled = launch.compile()
        compiled._init_handles()  # loads it: only then there is a function
        status = driver.cuFuncSetAttribute(ctypes.c_void_p(compiled.function), CARVEOUT, 100)
        if status:
            raise RuntimeError(f'{launch.name}: cuFuncSetAttribute returned {status}')


def can_overlap() -> bool:
    """Tell whether kernels of this machine's GPU may begin while the one before ends (Hopper)."""
    import torch
    return (torch.cuda.is_available() and torch.version.hip is None
            and torch.cuda.get_device_capability() >= (9, 0))


def interpreted() -> bool:
    """Tell whether kernels run in Triton's interpreter, on CPU tensors, for checking."""
    return os.environ.get('TRITON_INTERPRET', '') in ('1', 'true', 'on', 'yes')


def ceil_div(a: int, b: int) -> int:
    """Divide and round up."""
    return -(-a // b)
