"""Whether an engine's scores are the reference engine's, as far as rounding lets them be.

Sums in another order round an activation now and then to another code, and layers later that
shows: on random windows as much as anything does. So the measure is the reference itself: how far
its scores move when inputs move by a small part. In the median window an engine that is right
stays well below that, and one that reads the wrong gates, other windows or leaves the LoRA out is
above, for both shipped networks. What is smaller, like one layer's LoRA, is for tests of kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from taolora_ros.engine.device_weights import with_half_lora
from taolora_ros.engine.interface import Scores
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.model_file import Model

MOVED = 1e-4     # part of themselves by which the reference's inputs are moved
COUNTS = (1, 3)  # windows of a run: tiles may be others
WINDOWS = 27     # for each of them
LEAST = 1e-5     # what float32 sums alone explain


def check_agreement(model: Model, run: Callable[[np.ndarray, np.ndarray], Scores]) -> None:
    """Raise RuntimeError, with figures, when ``run`` does not score windows as the reference does.

    ``run`` takes random windows (B, L, F) and gates (B, T). Compared are probability, offset and
    anomaly, each by its mean difference in the median window of each place in a batch.
    """
    spec, rng = model.spec, np.random.default_rng(0)
    windows = rng.standard_normal((WINDOWS, spec.window, model.network.features), np.float32)
    gates = rng.random((WINDOWS, spec.tokens)) < 0.3
    reference = ReferenceEngine(with_half_lora(model), 'cpu')
    wanted = reference.run(windows, gates)
    moved = _differences(reference.run(windows * np.float32(1 + MOVED), gates), wanted, 1)
    for count in COUNTS:
        parts = [run(windows[first:first + count], gates[first:first + count])
                 for first in range(0, WINDOWS, count)]
        scores = Scores(*(np.concatenate([getattr(part, name) for part in parts])
                          for name in ('probability', 'offset', 'anomaly')))
        for name, off in _differences(scores, wanted, count).items():
            most = max(moved[name], LEAST)
            if not off <= most:
                raise RuntimeError(
                    f'its {name} is off by {off:.3g} from the reference engine\'s in the median of '
                    f'{WINDOWS} windows, run by {count}; rounding explains {most:.3g}')


def _differences(scores: Scores, wanted: Scores, count: int) -> dict[str, float]:
    """Return each score's mean difference, of anomaly relative, in the median window.

    Of ``count`` places in a batch that of the worst one; not a number if one is none.
    """
    away = {'probability': np.abs(scores.probability - wanted.probability).mean((1, 2)),
            'offset': np.abs(scores.offset - wanted.offset).mean(1),
            'anomaly': np.abs(scores.anomaly / wanted.anomaly - 1).mean(1)}
    return {name: float(np.median(values.reshape(-1, count), 0).max())
            for name, values in away.items()}
