"""Asks a running node for a parameter again and again, and how long each answer took.

    python -m taolora_ros.bench.caller NODE RATE

says 'calling' once the service is there, and on SIGINT prints one line of JSON: a list of (system
time in ns when it asked, ms until it had the answer).
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time

from taolora_ros.bench.processes import PATIENCE


def main(name: str, rate: float) -> int:
    """Call ``rate`` times a second, one after the other, until SIGINT."""
    import rclpy
    from rcl_interfaces.srv import GetParameters
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions
    stop, calls = threading.Event(), []
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('bench_caller')
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    client = node.create_client(GetParameters, f'{name}/get_parameters')
    if not client.wait_for_service(PATIENCE):
        raise RuntimeError(f'{name} has no parameter services')
    print('calling', flush=True)
    while not stop.is_set():
        asked, began = time.time_ns(), time.monotonic()
        future = client.call_async(GetParameters.Request(names=['device']))
        executor.spin_until_future_complete(future, PATIENCE)
        if not future.done():
            raise RuntimeError(f'{name} does not answer')
        took = time.monotonic() - began
        calls.append((asked, round(1e3 * took, 3)))
        stop.wait(max(0.0, 1.0 / rate - took))
    print(json.dumps(calls), flush=True)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
