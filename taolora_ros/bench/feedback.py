"""What a feedback costs in the node: taken by a session of the shipped ECG model, then settled."""

from __future__ import annotations

import time

import numpy as np

from taolora_ros.adaptation.reference import load_reference, reference_path
from taolora_ros.adaptation.session import Session
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.decode import Event
from taolora_ros.demo import ECG
from taolora_ros.detector import Detector
from taolora_ros.engine import make_engine
from taolora_ros.model_file import load_model
from taolora_ros.recordings import read_npz
from taolora_ros.samples import NANOSECONDS, Samples
from taolora_ros.shipped import find_model, shipped
from taolora_ros.threads import use_one_thread

STREAM = 'heart'
FIRST, APART = 2.0, 0.4  # s
SETTINGS = AdaptationSettings(enabled=True, per_minute=6000)


def timed_feedback(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how long ``count`` feedbacks took to be taken (µs), and each to be settled (ms).

    They are on the ventricular beats of the recording of the demo, every second one rejected. From
    the first to the ``settings.replay``-th there is more and more to solve for.
    """
    session, names = _told_of_the_demo()
    taken, settled = [], []
    for i in range(count):
        start = time.perf_counter()
        session.feedback(names[i % len(names)], i % 2 == 0)
        now = time.perf_counter()
        session.settle()
        taken.append(1e6 * (now - start))
        settled.append(1e3 * (time.perf_counter() - now))
    return np.array(taken), np.array(settled)


def timed_waiting(count: int, rounds: int) -> np.ndarray:
    """Return how long feedback took to be taken (µs), (rounds, count): each finds one more waiting.

    They are reports of beats ``APART`` s from each other, after a first feedback that is settled.
    """
    session, names = _told_of_the_demo()
    taken = np.zeros((rounds, count))
    for row in taken:
        session.reset()
        session.feedback(names[0], True)
        session.settle()
        for i in range(count):
            stamp = NANOSECONDS + round((FIRST + i * APART) * NANOSECONDS)
            start = time.perf_counter()
            session.miss(STREAM, stamp, 'veb')
            row[i] = 1e6 * (time.perf_counter() - start)
        assert session.status()['waiting'] == count
    return taken


def _told_of_the_demo() -> tuple[Session, list[str]]:
    """Return a session that has seen the recording of the demo, and its ventricular beats' ids."""
    use_one_thread()
    path = find_model('ecg_beats')
    model = load_model(path)
    engine = make_engine(model, device='cpu')
    weight = engine.read_weights('head.weight')['head.weight']
    session = Session(model.spec, engine,
                      load_reference(reference_path(path), model.spec, weight), SETTINGS)
    detector = Detector(model.spec, engine, name=STREAM)
    detector.memory = session.memory(STREAM)
    names = [e.id for e in _watch(detector) if isinstance(e, Event) and e.label == 'veb']
    return session, names


def _watch(detector: Detector) -> list:
    """Return what the detector finds in the recording of the demo."""
    recording = next(read_npz(shipped(ECG)))
    values = recording.values[:, :1].astype(np.float64)
    times = NANOSECONDS + np.arange(len(values)) * NANOSECONDS // round(recording.rate)
    return [*detector.process(Samples(times, values)), *detector.flush()]
