"""Play a recording or a bag through a detector and print the events: ``taolora replay``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from taolora_ros.bags import IMU, Bag
from taolora_ros.converter import STAMPS
from taolora_ros.evaluation.detection import Candidate, recording_samples
from taolora_ros.recorder import Recorder
from taolora_ros.recordings import Recording, read_npz
from taolora_ros.samples import NANOSECONDS, Samples

HEADING = f'{"time s":>10}  {"event":<9}{"phase":<9}{"score":>6}  {"severity":<9} values'
PHASES = ('start', 'ongoing', 'end')
SEVERITIES = ('info', 'warning', 'critical')
STYLES = {'critical': 'bold red', 'warning': 'yellow'}
SHOWN_NAMES = 5  # of a file's recordings, when the one asked for is not there


@dataclass(frozen=True)
class Source:
    """What to read from a file: a topic of a bag and how, or one recording of an .npz."""

    path: Path
    topic: str | None = None
    field: str = ''
    sample_rate: float = 0.0
    unit: str = ''
    stamps: str = STAMPS[0]
    recording: str | None = None


@dataclass
class Played:
    """What was read from one recording or topic, and what came out."""

    name: str
    samples: int = 0
    first_ns: int = 0
    last_ns: int = 0
    counts: Counter = field(default_factory=Counter)
    transient_fraction: float = 0.0
    events: list[dict] = field(default_factory=list)
    annotation: str = ''
    recorder: Recorder | None = None  # what the detector saw and decided, if that was asked for

    @property
    def rate(self) -> float:
        """Measured samples a second, 0 when it cannot be told."""
        span = self.last_ns - self.first_ns
        return (self.samples - 1) * NANOSECONDS / span if span > 0 else 0.0

    def to_dict(self) -> dict:
        """Return what is plain enough for JSON: all but the recorder."""
        told = {name: value for name, value in vars(self).items() if name != 'recorder'}
        return {**told, 'rate': self.rate}

    def summary(self) -> list[str]:
        """Return in words what was read, dropped and found."""
        seconds = (self.last_ns - self.first_ns) / NANOSECONDS
        labels = Counter(e['label'] for e in self.events if e['phase'] == 'start')
        return [
            f'{self.name}: read {self.samples} samples, {seconds:.1f} s at {self.rate:.1f} Hz',
            f'  dropped or mended: {_listing(self.counts)}',
            f'  found: {_listing(labels)}; transient path open for '
            f'{100 * self.transient_fraction:.1f} % of the time',
            *([f'  {self.annotation}'] if self.annotation else [])]


def _listing(counts: Counter) -> str:
    return ', '.join(f'{name} {n}' for name, n in sorted(counts.items()) if n) or 'nothing'


def replay(source: Source, candidate: Callable[[str], Candidate], console: Console,
           label: str | None = None, record: bool = False) -> list[Played]:
    """Play ``source``, printing events as they are found and a summary; return what was played.

    ``candidate`` gives for 'imu' or 'ecg' the model to use; ``label`` keeps events of that label
    only; ``record`` keeps what a report shows. Raise ValueError for a source that
    cannot be read or does not fit the model.
    """
    if not source.path.exists():
        raise ValueError(f'{source.path}: no such file or folder')
    if source.path.suffix == '.npz':
        return list(_replay_recordings(source, candidate, console, label, record))
    return [_replay_bag(source, candidate, console, label, record)]


def _replay_recordings(source: Source, candidate, console: Console, label: str | None,
                       record: bool) -> Iterator[Played]:
    if source.topic:
        raise ValueError(f'{source.path}: an .npz file has no topics; --recording chooses in it')
    loaded, names = None, []
    for index, recording in enumerate(read_npz(source.path)):
        names.append(recording.name)
        if source.recording not in (None, recording.name, str(index)):
            continue
        if loaded is None:
            loaded = candidate(recording.kind).load()
        samples = recording_samples(recording, loaded[0])
        what = recording.label or (f'lead {recording.leads[recording.lead()]}'
                                   if recording.leads else '')
        name = recording.name + (f' ({what})' if what else '')
        recorder = Recorder(loaded[0], loaded[2], _reference(recording)) if record else None
        yield play(name, [samples], loaded, console, label, _annotation(recording),
                   recorder=recorder)
    if loaded is None:
        raise ValueError(f'{source.path}: no recording {source.recording!r} in it; it holds '
                         f'0 to {len(names) - 1}: {", ".join(names[:SHOWN_NAMES])}'
                         + (' ...' if len(names) > SHOWN_NAMES else ''))


def _annotation(recording: Recording) -> str:
    if not recording.annotated:
        return 'no annotation'
    if recording.kind == 'imu':
        return (f'annotated: a fall at {recording.fall_time_s:.2f} s' if recording.is_fall
                else 'annotated: no fall')
    return (f'annotated: {len(recording.beat_times_s)} beats, '
            f'{int((recording.beat_aami == "V").sum())} of them ventricular')


def _reference(recording: Recording) -> tuple[tuple[float, str], ...]:
    """Return what is annotated as (seconds, label)."""
    if recording.kind == 'imu':
        return ((recording.fall_time_s, 'fall'),) if recording.is_fall else ()
    if recording.beat_times_s is None:
        return ()
    return tuple(zip(recording.beat_times_s.tolist(), map(str, recording.beat_aami)))


def _replay_bag(source: Source, candidate, console: Console, label: str | None,
                record: bool) -> Played:
    if source.recording is not None:
        raise ValueError(f'{source.path}: --recording is for .npz files; --topic chooses in a bag')
    with Bag(source.path) as bag:
        topic = bag.choose(source.topic)
        kind = 'imu' if topic.type == IMU else 'ecg'
        loaded = candidate(kind).load()
        converter = bag.converter(topic, loaded[0], source.field, source.sample_rate, source.unit,
                                  source.stamps)
        pieces = (converter.convert(*piece) for piece in bag.messages(topic))
        played = play(f'{topic.name} ({topic.type}, {topic.count} messages)', pieces, loaded,
                      console, label, counts=converter.counts,
                      recorder=Recorder(loaded[0], loaded[2]) if record else None)
        if converter.problem:
            console.print(f'  last problem: {converter.problem}', markup=False)
        return played


def play(name: str, pieces: Iterable[Samples], loaded: tuple, console: Console,
         label: str | None = None, annotation: str = '', counts: Counter | None = None,
         recorder: Recorder | None = None) -> Played:
    """Run ``pieces`` of one stream through a fresh detector and print what it finds.

    ``loaded`` is (spec, engine, settings); ``counts`` are drops before the detector, read at
    the end; a ``recorder`` hears everything.
    """
    from taolora_ros.detector import Detector
    spec, engine, settings = loaded
    detector = Detector(spec, engine, settings, name=spec.kind, recorder=recorder)
    played = Played(name, annotation=annotation, recorder=recorder)
    printer = _Printer(console, label)
    for samples in pieces:
        if len(samples):
            played.first_ns = played.first_ns or int(samples.stamps[0])
            played.last_ns = int(samples.stamps[-1])
            played.samples += len(samples)
            _report(detector.process(samples), played, printer)
    _report(detector.flush(), played, printer)
    played.counts = Counter(detector.counts) + Counter(counts or {})
    played.transient_fraction = float(detector.gate_fraction)
    for line in played.summary():
        console.print(line, markup=False, highlight=False)
    return played


def _report(outcome: list, played: Played, printer: '_Printer') -> None:
    for item in outcome:
        row = _row(item, played.first_ns)
        if printer.wants(row):
            played.events.append(row)
            printer.print(row)


def _row(item, first_ns: int) -> dict:
    """Return an event or anomaly as a plain dictionary; ``time_s`` counts from the first sample."""
    if hasattr(item, 'is_anomalous'):
        return {'label': 'anomaly', 'phase': 'start' if item.is_anomalous else 'end',
                'severity': 'info', 'score': float(item.score), 'stamp_ns': int(item.stamp_ns),
                'time_s': (item.stamp_ns - first_ns) / NANOSECONDS,
                'start_ns': int(item.start_ns), 'stop_ns': int(item.stop_ns),
                'values': {k: float(v) for k, v in item.channel_scores.items()}}
    return {'label': item.label, 'phase': PHASES[item.phase],
            'severity': SEVERITIES[item.severity], 'score': float(item.score),
            'stamp_ns': int(item.stamp_ns), 'time_s': (item.stamp_ns - first_ns) / NANOSECONDS,
            'start_ns': int(item.start_ns), 'stop_ns': int(item.stop_ns), 'id': item.id,
            'transient_fraction': float(item.transient_fraction),
            'values': {k: float(v) for k, v in item.values.items()}}


class _Printer:
    """A table that grows as events come, its heading printed before the first of them."""

    def __init__(self, console: Console, label: str | None):
        self.console, self.label = console, label
        self.started = False
        self.anomalous = False

    def wants(self, row: dict) -> bool:
        """Return whether to show ``row``: of an anomaly only its beginning and its end."""
        if row['label'] == 'anomaly':
            changed = self.anomalous != (row['phase'] == 'start')
            self.anomalous = row['phase'] == 'start'
            if not changed:
                return False
        return self.label in (None, row['label'])

    def print(self, row: dict) -> None:
        """Print one row, in the colour of its severity."""
        if not self.started:
            self.console.print(HEADING, style='bold', highlight=False)
            self.started = True
        values = row['values']
        if row['label'] == 'anomaly':  # the channel to look at; the others are in --json
            values = dict([max(values.items(), key=lambda item: item[1])])
        values = ' '.join(f'{key} {value:.4g}' for key, value in values.items())
        line = (f'{row["time_s"]:10.3f}  {row["label"]:<9}{row["phase"]:<9}{row["score"]:6.3f}  '
                f'{row["severity"]:<9} {values}')
        self.console.print(Text(line, style=STYLES.get(row['severity'], '')), soft_wrap=True)
