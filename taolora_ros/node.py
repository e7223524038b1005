"""The process of the node ``taolora``: start, run, end; what it does is in taolora_node.py.

Only what handles signals is imported at the top, because importing the rest takes seconds in which
the node may already be told to end.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Run the node and end the process: with 0 after a signal, with 1 when it cannot start.

    The interpreter is not taken down: on a busy machine that now and then ends in a segmentation
    fault, where torch takes its operators off (torch.library, seen with 2.13).
    """
    status = run()
    gc.collect()  # what is left of the node: so that others learn at once that it is gone
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def run(args: list[str] | None = None) -> int:
    """Run the node until a signal ends it: 0; return 1, after one line, when it cannot start."""
    before = [signal.signal(number, lambda *_: os._exit(0)) for number in SIGNALS]
    import rclpy

    from taolora_ros.taolora_node import TaoloraNode
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they wait until ROS takes care of them
    for number, handler in zip(SIGNALS, before):
        signal.signal(number, handler)
    try:
        return _run(rclpy, TaoloraNode, args)
    except KeyboardInterrupt:  # just before or after ROS does
        return 0


def _run(rclpy, node_class, args: list[str] | None) -> int:
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    from taolora_ros.ros_log import RosLog
    node = None
    try:
        rclpy.init(args=args)
    except Exception as error:
        return _failed(error)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        node = node_class()
        logging.getLogger('taolora_ros').addHandler(RosLog(node.get_logger()))
        if node.autostart:
            node.bring_up()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while rclpy.ok():
            try:
                executor.spin_once()
            except Exception as error:  # one request that fails must not end the node
                if isinstance(error, ExternalShutdownException) or not rclpy.ok():
                    break
                node.get_logger().error(f'a request failed: {type(error).__name__}: {error}')
    except KeyboardInterrupt:
        pass
    except Exception as error:
        if rclpy.ok():  # otherwise it was told to end while it started
            return _failed(error)
    finally:
        _end(rclpy, node)
    return 0


def _end(rclpy, node) -> None:
    """Stop the node, if there is one, and take ROS down."""
    for number in SIGNALS:  # launch repeats them: let this finish
        signal.signal(number, signal.SIG_IGN)
    if node is not None:
        node.stop()
        node.destroy_node()
    try:
        rclpy.try_shutdown()
    except RuntimeError:  # the signal has shut it down since it was looked at
        pass


def _failed(error: Exception) -> int:
    """Say in one line why the node does not run."""
    print(f'taolora: {" ".join(str(error).split())}', file=sys.stderr)
    return 1


if __name__ == '__main__':
    main()
