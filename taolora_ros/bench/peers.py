"""What the kernels are compared with: the same layer or network by other means.

A peer that is not installed, or fails, is told in its row and never left out silently.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from taolora_ros.model_file import Model
from taolora_ros.network import rotary_table

Work = Callable[[], Tensor]


def half_layer(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Work:
    """fp16 by cuBLAS: x (M, K), w (K, N), LoRA a (K, r), b (r, N), not fused."""
    return lambda: torch.addmm(x @ w, x @ a, b)


def half_alone(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Work:
    """fp16 without a LoRA: what cannot be had with one."""
    return lambda: x @ w


def compiled_layer(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Work:
    """What torch.compile makes of the fp16 layer; the graph it is captured in is the bench's."""
    torch._dynamo.reset()  # or it gives up after some shapes and runs what it was given
    fast = torch.compile(lambda x, w, a, b: torch.addmm(x @ w, x @ a, b), dynamic=False)
    return lambda: fast(x, w, a, b)


def nf4_layer(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Work:
    """bitsandbytes NF4 weights, fp16 activations and LoRA (QLoRA)."""
    import bitsandbytes as bnb  # optional
    packed, state = bnb.functional.quantize_4bit(w.t().contiguous(), quant_type='nf4')
    return lambda: torch.addmm(bnb.matmul_4bit(x, packed.t(), quant_state=state), x @ a, b)


def torchao_layer(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Work:
    """torchao's int4 weights (tile-packed), bf16 activations and LoRA."""
    from torchao.quantization import Int4WeightOnlyConfig, quantize_  # optional
    linear = torch.nn.Linear(*w.shape, bias=False, device='cuda', dtype=torch.bfloat16)
    linear.weight.data.copy_(w.t())
    model = torch.nn.Sequential(linear)
    try:
        config = Int4WeightOnlyConfig(group_size=128, int4_packing_format='tile_packed_to_4d')
    except TypeError:  # releases before the format had a name
        config = Int4WeightOnlyConfig(group_size=128)
    quantize_(model, config)
    x, a, b = (t.bfloat16() for t in (x, a, b))
    return lambda: torch.addmm(model(x), x @ a, b)


def gemlite_layer(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Work:
    """gemlite's four-bit weights and eight-bit activations, with an fp16 LoRA."""
    from gemlite.core import DType, GemLiteLinearTriton  # optional
    k, n = w.shape
    scale = w.t().reshape(n, -1, 64).abs().amax(-1, keepdim=True) / 7
    codes = (w.t().reshape(n, -1, 64) / scale).round().clamp(-8, 7) + 8
    layer = GemLiteLinearTriton(4, group_size=64, in_features=k, out_features=n,
                                input_dtype=DType.INT8, output_dtype=DType.FP16,
                                scaled_activations=True)
    layer.pack(codes.view(n, k).to(torch.uint8), scale.half().view(-1, 1),
               torch.full_like(scale, 8).half().view(-1, 1), bias=None)
    return lambda: torch.addmm(layer(x), x @ a, b)


LAYER_PEERS = {'fp16': half_alone, 'fp16 + LoRA': half_layer, 'torch.compile': compiled_layer,
               'bitsandbytes NF4 + LoRA': nf4_layer, 'torchao int4 + LoRA': torchao_layer,
               'gemlite A8W4 + LoRA': gemlite_layer}
COMPILED = ('torch.compile', 'gemlite A8W4 + LoRA')  # when they first run


class HalfNetwork:
    """A shipped network in fp16 with a LoRA of the same rank, gated, by torch's operators.

    Angles, casts and constants are computed before: nothing is done that a careful author of the
    same network would not do. Heads and error of rebuilding are part of it, as they are of ours.
    """

    def __init__(self, model: Model, device: str = 'cuda', dtype: torch.dtype = torch.half):
        self._spec, self._network = model.spec, model.network
        network = model.network
        shape = model.spec.network

        def half(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, dtype)

        self._dtype, self._linears = dtype, {}
        for name, layer in network.linears().items():
            # What the codes stand for: Q(X) C s ~ X (x_inv C s).
            scale = layer.w_scale.repeat_interleave(
                layer.in_features // len(layer.w_scale), 0)              # (K, N)
            weight = layer.codes * scale * layer.x_inv[:, None]
            self._linears[name] = [half(t) for t in (
                weight, layer.bias, layer.lora_a[-layer.in_features:], layer.lora_b)]
        self._norms = {n: (half(m.weight), half(m.bias)) for n, m in network.named_modules()
                       if isinstance(m, torch.nn.LayerNorm)}
        self._convs = {n: (half(m.weight), half(m.bias)) for n, m in network.named_modules()
                       if isinstance(m, torch.nn.Conv1d)}
        self._ends = {n: (half(m.weight), half(m.bias)) for n, m in network.named_modules()
                      if n in ('embed', 'head', 'squeeze', 'rebuild')}
        table = rotary_table(model.spec.tokens, shape.width // shape.heads, torch.device('cpu'))
        self._cos, self._sin = map(half, table)
        self._scale = model.anomaly_scale.to(device)

    def __call__(self, windows: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score windows (B, L, F) float32, gates (B, T) bool, both on the device."""
        batch, tokens = gates.shape
        gate = gates.view(-1, 1).to(self._dtype)
        patches = windows.to(self._dtype).view(batch * tokens, -1)
        x = F.linear(patches, *self._ends['embed'])
        for i, kind in enumerate(self._spec.network.blocks):
            at = f'blocks.{i}'
            inner = self._linear(f'{at}.mix.inner', self._norm(f'{at}.norm1', x), gate)
            mixed = (self._attend if kind == 'attention' else self._convolve)(at, inner, batch)
            x = x + self._linear(f'{at}.mix.outer', mixed, gate)
            hidden = F.gelu(self._linear(f'{at}.up', self._norm(f'{at}.norm2', x), gate))
            x = x + self._linear(f'{at}.down', hidden, gate)
        x = self._norm('norm', x)
        out = F.linear(x, *self._ends['head']).view(batch, tokens, -1).float()
        rebuilt = F.linear(F.linear(x, *self._ends['squeeze']), *self._ends['rebuild'])
        wrong = (patches - rebuilt).float().view(batch, -1, self._network.features)
        return (out[..., :-1].softmax(-1), 1.5 * out[..., -1].sigmoid() - 0.25,
                wrong.square().mean(1).sqrt() / self._scale)

    def tensors(self) -> list[Tensor]:
        """Return all weights, which stay where they are."""
        kept = [self._cos, self._sin, self._scale]
        for layers in (self._linears, self._norms, self._convs, self._ends):
            kept += [tensor for layer in layers.values() for tensor in layer]
        return kept

    def _linear(self, name: str, x: Tensor, gate: Tensor) -> Tensor:
        weight, bias, a, b = self._linears[name]
        return torch.addmm(bias, x, weight) + gate * ((x @ a) @ b)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self._norms[name])

    def _convolve(self, at: str, inner: Tensor, batch: int) -> Tensor:
        weight, bias = self._convs[f'{at}.mix.conv']
        value, gate = inner.chunk(2, -1)
        value = value.view(batch, self._spec.tokens, -1).transpose(1, 2)
        value = F.conv1d(value, weight, bias, padding=weight.shape[-1] // 2, groups=len(bias))
        return value.transpose(1, 2).flatten(0, 1) * F.silu(gate)

    def _attend(self, at: str, inner: Tensor, batch: int) -> Tensor:
        heads = self._spec.network.heads
        q, k, v = inner.view(batch, self._spec.tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self._turn(q), self._turn(k), v)
        return y.transpose(1, 2).reshape(len(inner), -1)

    def _turn(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return torch.cat([first * self._cos - second * self._sin,
                          first * self._sin + second * self._cos], -1)
