"""What the kernels are compared with: the same layer or network by other means.

A peer that is not installed, or fails, is told in its row and never left out silently. What is
added to a product is added in place: torch copies a matrix that it adds out of place to a buffer of
its own first, by one more kernel (pytorch/pytorch#153590).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from taolora_ros.bench.four_bit import FOUR_BIT, TUNED, Product
from taolora_ros.model_file import Model
from taolora_ros.network import rotary_table
from taolora_ros.quantization import TaoLinear
from taolora_ros.spec import OFFSET_MARGIN, ModelSpec

Work = Callable[[], Tensor]


def half_layer(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Work:
    """fp16 by cuBLAS: x (M, K), w (K, N), LoRA a (K, r), b (r, N), not fused."""
    return lambda: (x @ w).addmm_(x @ a, b)


def half_alone(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Work:
    """fp16 without a LoRA: what cannot be had with one."""
    return lambda: x @ w


def compiled_layer(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Work:
    """What torch.compile makes of the fp16 layer; the graph it is captured in is the bench's."""
    torch._dynamo.reset()  # or it gives up after some shapes and runs what it was given
    fast = torch.compile(lambda x, w, a, b: (x @ w).addmm_(x @ a, b), dynamic=False)
    return lambda: fast(x, w, a, b)


def four_bit_layer(name: str) -> Callable[..., Work]:
    """Return what makes a layer of four-bit weights and a 16-bit LoRA: four_bit.py."""
    make, dtype = FOUR_BIT[name]

    def layer(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Work:
        product = make(w)
        x, a, b = (t.to(dtype) for t in (x, a, b))
        return lambda: product(x).addmm_(x @ a, b)

    return layer


LAYER_PEERS = {'fp16': half_alone, 'fp16 + LoRA': half_layer, 'torch.compile': compiled_layer,
               **{name: four_bit_layer(name) for name in FOUR_BIT}}
COMPILED = ('torch.compile', *TUNED)  # when they first run


class HalfNetwork:
    """A shipped network in fp16 with a LoRA of the same rank, gated, by torch's operators.

    Angles, casts and constants are computed before: nothing is done that a careful author of the
    same network would not do. Heads and error of rebuilding are part of it, as they are of ours.
    """

    def __init__(self, model: Model, device: str = 'cuda', dtype: torch.dtype = torch.half,
                 joined: bool = False, product: Callable[..., Product] | None = None):
        """Take the weights. ``joined``: W and A of a LoRA are one product, [W A].

        ``product``: what computes X W + b of quantized layers, made of W and b: four_bit.py.
        """
        self._spec, self._dtype, self._joined = model.spec, dtype, joined
        network = self._network = model.network

        def kept(*tensors: Tensor) -> list[Tensor]:
            return [tensor.detach().to(device, dtype) for tensor in tensors]

        self._linears = {name: kept(*plain_weights(layer, joined))
                         for name, layer in network.linears().items()}
        self._products = {}
        for name, weights in self._linears.items() if product else ():
            self._products[name] = product(*weights[:2])
            weights[0] = weights[0].new_empty(0)  # not kept twice
        self._others = {name: kept(m.weight, m.bias) for name, m in network.named_modules()
                        if isinstance(m, (torch.nn.LayerNorm, torch.nn.Conv1d))
                        or name in ('embed', 'rebuild')}
        # Two heads read the same: one product, with outputs of zeros up to what is aligned.
        weight, bias = (torch.cat([getattr(m, part) for m in (network.squeeze, network.head)])
                        for part in ('weight', 'bias'))
        room = -len(bias) % 8
        self._heads = kept(F.pad(weight, (0, 0, 0, room)), F.pad(bias, (0, room)))
        self._parts = [network.squeeze.out_features, len(model.spec.classes), 1, room]
        self._cos, self._sin = kept(*angles(model.spec))
        # The error of a channel: its norm over the window, in multiples of the usual rms.
        scale = model.anomaly_scale * model.spec.window ** 0.5
        self._per_norm = (1 / scale).to(device)
        self._first = torch.full((1,), -OFFSET_MARGIN, device=device)

    def __call__(self, windows: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score windows (B, L, F) float32, gates (B, T) bool, both on the device."""
        batch, gate = len(windows), gates.view(-1, 1)
        patches = windows.to(self._dtype).view(len(gate), -1)
        x = F.linear(patches, *self._others['embed'])
        for i, kind in enumerate(self._spec.network.blocks):
            at = f'blocks.{i}'
            inner = self._linear(f'{at}.mix.inner', self._norm(f'{at}.norm1', x), gate)
            inner = inner.view(batch, self._spec.tokens, -1)
            mixed = self._attend(inner) if kind == 'attention' else self._convolve(at, inner)
            x = x + self._linear(f'{at}.mix.outer', mixed.flatten(0, 1), gate)
            hidden = F.gelu(self._linear(f'{at}.up', self._norm(f'{at}.norm2', x), gate))
            x = x + self._linear(f'{at}.down', hidden, gate)
        out = F.linear(self._norm('norm', x), *self._heads)
        squeezed, logits, offset, _ = out.split_with_sizes(self._parts, -1)
        wrong = patches - F.linear(squeezed, *self._others['rebuild'])
        norm = torch.linalg.vector_norm(wrong.view(batch, -1, self._network.features), dim=1,
                                        dtype=torch.float32)
        offset = torch.add(self._first, offset.sigmoid(), alpha=1 + 2 * OFFSET_MARGIN)
        return (logits.float().softmax(-1).view(*gates.shape, -1), offset.view_as(gates),
                norm * self._per_norm)

    def tensors(self) -> list[Tensor]:
        """Return all weights, which stay where they are."""
        layers = (*self._linears.values(), *self._others.values(), self._heads)
        return [self._cos, self._sin, self._per_norm, self._first,
                *(tensor for layer in layers for tensor in layer)]

    def _linear(self, name: str, x: Tensor, gate: Tensor) -> Tensor:
        """Return y (M, N) by four kernels, three where W and A are one product."""
        weight, bias, b, *a = self._linears[name]
        product = self._products.get(name)
        y = product(x) if product else torch.addmm(bias, x, weight)
        y, u = y.split_with_sizes((b.shape[1], len(b)), -1) if self._joined else (y, x @ a[0])
        return y.addmm_(gate * u, b)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self._others[name])

    def _convolve(self, at: str, inner: Tensor) -> Tensor:
        """Return (B, T, D): convolved values times their gates, of (B, T, 2 D)."""
        weight, bias = self._others[f'{at}.mix.conv']
        value, gate = inner.chunk(2, -1)
        value = F.conv1d(value.transpose(1, 2), weight, bias, padding=weight.shape[-1] // 2,
                         groups=len(bias))
        return F.silu(gate).mul_(value.transpose(1, 2))  # in place: this order of dimensions

    def _attend(self, inner: Tensor) -> Tensor:
        """Return (B, T, D) of queries, keys and values (B, T, 3 D)."""
        each = inner.unflatten(-1, (3, self._spec.network.heads, -1))  # (B, T, 3, H, E)
        q, k = self._turn(each[:, :, :2]).permute(2, 0, 3, 1, 4)       # (B, H, T, E) each
        y = F.scaled_dot_product_attention(q, k, each[:, :, 2].transpose(1, 2))
        return y.transpose(1, 2).flatten(2)

    def _turn(self, x: Tensor) -> Tensor:
        """Turn queries and keys (B, T, 2, H, E) by the angles of their tokens."""
        halves_swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
        return (x * self._cos).addcmul_(halves_swapped, self._sin)


def plain_weights(layer: TaoLinear, joined: bool) -> list[Tensor]:
    """Return W (K, N), bias, B (r, N), A (K, r) of what a layer stands for.

    ``joined``: [W A] (K, N + r), bias and r zeros, B.
    """
    # Q(X) C s ~ X (x_inv C s).
    scale = layer.w_scale.repeat_interleave(layer.in_features // len(layer.w_scale), 0)  # (K, N)
    weight = layer.codes * scale * layer.x_inv[:, None]
    a, b = layer.lora_a[-layer.in_features:], layer.lora_b
    if joined:
        return [torch.cat([weight, a], 1), F.pad(layer.bias, (0, len(b))), b]
    return [weight, layer.bias, b, a]


def angles(spec: ModelSpec) -> tuple[Tensor, Tensor]:
    """Return what queries and keys, and what their swapped halves are multiplied by: (T, 1, 1, E).
    """
    shape = spec.network
    cos, sin = rotary_table(spec.tokens, shape.width // shape.heads, torch.device('cpu'))
    return tuple(torch.cat(halves, -1)[:, None, None] for halves in ((cos, cos), (-sin, sin)))
