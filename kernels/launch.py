"""One launch of a kernel as data: run now, captured in a graph, or compiled for another GPU."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

POINTERS = {'float64': '*fp64', 'float32': '*fp32', 'float16': '*fp16', 'bfloat16': '*bf16',
            'uint8': '*u8', 'int8': '*i8', 'int32': '*i32', 'int64': '*i64', 'bool': '*i1'}
ALIGNED = 16  # bytes: what Triton asks of a pointer to load vectors through it


@dataclass(frozen=True)
class Launch:
    """A kernel, its grid, its arguments by name (tensors, integers, None) and its constants."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any] = field(default_factory=dict)
    warps: int = 4
    stages: int = 2

    def __call__(self) -> None:
        """Run the kernel on the current stream, or in the interpreter."""
        self.kernel[self.grid](**self.arguments, **self.constants, num_warps=self.warps,
                               num_stages=self.stages)

    def compile(self) -> None:
        """Compile the kernel for the GPU of this machine, into Triton's cache."""
        self.kernel.warmup(**self.arguments, **self.constants, num_warps=self.warps,
                           num_stages=self.stages, grid=self.grid)

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


def interpreted() -> bool:
    """Tell whether kernels run in Triton's interpreter, on CPU tensors, for checking."""
    return os.environ.get('TRITON_INTERPRET', '') in ('1', 'true', 'on', 'yes')


def ceil_div(a: int, b: int) -> int:
    """Divide and round up."""
    return -(-a // b)
