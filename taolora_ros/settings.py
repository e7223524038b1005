"""What a user may change of a running detector."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from taolora_ros.spec import GateSpec, ModelSpec

GATES = ('auto', 'open', 'closed', 'learned')
_POSITIVE = ('variance_threshold', 'curvature_threshold', 'hf_energy_threshold')


@dataclass(frozen=True)
class Settings:
    """Thresholds and timing of one stream; ``hop``, ``delay``, ``refractory`` in seconds.

    The event threshold is a score of 0 to 1; the anomaly threshold is in units of what is usual;
    the gate's three are in multiples of steady. ``gate`` 'open' or 'closed' overrules them, with
    'learned' a trained router takes their place.
    """

    event_threshold: float
    anomaly_threshold: float
    variance_threshold: float
    curvature_threshold: float
    hf_energy_threshold: float
    gate: str
    hop: float
    delay: float
    refractory: float

    @staticmethod
    def default(spec: ModelSpec) -> 'Settings':
        """Return what a model was made for."""
        return Settings(spec.event_threshold, spec.anomaly_threshold, spec.gate.variance,
                        spec.gate.curvature, spec.gate.hf_energy, 'auto', spec.hop, spec.delay,
                        spec.refractory)

    def thresholds(self, spec: ModelSpec) -> GateSpec:
        """Return the gate's specification with these thresholds."""
        return dataclasses.replace(
            spec.gate, variance=self.variance_threshold, curvature=self.curvature_threshold,
            hf_energy=self.hf_energy_threshold)

    def validate(self, spec: ModelSpec) -> None:
        """Raise ValueError naming the first setting that does not fit ``spec``."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != 'gate' and not (isinstance(value, (int, float))
                                             and math.isfinite(value)):
                raise ValueError(f'{field.name}: {value!r} is not a finite number')
        if self.gate not in GATES:
            raise ValueError(f'gate: {self.gate!r} is none of {", ".join(GATES)}')
        if self.gate == 'learned':
            from taolora_ros.adaptation.router import router_for  # reads a file, that few need
            try:
                router_for(spec)
            except ValueError as error:
                raise ValueError(f'gate: learned needs a router: {error}') from error
        if not 0 <= self.event_threshold <= 1:
            raise ValueError(f'event_threshold: {self.event_threshold} lies outside 0 to 1')
        for name in _POSITIVE + ('anomaly_threshold',):
            if getattr(self, name) <= 0:
                raise ValueError(f'{name}: {getattr(self, name)} is not above 0')
        for name in ('delay', 'refractory'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name}: {getattr(self, name)} s is below 0')
        if self.hop < 1 / spec.rate:
            raise ValueError(f'hop: {self.hop:g} s is shorter than one sample '
                             f'({1 / spec.rate:g} s)')
        longest = (spec.window - spec.patch) / spec.rate
        for name, value in (('hop', self.hop), ('delay', self.delay)):
            if value > longest:
                raise ValueError(f'{name}: {value:g} s is longer than a window without one patch '
                                 f'({longest:g} s)')
        if self.hop + self.delay > longest:
            raise ValueError(f'delay: {self.delay:g} s and hop {self.hop:g} s together are longer '
                             f'than a window without one patch ({longest:g} s): events would be '
                             'missed')
