"""The figure of one recording: panels below each other over one axis of time.

    events     a row for each label, one for anomalies, one for what was annotated (marks.py)
    signals    a panel for each unit, as the detector reads them; shaded where the gate is open
    scores     of the labels, with the event threshold
    anomaly    of the worst channel, with the anomaly threshold
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from taolora_ros.features import feature_names
from taolora_ros.recorder import Recorder
from taolora_ros.replay import Played
from taolora_ros.report.marks import add_marks
from taolora_ros.report.panels import Panels, gate_axis
from taolora_ros.samples import NANOSECONDS
from taolora_ros.spec import ModelSpec

SIGNAL, SCORES, ANOMALY = 170, 120, 100  # pixels high
LINES = ('#0072b2', '#009e73', '#cc79a7')  # Okabe and Ito: told apart by everybody
SCORES_OF = ('#0072b2', '#e69f00')        # of labels, as the marks of beats are
DARK, GATE = '#333333', 'rgba(240, 190, 40, 0.35)'


def figure(played: Played, budget: int):
    """Return the plotly Figure of what was played with a recorder.

    Its lines keep about ``budget`` values: of more the extremes, of the gate the mean.
    """
    recorder = played.recorder
    panels = Panels(played.first_ns)
    add_marks(panels, recorder, played.events)
    signals = _add_signals(panels, recorder, budget)
    _add_scores(panels, recorder, budget, signals)
    _add_anomaly(panels, recorder, budget)
    step = NANOSECONDS / recorder.spec.rate
    spans = [(start, start + len(values) * step) for start, values in recorder.samples()]
    return panels.figure(min((start for start, _ in spans), default=played.first_ns),
                         max((stop for _, stop in spans), default=played.last_ns))


def _add_signals(panels: Panels, recorder: Recorder, budget: int) -> list[str]:
    """Add a panel for each unit; return their axes."""
    spec, pieces = recorder.spec, recorder.samples()
    width = math.ceil(sum(piece.size for _, piece in pieces) / (budget * 3 / 4))
    axes = []
    for unit in dict.fromkeys(spec.units):
        columns = [i for i, its in enumerate(spec.units) if its == unit]
        if unit != spec.units[0] and not any(np.nan_to_num(values[:, columns]).any()
                                             for _, values in pieces):
            continue  # a sensor that is not there reads as zero
        axes.append(panels.panel(
            SIGNAL, title={'text': f'{_quantity(spec, columns)} [{unit}]'}, tickmode='auto',
            range=_range([values[:, columns] for _, values in pieces])))
        for colour, column in zip(itertools.cycle(LINES if len(columns) > 1 else [DARK]), columns):
            told, values = [], [np.zeros(0, np.float32)]
            for start, piece in pieces:
                kept, every = thinned(piece[:, column], width)
                told.append([len(kept), float(panels.seconds(start)), every / spec.rate])
                values.append(kept)
            panels.line(None, np.concatenate(values), told, axes[-1], name=spec.channels[column],
                       line={'width': 1, 'color': colour})
    return axes


def thinned(values: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """Return ``values`` (n,) with the extremes of every 2 * width as two; and the new step.

    What is left is uniform again and in the order in which it came.
    """
    if width <= 1 or len(values) == 0:
        return values, 1
    fill = -len(values) % (2 * width)
    rows = np.concatenate([values, np.repeat(values[-1:], fill)]).reshape(-1, 2 * width)
    low = np.argmin(np.where(np.isnan(rows), np.inf, rows), axis=1)
    high = np.argmax(np.where(np.isnan(rows), -np.inf, rows), axis=1)
    order = np.sort(np.stack([low, high], axis=1), axis=1)
    return np.take_along_axis(rows, order, axis=1).ravel(), width


def _add_scores(panels: Panels, recorder: Recorder, budget: int, signals: list[str]) -> None:
    """Add the scores of the labels, and the gate behind the signals."""
    pieces = [piece for piece in recorder.tokens() if len(piece[0])]
    axis = panels.panel(SCORES, title={'text': 'score'}, range=[-0.03, 1.05])
    panels.limit(axis, recorder.settings.event_threshold, 'event threshold')
    if not pieces:
        return
    scores = np.concatenate([scores for _, scores, _ in pieces])
    gate = np.concatenate([gate for *_, gate in pieces])
    seconds, told, first = _blocks(panels, [times for times, *_ in pieces],
                                   budget / (8 * (2 + scores.shape[1])))
    opened = np.add.reduceat(gate, first, dtype=np.float32) / np.diff(np.append(first, len(gate)))
    for signal in signals:
        shown = signal == signals[0]
        panels.line(seconds, opened.astype(np.float32), told, gate_axis(signal), name='gate open',
                   line={'width': 0, 'shape': 'hvh'}, fill='tozeroy', fillcolor=GATE,
                   legendgroup='gate', showlegend=shown, reduce='mean',
                   hovertemplate='%{y:.0%}' if shown else None,
                   hoverinfo=None if shown else 'skip')
    for column, (label, colour) in enumerate(zip(recorder.spec.labels, itertools.cycle(SCORES_OF))):
        peaks = np.maximum.reduceat(scores[:, column], first).astype(np.float32)
        panels.line(seconds, peaks, told, axis, name=f'score of {label}',
                   line={'width': 1.2, 'color': colour})


def _add_anomaly(panels: Panels, recorder: Recorder, budget: int) -> None:
    """Add the anomaly of each window's worst channel."""
    limit = recorder.settings.anomaly_threshold
    pieces = [piece for piece in recorder.windows() if len(piece[0])]
    top = max([float(scores.max()) for _, scores in pieces], default=0.0)
    axis = panels.panel(ANOMALY, title={'text': 'anomaly'}, range=[0, 1.08 * max(top, 1.4 * limit)])
    panels.limit(axis, limit, 'anomaly threshold')
    if not pieces:
        return
    scores = np.concatenate([scores for _, scores in pieces])
    seconds, told, first = _blocks(panels, [ends for ends, _ in pieces], budget / (8 * 2))
    panels.line(seconds, np.maximum.reduceat(scores.max(axis=1), first).astype(np.float32), told,
               axis, name='anomaly', line={'width': 1.2, 'color': DARK},
               customdata=np.maximum.reduceat(scores, first).argmax(axis=1).astype(np.uint8),
               meta={'names': list(feature_names(recorder.spec))},
               hovertemplate='%{y:.3g} (%{text})')


def _blocks(panels: Panels, times: list[np.ndarray], most: float):
    """Return (seconds (b,), pieces, numbers of their first rows (b,)) of equal blocks of rows.

    ``times`` in ns are those of each piece's rows. A block is one row as long as those are not
    more than ``most``, and never reaches from one piece into the next.
    """
    every = math.ceil(sum(map(len, times)) / most)
    starts = np.cumsum([0] + [len(piece) for piece in times])
    first = [np.arange(0, len(piece), every) + start for piece, start in zip(times, starts)]
    return (panels.seconds(np.concatenate(times))[np.concatenate(first)],
            [[len(rows)] for rows in first], np.concatenate(first))


def _quantity(spec: ModelSpec, columns: list[int]) -> str:
    """Return what channels measure: 'acc' for acc_x, acc_y and acc_z."""
    return spec.channels[columns[0]].split('_')[0]


def _range(pieces: list[np.ndarray]) -> list[float]:
    """Return a little more than all finite values cover."""
    values = np.concatenate([piece.ravel() for piece in pieces] or [np.zeros(1)])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    room = 0.05 * (high - low) or 1.0
    return [low - room, high + room]
