"""Cross-validation by subject: every recording is judged by a model that never saw its subject."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from taolora_ros.recordings import Recording


def assign_folds(recordings: Iterable[Recording], folds: int) -> list[frozenset[str]]:
    """Split the subjects (IMU) or records (ECG) of ``recordings`` into ``folds`` groups.

    Subjects are dealt out like cards, back and forth, in the order of how many rare events they
    hold (VEBs, falls), source by source, so that the groups are alike; there is no randomness.
    Raise ValueError when there are fewer subjects than folds.
    """
    rare: dict[tuple[str, str], int] = defaultdict(int)
    for r in recordings:
        count = int(bool(r.is_fall)) if r.kind == 'imu' else int((r.beat_aami == 'V').sum())
        rare[r.source, r.subject] += count
    if not 2 <= folds <= len(rare):
        raise ValueError(f'folds: {folds} for {len(rare)} subjects, must be 2..{len(rare)}')
    order = sorted(rare, key=lambda key: (key[0], -rare[key], key[1]))
    groups: list[set[str]] = [set() for _ in range(folds)]
    there_and_back = list(range(folds)) + list(reversed(range(folds)))
    for i, (_, subject) in enumerate(order):
        groups[there_and_back[i % (2 * folds)]].add(subject)
    return [frozenset(group) for group in groups]
