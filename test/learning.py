"""What adapts a shipped model without a node, an ECG for it, and somebody who gives feedback."""

import threading
from types import SimpleNamespace

import numpy as np

from taolora_ros import recordings, shipped
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.adapting import Adapting
from taolora_ros.detector import Detector
from taolora_ros.engine import make_engine
from taolora_ros.samples import Samples

ON = AdaptationSettings(enabled=True, doubtful_shift=3.0, max_lost=1.0)


class Log(list):
    """Keeps what is said."""

    def info(self, text):
        self.append(text)

    warning = error = info


def make(model, folder, *streams, settings=ON):
    """Return what adapts, its feeds with an engine of their own, and its log."""
    path, loaded = model
    engine, log = make_engine(loaded, device='cpu'), Log()
    adapting = Adapting(settings, str(folder), 'r2', '/taolora', log)
    feeds = [SimpleNamespace(name=name, detector=Detector(loaded.spec, engine, name=name),
                             lock=threading.Lock()) for name in streams]
    for feed in feeds:
        adapting.attach(path, engine, feed)
    return adapting, feeds, log


def beats(feed, values=None):
    """Play the beginning of an ECG (N, 1), mV, to a feed; return the events found."""
    if values is None:
        excerpt = shipped.shipped('config/demo/mitdb_119_excerpt.npz')
        values = next(recordings.read_npz(excerpt)).values[:15 * 360, :1].astype(np.float64)
    samples = Samples(10 ** 12 + np.arange(len(values)) * 10 ** 9 // 360, values)
    return [e for e in [*feed.detector.process(samples), *feed.detector.flush()]
            if hasattr(e, 'label')]


def reject(adapting, events, count=3):
    """Confirm one ventricular beat, without which nothing is learnt, and reject the next ones."""
    ventricular = [e for e in events if e.label == 'veb'][:count + 1]
    found = [adapting.take(e.id, number == 0, '', 1.0, 0) for number, e in enumerate(ventricular)]
    assert adapting.settle(60.0)
    return found
