"""Messages to samples of a model's channels and units.

Nothing here imports ROS until a message type is asked for by name, and incoming messages are only
read by attribute: those that ``rosbags`` deserialises from a bag are converted by the same code.
"""

from __future__ import annotations

import math

import numpy as np

from taolora_ros import message_types
from taolora_ros.block_clock import ARRIVAL_JITTER, BlockClock
from taolora_ros.cdr import read_imu
from taolora_ros.converter import STAMPS, Converter
from taolora_ros.samples import NANOSECONDS, Samples
from taolora_ros.spec import ModelSpec
from taolora_ros.units import factors

RATES = (0.01, 1e6)  # Hz: what a message may claim about its sample rate
LONGEST = 600.0  # s of samples in one message: memory is bounded, whatever a message claims
MOST = 2**20     # values in one message
RATE_FIELDS = ('sample_rate', 'sampling_rate', 'sampling_frequency', 'sample_frequency', 'fs', 'sr')
IMU, BIOSIGNAL = 'sensor_msgs/msg/Imu', 'taolora_msgs/msg/Biosignal'


def nanoseconds(stamp) -> int:
    """Return a builtin_interfaces/Time in nanoseconds."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def checked_rate(rate: float) -> float:
    """Return ``rate`` (Hz) when samples can be stamped with it; raise ValueError otherwise."""
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f'sample rate {rate} Hz: outside {RATES[0]:g} to {RATES[1]:g} Hz')
    return float(rate)


def declared_rate(rate: float) -> float:
    """Return the parameter sample_rate (Hz, 0: not declared); raise ValueError naming it."""
    try:
        return checked_rate(rate) if rate else 0.0
    except ValueError as error:
        raise ValueError(f'sample_rate: {error}') from error


def check_length(count: int, rate: float) -> None:
    """Raise ValueError when ``count`` samples at ``rate`` (Hz) are too long for one message."""
    if count > LONGEST * rate:
        raise ValueError(f'{count} samples at {rate:g} Hz: {count / rate:g} s in one message, '
                         f'at most {LONGEST:g} s are read')


def make_converter(type_name: str, spec: ModelSpec, field: str = '', sample_rate: float = 0.0,
                   unit: str = '', stamps: str = STAMPS[0]) -> Converter:
    """Return the converter from messages of a type to samples for ``spec``.

    ``field`` says where the values are (dotted path, one or, separated by commas, one for each
    channel; for Biosignal the names of its channels), ``sample_rate`` (Hz, 0: as the messages
    say) and ``unit`` ('': the model's) what the messages do not say themselves, ``stamps`` what
    those of headers tell. Raise ValueError, starting with the name of the parameter at fault, when
    this type cannot be read that way.
    """
    try:
        name = message_types.full_name(type_name)
        message = message_types.message_class(name)
    except ValueError as error:
        raise ValueError(f'type: {error}') from error
    return converter_of(name, message, spec, field, sample_rate, unit, stamps)


def converter_of(name: str, message: type | None, spec: ModelSpec, field: str = '',
                 sample_rate: float = 0.0, unit: str = '', stamps: str = STAMPS[0]) -> Converter:
    """Return the converter from ``message``, None where it has its own; see ``make_converter``."""
    if stamps not in STAMPS:
        raise ValueError(f'stamps: {stamps!r} is none of {", ".join(STAMPS)}')
    if name == IMU:
        converter = ImuConverter(spec, field)
        converter.expected_rate = declared_rate(sample_rate)
    elif name == BIOSIGNAL:
        converter = BiosignalConverter(spec, field, unit)
    else:
        converter = FieldConverter(name, message, spec, field, sample_rate, unit)
    converter.late_stamps = stamps == 'arrival'
    return converter


class ImuConverter(Converter):
    """sensor_msgs/Imu: m/s^2 and rad/s; a covariance[0] of -1 means not reported (REP 145)."""

    raw = True

    def __init__(self, spec: ModelSpec, field: str = ''):
        super().__init__(spec)
        if field:
            raise ValueError(f'field: {field!r}: {IMU} needs none, leave it empty')
        if spec.kind != 'imu':
            raise ValueError(f'type: {IMU}: model {spec.name} reads {", ".join(spec.channels)}')

    def convert(self, messages: list, arrivals: list[int]) -> Samples:
        """Return one sample for each message; they are all serialised, or none is."""
        if messages and isinstance(messages[0], bytes):
            return self._read(messages)
        stamps = np.array([self._taken(nanoseconds(m.header.stamp)) for m in messages], np.int64)
        rows = np.array([_imu_row(m) for m in messages], np.float64).reshape(-1, 6)  # (N, 6)
        if messages:
            self.frame_id = messages[-1].header.frame_id
        self._without_acceleration(sum(m.linear_acceleration_covariance[0] == -1 for m in messages))
        return Samples(stamps, rows)

    def _read(self, messages: list[bytes]) -> Samples:
        batch = read_imu(messages)
        if batch.unreadable:
            self.counts['unreadable'] += batch.unreadable
            self.problem = f'serialised {IMU} of a length that it cannot have'
        self.frame_id = batch.frame_id or self.frame_id
        self._without_acceleration(batch.no_acceleration)
        stamps = batch.stamps
        if self.late_stamps:
            stamps = np.array([self._taken(stamp) for stamp in stamps.tolist()], np.int64)
        return Samples(stamps, batch.values)

    def _without_acceleration(self, count: int) -> None:
        if count:
            self.counts['no_acceleration'] += count
            self.problem = 'linear_acceleration_covariance[0] is -1: not reported'


def _imu_row(message) -> tuple:
    acc, gyro = message.linear_acceleration, message.angular_velocity
    row = (acc.x, acc.y, acc.z, gyro.x, gyro.y, gyro.z)
    if message.linear_acceleration_covariance[0] == -1.0:
        row = (math.nan,) * 3 + row[3:]
    if message.angular_velocity_covariance[0] == -1.0:
        row = row[:3] + (math.nan,) * 3
    return row


class BiosignalConverter(Converter):
    """taolora_msgs/Biosignal: blocks of uniform samples whose stamp is their first sample's.

    ``field`` names the channels to read ('MLII', or 'acc_x,acc_y,acc_z'), by name or number;
    empty: those named as in the model, or else the first ones.
    """

    def __init__(self, spec: ModelSpec, field: str = '', unit: str = ''):
        super().__init__(spec)
        self.wanted = [name.strip() for name in field.split(',')] if field else []
        self.unit = unit
        if len(self.wanted) > len(spec.channels):
            raise ValueError(f'field: {field!r}: {len(self.wanted)} channels, model {spec.name} '
                             f'reads {len(spec.channels)}: {", ".join(spec.channels)}')
        factors(spec, unit)
        self._clock = BlockClock()
        self._sequence = None

    def one(self, message, arrival: int) -> Samples:
        """Return the samples of one block."""
        rate = checked_rate(message.sample_rate)
        channels = int(message.channels)
        if len(message.data) > MOST:
            raise ValueError(f'data: {len(message.data)} values in one message, at most {MOST}')
        data = np.asarray(message.data, np.float64)
        if channels < 1 or len(data) % channels:
            raise ValueError(f'data: {len(data)} values do not divide into {channels} channels')
        data = data.reshape(-1, channels)  # (N, channels)
        check_length(len(data), rate)
        columns = self._columns([name.lower() for name in message.channel_names], channels)
        values = _fill(self.spec, data[:, columns]) * factors(self.spec, message.unit or self.unit)
        self.frame_id, self.expected_rate = message.header.frame_id, rate
        contiguous = self._follows(int(message.sequence))
        start = nanoseconds(message.header.stamp)
        if start > 0 and len(values):
            start = self._clock.place(start, len(values), rate,
                                      self._tolerance(len(values) / rate), contiguous)
        return self._block(start, rate, values)

    def _columns(self, names: list[str], channels: int) -> list[int]:
        """Return the columns of the model's channels among those of a message."""
        model = [name.lower() for name in self.spec.channels]
        wanted = [name.lower() for name in self.wanted]
        if not wanted:
            named = [name for name in model if name in names]
            wanted = named or [str(i) for i in range(min(channels, len(model)))]
        columns = []
        for name in wanted:
            column = names.index(name) if name in names else int(name) if name.isdigit() else -1
            if not 0 <= column < channels:
                raise ValueError(f'channel {name!r:.60}: not among the {channels} channels '
                                 f'{", ".join(names)[:200] or "(unnamed)"}')
            columns.append(column)
        return columns

    def _follows(self, sequence: int) -> bool:
        """Return whether no block is missing before this one; count those that are."""
        last, self._sequence = self._sequence, sequence
        if last is None or sequence == last:  # the first block, or a source that does not count
            return True
        lost = (sequence - last - 1) % 2**32
        if 0 < lost < 2**31:
            self.counts['lost_messages'] += lost
        return lost == 0


class FieldConverter(Converter):
    """Any other type: a number or an array of them at a path, with or without a header.

    std_msgs/Float32 and Float32MultiArray are read at ``data``. An array is (samples x channels)
    row by row, as wide as its layout's last dimension says, or as the model. Samples without a
    header are stamped by arrival, evened out at the declared rate.
    """

    def __init__(self, name: str, message: type, spec: ModelSpec, field: str = '',
                 sample_rate: float = 0.0, unit: str = ''):
        super().__init__(spec)
        known = message_types.fields(message)
        self.stamped = known.get('header') == 'std_msgs/Header'
        self.paths, arrays = _checked_paths(name, message, spec, field)
        rate_fields = [name for name in RATE_FIELDS if name in known]
        self.expected_rate = declared_rate(sample_rate)
        self.rate_field = '' if self.expected_rate or not rate_fields else rate_fields[0]
        if not self.expected_rate and not (self.stamped and not arrays) and not self.rate_field:
            why = 'holds several samples' if self.stamped else 'has no header'
            raise ValueError(f'sample_rate: 0 Hz: {name} {why}, so its rate must be given')
        self.factors = factors(spec, unit)
        self._clock = BlockClock()

    def one(self, message, arrival: int) -> Samples:
        """Return the samples of one message."""
        if len(self.paths) > 1:
            data = np.stack(np.broadcast_arrays(
                *[message_types.column(message, path) for path in self.paths]), 1)
        else:
            data = message_types.column(message, self.paths[0])
            data = data.reshape(-1, self._width(message, len(data)))
        if len(data) > MOST:
            raise ValueError(f'{self.paths[0]}: {len(data)} samples in one message, at most {MOST}')
        values = _fill(self.spec, data) * self.factors  # (N, C)
        if not len(values):
            return Samples(np.zeros(0, np.int64), values)
        if self.rate_field:
            self.expected_rate = checked_rate(getattr(message, self.rate_field))
        rate = self.expected_rate or 1.0
        check_length(len(values), rate)
        if not self.stamped:
            return self._block(self._clock.place(arrival, len(values), rate, ARRIVAL_JITTER),
                               rate, values)
        self.frame_id = message.header.frame_id
        start = nanoseconds(message.header.stamp)
        if len(values) == 1:
            start = self._taken(start)
        elif start > 0:
            start = self._clock.place(start, len(values), rate,
                                      self._tolerance(len(values) / rate))
        return self._block(start, rate, values)

    def _width(self, message, count: int) -> int:
        """Return how many channels an array of ``count`` values holds."""
        dimensions = getattr(getattr(message, 'layout', None), 'dim', ())
        width = int(dimensions[-1].size) if len(dimensions) == 2 else len(self.spec.channels)
        if count == 1 and width > 1:
            width = 1  # a lone number: _fill says what is missing
        if width < 1 or count % width:
            raise ValueError(f'{self.paths[0]}: {count} values do not divide into {width} '
                             f'channels ({", ".join(self.spec.channels)})')
        return width


def _checked_paths(name: str, message: type, spec: ModelSpec, field: str
                   ) -> tuple[list[str], bool]:
    """Return the paths to read and whether any is an array; raise ValueError naming others."""
    if not field:
        found = [path for path in message_types.numbers(message)
                 if path not in RATE_FIELDS and not path.startswith('layout.')]
        if len(found) != 1:
            raise ValueError(f'field: not given; numbers in {name}: {", ".join(found) or "none"}')
        field = found[0]
    paths = [path.strip() for path in field.split(',')]
    try:
        arrays = [message_types.check(message, path) for path in paths]
    except ValueError as error:
        raise ValueError(f'field: {error}') from error
    required = len(spec.channels) - len(spec.optional)
    if len(paths) > len(spec.channels) or (not any(arrays) and len(paths) < required):
        raise ValueError(f'field: {field!r}: {len(paths)} values, model {spec.name} reads '
                         f'{len(spec.channels)}: {", ".join(spec.channels)}')
    return paths, any(arrays)


def _fill(spec: ModelSpec, data: np.ndarray) -> np.ndarray:
    """Return (N, C): the columns of ``data`` (N, c), optional channels that are absent as NaN."""
    required = len(spec.channels) - len(spec.optional)
    if data.shape[1] == len(spec.channels):
        return data
    if data.shape[1] == required and spec.channels[required:] == spec.optional:
        return np.hstack([data, np.full((len(data), len(spec.optional)), math.nan)])
    raise ValueError(f'{data.shape[1]} channels, model {spec.name} reads {len(spec.channels)}: '
                     f'{", ".join(spec.channels)}')
