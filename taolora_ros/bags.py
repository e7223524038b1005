"""Messages of rosbag2 recordings (sqlite3 or mcap, a folder or a single file), without ROS.

Reading goes through the ``rosbags`` package, message by message; types that a bag does not
define itself are those of ROS 2 Jazzy and ``taolora_msgs/msg/Biosignal``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from taolora_ros.conversions import BIOSIGNAL, IMU, converter_of
from taolora_ros.converter import STAMPS, Converter
from taolora_ros.spec import ModelSpec

FLOATS = ('std_msgs/msg/Float32', 'std_msgs/msg/Float32MultiArray')
READABLE = {'imu': (IMU, BIOSIGNAL), 'ecg': (BIOSIGNAL, *FLOATS)}  # without being told a field
# The fields of taolora_msgs/msg/Biosignal.msg, for bags that do not carry their definitions.
BIOSIGNAL_DEFINITION = """\
uint8 OTHER=0
uint8 ECG=1
uint8 EMG=2
uint8 PPG=3
uint8 EEG=4
uint8 EDA=5
uint8 RESP=6
std_msgs/Header header
uint8 modality
float64 sample_rate
string unit
string[] channel_names
uint32 sequence
uint32 channels
float32[] data
float32[] quality
"""
PIECE = 512  # messages handed over at a time
ROS_NAMES = {'float32': 'float', 'float64': 'double', 'bool': 'boolean', 'byte': 'octet'}


@dataclass(frozen=True)
class Topic:
    """One topic of a bag: ``type`` as package/msg/Name, ``count`` messages."""

    name: str
    type: str
    count: int


class Bag:
    """An opened bag; use as a context manager.

    Every method raises ValueError naming the bag when it cannot be read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_types_from_msg, get_typestore
        except ImportError as error:
            raise ValueError(f'{path}: reading bags needs the Python package rosbags '
                             f'(pip install rosbags): {error}') from error
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._store.register(get_types_from_msg(BIOSIGNAL_DEFINITION, BIOSIGNAL))
        try:
            self._reader = AnyReader([self.path], default_typestore=self._store)
            self._reader.open()
        except Exception as error:  # sqlite, yaml, mcap and rosbags each raise their own
            raise ValueError(f'{path}: not a readable rosbag2 recording: {_line(error)}') from error
        self.topics = tuple(
            Topic(name, info.msgtype or '', info.msgcount)
            for name, info in sorted(self._reader.topics.items()))

    def __enter__(self) -> 'Bag':
        """Return the bag itself."""
        return self

    def __exit__(self, *error) -> None:
        """Close the bag."""
        self._reader.close()

    def choose(self, name: str | None = None, kind: str | None = None) -> Topic:
        """Return the topic called ``name``, or the only one that a model of ``kind`` can read.

        Raise ValueError listing the bag's topics when there is none, or more than one.
        """
        listing = ', '.join(f'{t.name} ({t.type}, {t.count})' for t in self.topics) or 'none'
        if name is not None:
            fits = [t for t in self.topics if t.name.lstrip('/') == name.lstrip('/')]
            problem = f'no topic {name}'
        else:
            types = sum((READABLE[k] for k in READABLE if kind in (None, k)), ())
            fits = [t for t in self.topics if t.type in types and t.count]
            problem = (f'{len(fits)} topics could be read, name one' if fits
                       else f'no topic of type {" or ".join(dict.fromkeys(types))}')
        if len(fits) != 1:
            raise ValueError(f'{self.path}: {problem}; topics: {listing}')
        return fits[0]

    def messages(self, topic: Topic, piece: int = PIECE) -> Iterator[tuple[list, list[int]]]:
        """Yield (messages, arrival times in ns) of ``topic``, at most ``piece`` at a time."""
        messages, arrivals = [], []
        connections = [c for c in self._reader.connections if c.topic == topic.name]
        store = self._typestore(topic)
        try:
            for connection, arrival, raw in self._reader.messages(connections):
                messages.append(store.deserialize_cdr(raw, connection.msgtype))
                arrivals.append(arrival)
                if len(messages) == piece:
                    yield messages, arrivals
                    messages, arrivals = [], []
        except Exception as error:  # sqlite, mcap and rosbags each raise their own
            raise ValueError(f'{self.path}: {topic.name}: {_line(error)}') from error
        if messages:
            yield messages, arrivals

    def converter(self, topic: Topic, spec: ModelSpec, field: str = '', sample_rate: float = 0.0,
                  unit: str = '', stamps: str = STAMPS[0]) -> Converter:
        """Return what turns this topic's messages into samples; parameters as for the node."""
        message = None
        if topic.type in FLOATS:
            field = field or 'data'
        if topic.type not in (IMU, BIOSIGNAL):
            message = _message_type(self._typestore(topic), topic.type)
        return converter_of(topic.type, message, spec, field, sample_rate, unit, stamps)

    def _typestore(self, topic: Topic):
        for store in (self._reader.typestore, self._store):
            if topic.type in store.fielddefs:
                return store
        raise ValueError(f'{self.path}: {topic.name}: type {topic.type or "(several)"} is '
                         'unknown, and the bag does not define it')


def _line(error: Exception) -> str:
    """Return an error's text as one line that is not too long."""
    return ' '.join(str(error).split())[:200] or type(error).__name__


def _message_type(store, name: str) -> type:
    """Return a class that names its fields as ROS's generated message classes do."""
    package, _, message = name.split('/')
    fields = {field: _type_name(node) for field, node in store.fielddefs[name][1]}
    return type(message, (), {'__module__': f'{package}.msg',
                              'get_fields_and_field_types': staticmethod(lambda: fields)})


def _type_name(node) -> str:
    """Return a field's type as ROS writes it: double, std_msgs/Header, sequence<float>."""
    kind, detail = node
    if kind.name == 'BASE':
        return ROS_NAMES.get(detail[0], detail[0])
    if kind.name == 'NAME':
        return detail.replace('/msg/', '/')
    inside, length = detail
    if kind.name == 'ARRAY':
        return f'{_type_name(inside)}[{length}]'
    return f'sequence<{_type_name(inside)}{f", {length}" if length else ""}>'
