"""What must stay as it is: tokens of people in training, kept beside the model.

    R  tokens    D  width of the network    K  classes

Falls and ventricular beats are too rare on one robot to watch over recall there, so the tokens
that hold learning back come from training: some of every class, those near a decision more often.
They lie in NAME.reference.safetensors beside the INT4 model, in integers with a scale for each
column (R D + R + 2 D bytes), and are read only by who adapts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from taolora_ros.spec import ModelSpec

ENDING = '.reference.safetensors'
LARGEST = 127          # of a code
MAX_BYTES = 16 * 2 ** 20


@dataclass(frozen=True)
class Reference:
    """``embedding`` (R, D) float32, what the head reads, and ``classes`` (R,) int64, the truth.

    ``head`` is the digest of the head it was made with, see ``head_digest``.
    """

    embedding: np.ndarray
    classes: np.ndarray
    head: str

    @property
    def bytes(self) -> int:
        """Return the bytes of its tensors in a file."""
        count, width = self.embedding.shape
        return count * width + count + 2 * width


def head_digest(weight: np.ndarray) -> str:
    """Return what tells one head (K + 1, D) from another; float16 is what files keep of it."""
    return hashlib.sha256(np.ascontiguousarray(weight, np.float16).tobytes()).hexdigest()[:16]


def reference_path(model: str | Path) -> Path:
    """Return where the reference of a model file lies."""
    model = Path(model)
    return model.with_name(model.name.removesuffix('.safetensors') + ENDING)


def save_reference(path: str | Path, reference: Reference) -> None:
    """Write ``reference`` to ``path``, replacing it in one step."""
    path = Path(path)
    top = np.maximum(np.abs(reference.embedding).max(axis=0), 1e-6)
    scale = np.maximum(top / LARGEST, 1e-7).astype(np.float16)
    scale[scale == 0] = np.float16(6e-8)
    codes = np.clip(np.round(reference.embedding / scale.astype(np.float32)), -LARGEST, LARGEST)
    partial = path.with_name(path.name + '.partial')
    save_file({'codes': codes.astype(np.int8), 'scale': scale,
               'classes': reference.classes.astype(np.uint8)}, partial,
              metadata={'taolora_reference': json.dumps({'head': reference.head})})
    partial.chmod(0o644)
    partial.replace(path)


def load_reference(path: str | Path, spec: ModelSpec, weight: np.ndarray) -> Reference:
    """Read the reference of the model ``spec`` with the head ``weight`` (K + 1, D).

    Raise ValueError naming the file, what is wrong with it, and how one is made.
    """
    path = Path(path)
    make = 'make one with `taolora reference MODEL --data DIR`'
    if not path.is_file():
        raise ValueError(f'{path}: no such file; adaptation needs it, {make}')
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f'{path}: {path.stat().st_size} bytes, a reference has at most '
                         f'{MAX_BYTES}')
    try:
        with safe_open(path, 'np') as file:
            about = json.loads((file.metadata() or {}).get('taolora_reference', 'null'))
            codes, scale, classes = (file.get_tensor(name)
                                     for name in ('codes', 'scale', 'classes'))
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ValueError(f'{path}: not a reference ({" ".join(str(error).split()):.200})'
                         ) from error
    if not isinstance(about, dict) or about.get('head') != head_digest(weight):
        raise ValueError(f'{path}: made for another model than {spec.name}; {make}')
    width = spec.network.width
    if (codes.ndim != 2 or codes.dtype != np.int8 or codes.shape[1] != width
            or scale.shape != (width,) or classes.shape != (len(codes),) or len(codes) == 0
            or classes.max() >= len(spec.classes) or not np.isfinite(scale).all()):
        raise ValueError(f'{path}: codes {codes.dtype} {codes.shape}, scale {scale.shape} and '
                         f'classes {classes.shape} do not fit {spec.name}')
    return Reference(codes * scale.astype(np.float32), classes.astype(np.int64), about['head'])
