"""Recordings as training sees them: the features of the running stream, with their annotation.

    R  recordings (one per ECG lead)       N  samples of all of them, one after the other
    F  features                            E  events: beats, or impacts of falls
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d

from taolora_ros.features import SCALE_BLOCK, SCALE_BLOCKS, SCALE_FLOOR, FeatureFilter
from taolora_ros.gate import gate_flags
from taolora_ros.recordings import Recording
from taolora_ros.resampling import resample
from taolora_ros.spec import ModelSpec

IGNORE = -100  # class of tokens that no loss counts


@dataclass
class Corpus:
    """Features and annotations at the model's rate; positions count samples from the first row.

    ``features`` (N, F) float32; ``start`` and ``stop`` (R,) bound the recordings; ``scale`` (N,)
    is the running scale at each sample (1 for an IMU); ``gate`` (N,) bool is the transient
    detector's flag. ``event_at`` (E,) float64 are positions, in order, ``event_class`` (E,) their
    classes (IGNORE for beats of no class), ``event_recording`` (E,) where they lie. ``group`` (R,)
    names what is sampled evenly (an activity, a record); ``weight`` (R,) is the share of a
    recording within its group. ``partner`` (R,) is how many rows away another lead of the same
    instants lies (0 for none). ``masked`` (N,) bool marks what no loss counts. ``subject`` and
    ``source`` (R,) say who it is.
    """

    features: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    scale: np.ndarray
    gate: np.ndarray
    masked: np.ndarray
    event_at: np.ndarray
    event_class: np.ndarray
    event_recording: np.ndarray
    group: np.ndarray
    weight: np.ndarray
    partner: np.ndarray
    subject: np.ndarray
    source: np.ndarray


def build_corpus(spec: ModelSpec, recordings: Iterable[Recording]) -> Corpus:
    """Resample, filter and gate ``recordings`` as the running stream would, and line them up.

    ECG records give one entry per lead, the first lead drawn twice as often as the others.
    Paced records are left out. Raise ValueError when nothing remains.
    """
    return line_up(spec, [part for recording in recordings for part in parts_of(spec, recording)])


def parts_of(spec: ModelSpec, recording: Recording) -> list[dict]:
    """Return what ``recording`` adds to a corpus: an entry per lead, none if it is of no use."""
    if not recording.annotated or recording.paced:
        return []
    if spec.kind == 'imu':
        return [_imu_part(spec, recording)]
    main = recording.lead()
    return [_ecg_part(spec, recording, lead, 1.0 if lead == main else 0.5)
            for lead in range(recording.values.shape[1])]


def line_up(spec: ModelSpec, parts: list[dict]) -> Corpus:
    """Return the corpus of all ``parts``; raise ValueError when there are none."""
    if not parts:
        raise ValueError(f'training data: no annotated {spec.kind} recording')
    stop = np.cumsum([len(part['features']) for part in parts])
    start = np.concatenate([[0], stop[:-1]])
    join = {key: np.concatenate([part[key] for part in parts])
            for key in ('features', 'scale', 'gate', 'masked', 'event_class')}
    return Corpus(
        start=start, stop=stop, **join,
        event_at=np.concatenate([part['event_at'] + s for part, s in zip(parts, start)]),
        event_recording=np.repeat(np.arange(len(parts)), [len(p['event_at']) for p in parts]),
        group=np.array([part['group'] for part in parts]),
        weight=np.array([part['weight'] for part in parts]),
        partner=np.array([part['partner'] * len(part['features']) for part in parts]),
        subject=np.array([part['subject'] for part in parts]),
        source=np.array([part['source'] for part in parts]))


def _features(spec: ModelSpec, recording: Recording, values: np.ndarray) -> np.ndarray:
    stamps = np.round(np.arange(len(values)) * (1e9 / recording.rate)).astype(np.int64)
    uniform, _ = resample(stamps, np.nan_to_num(values), spec.rate)  # a missing gyro reads as 0
    return FeatureFilter(spec).push(uniform)


def _sample_gate(spec: ModelSpec, features: np.ndarray) -> np.ndarray:
    flags = np.repeat(gate_flags(spec, features), spec.patch)
    return np.pad(flags, (0, len(features) - len(flags)))


def _imu_part(spec: ModelSpec, recording: Recording) -> dict:
    features = _features(spec, recording, recording.values)
    falls = [recording.fall_time_s * spec.rate] if recording.is_fall else []
    return {'features': features, 'scale': np.ones(len(features), np.float32),
            'gate': _sample_gate(spec, features), 'masked': np.zeros(len(features), bool),
            'event_at': np.array(falls, float), 'event_class': np.ones(len(falls), np.int64),
            'group': f'{recording.source}/{recording.code}', 'weight': 1.0, 'partner': 0,
            'subject': recording.subject, 'source': recording.source}


def _ecg_part(spec: ModelSpec, recording: Recording, lead: int, weight: float) -> dict:
    features = _features(spec, recording, recording.values[:, lead:lead + 1])
    at = recording.beat_times_s * spec.rate
    classes = {name: spec.classes.index(name) for name in spec.classes[1:]}
    labels = np.array([classes.get(str(a), IGNORE) for a in recording.beat_aami], np.int64)
    inside = at < len(features)
    masked = np.zeros(len(features), bool)
    for begin, end in recording.flutter_s:  # ventricular flutter has no beats to annotate
        masked[int(begin * spec.rate):int(end * spec.rate)] = True
    return {'features': features, 'scale': running_scale(spec, features[:, 0]),
            'gate': _sample_gate(spec, features), 'masked': masked, 'event_at': at[inside],
            'event_class': labels[inside], 'group': recording.subject, 'weight': weight,
            'partner': _next_lead(recording, lead), 'subject': recording.subject,
            'source': recording.source}


def _next_lead(recording: Recording, lead: int) -> int:
    """Return how many leads further on the one to mix with lies; leads stand in their order."""
    leads = recording.values.shape[1]
    return 0 if leads == 1 else (1 if lead + 1 < leads else -1)


def running_scale(spec: ModelSpec, feature: np.ndarray) -> np.ndarray:
    """Return what ``features.ecg_scale`` gives for the history ending at each sample: (N,)."""
    block = round(SCALE_BLOCK * spec.rate)
    size = np.abs(feature)
    # maximum over the block that ends with each sample; a short first block grows from one sample
    tops = maximum_filter1d(size, block, origin=(block - 1) // 2, mode='constant')
    back = np.arange(len(size))[:, None] - block * np.arange(SCALE_BLOCKS)
    complete = back >= block - 1
    complete[:, 0] = True
    blocks = np.where(complete, tops[np.maximum(back, 0)], np.nan)
    return np.maximum(np.nanmedian(blocks, axis=1), SCALE_FLOOR).astype(np.float32)
