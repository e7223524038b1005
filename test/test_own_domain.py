"""A ROS domain of one's own, where others have taken some or all."""

import fcntl
import os
import tempfile

import pytest

from taolora_ros.own_domain import own_domain


def taken(folder, domains):
    """Return open files whose locks say that ``domains`` are in use."""
    files = [(folder / f'taolora_ros_domain_{n}_{os.getuid()}.lock').open('w') for n in domains]
    for file in files:
        fcntl.flock(file, fcntl.LOCK_EX)
    return files


def test_the_one_that_is_left_is_taken_and_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    monkeypatch.delenv('ROS_DOMAIN_ID', raising=False)
    files = taken(tmp_path, [n for n in range(1, 102) if n != 37])
    with own_domain():
        assert os.environ['ROS_DOMAIN_ID'] == '37'
        with pytest.raises(BlockingIOError):
            fcntl.flock((tmp_path / f'taolora_ros_domain_37_{os.getuid()}.lock').open('w'),
                        fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert 'ROS_DOMAIN_ID' not in os.environ
    files += taken(tmp_path, [37])
    with pytest.raises(OSError, match='choose one by ROS_DOMAIN_ID'), own_domain():
        pass
