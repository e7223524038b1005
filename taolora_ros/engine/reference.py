"""The reference engine: plain PyTorch, exact integers on the steady path, any device."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from taolora_ros.engine.interface import (
    Scores, adaptable, check_changes, check_names, differs)
from taolora_ros.model_file import Model


def pick_device(name: str) -> torch.device:
    """Return the torch device for 'auto', 'cpu' or 'cuda'; raise ValueError if it is not there."""
    if name not in ('auto', 'cpu', 'cuda'):
        raise ValueError(f"device: {name!r} is none of 'auto', 'cpu', 'cuda'")
    if name == 'cuda' and not torch.cuda.is_available():
        raise ValueError('device: cuda was asked for, but torch finds no CUDA device; '
                         'auto takes the device that there is')
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    return torch.device(name)


class ReferenceEngine:
    """Runs a model as its network is written. The gate opens the transient path row by row."""

    name = 'reference'
    why = 'made directly'

    def __init__(self, model: Model, device: str = 'auto'):
        self._device = pick_device(device)
        self.device = str(self._device)
        self._network = model.network.to(self._device).eval()
        self._anomaly_scale = model.anomaly_scale.to(self._device)
        spec = model.spec
        self._shape = (spec.window, self._network.features)
        self._tokens = spec.tokens
        self.keeps_embedding, self.changes = False, 0
        self._adaptable = {name: tensor for name, tensor in self._network.state_dict().items()
                           if adaptable(name)}  # shares memory with the network
        self._lock = threading.Lock()  # a run and a change of weights exclude each other

    @torch.inference_mode()
    def run(self, windows: np.ndarray, gates: np.ndarray) -> Scores:
        """Score windows (B, L, F) with gates (B, T); raise ValueError for other shapes."""
        if windows.shape[1:] != self._shape or gates.shape != (len(windows), self._tokens):
            raise ValueError(f'windows {windows.shape} and gates {gates.shape}: expected '
                             f'(B, {self._shape[0]}, {self._shape[1]}) and (B, {self._tokens})')
        x = torch.as_tensor(windows, dtype=torch.float32, device=self._device)
        open_tokens = torch.as_tensor(gates, dtype=torch.bool, device=self._device)
        with self._lock:
            tokens = self._network.encode(x, open_tokens)
            logits, offset, rebuilt = self._network.read(tokens)
        errors = rebuild_error(self._network.patches(x), rebuilt, self._network.features)
        return Scores(logits.softmax(-1).cpu().numpy(), offset.cpu().numpy(),
                      (errors / self._anomaly_scale).cpu().numpy(),
                      tokens.cpu().numpy() if self.keeps_embedding else None)

    def read_weights(self, *names: str) -> dict[str, np.ndarray]:
        """Return copies of weights that may be adapted; raise ValueError for other names."""
        check_names(names, self._adaptable)
        return {name: self._adaptable[name].float().cpu().numpy().copy() for name in names}

    @torch.inference_mode()
    def write_weights(self, changes: Mapping[str, np.ndarray]) -> None:
        """Copy other values into weights between two runs; errors as the interface says."""
        check_changes(changes, {name: t.shape for name, t in self._adaptable.items()})
        with self._lock:
            self.changes += differs(self.read_weights(*changes), changes)
            for name, value in changes.items():
                self._adaptable[name].copy_(torch.as_tensor(value))


def rebuild_error(patches: Tensor, rebuilt: Tensor, features: int) -> Tensor:
    """Return the root mean square rebuilding error of each feature in each window: (B, F)."""
    error = (patches - rebuilt).view(len(patches), -1, features)  # (B, L, F)
    return error.square().mean(1).sqrt()
