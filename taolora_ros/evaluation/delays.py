"""How long an event waits until it is published, and what looking ahead longer is worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from taolora_ros.decode import START
from taolora_ros.detector import BATCH, PIECE, Detector, Event
from taolora_ros.engine import Engine, Scores
from taolora_ros.evaluation.detection import recording_samples
from taolora_ros.recordings import Recording
from taolora_ros.samples import NANOSECONDS
from taolora_ros.settings import Settings
from taolora_ros.spec import ModelSpec

DELAYS = {'ecg': (0.0, 0.24, 0.48, 0.96, 1.44, 1.92), 'imu': (0.4, 0.8, 1.6, 2.4, 3.2)}  # s


class Replay:
    """An engine that remembers: windows do not depend on the delay, so they are run once."""

    def __init__(self, engine: Engine):
        self.engine, self.kept, self.at = engine, [], 0

    def rewind(self) -> None:
        """Begin again; the same windows are expected in the same order."""
        self.at = 0

    def run(self, windows: np.ndarray, gates: np.ndarray) -> Scores:
        """Score windows as the engine did before; raise ValueError when they are others."""
        mark = (windows.shape, float(windows.sum(dtype=np.float64)), int(gates.sum()))
        if self.at == len(self.kept):
            self.kept.append((mark, self.engine.run(windows, gates)))
        known, scores = self.kept[self.at]
        if known != mark:
            raise ValueError(f'replay: windows {mark} where {known} were before')
        self.at += 1
        return scores


def by_delay(recording: Recording, spec: ModelSpec, engine: Engine, settings: Settings,
             delays: tuple[float, ...]) -> Iterator[tuple[float, list[tuple[str, float, float]]]]:
    """Yield each delay (s) and the (label, time, wait) of every start of an event found with it.

    Times are seconds from the first sample. An event waits from its own time until the last
    sample is there that the window needs which brings it: delay, hop and the decoder's caution,
    but not computing. It is NaN for what the end of the recording brings early.
    """
    replay = Replay(engine)
    for delay in delays:
        replay.rewind()
        yield delay, found_with(recording, spec, replay,
                                dataclasses.replace(settings, delay=delay))


def found_with(recording: Recording, spec: ModelSpec, engine: Engine, settings: Settings
               ) -> list[tuple[str, float, float]]:
    """Return the (label, time, wait) of every start of an event, see ``by_delay``."""
    detector = Detector(spec, settings=settings, name=recording.name)
    samples = recording_samples(recording, spec)
    first, found = int(samples.stamps[0]), []
    for start in range(0, len(samples) + 1, PIECE):
        detector.push(samples[start:start + PIECE])
        if start + PIECE > len(samples):
            detector.close()
        for stamp_ns, event in _events(detector, engine):
            found.append((event.label, (event.stamp_ns - first) / NANOSECONDS,
                          (stamp_ns - event.stamp_ns) / NANOSECONDS))
    return found


def _events(detector: Detector, engine: Engine) -> Iterator[tuple[float, Event]]:
    """Yield the events of all windows that are due, with the end (ns) of the one that brings it."""
    while windows := detector.due(BATCH):
        scores = engine.run(np.stack([window.features for window in windows]),
                            np.stack([window.gate for window in windows]))
        for i, window in enumerate(windows):
            one = Scores(*(part[i:i + 1] for part in (scores.probability, scores.offset,
                                                      scores.anomaly)))
            for event in detector.absorb([window], one):
                if getattr(event, 'phase', None) == START:
                    yield (np.nan if window.final else window.stamp_ns), event
