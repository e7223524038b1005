"""Compile the C of this folder for the machine that runs it, once, and load it.

The compiler is $CC, or cc, gcc or clang, whichever is found first. What it makes is kept in
$XDG_CACHE_HOME/taolora_ros (by default ~/.cache/taolora_ros, or a folder of the temporary
directory where that cannot be written), under a name made of everything that it depends on:
sources, flags, compiler and processor. So it takes a second or two the first time, and none later.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from taolora_ros.kernels.cpu import layout

SOURCES = ('network.c', 'linear.h', 'mixers.h', 'structures.h', 'int4.h', 'maths.h')
FLAGS = ('-O3', '-std=gnu11', '-fPIC', '-shared', '-fno-math-errno', '-fno-trapping-math',
         '-fassociative-math', '-fno-signed-zeros', '-ffp-contract=fast', '-Wno-psabi')
NATIVE = {'x86_64': '-march=native', 'aarch64': '-mcpu=native'}
TIMEOUT = 120.0  # s


def load(flags: tuple[str, ...] = (), folder: Path | None = None) -> ctypes.CDLL:
    """Return `network.c`, compiled with more ``flags``, kept in ``folder`` or where it may be.

    Raise RuntimeError saying why it cannot be.
    """
    program = compiler()
    given = (*FLAGS, *filter(None, [NATIVE.get(platform.machine())]), *flags)
    name = f'network-{_key(program, given)}.so'
    folders = [folder] if folder else _folders()
    path = next((place / name for place in folders if _whole(place / name)), None)
    if path is None:
        path = _compile(program, given, folders, name)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError(f'{path}: {error}') from error
    floats, octets, number = layout.Floats, layout.Bytes, ctypes.c_int32
    library.taolora_run.argtypes = [ctypes.POINTER(layout.Network), number, floats, octets,
                                    floats, floats, floats, floats, floats]
    library.taolora_linear.argtypes = [ctypes.POINTER(layout.Linear), number, octets, floats,
                                       floats, floats]
    library.taolora_run.restype = library.taolora_linear.restype = None
    library.taolora_room.argtypes = [ctypes.POINTER(layout.Network)]
    library.taolora_room.restype = ctypes.c_int64
    library.taolora_isa.restype = ctypes.c_char_p
    return library


def compiler() -> list[str]:
    """Return the C compiler and its arguments; raise RuntimeError naming those looked for."""
    given = shlex.split(os.environ.get('CC', ''))
    wanted = given[:1] or ['cc', 'gcc', 'clang']
    for name in wanted:
        if shutil.which(name):
            return [shutil.which(name), *given[1:]]
    raise RuntimeError(f'no C compiler: {", ".join(wanted)} not found (Debian, Ubuntu: apt install '
                       'gcc)')


def _key(program: list[str], flags: tuple[str, ...]) -> str:
    """Return a digest of all that the compiled library depends on."""
    digest = hashlib.sha256()
    for source in SOURCES:
        digest.update((Path(__file__).parent / source).read_bytes())
    status = os.stat(program[0])
    digest.update(f'{flags} {program} {os.path.realpath(program[0])} {status.st_size} '
                  f'{status.st_mtime_ns} {platform.machine()} {_processor()}'.encode())
    return digest.hexdigest()[:20]


def _processor() -> str:
    """Return what the processor can do: a home may be shared by machines that differ."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ('model name', 'flags', 'Features', 'CPU part')
    return str(sorted({line for line in lines if line.startswith(names)}))


def _folders() -> list[Path]:
    """Return where the library may be kept, the preferred place first."""
    home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return [Path(home) / 'taolora_ros',
            Path(tempfile.gettempdir()) / f'taolora_ros-{os.getuid()}']


def _whole(path: Path) -> bool:
    """Tell whether a library is there, ours, and as it was written: loading half of one kills."""
    digest = path.with_suffix('.sha256')
    try:
        return _ours(path) and _ours(digest) and digest.read_text() == _sum(path)
    except (OSError, ValueError):
        return False


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _ours(path: Path) -> bool:
    """Tell whether a file is there that nobody but this user could have written."""
    try:
        return all(s.st_uid == os.getuid() and not s.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
                   for s in (path.stat(), path.parent.lstat()))
    except OSError:
        return False


def _compile(program: list[str], flags: tuple[str, ...], folders: list[Path], name: str) -> Path:
    problem = ''
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp('.so', dir=folder)
            os.close(handle)
        except OSError as error:
            problem = f'{folder}: {error.strerror}'
            continue
        try:
            run([*program, *flags, '-o', partial, str(Path(__file__).parent / SOURCES[0]), '-lm'])
            os.chmod(partial, 0o700)
            note = Path(partial).with_suffix('.sha256')
            note.write_text(_sum(Path(partial)))
            note.chmod(0o600)
            os.replace(partial, folder / name)  # at once: others may be compiling, too
            os.replace(note, (folder / name).with_suffix('.sha256'))
        finally:
            Path(partial).unlink(missing_ok=True)
            Path(partial).with_suffix('.sha256').unlink(missing_ok=True)
        if _whole(folder / name):
            return folder / name
        problem = f'{folder}: others may write there'
    raise RuntimeError(f'no place for the compiled network: {problem}')


def run(command: list[str]) -> None:
    """Run a compiler; raise RuntimeError with its first complaint."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f'{command[0]}: {error}') from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if 'error' in line]
        raise RuntimeError(f'{command[0]} failed with {done.returncode}: '
                           f'{(lines or ["no reason given"])[0]:.200}')
