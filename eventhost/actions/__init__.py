"""What rules do: one file for each kind of action, and the reading of a rule's `do`."""

from eventhost.actions.action import Action, Context, Hands
from eventhost.actions.caused import HOST, RULES, caused_event
from eventhost.actions.keys import StepSpec
from eventhost.actions.parse import KINDS, parse_actions
from eventhost.actions.step import Retry, Step, walk
from eventhost.actions.webhook import http_client

__all__ = [
    "HOST",
    "KINDS",
    "RULES",
    "Action",
    "Context",
    "Hands",
    "Retry",
    "Step",
    "StepSpec",
    "caused_event",
    "http_client",
    "parse_actions",
    "walk",
]
