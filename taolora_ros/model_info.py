"""What is in a model file: its promise, where it comes from, and its bytes by part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from taolora_ros.model_file import Model
from taolora_ros.storage import LORA_SCALES

PARTS = ('packed INT4 weights', 'scales', 'LoRA', 'full-precision weights', 'embedding and heads',
         'norms, convolutions and biases')
ENDINGS = {'packed': PARTS[0], 'w_scale': PARTS[1], 'x_inv': PARTS[1],
           **dict.fromkeys(('lora_a', 'lora_b', *LORA_SCALES), PARTS[2])}
ENDS_OF_NETWORK = ('embed', 'head', 'squeeze', 'rebuild')


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model: ``parts`` by name, and what the same network takes in mixed precision.

    ``layers`` are the bytes of the INT4 layers' weights with all scales, padding and LoRA;
    ``mixed_layers`` those of FP16 weights with an FP16 LoRA of the same rank that reads X alone;
    ``mixed`` the whole network that way.
    """

    parts: dict[str, int]
    layers: int
    mixed_layers: int

    @property
    def total(self) -> int:
        """Bytes of all tensors."""
        return sum(self.parts.values())

    @property
    def mixed(self) -> int:
        """Bytes of all tensors of the network in mixed precision."""
        return self.total - self.layers + self.mixed_layers


def measure(model: Model) -> Sizes:
    """Return the bytes of ``model``'s tensors."""
    parts = dict.fromkeys(PARTS, 0)
    linears = model.network.linears()
    for name, tensor in model.tensors.items():
        parts[_part(name, set(linears))] += tensor.numel() * tensor.element_size()
    mixed = 0
    for name in model.metadata['layers']:
        inputs = linears[name].in_features
        rank, outputs = linears[name].lora_b.shape
        mixed += 2 * (inputs * outputs + rank * (inputs + outputs))
    return Sizes(parts, sum(parts[part] for part in PARTS[:3]), mixed)


def _part(name: str, linears: set[str]) -> str:
    layer, _, ending = name.rpartition('.')
    if layer in linears:
        return ENDINGS.get(ending, PARTS[3] if ending == 'weight' else PARTS[5])
    if name.split('.')[0] in ENDS_OF_NETWORK:
        return PARTS[4]
    return PARTS[5]


def tables(path: Path, model: Model) -> list[Table]:
    """Return what ``taolora info`` shows."""
    return [_promise(path, model), _bytes(path, model),
            *(_pairs(title, model.metadata[key]) for title, key in
              (('Figures', 'figures'), ('Provenance', 'provenance')) if model.metadata.get(key))]


def _promise(path: Path, model: Model) -> Table:
    spec = model.spec
    n = spec.network
    channels = ', '.join(f'{name}{" (may be missing)" if name in spec.optional else ""} [{unit}]'
                         for name, unit in zip(spec.channels, spec.units))
    rows = {
        'model': f'{spec.name}, version {spec.version}, {model.precision}',
        'labels': ', '.join(spec.labels), 'channels': channels,
        'window': f'{spec.window / spec.rate:g} s at {spec.rate:g} Hz: {spec.tokens} tokens of '
                  f'{spec.patch} samples',
        'timing': f'hop {spec.hop:g} s, delay {spec.delay:g} s, refractory {spec.refractory:g} s',
        'gate': f'variance {spec.gate.variance:g}, curvature {spec.gate.curvature:g}, '
                f'hf_energy {spec.gate.hf_energy:g} times the steady scale, '
                f'dilation {spec.gate.dilation}',
        'network': f'width {n.width}, {n.heads} heads, MLP x{n.mlp}, blocks {", ".join(n.blocks)}',
        'transient path': _branch(model)}
    return _pairs(str(path), rows)


def _branch(model: Model) -> str:
    bits = sorted({m.lora_bits for m in model.network.linears().values() if m.int4})
    return f'rank {model.rank}, {" and ".join(map(str, bits))} bits' if model.rank else 'none'


def _bytes(path: Path, model: Model) -> Table:
    sizes = measure(model)
    table = Table(title='Bytes', title_justify='left', box=box.SIMPLE_HEAD)
    table.add_column('part')
    table.add_column('bytes', justify='right')
    for part, count in sizes.parts.items():
        if count:
            table.add_row(part, f'{count:,}')
    size = path.stat().st_size
    table.add_row('header and description', f'{size - sizes.total:,}')
    table.add_section()
    table.add_row('file', f'{size:,}')
    if sizes.mixed_layers:
        table.add_section()
        table.add_row('INT4 layers (weights, scales, LoRA)', f'{sizes.layers:,}')
        table.add_row('the same in FP16 + FP16 LoRA', f'{sizes.mixed_layers:,}')
        table.add_row('saved on these layers', _saved(sizes.layers, sizes.mixed_layers))
        table.add_row('saved on the whole network', _saved(sizes.total, sizes.mixed))
    return table


def _saved(ours: int, theirs: int) -> str:
    return f'{100 * (1 - ours / theirs):.1f} %'


def _pairs(title: str, rows: dict) -> Table:
    table = Table(title=escape(title), title_justify='left', show_header=False,
                  box=box.SIMPLE_HEAD)
    for key, value in _flatten(rows):
        table.add_row(key, escape(value))
    return table


def _flatten(rows: dict, prefix: str = ''):
    """Yield (key, text) of nested descriptions, inner keys joined by dots."""
    for key, value in rows.items():
        if isinstance(value, dict):
            yield from _flatten(value, f'{prefix}{key}.')
        elif isinstance(value, float):
            yield prefix + key, f'{value:.6g}'
        elif isinstance(value, (list, tuple)):
            yield prefix + key, ', '.join(map(str, value))
        else:
            yield prefix + key, str(value)
