"""The `agent` action: an event is handed to a language model, with a budget and an allow-list of tools."""

from eventhost.actions.agent.action import REPLIED, AgentAction, AgentSpec, parse

__all__ = ["REPLIED", "AgentAction", "AgentSpec", "parse"]
