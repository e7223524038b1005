#!/usr/bin/env python3
"""
Draw docs/gated_window.png: one window of each shipped model, its gate and the events around it.

    .venv/bin/python tools/draw_window.py [FILE]

The ECG is the demo's excerpt of MIT-BIH record 119, the IMU recording is synthetic. Both go
through the detector as in the node; what is drawn is what the network read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use('Agg')  # a file is all that is wanted, on machines without a screen too
from matplotlib import pyplot  # noqa: E402

from taolora_ros.decode import END, Event  # noqa: E402
from taolora_ros.demo import ECG, SCENE  # noqa: E402
from taolora_ros.detector import Detector, Window  # noqa: E402
from taolora_ros.engine import make_engine  # noqa: E402
from taolora_ros.evaluation.detection import START_NS, recording_samples  # noqa: E402
from taolora_ros.features import feature_names  # noqa: E402
from taolora_ros.model_file import load_model  # noqa: E402
from taolora_ros.recordings import read_npz  # noqa: E402
from taolora_ros.samples import NANOSECONDS, Samples  # noqa: E402
from taolora_ros.shipped import find_model, shipped  # noqa: E402
from taolora_ros.spec import ModelSpec  # noqa: E402
from taolora_ros.synthetic import imu_scene  # noqa: E402

OUT = Path(__file__).resolve().parents[1] / 'docs' / 'gated_window.png'
ECG_END = 25.2                 # s into the excerpt: a window with several ventricular beats
AFTER_FALL = 2.6               # s from the first fall of the scene to the end of its window
OPEN, LINE = '#f6d8a8', '#30343b'
COLOURS = {'beat': '#2f7d4f', 'veb': '#b3261e', 'fall': '#b3261e'}


def watch(name: str, samples_of, end_s: float) -> tuple[ModelSpec, Window, list[Event]]:
    """Run samples through a shipped model; return the window that ends next to ``end_s``.

    ``samples_of(spec)`` gives the samples; all events come with it.
    """
    model = load_model(find_model(name))
    engine = make_engine(model, device='cpu')
    detector = Detector(model.spec, name=name)
    detector.push(samples_of(model.spec))
    detector.close()
    windows, events = [], []
    while due := detector.due(64):
        scores = engine.run(np.stack([window.features for window in due]),
                            np.stack([window.gate for window in due]))
        events += [item for item in detector.absorb(due, scores) if isinstance(item, Event)]
        windows += due
    wanted = START_NS + end_s * NANOSECONDS
    return model.spec, min(windows, key=lambda window: abs(window.stamp_ns - wanted)), events


def draw(axes, spec: ModelSpec, window: Window, events: list[Event], feature: str) -> float:
    """Draw one feature of a window with its open tokens and events; return the open share."""
    seconds = spec.window / spec.rate
    times = (np.arange(spec.window) + 0.5) / spec.rate           # (L,) from the window's start
    values = window.features[:, feature_names(spec).index(feature)]
    for token in np.flatnonzero(window.gate):
        axes.axvspan(token * spec.patch / spec.rate, (token + 1) * spec.patch / spec.rate,
                     color=OPEN, linewidth=0)
    axes.plot(times, values, color=LINE, linewidth=1)
    top = values.max() + 0.12 * np.ptp(values)
    begin = window.stamp_ns - round(seconds * NANOSECONDS)
    for event in events:
        at = (event.stamp_ns - begin) / NANOSECONDS
        if event.phase != END and 0 <= at < seconds:
            axes.axvline(at, ymax=0.86, color=COLOURS[event.label], linewidth=1, linestyle=':')
            axes.text(at, top, event.label, color=COLOURS[event.label], ha='center', fontsize=9)
    axes.axvline(seconds - spec.delay, color='grey', linewidth=1)
    axes.set(xlim=(0, seconds), ylim=(values.min() - 0.05 * np.ptp(values),
                                      top + 0.18 * np.ptp(values)))
    axes.spines[['top', 'right']].set_visible(False)
    return float(window.gate.mean())


def main(out: Path = OUT) -> None:
    """Write the picture."""
    ecg, scene = next(read_npz(shipped(ECG))), imu_scene(seed=SCENE)
    figure, axes = pyplot.subplots(2, 1, figsize=(9.6, 5.2), dpi=100)
    shown = (
        ('ecg_beats', lambda spec: recording_samples(ecg, spec), ECG_END, 'ecg',
         'ECG, MIT-BIH record 119', 'times the running scale'),
        ('imu_falls', lambda spec: Samples.uniform(START_NS, scene.rate, scene.values),
         scene.falls_s[0] + AFTER_FALL, 'acc_norm', 'IMU, synthetic', '|acceleration| - 1, g'))
    for panel, (name, samples_of, end_s, feature, title, unit) in zip(axes, shown):
        spec, window, events = watch(name, samples_of, end_s)
        share = draw(panel, spec, window, events, feature)
        panel.set_title(f'{title}: {spec.tokens} tokens, transient path open on {share:.0%}',
                        loc='left', fontsize=10)
        panel.set_ylabel(unit, fontsize=9)
    axes[-1].set_xlabel('s from the start of the window (shaded: transient path open; right of '
                        'the grey line: decided by later windows)', fontsize=9)
    figure.tight_layout()
    figure.savefig(out, metadata={'Software': None})
    print(f'wrote {out}')


if __name__ == '__main__':
    main(*map(Path, sys.argv[1:2]))
