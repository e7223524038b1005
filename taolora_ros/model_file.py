"""Model files: one safetensors file with weights and a JSON description, never pickle.

Tensors of an INT4 model, for each quantized layer NAME (K inputs, N outputs, rank r):

    NAME.packed   uint8 (ceil(K / 2), N)   two codes a byte, rows k and k + ceil(K / 2)
    NAME.w_scale  float16 (G, N)           NAME.x_inv   float32 (K,)
    NAME.lora_a   float16 (K or 2K, r)     NAME.lora_b  float16 (r, N)
    NAME.bias     float16 (N,)

(smaller scales and a LoRA in 8 or 4 bits: storage.py). A file with these is of format version 2,
one whose spec has ``alike`` of 3, so that a program that does not know them says so. Everything
else is float16 (embedding, norms, depthwise convolutions, heads). A full-precision model holds
float32 ``NAME.weight`` instead. ``anomaly_scale`` float32 (F,) is the rebuilding error of each
feature that steady training data seldom passes.

The safetensors header carries one string, ``taolora``: JSON with ``format_version``, ``spec``
(see spec.py), ``precision``, ``layers`` (zero point, buffer and bits of each quantized layer),
``provenance`` and ``figures``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from taolora_ros.features import feature_names
from taolora_ros.network import TaoNetwork
from taolora_ros.quantization import TaoLinear, pack_int4, unpack_int4
from taolora_ros.spec import ModelSpec
from taolora_ros.spec_check import check_spec
from taolora_ros.storage import (LORA_BITS, LORA_SCALES, SCALE_BITS, code_lora, code_scale,
                                 decode_lora, decode_scale)

FORMAT_VERSION = 3  # the least one that has all that a file uses
MAX_BYTES = 256 * 2 ** 20
BESIDE = ('.fp32.safetensors', '.reference.safetensors')  # what lies beside an INT4 model
PARTS = ('packed', 'w_scale', 'x_inv', 'lora_a', 'lora_b')


@dataclass
class Model:
    """A network with all that is known about it; ``tensors`` are those of the file."""

    spec: ModelSpec
    network: TaoNetwork
    anomaly_scale: Tensor
    tensors: dict[str, Tensor]
    metadata: dict = field(default_factory=dict)

    @property
    def precision(self) -> str:
        """'int4' or 'fp32'."""
        return self.metadata['precision']

    @property
    def rank(self) -> int:
        """Rank of the transient path, 0 in full precision."""
        return max((m.lora_b.shape[0] for m in self.network.linears().values() if m.int4),
                   default=0)


def save_model(path: str | Path, spec: ModelSpec, network: TaoNetwork, anomaly_scale: Tensor,
               provenance: dict, figures: dict) -> None:
    """Write ``network`` (full precision or INT4) to ``path``, replacing it in one step."""
    layers = {n: m for n, m in network.linears().items() if m.int4}
    tensors = {'anomaly_scale': anomaly_scale.float(), **file_tensors(network)}
    compact = any((m.lora_bits, m.scale_bits) != (16, 32) for m in layers.values())
    description = {
        'precision': 'int4' if layers else 'fp32',
        'spec': spec.to_dict(), 'provenance': provenance, 'figures': figures,
        'layers': {name: {'x_zero': m.x_zero, 'buffer': m.buffer,
                          **({'lora_bits': m.lora_bits, 'scale_bits': m.scale_bits}
                             if compact else {})} for name, m in layers.items()}}
    _write(Path(path), {n: t.cpu().contiguous() for n, t in tensors.items()},
           {'format_version': _format(description), **description})


def _format(description: dict) -> int:
    """Return the least format version that has all that a file uses."""
    if description['spec'].get('alike'):
        return 3
    return 2 if any('lora_bits' in layer for layer in description['layers'].values()) else 1


@torch.no_grad()
def file_tensors(network: TaoNetwork) -> dict[str, Tensor]:
    """Return the tensors that a file keeps of ``network``, by name."""
    layers = {n: m for n, m in network.linears().items() if m.int4}
    derived = {f'{name}.{part}' for name in layers
               for part in ('codes', 'w_scale', 'x_inv', 'lora_a', 'lora_b')}
    tensors = {name: tensor.half() if layers else tensor.float()
               for name, tensor in network.state_dict().items() if name not in derived}
    for name, layer in layers.items():
        parts = {'packed': pack_int4(layer.codes.to(torch.int8)),
                 'x_inv': code_scale(layer.x_inv, layer.scale_bits),
                 'w_scale': code_scale(layer.w_scale, min(layer.scale_bits, 16)),
                 **code_lora(layer.lora_a, layer.lora_b, layer.x_inv, layer.lora_bits)}
        tensors.update({f'{name}.{part}': tensor for part, tensor in parts.items()})
    return tensors


def annotate_model(path: str | Path, figures: dict, spec: ModelSpec | None = None) -> None:
    """Add ``figures`` to a model file, and put ``spec`` in place of its own when given.

    The weights stay as they are. Errors as for ``load_model``.
    """
    path = Path(path)
    description, tensors = _read(path)
    description['figures'] = {**description.get('figures', {}), **figures}
    if spec is not None:
        description['spec'] = spec.to_dict()
        description['format_version'] = _format(description)
    _write(path, tensors, description)


def load_model(path: str | Path, precision: str | None = None) -> Model:
    """Read a model file; raise ValueError with one line naming the file and what is wrong.

    ``precision`` 'int4' or 'fp32' insists on that one: when ``path`` holds the other, its sibling
    is read instead (NAME.safetensors is INT4, NAME.fp32.safetensors full precision).
    """
    path = Path(path)
    description, tensors = _read(path)
    if description.get('precision') not in ('int4', 'fp32'):
        raise ValueError(f"{path}: precision {description.get('precision')!r} is neither 'int4' "
                         "nor 'fp32'")
    if precision not in (None, description['precision']):
        base = path.name.removesuffix('.safetensors').removesuffix('.fp32')
        endings = {'int4': '.safetensors', 'fp32': '.fp32.safetensors'}
        if precision not in endings:
            raise ValueError(f"precision: {precision!r} is neither 'int4' nor 'fp32'")
        path = path.with_name(base + endings[precision])
        description, tensors = _read(path)
    try:
        spec = ModelSpec.from_dict(description['spec'])
        check_spec(spec)
        network = TaoNetwork(spec)
        _fill(network, dict(tensors), description)
        scale = tensors['anomaly_scale']
        if scale.shape != (len(feature_names(spec)),):
            raise ValueError(f'anomaly_scale has shape {tuple(scale.shape)}')
        if not scale.is_floating_point() or not bool((scale > 0).all() & scale.isfinite().all()):
            raise ValueError('anomaly_scale must be finite numbers above 0')
        for name in ('provenance', 'figures'):
            if not isinstance(description.get(name, {}), dict):
                raise ValueError(f'{name} must be a table of names and values')
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path}: not a taolora model: {error!r:.200} is missing or wrong'
                         ) from error
    except (ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f'{path}: {" ".join(str(error).split()):.300}') from error
    return Model(spec, network.eval(), scale.float(), tensors, description)


def _write(path: Path, tensors: dict[str, Tensor], description: dict) -> None:
    """Replace ``path`` in one step: whoever reads it sees the old file or the new one."""
    partial = path.with_suffix('.partial')
    save_file(tensors, partial, metadata={'taolora': json.dumps(description)})
    partial.chmod(0o644)
    partial.replace(path)


def _read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Return the description and the tensors of ``path``."""
    if not path.is_file():
        raise ValueError(f'{path}: no such model file')
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f'{path}: {path.stat().st_size} bytes, a model has at most {MAX_BYTES}')
    try:
        with safe_open(path, 'pt') as file:
            description = json.loads((file.metadata() or {}).get('taolora', 'null'))
            if not isinstance(description, dict):
                raise ValueError(f'{path}: a safetensors file, but not a taolora model')
            version = description.get('format_version')
            if not isinstance(version, int) or version > FORMAT_VERSION:
                raise ValueError(f'{path}: format version {version}; this taolora_ros reads up to '
                                 f'{FORMAT_VERSION}, install a newer one')
            return description, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f'{path}: not a complete safetensors file ({error})') from error


def _fill(network: TaoNetwork, tensors: dict[str, Tensor], description: dict) -> None:
    """Load the tensors into ``network``, switching the layers listed to INT4."""
    linears = network.linears()
    for name, options in description['layers'].items():
        if name not in linears:
            raise ValueError(f'layer {name!r:.99} is not part of this network')
        _fill_layer(name, linears[name], tensors, options)
    tensors.pop('anomaly_scale')
    own = network.state_dict()
    missing = {n for n in own if n not in tensors and not n.endswith(
        ('.codes', '.w_scale', '.x_inv', '.lora_a', '.lora_b'))}
    if missing:
        raise ValueError(f'tensor {sorted(missing)[0]!r} is missing')
    for name, tensor in tensors.items():
        if (name not in own or own[name].shape != tensor.shape
                or not tensor.is_floating_point()):
            raise ValueError(f'tensor {name!r:.99} with {tensor.dtype} {tuple(tensor.shape)} '
                             'does not fit')
        own[name].copy_(tensor)  # state_dict shares memory with the network
    if not all(bool(torch.isfinite(t).all()) for t in own.values()):
        raise ValueError('a weight is not a finite number')


def _fill_layer(name: str, layer: TaoLinear, tensors: dict[str, Tensor], options: dict) -> None:
    """Take the tensors of one INT4 layer out of ``tensors`` and switch it to INT4."""
    lora_bits, scale_bits = options.get('lora_bits', 16), options.get('scale_bits', 32)
    for what, bits, known in (('lora_bits', lora_bits, LORA_BITS),
                              ('scale_bits', scale_bits, SCALE_BITS)):
        if type(bits) is not int or bits not in known:
            raise ValueError(f'{name}: {what} {bits!r:.60} is none of {known}')
    coded = PARTS + (LORA_SCALES if lora_bits < 16 else ())
    stored = {part: tensors.pop(f'{name}.{part}') for part in coded}
    packed = stored['packed']
    if packed.dtype != torch.uint8 or packed.ndim != 2 or packed.shape[1] != layer.out_features:
        raise ValueError(f'{name}.packed: {packed.dtype} {tuple(packed.shape)}')
    for part, dimensions in (('x_inv', 1), ('w_scale', 2)):
        tensor = stored[part]
        if tensor.is_floating_point() != (scale_bits > 8) or tensor.ndim != dimensions:
            raise ValueError(f'{name}.{part}: {tensor.dtype} {tuple(tensor.shape)} with '
                             f'{scale_bits} bits')
    groups = len(stored['w_scale'])
    if not 1 <= groups <= layer.in_features or layer.in_features % groups:
        raise ValueError(f'{name}.w_scale: {groups} groups of {layer.in_features} inputs')
    x_zero, buffer = options['x_zero'], options['buffer']
    if x_zero is not None and (type(x_zero) is not int or not 0 <= x_zero <= 15):
        raise ValueError(f'{name}: zero point {x_zero!r:.60} must be none or 0..15')
    try:
        w_scale, x_inv = (decode_scale(stored[part]) for part in ('w_scale', 'x_inv'))
        a, b = decode_lora(stored, x_inv, layer.out_features, 1 if buffer == 'x' else 2, lora_bits)
        layer.load_int4(unpack_int4(packed, layer.in_features), w_scale, x_inv, x_zero, a, b,
                        buffer)
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error
    layer.lora_bits, layer.scale_bits = lora_bits, scale_bits
