"""Recordings through the detector that runs on the robot: what it found, and where."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from taolora_ros.recordings import Recording
from taolora_ros.samples import NANOSECONDS, Samples
from taolora_ros.spec import ModelSpec
from taolora_ros.threads import use_one_thread
from taolora_ros.trained_on import TrainedOn

START_NS = NANOSECONDS  # recordings without stamps begin here: stamps of 0 count as missing
IMU_COLUMNS = ('acc_x', 'acc_y', 'acc_z', 'gyro_x', 'gyro_y', 'gyro_z')


@dataclass(frozen=True)
class Candidate:
    """A model as it is to be run: the file, how, and settings that differ from its own.

    ``precision`` is 'int4' or 'fp32', None for the file's own. ``load`` is called once in every
    process. Nothing here holds weights, so it can be sent.
    """

    model: Path
    precision: str | None = None
    engine: str = 'auto'
    device: str = 'auto'
    settings: dict = field(default_factory=dict)

    def load(self):
        """Return (spec, engine, settings); raise ValueError naming what does not fit."""
        from taolora_ros.engine import make_engine
        from taolora_ros.model_file import load_model
        use_one_thread()
        model = load_model(self.model, self.precision)
        engine = make_engine(model, self.engine, self.device)
        return model.spec, engine, changed_settings(model.spec, self.settings)

    def describe(self) -> dict:
        """Return what a report says of the model; errors as for ``load``.

        ``trained_on`` is a TrainedOn: the subjects or records of its training data.
        """
        from taolora_ros.model_file import load_model
        model = load_model(self.model, self.precision)
        return {'file': str(self.model), 'name': model.spec.name, 'kind': model.spec.kind,
                'version': model.spec.version, 'precision': model.precision,
                'engine': self.engine, 'device': self.device,
                'settings': dataclasses.asdict(changed_settings(model.spec, self.settings)),
                'trained_on': TrainedOn.of(model.metadata.get('provenance', {}))}


def changed_settings(spec: ModelSpec, changes: dict):
    """Return the detector's settings for ``spec`` with ``changes``, validated together."""
    from taolora_ros.detector import Settings
    settings = dataclasses.replace(Settings.default(spec), **changes)
    settings.validate(spec)
    return settings


@dataclass(frozen=True)
class Found:
    """What one recording gave; times in seconds from its first sample.

    ``events`` are the (label, time) of every start of an event, ``counts`` what was dropped or
    bridged by reason, ``transient_fraction`` the share of tokens whose gate was open.
    """

    events: tuple[tuple[str, float], ...]
    counts: Counter
    transient_fraction: float

    def times(self, *labels: str) -> np.ndarray:
        """Return the times (n,) of the events called one of ``labels``, in time order."""
        return np.sort([time for label, time in self.events if label in labels])


def recording_samples(recording: Recording, spec: ModelSpec, start_ns: int = START_NS) -> Samples:
    """Return the columns of ``recording`` that ``spec`` reads; raise ValueError if it has none."""
    if recording.kind != spec.kind:
        raise ValueError(f'{recording.name}: an {recording.kind} recording, model {spec.name} '
                         f'is for {spec.kind}')
    columns: Sequence[int] = [recording.lead()]
    if spec.kind == 'imu':
        columns = [IMU_COLUMNS.index(channel) for channel in spec.channels]
    values = recording.values[:, columns]
    if recording.stamps is not None:
        return Samples(recording.stamps, values)
    return Samples.uniform(start_ns, recording.rate, values)


def detect(recording: Recording, spec: ModelSpec, engine, settings=None) -> Found:
    """Run one recording from its first to its last sample through a fresh ``Detector``."""
    from taolora_ros.detector import Detector
    detector = Detector(spec, engine, settings, name=recording.name)
    samples = recording_samples(recording, spec)
    outcome = detector.process(samples) + detector.flush()
    first = int(samples.stamps[0])
    events = tuple((item.label, (item.stamp_ns - first) / NANOSECONDS) for item in outcome
                   if getattr(item, 'phase', None) == 0)
    return Found(events, Counter(detector.counts), float(detector.gate_fraction))
