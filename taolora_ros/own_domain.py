"""A ROS domain of one's own, for what plays recordings to a node on this machine."""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_domain() -> Iterator[None]:
    """Keep to this machine and, unless one is chosen, to a ROS domain nobody else uses.

    The locks are those of the test sessions: neither hears what the other plays. Raise OSError when
    all domains are taken.
    """
    if os.environ.get('ROS_DISTRO') == 'humble':
        os.environ.setdefault('ROS_LOCALHOST_ONLY', '1')
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    if 'ROS_DOMAIN_ID' in os.environ:
        yield
        return
    # Ports of the domains 1 to 101 lie below those that Linux hands out to anybody.
    for domain in random.SystemRandom().sample(range(1, 102), 101):
        name = f'taolora_ros_domain_{domain}_{os.getuid()}.lock'
        with (Path(tempfile.gettempdir()) / name).open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            os.environ['ROS_DOMAIN_ID'] = str(domain)
            try:
                yield
            finally:
                del os.environ['ROS_DOMAIN_ID']
            return
    raise OSError('ROS domains 1 to 101 are all in use here: choose one by ROS_DOMAIN_ID')
