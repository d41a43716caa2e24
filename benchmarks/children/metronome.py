"""A source that, once initialized, writes COUNT events at RATE a second, each with the moment of its writing.

`metronome.py RATE COUNT [ROOMS]`: they are about so many rooms in turn, one if nothing is said.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    rate, count = float(sys.argv[1]), int(sys.argv[2])
    rooms = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    request = json.loads(sys.stdin.buffer.readline())
    result = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "serverInfo": {"name": "metronome", "version": "1"},
    }
    os.write(1, json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode() + b"\n")
    sys.stdin.buffer.readline()  # initialized
    start = time.perf_counter() + 0.2
    for number in range(count):
        time.sleep(max(0.0, start + number / rate - time.perf_counter()))
        event = {
            "id": str(number),
            "type": "metronome.tick",
            "timestamp": 1_790_000_000_000,
            "metadata": {"source": "metronome"},
            "payload": {"at_ns": time.perf_counter_ns(), "room": f"server-{number % rooms + 1}"},
        }
        notification = {"jsonrpc": "2.0", "method": "notifications/eventsource/emitted", "params": {"data": event}}
        os.write(1, json.dumps(notification).encode() + b"\n")
    sys.stdin.buffer.read()


main()
