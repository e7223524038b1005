"""The page of a replay: what it holds; test_report_browser.py opens it."""

import base64
import io
import json
import re
import sys

import numpy as np
import pytest

plotly = pytest.importorskip('plotly', reason='plotly is not installed')
pytest.importorskip('rosbags', reason='rosbags is not installed')

from rich.console import Console  # noqa: E402

from rule_engine import RuleCandidate  # noqa: E402
from taolora_ros import cli  # noqa: E402
from taolora_ros.recorder import Piece, Recorder  # noqa: E402
from taolora_ros.recordings import save_ecg, save_imu  # noqa: E402
from taolora_ros.replay import Played, Source, replay  # noqa: E402
from taolora_ros.report import write_report  # noqa: E402
from taolora_ros.report.chart import thinned  # noqa: E402
from taolora_ros.report.marks import joined  # noqa: E402
from taolora_ros.spec import ECG_BEATS, IMU_FALLS  # noqa: E402
from taolora_ros.synthetic import ecg_record, imu_recording  # noqa: E402

SECOND = 10**9


def played_from(path):
    return replay(Source(path), lambda kind: RuleCandidate('rules', kind=kind),
                  Console(file=io.StringIO()), record=True)


def figures(page):
    """Return the figures in a page, their binary arrays decoded."""
    def plain(node):
        if isinstance(node, dict) and 'bdata' in node:
            return np.frombuffer(base64.b64decode(node['bdata']), node['dtype'])
        if isinstance(node, dict):
            return {key: plain(value) for key, value in node.items()}
        return [plain(value) for value in node] if isinstance(node, list) else node
    return [plain(json.loads(text)) for text in re.findall(
        r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.S)]


def trace(figure, name):
    return next(t for t in figure['data'] if t.get('name', '').startswith(name))


def long_ecg(hours, events=2300):
    """Return an ECG as if played: noise with one spike of 9 mV, and so many beats."""
    rng, spec = np.random.default_rng(7), ECG_BEATS
    count = round(hours * 3600 * spec.rate)
    values = rng.normal(size=(count, 1)).astype(np.float32)
    values[count // 3] = 9.0
    tokens = count // spec.patch
    recorder = Recorder(spec)
    recorder.pieces.append(Piece(
        SECOND, [values], [(np.arange(tokens) + 0.5) * spec.patch], [rng.random((tokens, 2))],
        [rng.random(tokens) < 0.25], [np.arange(spec.window, count, 32)],
        [rng.random((len(range(spec.window, count, 32)), 1))]))
    rows = [{'label': 'beat', 'phase': 'start', 'severity': 'info', 'score': 0.9, 'id': f'x-{i}',
             'time_s': time, 'start_ns': SECOND, 'stop_ns': SECOND,
             'values': {'veb_score': 0.1, 'rr_s': 0.8, 'heart_rate_bpm': 75.0}}
            for i, time in enumerate(np.linspace(0, hours * 3600, events).tolist())]
    return Played('long', count, SECOND, SECOND + round(hours * 3600 * SECOND), events=rows,
                  recorder=recorder)


@pytest.fixture(scope='module')
def falls(tmp_path_factory):
    """Three recordings replayed, and their page."""
    folder = tmp_path_factory.mktemp('falls')
    save_imu(folder / 'S.npz', [imu_recording('walk', 1), imu_recording('fall', 2),
                                imu_recording('jump', 3)])
    played = played_from(folder / 'S.npz')
    write_report(folder / 'out.html', 'Falls', played)
    return played, folder / 'out.html'


@pytest.fixture(scope='module')
def beats(tmp_path_factory):
    """Three minutes of an ECG replayed, and their page."""
    folder = tmp_path_factory.mktemp('beats')
    save_ecg(folder / 'e.npz', ecg_record(180.0, 3, veb_share=0.2))
    played = played_from(folder / 'e.npz')
    write_report(folder / 'out.html', 'Beats', played)
    return played[0], folder / 'out.html'


def test_page_needs_nothing_from_elsewhere(falls):
    from plotly.offline import get_plotlyjs
    text = falls[1].read_text()
    assert text.count(get_plotlyjs()) == 1
    rest = text.replace(get_plotlyjs(), '')
    assert '://' not in rest and not re.search(r'\b(src|import)\s*=', rest)
    assert re.search(r"Content-Security-Policy.*default-src 'none'", rest)


def test_figure_holds_every_sample_score_and_threshold(falls):
    played, page = falls
    assert len(figures(page)) == 3
    figure, recorder = figures(page)[1], played[1].recorder
    ((start, values),) = recorder.samples()
    for column, channel in enumerate(IMU_FALLS.channels):
        line = trace(figure, channel)
        np.testing.assert_array_equal(line['y'], values[:, column])
        assert line['meta']['pieces'] == [[len(values), (start - SECOND) / SECOND, 0.02]]
    ((times, scores, gate),) = recorder.tokens()
    np.testing.assert_allclose(trace(figure, 'score of fall')['y'], scores[:, 0], atol=1e-6)
    np.testing.assert_allclose(trace(figure, 'score of fall')['x'], (times - SECOND) / SECOND)
    np.testing.assert_array_equal(trace(figure, 'gate')['y'], gate)
    ((ends, anomaly),) = recorder.windows()
    np.testing.assert_allclose(trace(figure, 'anomaly')['y'], anomaly.max(axis=1), atol=1e-6)
    said = [shape.get('label', {}).get('text') for shape in figure['layout']['shapes']]
    assert 'event threshold 0.5' in said and 'anomaly threshold 1' in said


def test_events_have_marks_that_tell_label_score_and_values(falls, beats):
    played, page = falls
    start, end = played[1].events
    mark = trace(figures(page)[1], 'fall (1)')
    np.testing.assert_allclose(mark['x'], [start['time_s']])
    assert f'<b>fall</b> at {start["time_s"]:.3f} s<br>score {start["score"]:.3f}, critical' in (
        mark['text'][0])
    assert f'duration_s {end["values"]["duration_s"]:.4g}' in mark['text'][0]
    assert trace(figures(page)[1], 'annotated')['text'] == ['annotated: fall']
    played, page = beats
    found = [row for row in played.events if row['label'] == 'veb']
    mark = trace(figures(page)[0], f'veb ({len(found)})')
    np.testing.assert_allclose(mark['x'], [row['time_s'] for row in found])
    assert all('heart_rate_bpm' in text for text in mark['text'][2:])


def test_an_event_and_its_end_are_one_row():
    def row(label, phase, time, key=None, **values):
        return {'label': label, 'phase': phase, 'time_s': time, 'start_ns': time, 'stop_ns': time,
                'id': key, 'score': float(time), 'severity': 'info', 'values': values}
    fall, other, anomaly = joined([
        row('fall', 'start', 1, 'a', peak_g=3.0), row('fall', 'start', 2, 'b'),
        row('anomaly', 'start', 3, ecg=3.0), row('fall', 'end', 4, 'a', duration_s=2.0),
        row('anomaly', 'end', 5, ecg=0.1)])
    assert (fall['time_s'], fall['stop_ns']) == (1, 4)
    assert fall['values'] == {'peak_g': 3.0, 'duration_s': 2.0}
    assert other['phase'] == 'start'
    assert (anomaly['time_s'], anomaly['stop_ns'], anomaly['score']) == (3, 5, 3.0)
    assert anomaly['values'] == {'ecg': 3.0}


@pytest.mark.parametrize('hours, limit', [(0.5, 10e6), (24.0, 12e6)])
def test_long_recordings_stay_small_and_keep_their_extremes(hours, limit, tmp_path):
    played = long_ecg(hours)
    size = write_report(tmp_path / 'long.html', 'long', [played])
    assert size == (tmp_path / 'long.html').stat().st_size < limit
    (figure,) = figures(tmp_path / 'long.html')
    line = trace(figure, 'ecg')
    ((count, start, step),) = line['meta']['pieces']
    assert count == len(line['y']) and line['y'].max() == 9.0
    at = start + int(np.argmax(line['y'])) * step
    assert at == pytest.approx(hours * 1200, abs=2 * step)
    if hours < 1:
        assert step == 0.008  # nothing of it is left out
    assert np.mean(trace(figure, 'gate')['y']) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize('width', [1, 2, 7, 1000])
def test_thinned_values_have_the_extremes_of_every_stretch(width):
    rng = np.random.default_rng(width)
    values = rng.normal(size=997)
    values[100:140] = np.nan
    kept, step = thinned(values, width)
    assert step == width and len(kept) == (997 if width == 1 else 2 * -(-997 // (2 * width)))
    assert np.nanmax(kept) == np.nanmax(values) and np.nanmin(kept) == np.nanmin(values)
    for number in range(0, len(kept) - 1, 2):
        stretch = values[number * width:(number + 2) * width]
        if np.isfinite(stretch).any():
            assert np.nanmax(kept[number:number + 2]) == np.nanmax(stretch)
            assert np.nanmin(kept[number:number + 2]) == np.nanmin(stretch)
        else:
            assert np.isnan(kept[number:number + 2]).all()


def test_names_are_text_whatever_is_in_them(falls, tmp_path):
    played = Played('</script><script>alert(1)</script>&', 1, SECOND, 2 * SECOND,
                    recorder=Recorder(IMU_FALLS, reference=((0.5, '</script><b>$sections'),)))
    write_report(tmp_path / 'x.html', '<i>$plotly', [played])
    text = (tmp_path / 'x.html').read_text()
    assert 'alert(1)</script>' not in text and '<i>' not in text and '</script><b>' not in text
    (figure,) = figures(tmp_path / 'x.html')
    assert trace(figure, 'annotated')['text'] == ['annotated: </script><b>$sections']


def test_command_writes_the_page_and_fails_at_once_without_plotly(falls, tmp_path, monkeypatch,
                                                                 capsys):
    source = str(falls[1].with_name('S.npz'))
    monkeypatch.setattr(cli, '_candidate', lambda args, kind: RuleCandidate('rules', kind=kind))
    out, told = tmp_path / 'out.html', tmp_path / 'out.json'
    assert cli.main(['replay', source, '--report', str(out), '--json', str(told)]) == 0
    assert f'report: {out} (' in capsys.readouterr().out and len(figures(out)) == 3
    assert 'recorder' not in json.loads(told.read_text())[0]
    monkeypatch.setattr(plotly, '__version__', '5.24.1')
    assert cli.main(['replay', source, '--report', str(out)]) == cli.BAD_INPUT
    assert 'plotly 5.24.1 is too old: pip install "plotly>=6"' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'plotly', None)
    assert cli.main(['replay', source, '--report', str(out)]) == cli.BAD_INPUT
    read = capsys.readouterr()
    assert 'not installed: pip install "plotly>=6"' in read.err and read.out == ''
    assert cli.main(['replay', source, '--report', str(tmp_path / 'no' / 'x')]) == cli.BAD_INPUT
