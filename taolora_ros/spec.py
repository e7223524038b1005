"""What a model expects and promises: the one description all parts of the way share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

OFFSET_MARGIN = 0.25  # patches: how far beyond both edges of its own patch a token may see a beat


@dataclass(frozen=True)
class GateSpec:
    """Default sensitivity of the transient detector (METHOD section 4).

    The three thresholds are unitless: how many times its own steady scale a statistic must
    reach to open the gate. ``cutoff`` is the high-pass corner in Hz, ``memory`` the time
    constant of the steady scale in seconds, ``dilation`` the tokens opened on each side,
    ``floor`` the rms, in units of the features, below which nothing is a transient.
    """

    variance: float = 16.0
    curvature: float = 50.0
    hf_energy: float = 50.0
    cutoff: float = 10.0
    memory: float = 10.0
    dilation: int = 1
    floor: float = 0.01


@dataclass(frozen=True)
class NetworkSpec:
    """Shape of the TAO network (METHOD section 8)."""

    width: int = 128
    heads: int = 4
    blocks: tuple[str, ...] = ('conv', 'attention', 'conv', 'attention')
    kernel: int = 17
    mlp: int = 4
    bottleneck: int = 8


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model that is not a weight.

    ``kind`` ('imu' or 'ecg') chooses features and decoder. ``channels`` and ``units`` describe
    the values a stream delivers, column by column; those named in ``optional`` may be missing
    (NaN). ``classes`` are the network's per-token classes, the first one meaning "nothing";
    ``labels`` are what events are called. ``rate`` in Hz, ``patch`` in samples per token,
    ``tokens`` per window; ``hop``, ``delay`` and ``refractory`` in seconds. ``bias`` holds one
    logit per label that moves the operating point chosen on validation data to a score of 0.5.
    ``alike`` is the number of beats among which those like a new one are looked for, 0 for none.
    """

    name: str
    version: str
    kind: str
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    units: tuple[str, ...]
    optional: tuple[str, ...]
    rate: float
    patch: int
    tokens: int
    hop: float
    delay: float
    refractory: float
    event_threshold: float = 0.5
    anomaly_threshold: float = 1.0
    bias: tuple[float, ...] = ()
    alike: int = 0
    gate: GateSpec = field(default_factory=GateSpec)
    network: NetworkSpec = field(default_factory=NetworkSpec)

    @property
    def window(self) -> int:
        """Samples in one window."""
        return self.patch * self.tokens

    def to_dict(self) -> dict:
        """Return a JSON-ready description, without ``alike`` where it says nothing."""
        data = dataclasses.asdict(self)
        return data if self.alike else {k: v for k, v in data.items() if k != 'alike'}

    @staticmethod
    def from_dict(data: dict) -> 'ModelSpec':
        """Rebuild a spec from ``to_dict``'s result; raise ValueError naming a bad field."""
        data = dict(data)
        known = {f.name for f in dataclasses.fields(ModelSpec)}
        if set(data) - known:
            raise ValueError(f'model spec: unknown field {sorted(set(data) - known)[0]!r}')
        try:
            data['gate'] = GateSpec(**data['gate'])
            network = dict(data['network'])
            network['blocks'] = tuple(network['blocks'])
            data['network'] = NetworkSpec(**network)
            for name in ('labels', 'classes', 'channels', 'units', 'optional', 'bias'):
                data[name] = tuple(data[name])
            return ModelSpec(**data)
        except (KeyError, TypeError) as error:
            raise ValueError(f'model spec: {error}') from error


IMU_FALLS = ModelSpec(
    name='imu_falls', version='3', kind='imu', labels=('fall',), classes=('none', 'fall'),
    channels=('acc_x', 'acc_y', 'acc_z', 'gyro_x', 'gyro_y', 'gyro_z'),
    units=('m/s^2',) * 3 + ('rad/s',) * 3, optional=('gyro_x', 'gyro_y', 'gyro_z'),
    rate=50.0, patch=4, tokens=64, hop=0.32, delay=1.6, refractory=5.0, bias=(-2.2,),
    gate=GateSpec(variance=16.0, curvature=50.0, hf_energy=50.0, cutoff=5.0, dilation=2,
                  floor=0.05))

ECG_BEATS = ModelSpec(
    name='ecg_beats', version='6', kind='ecg', labels=('beat', 'veb'),
    classes=('none', 'N', 'S', 'V', 'F'), channels=('ecg',), units=('mV',), optional=(),
    rate=125.0, patch=16, tokens=64, hop=0.256, delay=0.96, refractory=0.19,
    bias=(1.5, -0.85), alike=300,
    gate=GateSpec(variance=22.0, curvature=120.0, hf_energy=120.0, cutoff=10.0, dilation=0,
                  floor=0.01))

SPECS = {'imu': IMU_FALLS, 'ecg': ECG_BEATS}
