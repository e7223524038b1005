"""Events in rows above the signals: a mark each, and a line for as long as it lasts."""

from __future__ import annotations

import numpy as np

from taolora_ros.recorder import Recorder
from taolora_ros.report.panels import Panels

ROW = 24          # pixels high
SHADED = 40       # alarms that are shaded across all panels; more would hide the signals
MARKS = 20_000    # of one label that are kept
ANNOTATED = 'annotated'
NOTED = '#777777'
SEVERITIES = {'info': '#0072b2', 'warning': '#e69f00', 'critical': '#d55e00'}


def add_marks(panels: Panels, recorder: Recorder, events: list[dict]) -> None:
    """Add a row of marks for each label; what lasts has a line from its start to its stop."""
    rows = joined(events)
    found = {row['label'] for row in rows}
    names = [label for label in (*recorder.spec.labels, 'anomaly')
             if label in recorder.spec.labels or label in found]
    names += [ANNOTATED] if recorder.reference else []
    names = names[::-1]  # from the bottom up
    axis = panels.panel(ROW * len(names), tickvals=list(range(len(names))), ticktext=names,
                        range=[-0.6, len(names) - 0.4], fixedrange=True, showgrid=True)
    for label in names:
        some = sorted((row for row in rows if row['label'] == label),
                      key=lambda row: row['time_s'])
        colour = SEVERITIES[some[0]['severity']] if some else NOTED
        marks = [(row['time_s'], _hover(row)) for row in some]
        if label == ANNOTATED:
            marks = [(time, f'annotated: {text}') for time, text in recorder.reference]
        _add_row(panels, axis, names.index(label), label, marks, colour)
        _add_spans(panels, axis, names.index(label), some, colour)


def _add_row(panels: Panels, axis: str, row: int, label: str, marks: list, colour: str) -> None:
    count = len(marks)
    every = max(-(-count // MARKS), 1)
    marks = marks[::every]
    if not marks:
        return
    kept = f'{count}' if every == 1 else f'{len(marks)} of {count} kept'
    panels.line(np.array([time for time, _ in marks]), np.full(len(marks), row, np.uint8),
                [[len(marks)]], axis, mode='markers', name=f'{label} ({kept})', reduce='first',
                text=[text for _, text in marks], hovertemplate='%{text}<extra></extra>',
                marker={'symbol': 'line-ns' if label == ANNOTATED else 'diamond', 'size': 9,
                        'color': colour, 'line': {'width': 1.5, 'color': colour}})


def _add_spans(panels: Panels, axis: str, row: int, rows: list[dict], colour: str) -> None:
    """Draw how long events lasted, and shade alarms across all panels when they are few."""
    spans = [(panels.seconds(event['start_ns']), panels.seconds(event['stop_ns']))
             for event in rows if event['phase'] == 'end']
    if not spans:
        return
    x = [time for span in spans for time in (*map(float, span), None)]
    panels.traces.append({'type': 'scatter', 'mode': 'lines', 'x': x, 'yaxis': axis,
                          'y': [row, row, None] * len(spans), 'hoverinfo': 'skip',
                          'showlegend': False, 'opacity': 0.4,
                          'line': {'width': 8, 'color': colour}})
    if colour == SEVERITIES['critical'] and len(spans) <= SHADED:
        panels.shapes += [{'type': 'rect', 'xref': 'x', 'yref': 'paper', 'x0': float(x0),
                           'x1': float(x1), 'y0': 0, 'y1': 1, 'layer': 'below',
                           'fillcolor': colour, 'opacity': 0.08, 'line': {'width': 0}}
                          for x0, x1 in spans]


def joined(events: list[dict]) -> list[dict]:
    """Return one row for each event and anomaly: its start, with what its end added."""
    rows: dict = {}
    anomaly = None
    for number, row in enumerate(events):
        if row['label'] != 'anomaly':
            key = row['id']
        elif row['phase'] == 'start':
            key = anomaly = number
        else:  # the scores of its end say that it is over
            key, row = anomaly, {**row, 'values': {}, 'score': rows[anomaly]['score']}
        first = rows.get(key, row)
        rows[key] = {**row, 'time_s': first['time_s'], 'start_ns': first['start_ns'],
                     'values': {**first['values'], **row['values']}}
    return list(rows.values())


def _hover(row: dict) -> str:
    values = ''.join(f'<br>{name} {value:.4g}' for name, value in row['values'].items())
    return (f'<b>{row["label"]}</b> at {row["time_s"]:.3f} s<br>score {row["score"]:.3f}, '
            f'{row["severity"]}{values}')
