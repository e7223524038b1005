"""Events, anomalies and models as taolora_msgs. Import it only where those are installed."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import KeyValue
from taolora_msgs import msg

from taolora_ros.decode import Anomaly, Event
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import ModelSpec


def time_message(nanoseconds: int) -> Time:
    """Return a time in nanoseconds as a message; what it cannot hold becomes its nearest end."""
    nanoseconds = min(max(int(nanoseconds), -2**31 * NANOSECONDS), 2**31 * NANOSECONDS - 1)
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    return Time(sec=seconds, nanosec=rest)


def event_message(event: Event, stream: str, frame_id: str, spec: ModelSpec,
                  latency: float) -> msg.Event:
    """Return the message of an event of ``stream``; ``latency`` in seconds."""
    message = msg.Event(
        id=event.id, stream=stream, label=event.label, score=float(event.score),
        severity=int(event.severity), phase=int(event.phase), start=time_message(event.start_ns),
        stop=time_message(event.stop_ns), transient_fraction=float(event.transient_fraction),
        model=spec.name, model_version=spec.version, latency=float(latency),
        values=[KeyValue(key=key, value=f'{value:.6g}') for key, value in event.values.items()])
    message.header.stamp = time_message(event.stamp_ns)
    message.header.frame_id = frame_id
    return message


def anomaly_message(anomaly: Anomaly, stream: str, frame_id: str, spec: ModelSpec) -> msg.Anomaly:
    """Return the message of an anomaly of ``stream``."""
    message = msg.Anomaly(
        stream=stream, score=float(anomaly.score), threshold=float(anomaly.threshold),
        is_anomalous=bool(anomaly.is_anomalous), reason=anomaly.reason,
        start=time_message(anomaly.start_ns), stop=time_message(anomaly.stop_ns),
        channel_names=list(anomaly.channel_scores),
        channel_scores=[float(score) for score in anomaly.channel_scores.values()],
        model=spec.name, model_version=spec.version)
    message.header.stamp = time_message(anomaly.stamp_ns)
    message.header.frame_id = frame_id
    return message


def model_info_message(stream: str, spec: ModelSpec, bits: int, rank: int,
                       size: int) -> msg.ModelInfo:
    """Return what is running on ``stream``; ``size`` in bytes, as in the file."""
    return msg.ModelInfo(
        stream=stream, name=spec.name, version=spec.version, labels=list(spec.labels),
        rate=float(spec.rate), channels=list(spec.channels), units=list(spec.units),
        bits=int(bits), rank=int(rank), bytes=int(size))
