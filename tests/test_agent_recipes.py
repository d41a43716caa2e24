"""The recipes of docs/agents.md do what they say: each is loaded as it stands there, and tried with a stand-in."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from openai_peer import OpenAiPeer, says

from eventhost import EnvEvent, ServerEnvironment
from eventhost.config import load_environment
from eventhost.config.jsonc import parse
from eventhost.rules import read_rules

pytestmark = pytest.mark.anyio

DOCUMENT = (Path(__file__).parent.parent / "docs" / "agents.md").read_text()
BLOCKS = re.findall(r"^```jsonc\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)

CLAUDE = """#!/usr/bin/env python3
import json, sys
event = json.load(sys.stdin)
print("high:", event["payload"]["title"], len(sys.argv), sys.argv[1])
"""


def recipe(word: str) -> str:
    """The configuration in which this stands."""
    (found,) = (block for block in BLOCKS if word in block)
    return str(found)


def write(root: Path, text: str) -> None:
    (root / "config.jsonc").write_text(text)
    (root / ".env").write_text("UPSTAIRS_KEY=one\nAGENT_HOOK_TOKEN=two\n")


@asynccontextmanager
async def living(root: Path, text: str) -> AsyncIterator[ServerEnvironment]:
    write(root, text)
    with anyio.fail_after(60):
        async with ServerEnvironment.from_path(root) as env:
            yield env


async def first(env: ServerEnvironment, event_type: str) -> EnvEvent:
    async for item in env.bus.subscribe(event_type, after=0):
        return item.event  # type: ignore[union-attr]
    raise AssertionError(event_type)


@pytest.mark.parametrize("text", BLOCKS)
def test_each_configuration_loads_without_a_complaint(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    config = load_environment(tmp_path)
    assert not config.broken
    assert not config.warnings
    read_rules(config)


def test_all_recipes_are_tried() -> None:
    assert len(BLOCKS) == 4


async def test_a_program_is_run_with_the_event_on_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "claude").write_text(CLAUDE)
    (programs / "claude").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    async with living(tmp_path, recipe('"exec"')) as env:
        await env.publish_event({"type": "issue.opened", "payload": {"number": 7, "title": "It burns"}})
        triaged = await first(env, "issue.triaged")
    assert triaged.payload == {"issue": 7, "verdict": "high: It burns 5 -p"}


async def test_a_hook_is_called_with_its_token_and_its_message(tmp_path: Path) -> None:
    async with OpenAiPeer(says("ok")).serving() as peer:
        place = peer.url.removesuffix("/v1")
        async with living(tmp_path, recipe('"webhook"').replace("http://127.0.0.1:18789", place)) as env:
            await env.publish_event({"type": "mail.received", "payload": {"message_id": "m1", "subject": "Hello"}})
            with anyio.fail_after(30):
                await peer.asked.wait()
    assert peer.paths == ["POST /hooks/agent"]
    assert peer.headers[0]["authorization"] == "Bearer two"
    assert peer.requests[0]["name"] == "eventhost"
    assert '{"message_id":"m1","subject":"Hello"}' in peer.requests[0]["message"]


async def test_the_agent_action_asks_its_model(tmp_path: Path) -> None:
    async with OpenAiPeer(says("The disk is full.")).serving() as peer:
        text = recipe('"agent"').replace("http://127.0.0.1:11434/v1", peer.url).replace('"10m"', '"10ms"')
        async with living(tmp_path, text) as env:
            await env.publish_event({"type": "build.failed", "payload": {"log": "no space left"}})
            replied = await first(env, "agent.replied")
    assert replied.payload["text"] == "The disk is full."
    assert "no space left" in peer.data


def test_what_other_programs_are_given_is_json() -> None:
    blocks: list[Any] = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", DOCUMENT, re.M | re.S)]
    assert [block["mcpServers"]["eventhost"]["args"][0] for block in blocks] == ["mcp", "mcp"]
    assert parse(recipe("subscribeEvents"), "agents.md")
