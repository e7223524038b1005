"""Asks a running node for a parameter again and again, and how long each answer took.

    python -m taolora_ros.bench.caller NODE RATE

says 'calling' once the service is there, and on SIGINT prints one line of JSON: a list of (system
time in ns when it asked, ms until it had the answer). It looks for answers itself: waiting for them
in an rclpy executor of its own would add that executor's milliseconds.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time

from taolora_ros.bench.processes import PATIENCE

LOOK = 2e-4  # s between two looks for an answer


def main(name: str, rate: float) -> int:
    """Call ``rate`` times a second, one after the other, until SIGINT."""
    import rclpy
    from rcl_interfaces.srv import GetParameters
    from rclpy.signals import SignalHandlerOptions
    stop, calls = threading.Event(), []
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('bench_caller')
    client = node.create_client(GetParameters, f'{name}/get_parameters')
    if not client.wait_for_service(PATIENCE):
        raise RuntimeError(f'{name} has no parameter services')
    print('calling', flush=True)
    while not stop.is_set():
        asked, began = time.time_ns(), time.monotonic()
        with client.handle:
            client.handle.send_request(GetParameters.Request(names=['device']))
            while client.handle.take_response(GetParameters.Response)[1] is None:
                if time.monotonic() > began + PATIENCE:
                    raise RuntimeError(f'{name} does not answer')
                time.sleep(LOOK)
        took = time.monotonic() - began
        calls.append((asked, round(1e3 * took, 3)))
        stop.wait(max(0.0, 1.0 / rate - took))
    print(json.dumps(calls), flush=True)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
