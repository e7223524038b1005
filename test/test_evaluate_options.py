"""Options of ``taolora evaluate`` that its kind does not read are refused, not ignored."""

import pytest

from taolora_ros.cli import main


@pytest.mark.parametrize('kind, option, right', [
    ('ecg', ['--minutes', '1'], 'peers, signals, delay'),
    ('imu', ['--delays', '0,1'], 'delay'),
    ('ecg', ['--ablation'], 'comparators'),
    ('anomalies', ['--hours', '1'], 'comparators'),
    ('anomalies', ['--unseen'], 'imu, ecg, peers, noise, signals, delay'),
    ('adaptation', ['--unseen'], 'imu, ecg, peers, noise, signals, delay'),
    ('imu', ['--tune', '0'], 'comparators')])
def test_an_option_that_would_be_ignored_is_refused(capsys, tmp_path, kind, option, right):
    assert main(['evaluate', kind, '--data', str(tmp_path), *option]) == 2
    assert f'{option[0]}: not for evaluate {kind}, only for {right}' in capsys.readouterr().err
