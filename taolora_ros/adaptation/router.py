"""A trained router: a FastGRNN cell that says, patch by patch, what needs the transient path.

    X  inputs of a patch    H  hidden units    C  classes    x (X,), h (H,) and so on

    z  = sigmoid(W x + U' h + V h + b_z)      U' = U + A B           LoRA of rank 8 on the hidden
    h~ = tanh(W x + U' h + b_h)               V  = A_z B_z           micro-LoRA, rank 2, on z alone
    h' = (zeta (1 - z) + nu) * h~ + z * h     zeta, nu in 0..1       (Kusupati et al. 2018)
    class head  softmax((O + A_c B_c) h' + b_c)  (C,)                LoRA of rank 4 a head, or of
    gate head   sigmoid((O_g + A_g B_g) h' + b_g)                    as many as it has outputs

The class head learns which patches hold a rare event, the gate head what the threshold router
(gate.py) would do; a patch is open when the probability of the rare classes reaches the threshold.
The low-rank parts start at nothing and are there to be adapted to one robot or person.

The inputs are what gate.py looks at, the log of the three statistics of each channel over its own
running scale, and the patch's samples themselves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from taolora_ros.features import feature_names
from taolora_ros.gate import STEP, Gate
from taolora_ros.shipped import shipped
from taolora_ros.spec import ModelSpec

RANKS = {'hidden': 8, 'update': 2, 'head': 4}
RARE = {'imu': ('fall',), 'ecg': ('V', 'F')}  # classes to open for
OVER = (-4.0, 8.0)   # nats: how far below and above its steady scale a statistic counts
OVER_UNIT = 2.0      # nats that become 1
IMU_UNIT = 0.5       # g, or GYRO_SCALE: samples much smaller than that are left as they are
ROUTERS = 'config/routers'
FORMAT, FORMAT_VERSION = 'taolora_router', 1


def router_shapes(inputs: int, hidden: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of a router."""
    heads = {'class': classes, 'gate': 1}
    ranks = {name: min(RANKS['head'], outputs) for name, outputs in heads.items()}
    return {'w': (inputs, hidden), 'u': (hidden, hidden), 'b_z': (hidden,), 'b_h': (hidden,),
            'zeta': (), 'nu': (),
            'hidden_a': (hidden, RANKS['hidden']), 'hidden_b': (RANKS['hidden'], hidden),
            'update_a': (hidden, RANKS['update']), 'update_b': (RANKS['update'], hidden),
            **{f'{name}_o': (hidden, n) for name, n in heads.items()},
            **{f'{name}_bias': (n,) for name, n in heads.items()},
            **{f'{name}_a': (hidden, ranks[name]) for name in heads},
            **{f'{name}_b': (ranks[name], n) for name, n in heads.items()}}


def input_size(spec: ModelSpec) -> int:
    """Return X: three statistics a channel, and the samples of a patch."""
    return (3 + spec.patch) * len(feature_names(spec))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


class Router:
    """The cell with its weights, one patch at a time; ``rare`` are the classes to open for.

    ``arrays`` are as in ``router_shapes``, zeta and nu before their sigmoid. Raise ValueError for
    one that is missing, of another shape, or not finite.
    """

    def __init__(self, arrays: dict[str, np.ndarray], rare: tuple[int, ...], threshold: float):
        if any(name not in arrays or arrays[name].ndim != 2 for name in ('w', 'class_o')):
            raise ValueError('router: w or class_o is missing or no matrix')
        shapes = router_shapes(*arrays['w'].shape, arrays['class_o'].shape[1])
        for name, shape in shapes.items():
            if name not in arrays or arrays[name].shape != shape:
                raise ValueError(f'router: {name} is missing or not of shape {shape}')
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f'router: {name}: a value is not a finite number')
        if not rare or not all(0 <= one < shapes['class_bias'][0] for one in rare):
            raise ValueError(f'router: rare classes {rare} of {shapes["class_bias"][0]}')
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f'router: threshold {threshold}, must be 0..1')
        self.arrays = {name: np.asarray(arrays[name], np.float32) for name in shapes}
        self.rare, self.threshold = list(rare), threshold
        self.merge()
        self.reset()

    def merge(self) -> None:
        """Take changed low-rank parts into account."""
        a = self.arrays
        hidden = a['u'] + a['hidden_a'] @ a['hidden_b']
        self._from_hidden = np.hstack([hidden + a['update_a'] @ a['update_b'], hidden])  # (H, 2H)
        self._from_input = np.hstack([a['w'], a['w']])                                   # (X, 2H)
        self._bias = np.concatenate([a['b_z'], a['b_h']])
        self._zeta, self._nu = (float(sigmoid(a[name])) for name in ('zeta', 'nu'))
        self._heads = np.hstack([a[f'{name}_o'] + a[f'{name}_a'] @ a[f'{name}_b']
                                 for name in ('class', 'gate')])                         # (H, C+1)
        self._head_bias = np.concatenate([a['class_bias'], a['gate_bias']])

    def reset(self) -> None:
        """Forget the past."""
        self.hidden = np.zeros(len(self.arrays['u']), np.float32)

    def step(self, x: np.ndarray) -> np.ndarray:
        """Take the inputs (X,) of the next patch; return the heads' logits (C + 1,)."""
        both = x @ self._from_input + self.hidden @ self._from_hidden + self._bias       # (2H,)
        z, candidate = np.split(both, 2)
        z, candidate = sigmoid(z), np.tanh(candidate)
        self.hidden = (self._zeta * (1.0 - z) + self._nu) * candidate + z * self.hidden
        return self.hidden @ self._heads + self._head_bias

    def rare_probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Take the inputs (p, X) of the next patches; return how likely rare classes are, (p,)."""
        logits = np.empty((len(inputs), len(self._head_bias)), np.float32)
        for i, x in enumerate(inputs):
            logits[i] = self.step(x)
        shares = logits[:, :-1] - logits[:, :-1].max(axis=1, keepdims=True)
        np.exp(shares, out=shares)
        return shares[:, self.rare].sum(axis=1) / shares.sum(axis=1)


@dataclass(frozen=True)
class RouterFile:
    """A router as kept: for which model, and how it was trained."""

    router: Router
    model: str
    provenance: dict


def save_router(path: str | Path, router: Router, model: str, provenance: dict) -> None:
    """Write a router for the model called ``model`` to a safetensors file, in one step."""
    description = {'format': FORMAT, 'version': FORMAT_VERSION, 'model': model,
                   'rare': router.rare, 'threshold': router.threshold, 'provenance': provenance}
    partial = Path(path).with_suffix('.partial')
    save_file(router.arrays, partial, metadata={FORMAT: json.dumps(description)})
    partial.chmod(0o644)
    partial.replace(path)


def load_router(path: str | Path, spec: ModelSpec) -> RouterFile:
    """Read a router for ``spec``; raise ValueError naming the file and what is wrong."""
    try:
        with safe_open(path, 'np') as file:
            description = json.loads((file.metadata() or {}).get(FORMAT, 'null'))
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        if not isinstance(description, dict):
            raise ValueError('a safetensors file, but not a router')
        if not 1 <= description['version'] <= FORMAT_VERSION:
            raise ValueError(f"version {description['version']}; this taolora_ros reads up to "
                             f'{FORMAT_VERSION}, install a newer one')
        if description['model'] != spec.name:
            raise ValueError(f"a router for {description['model']}, not for {spec.name}")
        router = Router(arrays, tuple(description['rare']), description['threshold'])
        expected = (input_size(spec), len(spec.classes))
        got = (len(router.arrays['w']), len(router.arrays['class_bias']))
        if got != expected:
            raise ValueError(f'{got} inputs and classes, {spec.name} has {expected}')
        return RouterFile(router, description['model'], dict(description['provenance']))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f'{path}: not a complete safetensors file ({error})') from error
    except (KeyError, TypeError) as error:
        raise ValueError(f'{path}: {error} is missing or wrong') from error
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def router_for(spec: ModelSpec) -> Router:
    """Return the installed router for ``spec``; raise ValueError saying how to get one."""
    folder = shipped(ROUTERS)
    path = folder / f'{spec.name}.safetensors'
    if not path.is_file():
        raise ValueError(
            f'{path}: no such file; make one with: python -m taolora_ros.adaptation.router_study '
            f'{spec.kind} --model FILE --data DIR --save {path}')
    return load_router(path, spec).router


class RouterInputs(Gate):
    """What a router reads of each patch; keeps the statistics' running scales as ``Gate`` does."""

    def inputs(self, features: np.ndarray) -> np.ndarray:
        """Take features (n, F); return the inputs of every patch they complete, (p, X)."""
        rows = np.concatenate([self._rows, features])
        whole = len(rows) // self.spec.patch * self.spec.patch
        self._rows = rows[whole:]
        inputs = np.zeros((whole // self.spec.patch, input_size(self.spec)), np.float32)
        if whole == 0:
            return inputs
        logs = np.log(self._energies(rows[:whole]) + self.spec.gate.floor ** 2)   # (p, 3F)
        patches = rows[:whole].reshape(len(inputs), self.spec.patch * self._channels)
        for i, (row, patch) in enumerate(zip(logs, patches)):
            inputs[i] = self._input(row, patch)
        return inputs

    def _input(self, row: np.ndarray, patch: np.ndarray) -> np.ndarray:
        """Return the inputs (X,) of one patch, and move the steady scale."""
        if self._steady is None:
            self._steady = row.copy()
        over = row - self._steady
        # millivolts mean little, for leads and people differ
        unit = np.exp(0.5 * self._steady[0]) if self.spec.kind == 'ecg' else IMU_UNIT
        self._patches += 1
        step = max(1.0 / self._memory, 1.0 / (1 + self._patches))
        self._steady += step * np.clip(over, -STEP, STEP)
        return np.concatenate([np.clip(over, *OVER) / OVER_UNIT, np.arcsinh(patch / unit)])


class RouterGate(RouterInputs):
    """A gate that a router opens: used as ``Gate`` is, but its thresholds have no effect."""

    def __init__(self, spec: ModelSpec, router: Router):
        self.router = router
        super().__init__(spec)

    def reset(self) -> None:
        """Forget the past: a new segment starts."""
        super().reset()
        self.router.reset()

    def push(self, features: np.ndarray) -> np.ndarray:
        """Take features (n, F); return one flag for every patch they complete, (p,) bool."""
        return self.router.rare_probabilities(self.inputs(features)) >= self.router.threshold
