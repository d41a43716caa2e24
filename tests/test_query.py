"""Questions over the bus: who answers, with what, and that the answer reaches the one who asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from eventhost.environment import ServerEnvironment
from eventhost.errors import BusClosed, NotFound

LIMIT_S = 30

FUNCTIONS = """
import asyncio

def shout(event):
    return event.payload["query"].upper()

def describe(event):
    return {"text": "in words", "also": 1}

def broken(event):
    raise ValueError("no idea")

async def never(event):
    await asyncio.Event().wait()
"""


@asynccontextmanager
async def environment(root: Path, *rules: dict[str, Any]) -> AsyncIterator[ServerEnvironment]:
    (root / "functions.py").write_text(FUNCTIONS)
    (root / "config.jsonc").write_text(json.dumps({"rules": list(rules)}))
    with anyio.fail_after(LIMIT_S):
        async with ServerEnvironment.from_path(root) as running:
            yield running


def answering(function: str, **rule: Any) -> dict[str, Any]:
    once = {"python": f"functions:{function}", "retry": {"attempts": 1}}
    return {"name": function, "on": "USER_QUERY", "do": once, **rule}


@pytest.mark.anyio
@pytest.mark.parametrize(("function", "answer"), [("shout", "HELLO"), ("describe", "in words")])
async def test_a_query_is_answered_by_the_rule_that_names_it(tmp_path: Path, function: str, answer: str) -> None:
    everything = {"name": "all", "do": {"log": "{{ type }}"}}
    async with environment(tmp_path, everything, answering(function)) as running:
        event = await running.handle_query("hello", session_id="s-1")
        assert (event.type, event.metadata["source_name"]) == ("query.answered", "host.rules")
        assert event.payload == {"rule": function, "session_id": "s-1", "answer": answer}


@pytest.mark.anyio
async def test_each_asker_gets_its_own_answer(tmp_path: Path) -> None:
    async with environment(tmp_path, answering("shout", concurrency=8)) as running:
        answers: dict[int, str] = {}

        async def one(number: int) -> None:
            answers[number] = (await running.handle_query(f"q{number}")).payload["answer"]

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, number)
        assert answers == {number: f"Q{number}" for number in range(20)}


@pytest.mark.anyio
async def test_a_failure_is_an_answer_too(tmp_path: Path) -> None:
    async with environment(tmp_path, answering("broken")) as running:
        with capture_logs():
            event = await running.handle_query("hello")
        assert "answer" not in event.payload
        assert "no idea" in event.payload["error"]


@pytest.mark.anyio
async def test_a_query_that_a_source_publishes_is_answered_on_the_bus(tmp_path: Path) -> None:
    async with environment(tmp_path, answering("shout")) as running:
        subscription = running.bus.subscribe("query.answered")
        query = {"type": "USER_QUERY", "id": "7", "metadata": {"session_id": "s-2"}, "payload": {"query": "hey"}}
        await running.publish_event(query, source="chat")
        async for item in subscription:
            event = item.event  # type: ignore[union-attr]
            assert event.metadata["causation_id"] == "chat:7"
            assert event.payload == {"rule": "shout", "session_id": "s-2", "answer": "HEY"}
            break


@pytest.mark.anyio
async def test_it_is_said_when_nobody_answers_queries(tmp_path: Path) -> None:
    everything = {"name": "all", "do": {"log": "{{ type }}"}}
    async with environment(tmp_path, everything, answering("shout", enabled=False)) as running:
        with pytest.raises(NotFound, match="no rule answers USER_QUERY"):
            await running.handle_query("hello")


@pytest.mark.anyio
async def test_an_answer_is_waited_for_only_so_long(tmp_path: Path) -> None:
    async with environment(tmp_path, answering("never")) as running:
        with pytest.raises(TimeoutError):
            await running.handle_query("hello", timeout_s=0.05)
        await running.bus.aclose()
        with pytest.raises(BusClosed):
            await running.handle_query("hello")
        # What is still being asked would be waited for at the end.
        await running._rules.aclose()
