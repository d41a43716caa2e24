"""Many clients of one server, each with a socket of its own; they count what they are sent, and say how old it is.

`watchers.py HOST PORT COUNT ACCEPT PATH [little-room]`: PATH may hold `{n}`, the client's number; ACCEPT is a media
type, or `websocket`; with little room the kernel holds little for a client that does not read. Says `ready` once all
are answered. Then, for each line `N`, says `counting`, waits until each of the clients has had N more events, and says
`{"ended_s", "cpu_s", "ages_us"}`; for `-N`, as many of them stop reading for good.
"""

import json
import os
import re
import select
import socket
import sys
import time

NEEDLE = b'"at_ns":'
AT_NS = re.compile(rb'"at_ns":(\d+)[,}]')
READ_BYTES = 262_144


def request(number: int) -> bytes:
    lines = [f"GET {path.format(n=number)} HTTP/1.1", f"Host: {host}:{port}"]
    if accept == "websocket":
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    else:
        lines += [f"Accept: {accept}"]
    return "\r\n".join([*lines, "", ""]).encode()


def begins(answer: bytes) -> bool:
    """Whether a client has had the whole head of its answer."""
    head, end, _ = answer.partition(b"\r\n\r\n")
    if end and not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")):
        raise SystemExit(head.decode())
    return bool(end)


host, port, accept, path = sys.argv[1], int(sys.argv[2]), sys.argv[4], sys.argv[5]
little_room = sys.argv[6:] == ["little-room"]
clients: dict[int, socket.socket] = {}
poll = select.epoll()
for number in range(int(sys.argv[3])):
    client = socket.socket()
    if little_room:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, port))
    client.sendall(request(number))
    answer = b""
    while not begins(answer):
        answer += client.recv(READ_BYTES)
    clients[client.fileno()] = client
    client.setblocking(False)
    poll.register(client, select.EPOLLIN)
print("ready", flush=True)

seen = dict.fromkeys(clients, 0)
tails = dict.fromkeys(clients, b"")
goal = 0
for line in iter(sys.stdin.readline, ""):
    wanted = int(line)
    if wanted < 0:
        for file in list(clients)[wanted:]:
            poll.unregister(file)
            del seen[file]
        continue
    goal += wanted
    left = {file for file, count in seen.items() if count < goal}
    started = last = 0.0
    started_cpu_s = time.process_time()
    ages_us: list[float] = []
    print("counting", flush=True)
    while left:
        for file, _ in poll.poll():
            chunk = os.read(file, READ_BYTES)
            now_ns = time.perf_counter_ns()
            if not chunk:
                raise SystemExit("the server has ended a connection")
            text = tails[file] + chunk
            count = text.count(NEEDLE)
            tails[file] = text[-len(NEEDLE) + 1 :]
            if not count:
                continue
            seen[file] += count
            started = started or now_ns / 1e9
            last = now_ns / 1e9
            # Of what came at once the first is the oldest.
            if (first := AT_NS.search(text)) is not None:
                ages_us.append((now_ns - int(first[1])) / 1000)
            if seen[file] >= goal:
                left.discard(file)
    told = {"ended_s": last, "cpu_s": time.process_time() - started_cpu_s, "ages_us": ages_us}
    print(json.dumps(told), flush=True)
