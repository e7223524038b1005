"""What was learnt, kept on disk: versioned, incremental, and whole after a crash at any moment.

    FOLDER/checkpoint.json              the manifest: version, time, model, statistics, blocks
    FOLDER/LAYER.PART-DIGEST.safetensors   one block: the arrays of one part of one layer
    FOLDER/lock                         held while reading or writing

A layer's ``state`` (lora.py) has two parts that change at different times, ``base`` (hourly) and
``micro`` (with every feedback). A block is named by a digest of its contents, so one that has not
changed is there already, and one that is there never changes. Saving writes the new blocks, then
the manifest that names them, each to a temporary file that is flushed to the disk and renamed,
and then the folder's entries to the disk; only then are blocks that it does not name removed.
Until the manifest is renamed the old one holds, with all of its blocks.

The factors of the base, A^T and B, are float16, each row (a rank) with a power of two of its own
that brings its largest number to 1/2..1: nothing overflows, and what is within 2^14 of the largest
keeps 11 bits. All else is as in memory. Version 1 had no powers of two: numbers below 2^-14, as B
has when little was learnt, lost precision.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_block
from safetensors.numpy import save as format_block

FORMAT = 'taolora_adaptation'
FORMAT_VERSION = 2
MANIFEST, LOCK, ENDING, PARTIAL = 'checkpoint.json', 'lock', '.safetensors', '.partial'
HALVED = ('base_a', 'base_b')  # what is kept in float16 ...
POWERS = '{}_power'            # ... and, int8, the power of two of each of its rows
MAX_BYTES = 256 * 2 ** 20      # of a block or a manifest
State = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Saved:
    """One save that is on the disk: when, how many blocks and bytes had to be written."""

    time: datetime
    written: int
    blocks: int
    bytes: int


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint held: the states of layers by name, and statistics."""

    layers: dict[str, dict[str, np.ndarray]]
    statistics: dict
    time: datetime
    version: int


def checkpoint_folder(model: str, robot: str = '', root: str | Path | None = None) -> Path:
    """Return the folder of one robot's checkpoint of one model.

    ``root`` is by default $ROS_HOME/taolora, else ~/.ros/taolora; ``robot`` the host's name.
    Characters that a file name should not have become '_'.
    """
    if root is None:
        root = Path(os.environ.get('ROS_HOME') or Path.home() / '.ros') / 'taolora'
    return Path(root).expanduser() / _plain(robot or socket.gethostname()) / _plain(model)


def save_checkpoint(folder: str | Path, model: str, layers: Mapping[str, State],
                    statistics: Mapping | None = None) -> Saved:
    """Write ``layers`` (name: state) and ``statistics`` (JSON) to ``folder``, made if need be.

    ``model`` says for what network it was learnt. When this returns, all of it is on the disk.
    Raise OSError as the disk does; ValueError for numbers that cannot be kept, and where there is
    a checkpoint that ``load_checkpoint`` refuses, which is not overwritten.
    """
    folder = Path(folder)
    _make(folder)
    blocks = {name: _format(arrays) for name, arrays in _blocks(layers).items()}
    names = {name: f'{_plain(name)}-{_digest(data)}{ENDING}' for name, data in blocks.items()}
    now = datetime.now(timezone.utc)
    manifest = json.dumps({'format': FORMAT, 'version': FORMAT_VERSION, 'time': now.isoformat(),
                           'model': model, 'layers': list(layers), 'blocks': names,
                           'statistics': dict(statistics or {})}, indent=1).encode()
    with _locked(folder, fcntl.LOCK_EX):
        kept = _tidy(folder, model)
        new = {file: blocks[name] for name, file in names.items()
               if kept.get(file) != len(blocks[name])}
        for file, data in new.items():
            _put(folder / file, data)
        _flush_entries(folder)  # or a loss of power could keep the manifest without its blocks
        _put(folder / MANIFEST, manifest)
        _flush_entries(folder)
        _tidy(folder, model)
    return Saved(now, len(new), len(blocks), sum(map(len, new.values())) + len(manifest))


def load_checkpoint(folder: str | Path, model: str) -> Loaded | None:
    """Return what is kept in ``folder``, None when nothing ever was.

    Raise ValueError, naming the file, when it is damaged, of a newer version, or was learnt for
    another model.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.exists():
        return None
    with _locked(folder, fcntl.LOCK_SH):
        manifest = _read_manifest(path, model)
        layers: dict[str, dict[str, np.ndarray]] = {name: {} for name in manifest['layers']}
        for name, file in manifest['blocks'].items():
            arrays = _read_block(folder / file, manifest['version'])
            layers[name.rpartition('.')[0]].update(arrays)
    return Loaded(layers, manifest['statistics'], datetime.fromisoformat(manifest['time']),
                  manifest['version'])


def _blocks(layers: Mapping[str, State]) -> dict[str, dict[str, np.ndarray]]:
    """Split the states of layers into the blocks LAYER.base and LAYER.micro."""
    blocks: dict[str, dict[str, np.ndarray]] = {}
    for layer, state in layers.items():
        for name, array in state.items():
            part = 'base' if name.startswith('base') or name == 'gradients' else 'micro'
            blocks.setdefault(f'{layer}.{part}', {})[name] = array
    return blocks


def _tidy(folder: Path, model: str) -> dict[str, int]:
    """Remove what saving left behind and the manifest does not name; return sizes of the rest.

    Raise ValueError where another model's checkpoint, or one that cannot be read, would be lost.
    """
    path = folder / MANIFEST
    named = set(_read_manifest(path, model)['blocks'].values()) if path.exists() else set()
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    for file in sizes.keys() - named:
        if file.endswith((ENDING, PARTIAL)):
            (folder / file).unlink()
    return {file: sizes[file] for file in named & sizes.keys()}


def _format(arrays: dict[str, np.ndarray]) -> bytes:
    """Return a block's bytes, the base in float16 with its powers of two."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f'{name}: a value is not a finite number and is not kept')
    for name in HALVED:
        if name in arrays:
            _, powers = np.frexp(np.abs(arrays[name]).max(axis=1))    # largest = 1/2..1 * 2^power
            powers = powers.clip(-127, 127)
            arrays[name] = np.ldexp(arrays[name], -powers[:, None]).astype(np.float16)
            arrays[POWERS.format(name)] = powers.astype(np.int8)
    return format_block(arrays)


def _read_block(path: Path, version: int) -> dict[str, np.ndarray]:
    """Return the arrays of one block; raise ValueError when it is not what the manifest named."""
    data = _read(path)
    if not path.name.endswith(f'-{_digest(data)}{ENDING}'):
        raise ValueError(f'{path}: damaged: its {len(data)} bytes are not those that were saved; '
                         f'remove {path.parent} to begin anew')
    try:
        arrays = parse_block(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: not a safetensors file ({error})') from error
    for name in HALVED:
        if name in arrays:
            arrays[name] = arrays[name].astype(np.float32)
            if version > 1:
                powers = arrays.pop(POWERS.format(name))[:, None].astype(np.int32)
                arrays[name] = np.ldexp(arrays[name], powers)
    return arrays


def _read_manifest(path: Path, model: str) -> dict:
    """Return the manifest with all that is expected in it; raise ValueError otherwise."""
    try:
        manifest = json.loads(_read(path))
        known = isinstance(manifest, dict) and manifest.get('format') == FORMAT
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        known = False
    if not known:
        raise ValueError(f'{path}: damaged, or not a checkpoint of an adaptation; remove '
                         f'{path.parent} to begin anew')
    version = manifest.get('version')
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(f'{path}: version {version!r:.60}; this taolora_ros reads up to '
                         f'{FORMAT_VERSION}, install a newer one')
    if manifest.get('model') != model:
        raise ValueError(f"{path}: learnt for {manifest.get('model')!r:.99}, not for {model!r}")
    try:
        datetime.fromisoformat(manifest['time'])
        for name, file in manifest['blocks'].items():
            if name.rpartition('.')[0] not in manifest['layers'] or Path(file).name != file:
                raise KeyError(name)
        if not isinstance(manifest['statistics'], dict):
            raise KeyError('statistics')
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f'{path}: damaged: {error!r:.99} is missing or wrong') from error
    return manifest


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f'{path}: {path.stat().st_size} bytes, at most {MAX_BYTES} are right')
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f'{path}: missing; remove {path.parent} to begin anew') from error


def _make(folder: Path) -> None:
    """Make a folder and those above it, on the disk too."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in new:
        _flush_entries(one.parent)


def _put(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, and its contents on the disk."""
    partial = path.with_name(path.name + PARTIAL)
    with open(partial, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _flush_entries(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Hold the folder's lock, shared or alone; the system lets go of it when a process dies."""
    with open(folder / LOCK, 'ab') as file:
        fcntl.flock(file, how)
        yield


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _plain(name: str) -> str:
    """Return a file name for any text."""
    return re.sub(r'[^\w.-]', '_', name.strip('/')).lstrip('.') or '_'
