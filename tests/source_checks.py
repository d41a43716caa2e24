"""Sources for the tests of `source test`: one that does all that it should, and can be told which mistake to make."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from eventhost.cli.source_test import find
from eventhost.cli.source_test.check import Check
from eventhost.cli.source_test.conformance import CHECKS, Conformance
from eventhost.cli.source_test.subject import Subject, guarded
from eventhost.connections import Guardian

FLAWED = r'''
import json, os, pathlib, subprocess, sys, threading, time

FLAW = json.loads(os.environ["MCP_SERVER_CONFIG"]).get("flaw", "")
STATE = pathlib.Path(os.environ["EVENTHOST_STATE_DIR"], "running")


def write(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(**message):
    write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def emit(**event):
    event = {"id": "1", "type": "flawed.happened", "timestamp": int(time.time() * 1000), "payload": {}, **event}
    say(method="notifications/eventsource/emitted", params={"data": {k: v for k, v in event.items() if v is not None}})


def initialize(params):
    if FLAW == "silent":
        return None
    result = {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {}, "resources": {}, "experimental": {"eventhost/ack": {}}},
        "serverInfo": {"name": "flawed", "version": "1"},
    }
    if FLAW == "odd handshake":
        result = {"protocolVersion": "1", "capabilities": {"tools": True}, "serverInfo": {"name": "flawed"}}
    if FLAW.startswith("pending"):
        del result["capabilities"]["experimental"]
    return result


def ping(params):
    if FLAW == "ends after an event":
        emit()
    if FLAW == "tears":
        return {"text": "x" * 5000}
    return [] if FLAW == "odd pong" else {}


def list_tools(params):
    if FLAW == "dies of tools":
        sys.exit("no such luck:\nthe tools are gone")
    if FLAW == "blocks":
        print("deep in thought", file=sys.stderr, flush=True)
        time.sleep(300)
    tools = [{"name": "list_pending_events", "inputSchema": {"type": "object"}}]
    if FLAW == "same name":
        tools += tools
    if FLAW == "odd name":
        tools[0]["name"] = "list pending events"
    if FLAW == "no schema":
        del tools[0]["inputSchema"]
    return {"tools": tools}


def call(params):
    if FLAW == "blocks":
        time.sleep(300)
    text = {"pending is no JSON": "[", "pending is a number": "7"}.get(FLAW, "[]")
    if FLAW == "pending":
        text = json.dumps([{"type": "flawed.gathered", "id": str(time.time())}])
    return {"content": [{"type": "text", "text": text}]}


def list_resources(params):
    return {"resources": [{"uri": "flawed://status", "name": "status", "mimeType": "application/json"}]}


def read_resource(params):
    if FLAW == "unreadable":
        return {"contents": None}
    return {"contents": [{"uri": params["uri"], "text": "up" if FLAW == "no JSON in it" else "{}"}]}


def initialized(params):
    if FLAW == "wrong type":
        emit(type="other.happened")
    elif FLAW == "no type":
        emit(type=None)
    elif FLAW == "in seconds":
        emit(timestamp=int(time.time()))
    elif FLAW == "same id":
        emit()
        emit(payload={"other": 1})
    elif FLAW == "no id":
        emit(id=None)
    elif FLAW == "ends by itself":
        threading.Timer(1, os._exit, (3,)).start()
    elif FLAW == "blocks at once":
        emit()
        time.sleep(300)
    elif FLAW == "falls":
        emit(type="other.happened")
        sys.exit("it was refused:\nI give up")
    elif FLAW == "says the same":
        print("as I said", file=sys.stderr, flush=True)
        emit(timestamp=None)
    elif FLAW == "says another":
        emit(timestamp=None, payload={"process": os.getpid()})
    elif FLAW == "prints":
        write(b"Ready!\n")
    elif not FLAW.startswith(("pending", "ends")):
        emit()


def accepted(params):
    if FLAW == "ends after an event":
        sys.exit(3)
    if FLAW == "again" and "1" in params["ids"]:
        emit()
    if FLAW == "dies of ids" and "1" not in params["ids"]:
        raise KeyError(params["ids"])


methods = {
    "initialize": initialize,
    "ping": ping,
    "tools/list": list_tools,
    "tools/call": call,
    "resources/list": list_resources,
    "resources/read": read_resource,
}
notifications = {"notifications/initialized": initialized, "notifications/eventsource/accepted": accepted}


def take(line):
    try:
        message = json.loads(line)
    except ValueError:
        if FLAW == "dies of garbage":
            raise
        return
    if FLAW == "dies of arrays" and isinstance(message, list):
        sys.exit(4)
    if not isinstance(message, dict) or "method" not in message:
        return
    method, params = message["method"], message.get("params", {})
    if "id" not in message:
        if method in notifications:
            notifications[method](params)
        elif FLAW == "answers notifications":
            say(id=None, error={"code": -32601, "message": method})
    elif method in methods:
        result = methods[method](params)
        if result is not None:
            say(id=message["id"], result=result)
            if FLAW == "answers twice" and method == "resources/list":
                say(id=message["id"], result=result)
    elif FLAW == "leaves questions alone":
        pass
    elif FLAW == "knows everything":
        say(id=message["id"], result={})
    else:
        say(id=message["id"], error={"code": -32601, "message": method})


def write_what_fits(data):
    """What is written while the pipe is full is lost; of what does not fit in whole, the end is."""
    try:
        os.write(1, data)
    except BlockingIOError:
        pass


if FLAW in ("drops", "tears"):
    os.set_blocking(1, False)
    write = write_what_fits
if FLAW == "does not start again":
    if STATE.exists():
        sys.exit("it seems to be running already")
    STATE.write_text("")
if FLAW == "leaves a process":
    subprocess.Popen(["sleep", "300"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
lines = 0
for line in sys.stdin.buffer:
    lines += 1
    if not line.endswith(b"\n"):
        if FLAW == "dies inside a line":
            json.loads(line)
        break
    if len(line) > 100_000 and FLAW == "dies of size":
        sys.exit(5)
    take(line)
if FLAW == "needs initialize" and not lines:
    sys.exit("nobody was there")
if FLAW == "lives on":
    time.sleep(300)
if FLAW == "half a line":
    write(b'{"jsonrpc":')
STATE.unlink(missing_ok=True)
sys.exit(3 if FLAW == "odd status" else 0)
'''


def environment(root: Path, name: str, files: dict[str, str], **config: Any) -> Path:
    """An environment with one source, of these files; returns its folder."""
    folder = root / "eventsources" / name
    for path, text in {"config.jsonc": json.dumps({"name": name, **config}), **files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (root / "config.jsonc").write_text("{}")
    return folder


async def tried(
    root: Path, name: str, only: Collection[str] = CHECKS, *, seconds: float = 5.0, count: int = 1
) -> dict[str, Check]:
    """What the checks of a source's process say, by their names."""
    found = find(root, name)
    assert found.source is not None, found.problems
    checks: dict[str, Check] = {}
    scratch = root / "scratch"
    guardian = Guardian(scratch / "guardian.lock")
    subject = Subject.of(found.source, root, guardian, scratch)

    def tell(check: Check) -> None:
        assert check.name not in checks
        checks[check.name] = check

    async with guarded(guardian), Conformance(subject, tell, seconds=seconds, count=count) as conformance:
        await conformance.run(only)
    return checks
