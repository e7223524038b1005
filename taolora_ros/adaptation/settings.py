"""What may be set of adaptation, and what keeps it from doing harm."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from taolora_ros.adaptation.targets import HEAD, OutputHeadsOnly, SpecificLayers, parse_targets

RANGES = {  # smallest and largest value of each number
    'rate': (0.01, 100.0), 'decay': (0.0, 1.0), 'max_norm': (0.0, 1000.0),
    'max_shift': (0.0, 20.0), 'doubtful_shift': (0.0, 20.0), 'max_lost': (0.0, 1.0),
    'max_new': (0.0, 1.0), 'per_minute': (1, 6000), 'replay': (1, 256), 'events': (1, 4096),
    'seconds': (10.0, 3600.0), 'interval': (1.0, 86400.0)}
HEAD_ONLY = OutputHeadsOnly(), SpecificLayers((HEAD,))
WHOLE = ('per_minute', 'replay', 'events')


@dataclass(frozen=True)
class AdaptationSettings:
    """How a running model learns from feedback; raise ValueError for what makes no sense.

    ``rate`` is how far feedback weighs against what holds the weights; ``decay`` what is left of a
    feedback's weight after each later one; ``targets`` which layers learn, see targets.py.
    ``interval`` (s) lies between two consolidations. Of the past, ``events`` and ``seconds`` of
    tokens are kept for each stream, and ``replay`` feedbacks.

    Limits: ``per_minute`` feedbacks are taken; ``max_norm`` bounds the change as a whole, in logits
    (rms over the reference). ``max_shift`` bounds how far the events of a stream fall, in logits,
    when feedback agrees with what the network itself finds doubtful, ``doubtful_shift`` when it
    does not. A change that loses more than ``max_lost`` of the reference's events, or finds
    events in more than ``max_new`` of the rest, is rolled back.
    """

    enabled: bool = False
    rate: float = 1.0
    decay: float = 0.98
    targets: str = 'heads'
    interval: float = 600.0
    events: int = 256
    seconds: float = 300.0
    replay: int = 64
    per_minute: int = 30
    max_norm: float = 2.0
    max_shift: float = 5.0
    doubtful_shift: float = 0.1
    max_lost: float = 0.05
    max_new: float = 0.03

    def __post_init__(self):
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            kinds = int if name in WHOLE else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not (
                    math.isfinite(value) and low <= value <= high):
                raise ValueError(f'adaptation.{name}: {value!r} must be '
                                 f'{"a whole number" if name in WHOLE else "a number"} from '
                                 f'{low} to {high}')
        if not isinstance(self.enabled, bool):
            raise ValueError(f'adaptation.enabled: {self.enabled!r} must be true or false')
        if self.doubtful_shift > self.max_shift:
            raise ValueError(f'adaptation.doubtful_shift: {self.doubtful_shift} must not be over '
                             f'max_shift ({self.max_shift})')
        try:
            targets = parse_targets(self.targets)
        except ValueError as error:
            raise ValueError(f'adaptation.{error}') from error
        if targets not in HEAD_ONLY:
            raise ValueError(f'adaptation.targets: {self.targets!r:.99} chooses other layers than '
                             "the head; while running only 'heads' can learn")

    def changed(self, **changes) -> AdaptationSettings:
        """Return these settings with others; raise ValueError and change nothing if they clash."""
        return dataclasses.replace(self, **changes)
