"""A source that, once initialized, writes COUNT events, encoded beforehand, as fast as its pipe takes them.

`flood.py COUNT [ROOMS]`: they are about so many rooms in turn, one if nothing is said.
"""

from __future__ import annotations

import json
import os
import sys

LINE = (
    b'{"jsonrpc":"2.0","method":"notifications/eventsource/emitted","params":{"level":"info","data":{"id":"%d",'
    b'"type":"sensor.reading","timestamp":1790000000000,"metadata":{"source":"flood"},'
    b'"payload":{"count":%d,"room":"server-%d","temperature":31.5,"unit":"C","tags":["raised-floor","north"]}}}}\n'
)


def write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view[:262_144]) :]


def main() -> None:
    count, rooms = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    lines = b"".join(LINE % (number, number, number % rooms + 1) for number in range(count))
    request = json.loads(sys.stdin.buffer.readline())
    result = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "serverInfo": {"name": "flood", "version": "1"},
    }
    write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode() + b"\n")
    sys.stdin.buffer.readline()  # initialized
    write(lines)
    sys.stdin.buffer.read()


main()
