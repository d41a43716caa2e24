"""An MCP server whose one tool answers what a test writes into a file; it misbehaves as other files say.

`python listing.py FOLDER` speaks over stdio, on the standard library alone so that it starts at once;
`python listing.py FOLDER PORT` over Streamable HTTP, on the SDK.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

TOKEN = "tulip-in-a-header"
"""What a client must bring over HTTP where there is a file `guarded`."""


class Listing:
    """What the test sees and sets; the files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.answer([])

    @property
    def command(self) -> list[str]:
        return [sys.executable, __file__, str(self.folder)]

    def answer(self, items: Any) -> None:
        """Answer `items`."""
        self.answer_result({"structuredContent": {"items": items}, "content": []})

    def answer_result(self, result: dict[str, Any]) -> None:
        """Answer this result, whole."""
        draft = self.folder / "draft"
        draft.write_text(json.dumps(result))
        draft.replace(self.folder / "answer.json")

    def set(self, **files: Any) -> None:
        """Write files that say how to behave; None takes one away."""
        for name, value in files.items():
            if value is None:
                (self.folder / name).unlink(missing_ok=True)
            else:
                (self.folder / name).write_text(json.dumps(value))

    def said(self, name: str) -> list[Any]:
        """What the server has noted under this name so far."""
        file = self.folder / f"{name}.log"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def calls(self) -> int:
        return len(self.said("called"))


class Behaviour:
    """The server's side of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> Any:
        """What the test has written under this name, or None."""
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return None

    def note(self, name: str, value: Any) -> None:
        """Have the test know."""
        with (self.folder / f"{name}.log").open("a") as file:
            file.write(json.dumps(value) + "\n")

    def tools(self) -> list[dict[str, Any]]:
        """The tools there are."""
        return [{"name": name, "inputSchema": {"type": "object"}} for name in self.has("tools") or ["list"]]

    def call(self, arguments: Any) -> Any:
        """Answer a call, or not."""
        self.note("called", arguments)
        if (word := self.has("dies")) is not None:
            print(word, file=sys.stderr, flush=True)
            os._exit(3)
        time.sleep(self.has("slow") or 0)
        answer = self.has("answer.json")
        self.note("answered", arguments)
        return answer


def serve_lines(behaviour: Behaviour) -> None:
    """Over stdio; each call in a thread, so that others are answered meanwhile."""
    lock = threading.Lock()

    def say(**message: Any) -> None:
        with lock:
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            sys.stdout.flush()

    def answer_call(message: dict[str, Any]) -> None:
        say(id=message["id"], result=behaviour.call(message["params"].get("arguments")))

    def watch_tools() -> None:
        before = behaviour.has("tools")
        while True:
            time.sleep(0.02)
            if (now := behaviour.has("tools")) != before:
                before = now
                say(method="notifications/tools/list_changed")

    if behaviour.has("chatty"):
        print("hello, I am a server\nand this is no JSON\n{}\n[1]", flush=True)
        print("listening", file=sys.stderr, flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        match message.get("method"):
            case "initialize":
                capabilities = {"tools": {"listChanged": True}}
                version = message["params"]["protocolVersion"]
                info = {"name": "listing", "version": "1"}
                result = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
                say(id=message["id"], result=result)
            case "notifications/initialized":
                threading.Thread(target=watch_tools, daemon=True).start()
            case "tools/list":
                say(id=message["id"], result={"tools": behaviour.tools()})
            case "tools/call":
                threading.Thread(target=answer_call, args=(message,), daemon=True).start()
            case _ if "id" in message:
                say(id=message["id"], error={"code": -32601, "message": "Method not found"})
    if behaviour.has("stubborn"):
        signal.pause()


def serve_http(behaviour: Behaviour, port: int) -> None:
    """Over Streamable HTTP, in both eras."""
    import anyio
    import mcp_types as types
    import uvicorn
    from mcp.server.lowlevel import Server
    from starlette.responses import PlainTextResponse

    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult.model_validate({"tools": behaviour.tools()})

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        result = await anyio.to_thread.run_sync(behaviour.call, params.arguments, abandon_on_cancel=True)
        return types.CallToolResult.model_validate(result)

    inner = Server("listing", version="1", on_list_tools=list_tools, on_call_tool=call_tool).streamable_http_app()

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        brought = dict(scope.get("headers") or ()).get(b"authorization", b"").decode()
        if scope["type"] == "http" and behaviour.has("guarded") and brought != f"Bearer {TOKEN}":
            await PlainTextResponse("who are you?", 401)(scope, receive, send)
        else:
            await inner(scope, receive, send)

    uvicorn.run(guarded, host="127.0.0.1", port=port, log_level="error")


def main() -> None:
    behaviour = Behaviour(Path(sys.argv[1]))
    behaviour.note("started", {"pid": os.getpid(), "environment": dict(os.environ), "cwd": os.getcwd()})
    if behaviour.has("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        behaviour.note("grandchild", subprocess.Popen(["sleep", "600"]).pid)
    if len(sys.argv) > 2:
        serve_http(behaviour, int(sys.argv[2]))
    else:
        serve_lines(behaviour)


if __name__ == "__main__":
    main()
