"""Panels below each other over one axis of time, and the lines in them.

Lines hold every sample; their ``meta`` tells page.html how to draw them as few: ``pieces`` are
[samples, seconds of the first, step] of what lies between breaks, or [samples] when x is given;
``reduce`` is 'extremes', 'mean' or 'first'.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

import numpy as np

from taolora_ros.samples import NANOSECONDS

SPACE, TOP, BOTTOM = 22, 40, 50  # pixels between panels, for the legend and for the axis of time
REAL_TIME = 10**17               # ns: stamps above it (1973) tell the date, others do not
LIMIT = '#d55e00'


@dataclass
class Panels:
    """A figure in the making: panels from top to bottom, traces and shapes; times in ns."""

    first_ns: int  # zero of the axis of time
    heights: list[int] = field(default_factory=list)
    axes: list[dict] = field(default_factory=list)
    traces: list = field(default_factory=list)
    shapes: list[dict] = field(default_factory=list)

    def seconds(self, ns):
        """Return times in seconds since the first sample."""
        return (np.asarray(ns) - self.first_ns) / NANOSECONDS

    def panel(self, height: int, **axis) -> str:
        """Add a panel below the others; return the name of its y axis for traces."""
        self.heights.append(height)
        self.axes.append(axis)
        return f'y{2 * len(self.axes)}'  # odd axes belong to the gate

    def line(self, x, y, pieces: list, axis: str, **more) -> None:
        """Add a line whose x is given, or None when ``pieces`` tell it."""
        reduce = more.pop('reduce', 'extremes')
        more.setdefault('hovertemplate', '%{y:.3g}')
        self.traces.append({
            'type': 'scatter', 'mode': 'lines', 'x': x, 'y': y, 'yaxis': axis,
            'meta': {'pieces': pieces, 'reduce': reduce, **more.pop('meta', {})}, **more})

    def limit(self, axis: str, value: float, name: str) -> None:
        """Draw a threshold across a panel, with its name."""
        self.shapes.append({
            'type': 'line', 'xref': 'paper', 'x0': 0, 'x1': 1, 'yref': axis, 'y0': value,
            'y1': value, 'line': {'color': LIMIT, 'width': 1, 'dash': 'dash'},
            'label': {'text': f'{name} {value:g}', 'textposition': 'end', 'yanchor': 'bottom',
                      'font': {'size': 10, 'color': LIMIT}}})

    def figure(self, start_ns: float, stop_ns: float):
        """Return the plotly Figure, showing the time from ``start_ns`` to ``stop_ns``."""
        import plotly.graph_objects as go
        inner = sum(self.heights) + SPACE * (len(self.heights) - 1)
        layout, top = {}, inner
        for number, (height, axis) in enumerate(zip(self.heights, self.axes), start=1):
            domain = [max((top - height) / inner, 0.0), top / inner]
            top -= height + SPACE
            gate = f'yaxis{2 * number - 1}'
            if any(trace['yaxis'] == f'y{2 * number - 1}' for trace in self.traces):
                layout[gate] = {'domain': domain, 'range': [0, 1], 'visible': False,
                                'fixedrange': True}
                axis = {**axis, 'overlaying': f'y{2 * number - 1}'}
            layout[f'yaxis{2 * number}'] = {
                'domain': domain, 'showline': True, 'linecolor': '#bbb', 'gridcolor': '#eee',
                'zeroline': False, **axis}
        layout['xaxis'] = {
            'anchor': f'y{2 * len(self.axes)}', 'title': _axis_of_time(self.first_ns),
            'range': self.seconds([start_ns, max(stop_ns, start_ns + 1)]).tolist(),
            'gridcolor': '#eee', 'zeroline': False,
            'unifiedhovertitle': {'text': '%{x:.3f} s'}}
        return go.Figure(data=self.traces, layout={
            **layout, 'template': 'none', 'height': inner + TOP + BOTTOM, 'shapes': self.shapes,
            'margin': {'l': 80, 'r': 20, 't': TOP, 'b': BOTTOM}, 'hovermode': 'x unified',
            'hoversubplots': 'axis', 'font': {'size': 12}, 'plot_bgcolor': 'rgba(0, 0, 0, 0)',
            'hoverlabel': {'font': {'size': 11}, 'bgcolor': 'rgba(255, 255, 255, 0.85)'},
            'legend': {'orientation': 'h', 'x': 0, 'y': 1, 'yanchor': 'bottom'}})


def _axis_of_time(first_ns: int) -> dict:
    since = 'the first sample'
    if first_ns > REAL_TIME:
        date = datetime.datetime.fromtimestamp(first_ns / NANOSECONDS, datetime.timezone.utc)
        since += f' ({date:%Y-%m-%d %H:%M:%S} UTC)'
    return {'text': f'seconds since {since}'}


def gate_axis(signal: str) -> str:
    """Return the y axis behind that of a panel: 0 to 1, without ticks."""
    return f'y{int(signal[1:]) - 1}'
