"""What one window costs whatever the machine: bytes, operations, launches, counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from taolora_ros.model_file import Model

TILE = 16      # tokens of one program
SHARES = 4     # of the inputs of the MLP's second layer, where there is one window
TEAM = 4       # programs that share a tile, where there is one window
THREE = 3      # products that make a float32 one: of two float16 (int4.py), or tf32x3 at half rate


@dataclass(frozen=True)
class Counts:
    """Of one window; operations count a multiply and an add as two."""

    weight_bytes: int
    end_bytes: int       # windows in, gates in, scores out
    between_bytes: int   # activations written and read by kernels, in the L2 cache where it holds
    int8_ops: int
    half_ops: int        # as float16 products on tensor cores
    launches: int
    programs: int        # that run at once, at most

    def to_dict(self) -> dict:
        """Return it ready for JSON."""
        return asdict(self)


def count_window(model: Model, engine: str) -> Counts:
    """Count one window through 'mega', 'stages' (mega without waiting), 'fused', 'streams' or
    'fp16' (the same network with 16-bit weights and LoRA in one graph, one kernel a product).

    Operations are counted once, also those that all members of a team repeat.
    """
    spec, network = model.spec, model.network
    tokens, width = spec.tokens, spec.network.width
    linears = _linears(model)
    attentions = sum(kind == 'attention' for kind in spec.network.blocks)
    blocks = len(network.blocks)
    matrix = sum(k * n for k, n, _, _ in linears)
    lora = sum(parts * k * r + r * n for k, n, r, parts in linears)
    small = sum(p.numel() for name, p in network.named_parameters()
                if 'lora' not in name and not name.endswith('.weight') or 'norm' in name
                or 'conv' in name or name.split('.')[0] in ('embed', 'head', 'squeeze', 'rebuild'))
    ends = sum(m.weight.numel() for m in (network.embed, network.head, network.squeeze,
                                          network.rebuild))
    head = network.head.weight.numel() + network.squeeze.weight.numel()
    halves = 2 * tokens * (head + attentions * 2 * tokens * width)  # float32, as float16
    full = 2 * tokens * (ends - head)                                        # as tf32
    between = _between(tokens, width, blocks, linears)
    launches = _launches(spec.network.blocks, len(linears))[engine]
    tiles = -(-tokens // TILE)
    programs = {'mega': tiles * TEAM, 'stages': tiles}.get(engine, tiles * 3 * width // 32)
    in_and_out = _in_and_out(model)
    if engine == 'fp16':
        return Counts(2 * (matrix + lora + small), in_and_out, between[engine], 0,
                      2 * tokens * (matrix + lora) + halves + full, launches, programs)
    scales = sum(4 * (k + n) for k, n, _, _ in linears)
    return Counts(matrix // 2 + 2 * lora + 4 * small + scales, in_and_out, between[engine],
                  2 * tokens * matrix,
                  2 * tokens * lora + THREE * halves + 2 * THREE * full, launches, programs)


def count_on_core(model: Model, native: bool) -> int:
    """Count the bytes of a window's activations on a CPU: in and out, written and read between.

    `native` reads X for its norm, writes and reads what a mixer takes and what it gives, and takes
    X through the rest of a block in the first cache, a tile at a time. Other ways are counted
    between linear layers alone, in float32: theirs is the least it can be.
    """
    spec, linears = model.spec, _linears(model)
    if not native:
        return _in_and_out(model) + _layers(spec.tokens, linears)
    taken = sum(3 if kind == 'attention' else 2 for kind in spec.network.blocks)
    rows = 2 + 5 * len(spec.network.blocks) + 2 * taken  # the first and last X
    return _in_and_out(model) + 4 * spec.tokens * spec.network.width * rows


def _linears(model: Model) -> list[tuple[int, int, int, int]]:
    """Return K, N, rank and parts of what the LoRA reads of each quantized layer."""
    return [(m.in_features, m.out_features, m.lora_b.shape[0], 2 if m.buffer == 'residual' else 1)
            for m in model.network.linears().values()]


def _in_and_out(model: Model) -> int:
    """Return the bytes of a window and its gates, and of its scores."""
    spec = model.spec
    return 4 * spec.tokens * (spec.patch * model.network.features + len(spec.classes) + 1
                              ) + spec.tokens


def _layers(tokens: int, linears: list[tuple[int, ...]]) -> int:
    """Return the bytes between linear layers in float32: written, read by the next."""
    return 4 * tokens * sum(2 * (k + n) for k, n, _, _ in linears)


def _between(tokens: int, width: int, blocks: int, linears: list[tuple[int, ...]]
             ) -> dict[str, int]:
    """Return the bytes that go from kernel to kernel, of each way; ``linears`` are (K, N, r, _)."""
    layers = _layers(tokens, linears)
    rank = max(r for _, _, r, _ in linears)
    return {  # fused: and the shares of the MLP's second layer
        'fused': layers + 4 * tokens * 2 * SHARES * (width + rank) * blocks,
        # X stays in registers; each member of a team reads what all of them have
        'mega': 4 * tokens * blocks * (width * (3 + 3 * (tokens // TILE) * TEAM)
                                       + (width + rank) * TEAM * (1 + TEAM)),
        'stages': 4 * tokens * blocks * width * (2 + 3 + 3 * (tokens // TILE)),
        'streams': layers + 4 * tokens * sum(2 * n for _, n, _, _ in linears),
        'fp16': layers // 2}


def _launches(blocks: tuple[str, ...], products: int) -> dict[str, int]:
    """Return how many kernels each way launches for a network; fp16: operators of peers.py.

    Those are four a product; in a block two norms, two sums and a GELU; three a convolution (whose
    operator may take more than one kernel) and four an attention; two in front, and ten from the
    last norm to the scores.
    """
    mixers = sum(4 if kind == 'attention' else 3 for kind in blocks)
    count = len(blocks)
    return {'mega': 1, 'stages': count + 1, 'fused': 2 + 5 * count,
            'streams': 2 + count + 3 * products,
            'fp16': 2 + 4 * products + 5 * count + mixers + 10}
