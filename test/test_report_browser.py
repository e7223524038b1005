"""The page of a replay in a browser: it is drawn, zooms and tells values."""

import shutil
import time

import numpy as np
import pytest

from test_report import SECOND, beats, falls, long_ecg  # noqa: F401  fixtures among them
from taolora_ros.recorder import Piece, Recorder
from taolora_ros.replay import Played
from taolora_ros.report import write_report
from taolora_ros.spec import IMU_FALLS


@pytest.fixture(scope='module')
def browser():
    """Give a headless Chromium; skip where it, its driver or selenium is missing."""
    webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed')
    from selenium.webdriver.chrome.service import Service
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    driver = shutil.which('chromedriver')
    if not (chromium and driver):
        pytest.skip('no chromium or chromedriver (Debian: chromium, chromium-driver)')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ('--headless=new', '--no-sandbox', '--disable-gpu', '--window-size=1300,900',
                     '--disable-dev-shm-usage'):
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


def until(condition, timeout=60.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, 'timed out'
        time.sleep(0.1)


def drawn(browser, number):
    return browser.execute_script(
        f'return document.getElementById("plot-{number}").dataset.drawn') == 'yes'


def opened(browser, page):
    """Open a page; return when its first figure is drawn and nothing was complained about."""
    browser.get(page.as_uri())
    until(lambda: drawn(browser, 0))
    assert browser.get_log('browser') == []
    assert browser.execute_script('return performance.getEntriesByType("resource").length') == 0
    return browser.find_element('id', 'plot-0')


def shown(browser, name, number=0):
    """Return x and y of what is drawn of a line."""
    x, y = browser.execute_script(
        f'const t = document.getElementById("plot-{number}").data.find('
        f't => (t.name || "").startsWith("{name}")); return [Array.from(t.x), Array.from(t.y)]')
    return np.array(x, float), np.array(y, float)


def view(browser):
    return browser.execute_script('return document.getElementById("plot-0").layout.xaxis.range')


def panel(browser, number, share):
    """Return where to point to: a share of the width of a panel, at its middle, in the plot."""
    return browser.execute_script(
        'const l = document.getElementById("plot-0")._fullLayout;'
        'const y = l["yaxis" + 2 * arguments[0]];'
        'return [l._size.l + arguments[1] * l._size.w, y._offset + y._length / 2]', number, share)


def pointer(browser, element):
    """Return a function that gives actions moving the mouse to a point of ``element``."""
    from selenium.webdriver import ActionChains
    size = element.size

    def to(point):
        return ActionChains(browser).move_to_element_with_offset(
            element, point[0] - size['width'] / 2, point[1] - size['height'] / 2)
    return to


def test_browser_draws_few_points_with_all_extremes(browser, beats):  # noqa: F811
    played, page = beats
    opened(browser, page)
    ((_, values),) = played.recorder.samples()
    x, y = shown(browser, 'ecg')
    assert len(x) < 2600 < len(values) and (np.diff(x) >= 0).all()
    assert np.nanmax(y) == values.max() and np.nanmin(y) == values.min()
    axes = browser.execute_script('return document.getElementById("plot-0").data.map(t => t.xaxis)')
    assert set(axes) <= {None, 'x'}  # one axis of time for all panels
    texts = {node.text for node in browser.find_elements('css selector', '#plot-0 text')}
    assert {'event threshold 0.5', 'anomaly threshold 1', 'ecg [mV]', 'score', 'anomaly',
            'seconds since the first sample'} <= texts
    assert len(browser.find_elements('css selector', '#plot-0 .scatterlayer .point')) > 150
    assert len(browser.find_elements('css selector', '#plot-0 .fills path')) >= 1  # the gate


def test_dragging_zooms_to_every_sample_and_double_click_ends_it(browser, beats):  # noqa: F811
    played, page = beats
    element = opened(browser, page)
    whole = view(browser)
    to = pointer(browser, element)
    to(panel(browser, 2, 0.5)).click_and_hold().perform()
    to(panel(browser, 2, 0.54)).release().perform()
    until(lambda: view(browser) != whole)
    low, high = map(float, view(browser))
    assert 0.49 < low / 180 < 0.51 and 0.53 < high / 180 < 0.55
    ((_, values),) = played.recorder.samples()
    until(lambda: np.diff(shown(browser, 'ecg')[0]).max() < 0.0081)
    x, y = shown(browser, 'ecg')
    inside = (x >= low) & (x <= high) & np.isfinite(y)
    times = (np.arange(len(values)) + 0.5) * 0.008
    np.testing.assert_allclose(y[inside], values[(times >= low) & (times <= high), 0])
    x, y = shown(browser, 'gate open')
    assert set(np.unique(y[np.isfinite(y)])) <= {0.0, 1.0}
    to(panel(browser, 2, 0.5)).double_click().perform()
    until(lambda: view(browser) == whole)
    assert len(shown(browser, 'ecg')[0]) > 1000


def test_hovering_tells_time_values_and_event(browser, beats):  # noqa: F811
    played, page = beats
    element = opened(browser, page)
    event = next(row for row in played.events if row['label'] == 'veb' and row['time_s'] > 20)
    browser.execute_script(
        'return Plotly.relayout("plot-0", {"xaxis.range": [arguments[0] - 4, arguments[0] + 4]})',
        event['time_s'])
    until(lambda: np.diff(shown(browser, 'ecg')[0]).max() < 0.0081)
    pointer(browser, element)(panel(browser, 2, 0.5)).perform()
    until(lambda: browser.find_elements('css selector', '#plot-0 .hoverlayer text'))
    told = ' '.join(node.text for node in browser.find_elements(
        'css selector', '#plot-0 .hoverlayer text'))
    assert f'score {event["score"]:.3f}' in told.replace('\n', ' ')
    for part in ('veb', f'{event["time_s"]:.2f}'[:-1], 'heart_rate_bpm', 'ecg :', 'gate open :',
                 'score of veb :', 'anomaly :', 'annotated: V'):
        assert part in told, told


def test_of_many_recordings_those_in_view_are_drawn(browser, falls):  # noqa: F811
    _, page = falls
    opened(browser, page)
    assert not drawn(browser, 2)
    browser.find_element('css selector', 'nav a[href="#part-2"]').click()
    until(lambda: drawn(browser, 2))
    assert len(shown(browser, 'gyro_x', 2)[0]) > 100


def test_breaks_are_left_open(browser, tmp_path):
    recorder = Recorder(IMU_FALLS)
    for start in (1, 21):
        recorder.pieces.append(Piece(start * SECOND, [np.ones((500, 6), np.float32)]))
    recorder.pieces[0].values[0][200:230] = np.nan
    write_report(tmp_path / 'gap.html', 'gap', [Played('gap', 1000, SECOND, 31 * SECOND,
                                                       recorder=recorder)])
    opened(browser, tmp_path / 'gap.html')
    x, y = shown(browser, 'acc_x')
    assert np.isfinite(y).sum() == 970
    open_at = x[~np.isfinite(y)]
    assert ((open_at > 4) & (open_at < 4.7)).sum() == 30 and (np.abs(open_at - 10) < 0.1).any()
    lines = browser.find_elements('css selector', '#plot-0 .xy4 .js-line')
    assert len(lines) == 3 * 3  # three stretches of three channels


def test_half_an_hour_opens_and_a_day_too(browser, tmp_path):
    for hours in (0.5, 24.0):
        write_report(tmp_path / 'long.html', 'long', [long_ecg(hours, 100_000)])
        opened(browser, tmp_path / 'long.html')  # about 3 s on a machine that does nothing else
        x, y = shown(browser, 'ecg')
        assert len(x) < 2600 and np.nanmax(y) == 9.0
        assert len(shown(browser, 'beat')[0]) <= 800
