"""Products with four-bit weights by other libraries, of which layers and networks are made.

Each function takes W (K, N) and a bias (N,) or None on the device, and returns what computes X W.
It raises ImportError where its library is not installed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


def nf4_product(w: Tensor, bias: Tensor | None = None) -> Product:
    """bitsandbytes NF4 weights, 16-bit activations (QLoRA)."""
    import bitsandbytes as bnb  # optional
    packed, state = bnb.functional.quantize_4bit(w.t().contiguous(), quant_type='nf4')
    return lambda x: bnb.matmul_4bit(x, packed.t(), quant_state=state, bias=bias)


def torchao_product(w: Tensor, bias: Tensor | None = None) -> Product:
    """torchao's int4 weights (tile-packed), bf16 activations."""
    from torchao.quantization import Int4WeightOnlyConfig, quantize_  # optional
    linear = torch.nn.Linear(*w.shape, bias=bias is not None, device=w.device,
                             dtype=torch.bfloat16).requires_grad_(False)
    linear.weight.copy_(w.t())
    if bias is not None:
        linear.bias.copy_(bias)
    model = torch.nn.Sequential(linear)
    try:
        config = Int4WeightOnlyConfig(group_size=128, int4_packing_format='tile_packed_to_4d')
    except TypeError:  # releases before the format had a name
        config = Int4WeightOnlyConfig(group_size=128)
    quantize_(model, config)
    return model


def gemlite_product(w: Tensor, bias: Tensor | None = None) -> Product:
    """gemlite's four-bit weights and eight-bit activations."""
    from gemlite.core import DType, GemLiteLinearTriton  # optional
    k, n = w.shape
    scale = w.t().reshape(n, -1, 64).abs().amax(-1, keepdim=True) / 7
    codes = (w.t().reshape(n, -1, 64) / scale).round().clamp(-8, 7) + 8
    layer = GemLiteLinearTriton(4, group_size=64, in_features=k, out_features=n,
                                input_dtype=DType.INT8, output_dtype=DType.FP16,
                                scaled_activations=True)
    layer.pack(codes.view(n, k).to(torch.uint8), scale.half().view(-1, 1),
               torch.full_like(scale, 8).half().view(-1, 1), bias=bias)
    return layer


# the name of a way: its product, what its activations and its LoRA are
FOUR_BIT = {'bitsandbytes NF4 + LoRA': (nf4_product, torch.half),
            'torchao int4 + LoRA': (torchao_product, torch.bfloat16),
            'gemlite A8W4 + LoRA': (gemlite_product, torch.half)}
TUNED = ('gemlite A8W4 + LoRA',)  # time what they make, when it first runs
