"""What was learnt, kept on disk: versioned, incremental, and whole after a crash at any moment.

    FOLDER/checkpoint.json       the manifest: version, time, model, statistics, where blocks are
    FOLDER/DIGEST.safetensors    the blocks that one save wrote, arrays called LAYER.PART/NAME
    FOLDER/lock                  held while reading or writing

A layer's ``state`` (lora.py) has two parts that change at different times, ``base`` (hourly) and
``micro`` (with every feedback); each is a block. Saving writes the blocks whose digest is not in
the manifest to one new file, then the manifest that names it; both first under a temporary name,
flushed to the disk and renamed, and the folder's entries flushed too. Only then are files removed
of which no block is left. Until the manifest is renamed the old one holds, with all its blocks. A
file is named by the digest of its contents, so damage is found. Old blocks never take more room
than live ones: before they do, all are written anew. What a block holds: blocks.py.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from taolora_ros.adaptation.blocks import (
    State, digest_of, digest_of_bytes, format_blocks, make_blocks, parse_blocks, restore_block)
from taolora_ros.adaptation.disk import PARTIAL, flush_entries, locked, make_folder, put_file

FORMAT = 'taolora_adaptation'
FORMAT_VERSION = 2  # 1 knew no powers of two, see blocks.py
MANIFEST, ENDING = 'checkpoint.json', '.safetensors'
MAX_BYTES = 256 * 2 ** 20      # of a file
SLACK = 2 ** 16                # bytes of old blocks that are never too many


class NewerVersionError(ValueError):
    """A checkpoint of a version that only a newer taolora_ros reads."""


class DamagedError(ValueError):
    """A checkpoint that is not what was written."""


@dataclass(frozen=True)
class Saved:
    """One save that is on the disk: when, how many blocks and bytes had to be written.

    ``identity`` tells it from any other.
    """

    time: datetime
    written: int
    blocks: int
    bytes: int
    identity: str


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint held: the states of layers by name, and statistics.

    ``identity`` tells the save that it is from any other.
    """

    layers: dict[str, dict[str, np.ndarray]]
    statistics: dict
    time: datetime
    version: int
    identity: str


def checkpoint_folder(model: str, robot: str = '', root: str | Path | None = None) -> Path:
    """Return the folder of one robot's checkpoint of one model.

    ``root`` is by default $ROS_HOME/taolora, else ~/.ros/taolora; ``robot`` the host's name.
    Characters that a file name should not have become '_'. Raise ValueError where there is no such
    home directory.
    """
    try:
        if root is None:
            root = Path(os.environ.get('ROS_HOME') or Path.home() / '.ros') / 'taolora'
        root = Path(root).expanduser()
    except RuntimeError as error:
        raise ValueError(f'directory of checkpoints: {str(root or "~/.ros")!r}: {error}') from error
    return root / _plain(robot or socket.gethostname()) / _plain(model)


def save_checkpoint(folder: str | Path, model: str, layers: Mapping[str, State],
                    statistics: Mapping | None = None, writer: str = '',
                    after: str | None = None) -> Saved:
    """Write ``layers`` (name: state) and ``statistics`` (JSON) to ``folder``, made if need be.

    ``model`` says for what network it was learnt. When this returns, all of it is on the disk.
    Raise OSError as the disk does, and when another process holds the folder; ValueError for
    numbers that cannot be kept, and where there is a checkpoint that would be lost: one that
    ``load_checkpoint`` refuses, or, unless ``after`` is None, one that neither is of ``writer`` nor
    has the identity ``after`` ('' for none). A manifest that was damaged after ``after`` was
    written is written anew.
    """
    folder, now = Path(folder), datetime.now(timezone.utc)
    make_folder(folder)
    blocks = make_blocks(layers)
    digests = {name: digest_of(arrays) for name, arrays in blocks.items()}
    with locked(folder, fcntl.LOCK_EX, folder / MANIFEST):
        known = _replaced(folder / MANIFEST, model, writer, after)
        kept, there = _kept(folder, known, blocks, digests)
        new = blocks.keys() - kept.keys()
        data = format_blocks({name: blocks[name] for name in sorted(new)})
        file = _name_of(data)
        if new:
            put_file(folder / file, data)
            flush_entries(folder)  # or a loss of power could keep the manifest without its blocks
        manifest = json.dumps({
            'format': FORMAT, 'version': FORMAT_VERSION, 'time': now.isoformat(), 'model': model,
            'writer': writer,
            'blocks': {name: [kept.get(name, file), digests[name]] for name in blocks},
            'layers': list(layers), 'statistics': dict(statistics or {})}).encode()
        put_file(folder / MANIFEST, manifest)
        flush_entries(folder)
        for unused in there - {*kept.values(), file}:
            (folder / unused).unlink()
    return Saved(now, len(new), len(blocks), len(data) * bool(new) + len(manifest),
                 digest_of_bytes(manifest))


def remove_checkpoint(folder: str | Path) -> bool:
    """Remove what is kept in ``folder``, whoever wrote it; return whether there was anything.

    The folder and its lock stay. Raise OSError as ``save_checkpoint``.
    """
    folder = Path(folder)
    if not folder.exists():
        return False
    with locked(folder, fcntl.LOCK_EX, folder / MANIFEST):
        there = (folder / MANIFEST).exists()
        (folder / MANIFEST).unlink(missing_ok=True)  # first: it names the others
        flush_entries(folder)
        _tidy(folder, set())
    return there


def load_checkpoint(folder: str | Path, model: str) -> Loaded | None:
    """Return what is kept in ``folder``, None when nothing ever was.

    Raise ValueError, naming the file, when it is damaged or was learnt for another model,
    NewerVersionError (a ValueError) when it is whole and too new, OSError as the disk does.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    there = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    if not there.is_dir():
        raise NotADirectoryError(f'{there}: not a folder')
    if not path.exists():
        return None
    with locked(folder, fcntl.LOCK_SH, path):
        if not path.exists():  # removed while the lock was waited for
            return None
        manifest, identity = _read_manifest(path, model), digest_of_bytes(_read(path))
        files = {file: _read_blocks(folder / file)
                 for file in sorted({file for file, _ in manifest['blocks'].values()})}
    layers: dict[str, dict[str, np.ndarray]] = {name: {} for name in manifest['layers']}
    for name, (file, _) in manifest['blocks'].items():
        try:
            arrays = restore_block(files[file][name], manifest['version'])
        except KeyError as error:
            raise DamagedError(f'{path}: damaged: {file} does not hold {error} of {name}'
                               ) from error
        layers[name.rpartition('.')[0]].update(arrays)
    return Loaded(layers, manifest['statistics'], datetime.fromisoformat(manifest['time']),
                  manifest['version'], identity)


def _replaced(path: Path, model: str, writer: str, after: str | None) -> dict[str, list[str]]:
    """Return the blocks of the manifest that a save replaces, none where there is none.

    Raise ValueError where it is not to be lost, see ``save_checkpoint``.
    """
    if not path.exists():
        return {}
    try:
        manifest = _read_manifest(path, model)
    except DamagedError:
        if after:
            return {}
        raise
    own = bool(writer) and manifest.get('writer') == writer
    if after is not None and not own and digest_of_bytes(_read(path)) != after:
        raise ValueError(f'{path}: written by somebody else meanwhile, and not overwritten: remove '
                         f'{path.parent}, or start anew to use it')
    return manifest['blocks']


def _kept(folder: Path, known: Mapping[str, list[str]], blocks: Mapping[str, State],
          digests: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
    """Return in which files unchanged blocks are (none when old ones fill the rest), and all files.

    ``known`` are the blocks of the manifest. What saving left behind and it does not name is
    removed; what is in files that are not what was written counts as not kept.
    """
    sizes = _tidy(folder, {file for file, _ in known.values()})
    kept = {name: file for name, (file, digest) in known.items()
            if digests.get(name) == digest and file in sizes}
    whole = {file for file in set(kept.values()) if _is_whole(folder / file)}
    kept = {name: file for name, file in kept.items() if file in whole}
    size = {name: sum(array.nbytes for array in arrays.values()) for name, arrays in blocks.items()}
    written = sum(size[name] for name in blocks.keys() - kept.keys())
    if written + sum(sizes[file] for file in set(kept.values())) > 2 * sum(size.values()) + SLACK:
        kept = {}
    return kept, set(sizes)


def _is_whole(path: Path) -> bool:
    """Tell whether a file of blocks is what was written."""
    try:
        return path.name == _name_of(_read(path))
    except (OSError, ValueError):
        return False


def _tidy(folder: Path, named: Set[str]) -> dict[str, int]:
    """Remove what saving wrote and is not ``named``; return the sizes of what is."""
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    for file in sizes.keys() - named:
        if file.endswith((ENDING, PARTIAL)):
            (folder / file).unlink()
    return {file: sizes[file] for file in named & sizes.keys()}


def _read_blocks(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the blocks in a file; raise ValueError when they are not what was written."""
    data = _read(path)
    if path.name != _name_of(data):
        raise DamagedError(f'{path}: damaged: its {len(data)} bytes are not those that were saved; '
                         f'remove {path.parent} to begin anew')
    try:
        return parse_blocks(data)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def _read_manifest(path: Path, model: str) -> dict:
    """Return the manifest with all that is expected in it; raise ValueError otherwise."""
    try:
        manifest = json.loads(_read(path))
        known = isinstance(manifest, dict) and manifest.get('format') == FORMAT
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        known = False
    if not known:
        raise DamagedError(f'{path}: damaged, or not a checkpoint of an adaptation; remove '
                         f'{path.parent} to begin anew')
    version = manifest.get('version')
    if type(version) is not int or version < 1:
        raise DamagedError(f'{path}: damaged: version {version!r:.60}')
    if version > FORMAT_VERSION:
        raise NewerVersionError(f'{path}: version {version!r:.60}; this taolora_ros reads up to '
                                f'{FORMAT_VERSION}, install a newer one')
    if manifest.get('model') != model:
        raise ValueError(f"{path}: learnt for {manifest.get('model')!r:.99}, not for {model!r}")
    try:
        datetime.fromisoformat(manifest['time'])
        for name, (file, _) in manifest['blocks'].items():
            if name.rpartition('.')[0] not in manifest['layers'] or Path(file).name != file:
                raise KeyError(name)
        if not isinstance(manifest['statistics'], dict):
            raise KeyError('statistics')
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f'{path}: damaged: {error!r:.99} is missing or wrong') from error
    return manifest


def _name_of(data: bytes) -> str:
    """Return what a file of blocks with these contents is called."""
    return digest_of_bytes(data) + ENDING


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DamagedError(f'{path}: {path.stat().st_size} bytes, at most {MAX_BYTES} are right')
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedError(f'{path}: missing; remove {path.parent} to begin anew') from error


def _plain(name: str) -> str:
    """Return a file name for any text."""
    return re.sub(r'[^\w.-]', '_', name.strip('/')).lstrip('.') or '_'
