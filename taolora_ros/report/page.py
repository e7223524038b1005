"""One page to look at: signals, gate, scores, events and thresholds of what was replayed.

plotly.js draws; the page holds it and the data, and loads nothing. It keeps more points than can
be drawn at once: page.html draws as many as the view can show and refines when it is zoomed. Only
what is longer than ``PAGE_VALUES`` is reduced here already, so that a page stays below 12 MB.
"""

from __future__ import annotations

import html
import string
from collections.abc import Sequence
from pathlib import Path

from taolora_ros.report.chart import figure
from taolora_ros.replay import Played

OLDEST_PLOTLY = 6      # the first that writes arrays in binary
PAGE_VALUES = 800_000  # of signals, scores and anomalies in a page: 4 MB, as much as plotly.js


def check_plotly() -> None:
    """Raise ValueError telling what to install when there is no plotly of use."""
    try:
        import plotly
    except ImportError as error:
        raise ValueError(f'--report: it takes plotly >= {OLDEST_PLOTLY}, which is not installed: '
                         f'pip install "plotly>={OLDEST_PLOTLY}"') from error
    if int(plotly.__version__.split('.')[0]) < OLDEST_PLOTLY:
        raise ValueError(f'--report: plotly {plotly.__version__} is too old: '
                         f'pip install "plotly>={OLDEST_PLOTLY}"')


def write_report(path: str | Path, title: str, played: Sequence[Played]) -> int:
    """Write the page of all recordings that were ``played`` with a recorder; return its bytes.

    Raise ValueError when there is no plotly, OSError when the file cannot be written.
    """
    check_plotly()
    from plotly.offline import get_plotlyjs
    budget = PAGE_VALUES // max(len(played), 1)
    sections = [_section(number, one, budget) for number, one in enumerate(played)]
    if len(played) > 1:
        sections.insert(0, '<nav>' + ' '.join(
            f'<a href="#part-{number}">{html.escape(one.name)}</a>'
            for number, one in enumerate(played)) + '</nav>')
    template = string.Template(Path(__file__).with_suffix('.html').read_text(encoding='utf-8'))
    page = template.substitute(title=html.escape(title), sections='\n'.join(sections),
                               plotly=get_plotlyjs())
    return Path(path).write_bytes(page.encode('utf-8'))


def _section(number: int, played: Played, budget: int) -> str:
    """Return the HTML of one recording: what was read, in words, and its figure."""
    chart = figure(played, budget)
    # In a script element only '<' could end it or change what it means.
    data = chart.to_json().replace('<', '\\u003c')
    words = '\n'.join([line.strip() for line in played.summary()[1:]] + [_settings(played)])
    return (f'<section id="part-{number}"><h2>{html.escape(played.summary()[0])}</h2>'
            f'<pre>{html.escape(words)}</pre>'
            f'<script type="application/json" id="figure-{number}">{data}</script>'
            f'<div class="plot" id="plot-{number}" data-figure="figure-{number}" '
            f'style="height:{chart.layout.height}px"></div></section>')


def _settings(played: Played) -> str:
    recorder = played.recorder
    given, spec = recorder.settings, recorder.spec
    return (f'model {spec.name}, version {spec.version}; event threshold '
            f'{given.event_threshold:g}, anomaly threshold {given.anomaly_threshold:g}; gate '
            f'{given.gate}: variance {given.variance_threshold:g}, curvature '
            f'{given.curvature_threshold:g}, hf_energy {given.hf_energy_threshold:g} times '
            f'steady; hop {given.hop:g} s, delay {given.delay:g} s')
