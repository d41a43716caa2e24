"""The bus as tools and resources of the host's own: to publish, to subscribe, to look back, and to have explained.

    bus = BusTools(face)          # registers them
    async with bus.running():     # tells who has subscribed to a source's resources what changes

The names, and what `emit_event`, `subscribe_event`, `list_event_types`, `get_source_status` and `list_pending_events`
take and give as text, are those of event sources themselves: whoever can use a source can use a host.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import msgspec
from mcp_types import CallToolResult, TextContent, Tool, ToolAnnotations

from eventhost.access import Access
from eventhost.serve.asked import (
    EmitEvent,
    ExplainEvent,
    GetSourceStatus,
    ListEvents,
    ListEventTypes,
    ListPendingEvents,
    SearchEvents,
    SubscribeEvent,
    UnsubscribeEvent,
)
from eventhost.serve.lookback import Lookback, Query
from eventhost.serve.own import OwnTool, ToolAnswer, ToolFailed
from eventhost.serve.peer import Peer
from eventhost.serve.source_resources import SourceResources
from eventhost.serve.subscriptions import Held, Pending, Subscriptions
from eventhost.serve.wanted import bounded, position, wanted

if TYPE_CHECKING:
    from eventhost.serve.face import McpFace

SOURCE: Final = "mcp"
"""The `source_name` of what `emit_event` publishes."""

PATIENCE_S: Final = 30.0
"""How long the journal may take to accept an event."""

_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_HOLDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
_WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)

_encode = msgspec.json.Encoder().encode

A = TypeVar("A", bound=msgspec.Struct)


def _schema(takes: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, which has no name and no references."""
    (schema,), components = msgspec.json.schema_components([takes], ref_template="{name}")
    inner: dict[str, Any] = components[schema["$ref"]]
    return {key: value for key, value in inner.items() if key != "title"}


def _answer(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


_TEXT, _WHOLE, _TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}

_EMITTED = _answer(["success", "eventId", "seq"], success=_TRUTH, eventId=_TEXT, seq=_WHOLE)
_SUBSCRIBED = _answer(
    ["subscriptionId", "eventType", "delivery", "cursor"],
    subscriptionId=_TEXT,
    eventType={"type": "array", "items": _TEXT},
    delivery={"enum": ["push", "poll"]},
    cursor=_WHOLE,
    host=_TEXT,
    journal=_TEXT,
)
_HANDED_OUT = _answer(
    ["events", "more"], events={"type": "array", "items": {"type": "object"}}, cursor=_WHOLE, more=_TRUTH
)


class BusTools:
    """The host's own tools and resources."""

    def __init__(self, face: McpFace) -> None:
        """Register them with `face`; the environment is asked for nothing yet."""
        self._face = face
        self._environment = face.environment
        self.subscriptions = Subscriptions(lambda: self._environment.bus)
        self._lookback = Lookback(self._environment)
        self._resources = SourceResources(face, self._lookback)
        face.own.resources(self._resources)
        self._tool(EmitEvent, self._emit, Access.PUBLISH, _WRITES, _EMITTED)
        self._tool(SubscribeEvent, self._subscribe, hints=_HOLDS, output=_SUBSCRIBED)
        self._tool(UnsubscribeEvent, self._unsubscribe, hints=_HOLDS)
        self._tool(ListPendingEvents, self._pending, hints=_HOLDS, output=_HANDED_OUT)
        self._tool(ListEvents, self._list)
        self._tool(SearchEvents, self._search)
        self._tool(ExplainEvent, self._explain)
        self._tool(ListEventTypes, self._types)
        self._tool(GetSourceStatus, self._status)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tell of what changes until the block ends."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._resources.tell_changes)
            yield
            tasks.cancel_scope.cancel()

    def _tool(
        self,
        takes: type[A],
        call: Callable[[A, Peer], Awaitable[ToolAnswer]],
        access: Access = Access.READ,
        hints: ToolAnnotations = _READS,
        output: dict[str, Any] | None = None,
    ) -> None:
        """Offer a tool that is called as `takes` is, in snake_case, and described by its docstring."""
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", takes.__name__).lower()

        async def checked(arguments: dict[str, Any], peer: Peer) -> ToolAnswer:
            try:
                asked = msgspec.convert(arguments, takes)
            except msgspec.ValidationError as error:
                raise ToolFailed(f"{name}: {error}; its input schema says what it takes") from None
            return await call(asked, peer)

        schema = _schema(takes)
        description = " ".join(schema.pop("description").split())
        tool = Tool(name=name, description=description, input_schema=schema, output_schema=output, annotations=hints)
        self._face.own.tool(OwnTool(tool, access, checked))

    # In

    async def _emit(self, asked: EmitEvent, peer: Peer) -> ToolAnswer:
        said = {key: value for key, value in msgspec.structs.asdict(asked).items() if value is not None}
        try:
            with anyio.fail_after(PATIENCE_S):
                event, seq = await self._environment.publish_event(said, source=SOURCE)
        except TimeoutError:
            raise ToolFailed(
                f"the journal has not answered for {PATIENCE_S:.0f} s, and may yet take the event; look for it with "
                "list_events before you send it again"
            ) from None
        return {"success": True, "eventId": event.id, "seq": seq}

    # Out

    async def _subscribe(self, asked: SubscribeEvent, peer: Peer) -> ToolAnswer:
        events = wanted(asked.event_type, asked.match)
        can_push = peer.notify is not None
        if asked.delivery == "push" and not can_push:
            raise ToolFailed(
                "delivery: this session cannot be told anything unasked; leave it out, and call list_pending_events"
            )
        push = can_push and asked.delivery != "poll"
        after = await position(self._environment.bus.journal, asked.after)
        held = self.subscriptions.add(peer, events, after, push=push, by=asked.host)
        if push:
            self.subscriptions.push(held, self._face.tasks, self._environment.host_id)
        return {
            "subscriptionId": held.id,
            "eventType": list(events.globs),
            "delivery": "push" if push else "poll",
            "cursor": after,
            "host": self._environment.host_id,
            "journal": self._environment.journal_id,
        }

    async def _unsubscribe(self, asked: UnsubscribeEvent, peer: Peer) -> ToolAnswer:
        await self.subscriptions.get(asked.subscription_id, peer).aclose()
        return {"success": True, "subscriptionId": asked.subscription_id}

    async def _pending(self, asked: ListPendingEvents, peer: Peer) -> ToolAnswer:
        if asked.subscription_id is not None:
            helds = [self.subscriptions.get(asked.subscription_id, peer)]
        elif peer.notify is None:
            raise ToolFailed(
                "subscriptionId: needed here, since each request stands for itself; subscribe_event returns one"
            )
        elif asked.cursor is not None:
            raise ToolFailed("cursor: belongs to one subscription; give its subscriptionId too")
        else:
            helds = self.subscriptions.of(peer)
        bus = self._environment.bus
        head = bus.journal.head
        answer = await self._handed_out(helds, asked)
        with anyio.move_on_after(asked.wait_ms / 1000):
            while helds and not answer["events"] and await bus.grown(head):
                head = bus.journal.head
                answer = await self._handed_out(helds, asked)
        # A list of events as text is what every event source has for this.
        text = _encode(answer["events"]).decode()
        return CallToolResult(content=[TextContent(text=text)], structured_content=answer)

    async def _handed_out(self, helds: list[Held], asked: ListPendingEvents) -> dict[str, Any]:
        """What there is now; from then on it counts as handed out, but not where this is cancelled before."""
        pages: list[tuple[Held, Pending]] = []
        room, journal = asked.limit, self._environment.bus.journal
        for held in helds:
            cursor = held.position if asked.cursor is None else await position(journal, asked.cursor)
            page = await self.subscriptions.pending(held, cursor, room, self._environment.host_id)
            room -= len(page.events)
            pages.append((held, page))
        for held, page in pages:
            held.position = page.cursor
        answer = {
            "events": [event for _, page in pages for event in page.events],
            "more": any(page.more for _, page in pages),
        }
        return {**answer, "cursor": pages[0][1].cursor} if len(pages) == 1 else answer

    # Back

    async def _list(self, asked: ListEvents, peer: Peer) -> ToolAnswer:
        return await self._lookback.find(Query(asked.type, source=asked.source, before=asked.before), asked.limit)

    async def _search(self, asked: SearchEvents, peer: Peer) -> ToolAnswer:
        query = Query(asked.type, asked.match, asked.source, asked.text, asked.from_, asked.to, asked.before)
        return await self._lookback.find(query, asked.limit)

    async def _explain(self, asked: ExplainEvent, peer: Peer) -> ToolAnswer:
        explanation = await self._environment.explain(str(asked.event), every=asked.all, only=asked.rule)
        return bounded(explanation.to_json())

    async def _types(self, asked: ListEventTypes, peer: Peer) -> ToolAnswer:
        found = await self._lookback.types(asked.source)
        text = _encode([each["type"] for each in found["types"]]).decode()
        return CallToolResult(content=[TextContent(text=text)], structured_content=found)

    async def _status(self, asked: GetSourceStatus, peer: Peer) -> ToolAnswer:
        if asked.source is None:
            return {"sources": self._lookback.statuses()}
        return bounded(self._lookback.status(asked.source))
