"""What a source offers while it is being served: the tools and resources of the event source protocol.

Knows neither transport nor protocol era: `Service.answer` takes a method and its params and gives the bare result.
The names and the shapes of the results come from the original design of event sources; every tool answers with one
text item that holds JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from eventhost.errors import EventhostError, EventRejected, NotFound
from eventhost.kit.ids import uuid7
from eventhost.kit.outbox import Listener, Outbox
from eventhost.wire import LIST_PENDING_EVENTS

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
UNSUPPORTED_PROTOCOL_VERSION: Final = -32022

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""MCP's levels of severity, the least first (RFC 5424)."""

MAX_PENDING: Final = 10_000
"""How many events wait for a host that polls; beyond it the oldest are dropped and counted."""

OWN_TOOLS: Final = (
    "emit_event",
    "subscribe_event",
    "unsubscribe_event",
    "list_events",
    "list_event_types",
    "get_source_status",
    LIST_PENDING_EVENTS,
)
"""The names of the tools that every source has; no other may bear one of them."""

Handler = Callable[[Listener, dict[str, Any]], Any]
"""What a tool does with its arguments for one peer; may return an awaitable."""


class RpcError(Exception):
    """A JSON-RPC error to answer a request with."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Tool:
    """One tool: what `tools/list` says of it, and its handler."""

    __slots__ = ("description", "handler", "input_schema", "name")

    def __init__(self, name: str, description: str, handler: Handler, input_schema: dict[str, Any] | None = None):
        self.name = name
        self.description = description
        self.handler = handler
        self.input_schema = input_schema or {"type": "object"}


class Service:
    """One serving of a source, from its start to its end, for all its peers.

    `emit` makes and sends one event; `interval` is what the configuration says under that name. A service that does
    not push gathers its events for `list_pending_events` instead.
    """

    def __init__(
        self,
        name: str,
        version: str,
        instructions: str,
        *,
        event_types: list[str],
        interval: Any,
        pushes: bool,
        emit: Callable[[str, Any, Any], Awaitable[str]],
        tools: Mapping[str, Tool],
        upstreams: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self.name = name
        self.version = version
        self.instructions = instructions
        self.event_types = event_types
        self.pushes = pushes
        self.outbox = Outbox()
        self.emitted = 0
        self.dropped = 0
        self._interval = interval
        self._emit = emit
        self._upstreams = upstreams
        self._pending: deque[str] = deque(maxlen=MAX_PENDING)
        self._tools = {tool.name: tool for tool in self._own_tools()} | dict(tools)

    async def publish(self, event_id: str, event_type: str, event: str, line: bytes) -> None:
        """Take an event on its way: push `line`, or keep `event`, its JSON, for a host that polls.

        Raises:
            EventRejected, ConnectionLost: as `Outbox.emit`.
        """
        if self.pushes:
            await self.outbox.emit(event_id, event_type, line)
        else:
            if len(self._pending) == MAX_PENDING:
                self.dropped += 1
                if self.dropped == 1:
                    print(f"{self.name}: nobody polls; the oldest events are being dropped", file=sys.stderr)
            self._pending.append(event)
            await asyncio.sleep(0)  # let others run, however fast this one emits
        self.emitted += 1

    async def answer(self, listener: Listener, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The result of a request.

        Raises:
            RpcError: the method or what it names is unknown.
        """
        if method == "tools/call":
            return await self._call(listener, params)
        if method == "tools/list":
            return {
                "tools": [
                    {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
                    for tool in self._tools.values()
                ]
            }
        if method == "resources/list":
            return {"resources": self._resources()}
        if method == "resources/templates/list":
            return {"resourceTemplates": []}
        if method == "resources/read":
            return self._read(params)
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method}")

    def status(self) -> dict[str, Any]:
        status = {"status": "running", "eventsEmitted": self.emitted, "interval": self._interval}
        if upstreams := self._upstreams():
            status["upstreams"] = upstreams
        return status if self.pushes else {**status, "eventsDropped": self.dropped}

    async def _call(self, listener: Listener, params: dict[str, Any]) -> dict[str, Any]:
        name, arguments = params.get("name"), params.get("arguments")
        tool = self._tools.get(name) if isinstance(name, str) else None
        if tool is None:
            raise RpcError(INVALID_PARAMS, f"Unknown tool: {name}; there are {', '.join(self._tools)}")
        if arguments is None:
            arguments = {}
        elif not isinstance(arguments, dict):
            raise RpcError(INVALID_PARAMS, f"arguments of {name}: an object is required")
        try:
            missing = [field for field in tool.input_schema.get("required", ()) if field not in arguments]
            if missing:
                raise EventRejected(f"{name}: the argument {', '.join(missing)} is missing")
            value = tool.handler(listener, arguments)
            if isinstance(value, Awaitable):
                value = await value
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        except EventhostError as error:
            return _failure(str(error))
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            return _failure(f"{type(error).__name__}: {error}")
        return {"content": [{"type": "text", "text": text}]}

    def _own_tools(self) -> list[Tool]:
        text = {"type": "string", "minLength": 1}
        types = f" ({', '.join(self.event_types)})" if self.event_types else ""
        return [
            Tool(
                "emit_event",
                f"Emit one event from this source{types}",
                self._emit_event,
                {
                    "type": "object",
                    "properties": {
                        "type": {**text, "description": "Event type"},
                        "payload": {"type": "object", "description": "Event payload"},
                        "metadata": {"type": "object", "description": "Event metadata"},
                    },
                    "required": ["type"],
                },
            ),
            Tool(
                "subscribe_event",
                "Have only the events of some types pushed to this session; without a subscription all are",
                self._subscribe,
                {
                    "type": "object",
                    "properties": {"eventType": {**text, "description": "Event type, * stands for any characters"}},
                    "required": ["eventType"],
                },
            ),
            Tool(
                "unsubscribe_event",
                "End a subscription of this session",
                self._unsubscribe,
                {"type": "object", "properties": {"subscriptionId": text}, "required": ["subscriptionId"]},
            ),
            Tool("list_events", "List the event types of this source", lambda *_: self.event_types),
            Tool("list_event_types", "List the event types of this source", lambda *_: self.event_types),
            Tool("get_source_status", "Tell the status of this source", lambda *_: self.status()),
            Tool(
                LIST_PENDING_EVENTS,
                "Hand out the events gathered since the last call; always empty for a source that pushes them",
                self._hand_out,
            ),
        ]

    async def _emit_event(self, _: Listener, arguments: dict[str, Any]) -> dict[str, Any]:
        event_id = await self._emit(arguments["type"], arguments.get("payload"), arguments.get("metadata"))
        return {"success": True, "eventId": event_id}

    def _subscribe(self, listener: Listener, arguments: dict[str, Any]) -> dict[str, Any]:
        event_type = arguments["eventType"]
        if not isinstance(event_type, str) or not event_type:
            raise EventRejected("eventType: a non-empty string is required")
        if len(listener.subscriptions) >= 1000:
            raise EventRejected("this session has 1000 subscriptions; end some with unsubscribe_event")
        subscription_id = uuid7()
        listener.subscriptions[subscription_id] = event_type
        return {"success": True, "subscriptionId": subscription_id}

    def _unsubscribe(self, listener: Listener, arguments: dict[str, Any]) -> dict[str, Any]:
        if listener.subscriptions.pop(str(arguments["subscriptionId"]), None) is None:
            raise NotFound(f"this session has no subscription {arguments['subscriptionId']!r}")
        return {"success": True}

    def _hand_out(self, _: Listener, __: dict[str, Any]) -> str:
        events = f"[{','.join(self._pending)}]"
        self._pending.clear()
        return events

    def _resources(self) -> list[dict[str, str]]:
        return [
            {
                "uri": f"event-source://{self.name}/{kind}",
                "name": f"{self.name.title()} {kind.title()}",
                "description": description,
                "mimeType": "application/json",
            }
            for kind, description in (("status", "Current status of this source"), ("events", "Its event types"))
        ]

    def _read(self, params: dict[str, Any]) -> dict[str, Any]:
        uri = params.get("uri")
        values: dict[Any, Callable[[], Any]] = {
            f"event-source://{self.name}/status": self.status,
            f"event-source://{self.name}/events": lambda: self.event_types,
        }
        if uri not in values:
            raise RpcError(INVALID_PARAMS, f"Resource not found: {uri}", {"uri": uri})
        text = json.dumps(values[uri](), ensure_ascii=False)
        return {"contents": [{"uri": uri, "mimeType": "application/json", "text": text}]}


def _failure(text: str) -> dict[str, Any]:
    failure = json.dumps({"success": False, "error": text}, ensure_ascii=False)
    return {"content": [{"type": "text", "text": failure}], "isError": True}
