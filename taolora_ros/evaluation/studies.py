"""Tables beside the plain evaluation: other detectors, noise, changed signals, the delay.

Each recording is run once for every row of a table; rows are pooled over recordings like the
figures of ``evaluate`` and hold the same ``beat``, ``beat_50ms`` and ``veb``, or ``fall``.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from taolora_ros.evaluation.beats import TOLERANCE, beat_figures, count_beats
from taolora_ros.evaluation.delays import by_delay
from taolora_ros.evaluation.detection import detect
from taolora_ros.evaluation.evaluate import Choice
from taolora_ros.evaluation.excerpts import excerpt
from taolora_ros.evaluation.falls import FallCount, count_falls, fall_figures
from taolora_ros.evaluation.panel import Panel
from taolora_ros.evaluation.peers import PEERS, Peer
from taolora_ros.evaluation.signals import CHANGES, changed
from taolora_ros.evaluation.spread import Progress, spread
from taolora_ros.recordings import Recording, read_npz

OURS = 'ours'


@dataclass(frozen=True)
class Part:
    """What one recording adds to the row ``name``; ``cpu_s`` and ``waits`` where measured.

    Rows come in the order of ``place``. A detector that does not tell VEB from other beats
    (``classifies``) has no figures of them.
    """

    name: str
    count: Counter | FallCount
    seconds: float
    cpu_s: float | None = None
    waits: tuple[float, ...] = ()
    place: float = 0.0
    classifies: bool = True


@dataclass
class Study:
    """The task of one table: which recordings, who judges them, what changes from row to row.

    ``minutes`` of each ECG record are used, None for all; ``delays`` (s) are the delay's rows,
    ``peers`` those beside ours.
    """

    name: str
    panel: Panel
    choice: Choice = field(default_factory=Choice)
    minutes: float | None = None
    delays: tuple[float, ...] = ()
    peers: tuple[Peer, ...] = ()
    _finders: dict = field(default_factory=dict)

    def __call__(self, path: Path) -> list[Part]:
        """Return what the recordings in a file add to the rows."""
        rows = {'peers': self._peers, 'noise': self._peers, 'signals': self._signals,
                'delay': self._delays}[self.name]
        return [part for recording in read_npz(path) if self._takes(recording)
                for part in rows(self._cut(recording))]

    def _takes(self, recording: Recording) -> bool:
        return (recording.annotated and not recording.paced
                and (recording.snr_db is not None) == (self.name == 'noise')
                and self.choice.takes(recording) and self.panel.knows(recording))

    def _cut(self, recording: Recording) -> Recording:
        return recording if self.minutes is None else excerpt(recording, 60 * self.minutes)

    def _peers(self, recording: Recording) -> Iterator[Part]:
        """Yield every detector's beats in one record, all on the lead that ours reads."""
        spec, engine, settings = self.panel.load(recording)
        snr_db = recording.snr_db
        noise = '' if snr_db is None else f', {snr_db:g} dB'

        def ours(lead: np.ndarray, rate: float) -> tuple[list[float], list[float]]:
            found = detect(recording, spec, engine, settings)
            return found.times('beat').tolist(), found.times('veb').tolist()

        def part(name: str, find: Callable, classifies: bool) -> Part:
            started = time.process_time()
            beats, veb = find(recording.values[:, recording.lead()], recording.rate)
            cpu_s = time.process_time() - started
            count, seconds = _count_beats(recording, beats, veb), recording.duration_s
            if snr_db is None:
                return Part(name, count, seconds, cpu_s, classifies=classifies)
            return Part(name + noise, count, seconds - recording.noise_start_s, place=-snr_db,
                        classifies=classifies)

        yield part(OURS, ours, True)
        for peer in self.peers:
            if peer.name not in self._finders:
                self._finders[peer.name] = peer.load()
            find = self._finders[peer.name]
            yield part(peer.name, lambda lead, rate: (
                (np.asarray(find(lead, rate)) / rate).tolist(), []), False)

    def _signals(self, recording: Recording) -> Iterator[Part]:
        """Yield our events in one recording measured in several ways."""
        loaded = self.panel.load(recording)
        for change in CHANGES[recording.kind]:
            found = detect(changed(recording, change), *loaded)
            at = {label: found.times(label).tolist() for label in loaded[0].labels}
            yield Part(change.name, _count(recording, at), recording.duration_s)

    def _delays(self, recording: Recording) -> Iterator[Part]:
        """Yield our events in one recording with several delays."""
        spec, engine, settings = self.panel.load(recording)
        delays = sorted({*self.delays, settings.delay})
        for delay, found in by_delay(recording, spec, engine, settings, tuple(delays)):
            at = {label: [time for name, time, _ in found if name == label]
                  for label in spec.labels}
            mark = ' (default)' if delay == settings.delay else ''
            yield Part(f'{delay:g} s{mark}', _count(recording, at), recording.duration_s,
                       waits=tuple(wait for *_, wait in found if wait == wait))


def _count(recording: Recording, at: dict[str, list[float]]) -> Counter | FallCount:
    """Count the events found in one recording, times (s) by label."""
    if recording.kind == 'imu':
        return count_falls(recording.source, recording.duration_s,
                           recording.fall_time_s if recording.is_fall else None, at['fall'])
    return _count_beats(recording, at['beat'], at['veb'])


def _count_beats(recording: Recording, beats: list[float], veb: list[float]) -> Counter:
    """Count one record; before the noise begins nothing is scored."""
    if start := recording.noise_start_s:
        keep = recording.beat_times_s >= start
        recording = dataclasses.replace(
            recording, beat_times_s=recording.beat_times_s[keep],
            beat_aami=recording.beat_aami[keep], flutter_s=((0.0, start + TOLERANCE),))
    return count_beats(recording.beat_times_s, recording.beat_aami, beats + veb,
                       [False] * len(beats) + [True] * len(veb), recording.flutter_s)


def run(study: Study, files: list[Path], processes: int | None = None,
        progress: Progress = lambda *_: None) -> list[dict]:
    """Return the rows of a table, ready for JSON; ValueError when there is nothing to judge.

    Each has ``name``, ``recordings``, ``hours`` and the figures; ``cpu_s_per_hour`` of signal,
    ``wait_mean_s``, ``wait_p99_s`` (see delays.py) where measured.
    """
    parts: dict[str, list[Part]] = {}
    order: dict[Path, list[Part]] = {}
    for done, (path, found) in enumerate(spread(files, study, processes), 1):
        order[path] = found
        progress(done, len(files), path.name)
    for path in files:  # processes finish in any order
        for part in order[path]:
            parts.setdefault(part.name, []).append(part)
    if not parts:
        raise ValueError(f'{study.name}: no recording left to judge')
    ordered = sorted(parts.items(), key=lambda item: item[1][0].place)
    return [_row(name, group) for name, group in ordered]


def beside(name: str) -> tuple[tuple[Peer, ...], list[dict]]:
    """Return the peers that the table ``name`` has, and rows that say why others are not in it."""
    if name not in ('peers', 'noise'):
        return (), []
    faults = {peer: peer.fault for peer in PEERS}
    return (tuple(peer for peer, fault in faults.items() if not fault),
            [{'name': peer.name, 'error': fault} for peer, fault in faults.items() if fault])


def _row(name: str, parts: list[Part]) -> dict:
    """Return the figures over what the recordings add to one row."""
    counts = [part.count for part in parts]
    hours = sum(part.seconds for part in parts) / 3600
    row = {'name': name, 'recordings': len(parts), 'hours': hours,
           **({'fall': fall_figures(counts)} if isinstance(counts[0], FallCount)
              else beat_figures(counts))}
    if not parts[0].classifies:
        row['veb'] = {key: value if key == 'n' else None for key, value in row['veb'].items()}
    if parts[0].cpu_s is not None:
        row['cpu_s_per_hour'] = sum(part.cpu_s for part in parts) / hours
    waits = np.concatenate([part.waits for part in parts])
    if len(waits):
        row.update(wait_mean_s=float(waits.mean()), wait_p99_s=float(np.quantile(waits, 0.99)))
    return row
