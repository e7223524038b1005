"""What somebody says of a decision: which tokens it is about, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taolora_ros.adaptation.memory import Moment, StreamMemory
from taolora_ros.spec import ModelSpec


@dataclass(frozen=True)
class Report:
    """``key`` names the event, ``label`` what is said of it or was said by the network.

    ``kind`` is 'rejected', 'confirmed' or 'missed', ``quality`` its importance, 0 to 1.
    """

    key: str
    moment: Moment
    label: str
    kind: str
    quality: float


@dataclass(frozen=True)
class Outcome:
    """What became of a feedback called ``key``: whether it is used, and if not, why not."""

    learnt: bool
    reason: str = ''
    key: str = ''


def on_event(spec: ModelSpec, memories: Mapping[str, StreamMemory], event_id: str, correct: bool,
             label: str, quality: float) -> Report | None:
    """Return what is said of an event that was found, None when it is not remembered.

    Raise ValueError for a label there is not, a quality outside 0 to 1 and feedback that
    contradicts itself.
    """
    _check(spec, label, quality)
    moment = next((m for memory in list(memories.values())
                   if (m := memory.event(event_id)) is not None), None)
    if moment is None:
        return None
    if correct and label not in ('', moment.label):
        raise ValueError(f'feedback on {event_id!r:.99}: a {moment.label} called correct, and '
                         f'a {label}')
    if not correct and label == moment.label:
        raise ValueError(f'feedback on {event_id!r:.99}: a {label} called wrong, and a {label}')
    kind, meant = ('confirmed' if correct else 'rejected'), moment.label
    if not correct and label and spec.kind == 'ecg' and label == spec.labels[1]:
        kind, meant = 'missed', label  # a beat, but a ventricular one
    return Report(event_id, moment, meant, kind, quality)


def on_miss(spec: ModelSpec, memories: Mapping[str, StreamMemory], stream: str, stamp_ns: int,
            label: str, quality: float) -> Report | None:
    """Return what is said of an event that was not found, None when that time is not remembered.

    Raise ValueError as ``on_event``, and for a stream there is not.
    """
    _check(spec, label, quality)
    if not label:
        raise ValueError(f'a missed event needs a label, one of {", ".join(spec.labels)}')
    memory = memories.get(stream)
    if memory is None:
        raise ValueError(f'{stream!r:.99}: no such stream; there are {", ".join(memories)}')
    moment = memory.moment(stamp_ns)
    if moment is None:
        return None
    return Report(f'{stream}@{stamp_ns}', moment, label, 'missed', quality)


def _check(spec: ModelSpec, label: str, quality: float) -> None:
    if label and label not in spec.labels:
        raise ValueError(f'label: {label!r:.99} is none of {", ".join(spec.labels)}')
    if not 0.0 <= quality <= 1.0:
        raise ValueError(f'quality: {quality!r:.99} must be 0 to 1')
