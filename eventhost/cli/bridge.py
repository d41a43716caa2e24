"""stdin and stdout joined to the host's MCP server, and joined anew when the host has been restarted.

    stdin ──► Bridge ──► Attachment ──► host
    stdout ◄──┘  ▲────── its lines ◄────┘

While no host is there, each request is answered with an error. A new host gets the client's handshake again, and its
subscriptions to resources; the client is told that all lists may have changed, and that it has to subscribe to events
again.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from eventhost.cli.attach import Attachment
from eventhost.errors import EventhostError

MAX_LINE_BYTES: Final = 4 * 1_048_576
"""The longest message that the host takes."""

_CHUNK_BYTES = 65_536
_SERVER_ERROR = -32000
_INVALID_REQUEST = -32600
_HANDSHAKE_ID = "eventhost-attached-again"
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_LAST_ANSWERS_S = 10.0
"""How long answers that are owed may take after stdin has ended."""

_STREAMS = frozenset({"subscriptions/listen"})
"""Requests that are answered when they end: nobody waits for that."""

_ANOTHER_HOST = "the host was restarted; whoever has subscribed to events has to subscribe again"

_CHANGED = ("tools", "resources", "prompts")


class Bridge:
    """One run of `eventhost mcp`."""

    def __init__(self, attach: Callable[[], Attachment], stdin: int, stdout: int) -> None:
        """`attach` reaches the host, or raises `EventhostError`; the others are file descriptors."""
        self._attach, self._stdin, self._stdout = attach, stdin, stdout
        self._state = threading.Condition()
        self._writing = threading.Lock()
        # Guarded by `_state`.
        self._attachment: Attachment | None = None
        self._owed: dict[str | int, str] = {}
        """Methods of the requests that the host has not answered yet."""
        self._handshake: dict[str, Any] | None = None
        self._watched: dict[str, dict[str, Any]] = {}
        """The client's subscriptions to resources, by URI."""
        self._ended = False

    def run(self) -> None:
        """Join them until stdin ends, or nobody reads stdout.

        Raises:
            EventhostError: there is no host now.
        """
        self._attachment = self._attach()
        threads = [
            threading.Thread(target=task, args=arguments, daemon=True)
            for task, arguments in ((self._say, ()), (self._hear, (self._attachment,)))
        ]
        # Python heeds signals in this thread alone: one that came to another would leave this one waiting.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        for thread in threads:
            thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with self._state:
            self._state.wait_for(lambda: self._ended)
            attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.close()

    # What the client says.

    def _say(self) -> None:
        for line in _lines(self._stdin):
            if line.strip():
                self._pass_on(line.rstrip(b"\r\n") + b"\n")
        with self._state:
            self._state.wait_for(
                lambda: self._ended or not any(method not in _STREAMS for method in self._owed.values()),
                _LAST_ANSWERS_S,
            )
        self._end()

    def _pass_on(self, line: bytes) -> None:
        message = _parsed(line)
        method, number = message.get("method"), message.get("id")
        with self._state:
            attachment = self._attachment
            if len(line) > MAX_LINE_BYTES:
                attachment = None
            elif isinstance(method, str) and isinstance(number, str | int):
                self._owed[number] = method
            if method == "initialize":
                self._handshake, self._watched = message, {}
            elif method in ("resources/subscribe", "resources/unsubscribe"):
                self._note_watched(message)
        if len(line) > MAX_LINE_BYTES:
            self._refuse(number, _INVALID_REQUEST, f"a message may be {MAX_LINE_BYTES} bytes long, no longer")
        elif attachment is None:
            self._give_up(number)
        else:
            try:
                attachment.send(line)
            except OSError:
                self._give_up(number)

    def _note_watched(self, message: dict[str, Any]) -> None:
        params = message.get("params")
        uri = params.get("uri") if isinstance(params, dict) else None
        if isinstance(uri, str):
            self._watched.pop(uri, None)
            if message["method"] == "resources/subscribe":
                self._watched[uri] = message

    # What the host says.

    def _hear(self, attachment: Attachment | None) -> None:
        while attachment is not None:
            for line in attachment.lines():
                self._hand_over(line)
            attachment.close()
            with self._state:
                self._attachment = None
                owed = list(self._owed)
            for number in owed:
                self._give_up(number)
            attachment = self._attach_again()

    def _hand_over(self, line: bytes) -> None:
        if not line.endswith(b"\n"):
            return  # the host ended in the middle of it
        message = _parsed(line)
        if "method" not in message:
            if str(message.get("id", "")).startswith(_HANDSHAKE_ID):
                return  # the client did not ask
            with self._state:
                self._owed.pop(message.get("id", ""), None)
                self._state.notify_all()
        self._write(line)

    def _attach_again(self) -> Attachment | None:
        """A session with the next host, in the state that the client believes it to be in; None when it is the end."""
        pause_s = _FIRST_PAUSE_S
        while not self._ended:
            try:
                attachment = self._attach()
            except EventhostError:
                with self._state:
                    self._state.wait_for(lambda: self._ended, pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            if self._shake_hands(attachment):
                with self._state:
                    self._attachment = attachment
                if self._handshake is not None:
                    for kind in _CHANGED:
                        self._tell({"method": f"notifications/{kind}/list_changed"})
                    said = {"level": "warning", "logger": "eventhost", "data": _ANOTHER_HOST}
                    self._tell({"method": "notifications/message", "params": said})
                return attachment
            attachment.close()
        return None

    def _shake_hands(self, attachment: Attachment) -> bool:
        if self._handshake is None:
            return True
        try:
            attachment.send(_line({**self._handshake, "id": _HANDSHAKE_ID}))
            for line in attachment.lines():
                if _parsed(line).get("id") == _HANDSHAKE_ID:
                    attachment.send(_line({"jsonrpc": "2.0", "method": "notifications/initialized"}))
                    with self._state:
                        watched = list(self._watched.values())
                    for number, message in enumerate(watched):
                        attachment.send(_line({**message, "id": f"{_HANDSHAKE_ID}-{number}"}))
                    return True
        except OSError:
            pass
        return False

    # What the bridge says itself.

    def _give_up(self, number: object) -> None:
        """Answer a request that no host will answer, if nobody has yet."""
        with self._state:
            owed = self._owed.pop(number, None) if isinstance(number, str | int) else None
            self._state.notify_all()
        if owed is not None:
            self._refuse(number, _SERVER_ERROR, "the host is not running; start it, and ask again")

    def _refuse(self, number: object, code: int, message: str) -> None:
        self._tell({"id": number, "error": {"code": code, "message": message}})

    def _tell(self, message: dict[str, Any]) -> None:
        self._write(_line({"jsonrpc": "2.0", **message}))

    def _write(self, line: bytes) -> None:
        try:
            with self._writing:
                while line:
                    line = line[os.write(self._stdout, line) :]
        except OSError:
            self._end()  # nobody reads it

    def _end(self) -> None:
        with self._state:
            self._ended = True
            self._state.notify_all()


def _lines(file: int) -> Iterator[bytes]:
    """The lines that can be read from a file descriptor, as they come.

    Not by a file object: whoever waits in one holds a lock, without which Python cannot end.
    """
    rest = b""
    while chunk := os.read(file, _CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    yield rest


def _parsed(line: bytes) -> dict[str, Any]:
    """The message in a line; nothing, if there is none: what is wrong with it the host will say."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
