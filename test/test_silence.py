"""A stream that stops is told from one that pauses, by its own habits."""

import numpy as np
import pytest

from taolora_ros.silence import BACK, OVER, STOPPED, Silence

SECOND = 10**9


def listen(silence, until, now, heard=(), step=0.02):
    """Look every ``step`` s from ``now`` to ``until`` s; return (time, what it says) when it does.

    ``heard`` are the times (s) of messages.
    """
    heard, said = sorted(heard), []
    while now < until:
        now += step
        count = sum(1 for t in heard if t <= now)
        heard = heard[count:]
        if word := silence.look(round(now * SECOND), count):
            said.append((now, word))
    return said


@pytest.mark.parametrize('rate', [1000.0, 100.0, 7.3])
def test_a_stopped_stream_is_noticed_within_a_second(rate):
    silence = Silence()
    last = 5.0 + np.random.default_rng().uniform()
    said = listen(silence, last + 5, 0.0, np.arange(1.0, last, 1 / rate))
    assert [word for _, word in said] == [STOPPED, OVER]
    assert 0.0 < said[0][0] - last < 1.0 and silence.stopped
    back = listen(silence, last + 6.1, last + 5, [last + 6])
    assert [word for _, word in back] == [BACK] and not silence.stopped
    assert silence.before == pytest.approx(6.0, abs=0.1 + 1 / rate)


def test_a_slow_stream_has_long_breaks_of_its_own():
    said = listen(Silence(), 30.0, 0.0, np.arange(1.0, 30.0, 0.9))
    assert said == []


def test_bursts_and_short_breaks_are_no_silence():
    beats = np.arange(1.0, 20.0, 0.4)
    bursts = (beats[:, None] + np.arange(5) * 0.002).ravel()
    assert listen(Silence(), 20.0, 0.0, bursts) == []


def test_nothing_is_said_of_a_stream_that_never_began():
    silence = Silence()
    assert listen(silence, 60.0, 0.0) == []
    assert silence.lasted == pytest.approx(60.0, abs=0.1)


def test_a_clock_that_stands_still_or_jumps_stops_no_stream():
    silence = Silence()
    listen(silence, 2.0, 0.0, np.arange(0.0, 2.0, 0.01))
    assert [silence.look(2 * SECOND, 0) for _ in range(500)] == [''] * 500
    for now in (1000.0, 1.0, 500.0):  # forward, back as when a bag begins anew
        assert silence.look(round(now * SECOND), 0) in ('', STOPPED)
        silence.look(round(now * SECOND), 1)
    assert silence.look(round(2000.0 * SECOND), 0) == ''
