"""Compile one launch of a kernel for a GPU that is not here, and read what it takes from it."""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass

from taolora_ros.kernels.launch import ALIGNED, Launch

FRAME_SIZE = 0x11  # of .nv.info: bytes of a thread's stack frame, where spills go
BATCHES = (1, 2, 4, 16, 32, 64)  # windows: tiles of others have the same shapes
REGISTERS = 0x2F   # of .nv.info, in newer files only


@dataclass(frozen=True)
class Target:
    """What bounds a kernel on a GPU (CUDA C++ Programming Guide, compute capabilities)."""

    capability: int
    shared_bytes: int            # most that one block may have
    registers: int = 255         # most that one thread may have
    file_registers: int = 65536  # of one multiprocessor


TARGETS = {'sm_87': Target(87, 163 * 1024), 'sm_90': Target(90, 227 * 1024)}


@dataclass(frozen=True)
class Compiled:
    """One kernel configuration; registers of a thread, bytes of stack of a thread, of shared
    memory of a block."""

    name: str
    registers: int
    spills: int
    shared_bytes: int
    warps: int
    instructions: int
    configuration: dict

    def to_dict(self) -> dict:
        """Return it ready for JSON."""
        return asdict(self)


def cross_compile(launch: Launch, target: str) -> Compiled:
    """Compile for ``target``; raise ValueError naming the kernel when that fails or cannot fit."""
    from triton import compile as compile_source
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    limits = TARGETS[target]
    constants = {name: launch.constants.get(name) for name, kind in launch.signature().items()
                 if kind == 'constexpr'}
    source = ASTSource(fn=launch.kernel, signature=launch.signature(), constexprs=constants,
                       attrs={(i,): [['tt.divisibility', ALIGNED]] for i in launch.aligned()})
    shown = {name: value for name, value in launch.constants.items() if name != 'ASM'}
    try:
        done = compile_source(source, target=GPUTarget('cuda', limits.capability, 32),
                              options={'num_warps': launch.warps, 'num_stages': launch.stages})
    except Exception as error:  # Triton and its assembler raise many kinds
        raise ValueError(f'{launch.name} {shown} does not compile for {target}: '
                         f'{" ".join(str(error).split()):.300}') from error
    registers, stack, size = read_cubin(done.asm['cubin'], launch.name)
    compiled = Compiled(launch.name, registers, stack, done.metadata.shared, launch.warps,
                        size // 16, shown)
    check_fit(compiled, limits, target)
    return compiled


def check_fit(compiled: Compiled, limits: Target, target: str) -> None:
    """Raise ValueError naming what a block would need more of than ``target`` has."""
    registers = compiled.registers * compiled.warps * 32
    for what, need, has in (
            ('bytes of shared memory', compiled.shared_bytes, limits.shared_bytes),
            ('registers a thread', compiled.registers, limits.registers),
            ('registers a block', registers, limits.file_registers)):
        if need > has:
            raise ValueError(f'{compiled.name} {compiled.configuration} needs {need} {what}, '
                             f'{target} has {has}')


def read_cubin(cubin: bytes, name: str) -> tuple[int, int, int]:
    """Return registers, bytes of stack frame and bytes of code of the kernel ``name``.

    A cubin is a 64-bit ELF file. Its .nv.info holds, by symbol, registers and size of the frame;
    older files have the registers in the highest byte of the sh_info of .text.NAME. Raise
    ValueError when there is no such kernel in it.
    """
    if cubin[:5] != b'\x7fELF\x02':
        raise ValueError(f'{name}: what was compiled is not a 64-bit ELF file')
    offset, = struct.unpack_from('<Q', cubin, 0x28)
    entry, count, names_at = struct.unpack_from('<HHH', cubin, 0x3A)
    # name, type, flags, address, offset, size, link, info
    sections = [struct.unpack_from('<IIQQQQII', cubin, offset + i * entry) for i in range(count)]
    strings = sections[names_at][4]

    def text(at: int) -> str:
        return cubin[at:cubin.index(b'\0', at)].decode()

    by_name = {text(strings + section[0]): section for section in sections}
    if f'.text.{name}' not in by_name:
        raise ValueError(f'{name}: not among the kernels compiled: {sorted(by_name)}')
    code = by_name[f'.text.{name}']
    most = {REGISTERS: code[7] >> 24, FRAME_SIZE: 0}
    for kind, value in _info(cubin, by_name.get('.nv.info')):
        most[kind] = max(most.get(kind, 0), value)
    return most[REGISTERS], most[FRAME_SIZE], code[5]


def _info(cubin: bytes, section: tuple | None):
    """Yield (kind, value) of those attributes of .nv.info that are (symbol, value) pairs."""
    at, end = (section[4], section[4] + section[5]) if section else (0, 0)
    while at + 4 <= end:
        form, kind, size = struct.unpack_from('<BBH', cubin, at)
        at += 4
        if form == 4:  # a sized value; other forms keep theirs where the size would be
            if size == 8:
                yield kind, struct.unpack_from('<II', cubin, at)[1]
            at += size
