"""Clients of one server, each on a connection that stays open; they post the same body again and again.

`posts.py HOST PORT PATH CONNECTIONS REQUESTS EVENTS`: REQUESTS in all, each with EVENTS events; one is posted as it is,
several as a list. Waits for a line after each connection was used once; prints `{"took_s", "waits_s"}`.
"""

import json
import select
import socket
import sys
import time

host, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
connections, requests, events = map(int, sys.argv[4:7])

event = {"type": "door.opened", "payload": {"room": "server-12", "by": "me", "at": 1_700_000_000_000}}
body = json.dumps(event if events == 1 else [event] * events).encode()
head = (
    f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(body)}\r\n\r\n"
)
request = head.encode() + body


def is_whole(answer: bytes) -> bool:
    head, end, rest = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    if not head.startswith(b"HTTP/1.1 201"):
        raise SystemExit(answer.decode())
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return len(rest) >= int(length)


clients: dict[int, socket.socket] = {}
poll = select.epoll()
for _ in range(connections):
    client = socket.create_connection((host, port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(request)
    answer = b""
    while not is_whole(answer):
        answer += client.recv(65_536)
    clients[client.fileno()] = client
    poll.register(client, select.EPOLLIN)
print("ready", flush=True)
sys.stdin.readline()

begun: dict[int, float] = {}
answers = dict.fromkeys(clients, b"")
waits_s: list[float] = []
sent = 0
started = time.perf_counter()


def post(file: int) -> None:
    global sent
    if sent < requests:
        sent += 1
        begun[file] = time.perf_counter()
        clients[file].sendall(request)


for file in clients:
    post(file)
while len(waits_s) < requests:
    for file, _ in poll.poll():
        answers[file] += clients[file].recv(65_536)
        if is_whole(answers[file]):
            answers[file] = b""
            waits_s.append(time.perf_counter() - begun[file])
            post(file)
print(json.dumps({"took_s": time.perf_counter() - started, "waits_s": waits_s}), flush=True)
