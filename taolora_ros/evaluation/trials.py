"""Healthy streams to judge the anomaly score on, made of recordings and bags.

Each stream is cut in time: it is calibrated on its beginning and judged on the rest. A bag is
calibrated on its first half, an ECG record on its first five minutes and judged on the ten that
follow. Activities of one subject become one stream, each recording a piece of it: the first
recording of every activity (the first half, if there is only one) is for calibrating; recordings
of falls are left out. Pieces are shuffled and two seconds apart.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taolora_ros.bags import IMU, Bag
from taolora_ros.evaluation.detection import START_NS, recording_samples
from taolora_ros.recordings import Recording, read_npz
from taolora_ros.samples import NANOSECONDS, Samples
from taolora_ros.spec import ModelSpec

CALIBRATION = 300.0  # s of an ECG record to calibrate on, if it is twice as long
JUDGED = 600.0       # s of it that are judged
APART = 2.0          # s between pieces of a stream: longer than any gap that is bridged


@dataclass(frozen=True)
class Trial:
    """A healthy stream: ``samples`` up to ``split_ns`` are for calibrating, the rest is judged."""

    name: str
    source: str
    kind: str
    samples: Samples
    split_ns: int


def find_trials(data: str | Path, kinds: tuple[str, ...]) -> list[Path]:
    """Return the bags and .npz files below ``data``; raise ValueError when there is none."""
    data = Path(data)
    if not data.exists():
        raise ValueError(f'{data}: no such file or folder')
    found = [path.parent for path in data.rglob('metadata.yaml')] if 'imu' in kinds else []
    found += [data] if data.is_file() else data.rglob('*.npz')
    if not found:
        raise ValueError(f'{data}: neither bags nor .npz files')
    return sorted(found)


def read_trial(path: Path, specs: dict[str, ModelSpec]) -> Trial | None:
    """Return the stream in a file or bag, None when it is not of a kind in ``specs``."""
    if path.is_dir():
        return _bag_trial(path, specs['imu'])
    recordings = [recording for recording in read_npz(path) if not recording.is_fall]
    if not recordings or recordings[0].kind not in specs:
        return None
    first = recordings[0]
    spec = specs[first.kind]
    if first.kind == 'ecg':
        samples = recording_samples(first, spec)
        calibration = min(CALIBRATION, first.duration_s / 2)
        samples = samples[:round((calibration + JUDGED) * first.rate)]
        return Trial(first.name, first.source, 'ecg', samples,
                     int(samples.stamps[0]) + round(calibration * NANOSECONDS))
    before, after = _share(recordings, spec)
    rng = np.random.default_rng(zlib.crc32(first.subject.encode()))
    pieces, split_ns, now = [], 0, START_NS
    for part in (before, after):
        split_ns = now
        for i in rng.permutation(len(part)):
            rate, values = part[i]
            pieces.append(Samples.uniform(now, rate, values))
            now = int(pieces[-1].stamps[-1]) + round(APART * NANOSECONDS)
    samples = Samples(np.concatenate([piece.stamps for piece in pieces]),
                      np.concatenate([piece.values for piece in pieces]))
    return Trial(first.subject, first.source, 'imu', samples, split_ns)


def _bag_trial(path: Path, spec: ModelSpec) -> Trial | None:
    with Bag(path) as bag:
        topics = [topic for topic in bag.topics if topic.type == IMU and topic.count]
        if len(topics) != 1:
            return None
        converter = bag.converter(topics[0], spec)
        parts = [converter.convert(*piece) for piece in bag.messages(topics[0])]
    samples = Samples(np.concatenate([part.stamps for part in parts]),
                      np.concatenate([part.values for part in parts]))
    first, last = int(samples.stamps[0]), int(samples.stamps[-1])
    return Trial(path.name, 'bags', 'imu', samples, (first + last) // 2)


def _share(recordings: list[Recording], spec: ModelSpec) -> tuple[list, list]:
    """Return (rate, values) of what is for calibrating, and of what is judged."""
    before, after, seen = [], [], set()
    codes = [recording.code for recording in recordings]
    for recording in recordings:
        values, code = recording_samples(recording, spec).values, recording.code
        if codes.count(code) == 1:
            half = len(values) // 2
            before.append((recording.rate, values[:half]))
            after.append((recording.rate, values[half:]))
        else:
            (after if code in seen else before).append((recording.rate, values))
        seen.add(code)
    return before, after
