"""The same learning written in PyTorch: what NumPy at batch 1 is measured beside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from taolora_ros.adaptation.lora import REST, AdaptedLayer


class TorchLayer:
    """The two tiers of an ``AdaptedLayer``, all in place; ``learn`` and ``forward`` as there."""

    def __init__(self, layer: AdaptedLayer):
        k, r = layer.in_features, layer.base_rank
        self.factors, self.scales = torch.tensor(layer.factors), torch.tensor(layer.scales)
        self.inputs, self.outputs = self.factors[:, :k], self.factors[:, k:]
        self.micro, self.decay, self.max_norm = self.factors[r:], layer.decay, layer.max_norm
        self.scale, self.rank = float(layer.scales[-1]), layer.micro_rank
        self.micro_a, self.micro_b = self.micro[:, :k], self.micro[:, k:]
        self.momentum = torch.tensor(layer.momentum[r:])
        self.momentum_a, self.momentum_b = self.momentum[:, :k], self.momentum[:, k:]
        self.ceiling = layer.norm()

    def signal(self, probability: Tensor, label: int) -> Tensor:
        """Return p - y."""
        gradient = probability.clone()
        gradient[label] -= 1.0
        return gradient

    def forward(self, x: Tensor) -> Tensor:
        """Return x dW for x (K,) or (M, K)."""
        return ((x @ self.inputs.T) * self.scales) @ self.outputs

    def learn(self, x: Tensor, gradient: Tensor, step: float) -> None:
        """Move the micro tier downhill; x (K,) and gradient (N,), or both with M rows."""
        weight, d = self.scale * (1.0 - self.decay), self.decay
        if x.ndim == 1:
            end, start = torch.mv(self.micro_b, gradient), torch.mv(self.micro_a, x)
            self.momentum_a.addr_(end, x, beta=d, alpha=weight)
            self.momentum_b.addr_(start, gradient, beta=d, alpha=weight)
        else:
            end, start = self.micro_b @ gradient.T, self.micro_a @ x.T
            self.momentum_a.addmm_(end, x, beta=d, alpha=weight)
            self.momentum_b.addmm_(start, gradient, beta=d, alpha=weight)
        size, moved = self.micro.norm().item(), step * self.momentum.norm().item()
        if not math.isfinite(moved):
            raise ValueError('x or gradient: not finite')
        self.ceiling += self.scale * (size + moved) * moved
        self.micro.sub_(self.momentum, alpha=step)
        if self.ceiling > self.max_norm:
            gram = (self.inputs @ self.inputs.T) * (self.outputs @ self.outputs.T)
            norm = math.sqrt(max((self.scales @ gram @ self.scales).item(), 0.0))
            if norm > self.max_norm:
                norm, scaled = REST * self.max_norm, REST * self.max_norm / norm
                self.outputs.mul_(scaled)
            self.ceiling = norm
