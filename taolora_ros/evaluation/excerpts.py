"""A part of an ECG record, with the annotations in it."""

from __future__ import annotations

import dataclasses

from taolora_ros.recordings import Recording

BEGIN = 300.0  # s into a record where the part begins, if it is long enough


def excerpt(record: Recording, seconds: float) -> Recording:
    """Return ``seconds`` of an ECG record with the annotations in them."""
    begin = max(min(BEGIN, record.duration_s - seconds), 0.0)
    first = round(begin * record.rate)
    values = record.values[first:first + round(seconds * record.rate)]
    begin, end = first / record.rate, (first + len(values)) / record.rate
    inside = (record.beat_times_s >= begin) & (record.beat_times_s < end)
    flutter = tuple((max(start, begin) - begin, min(stop, end) - begin)
                    for start, stop in record.flutter_s if stop > begin and start < end)
    stamps = None if record.stamps is None else record.stamps[first:first + len(values)]
    return dataclasses.replace(record, values=values, stamps=stamps, flutter_s=flutter,
                               beat_times_s=record.beat_times_s[inside] - begin,
                               beat_aami=record.beat_aami[inside])
