"""Connections to MCP servers: owning their processes, reaching them by any transport, and keeping them up."""

from eventhost.connections.connection import Connection
from eventhost.connections.inbound import Batch, Received, Receiver
from eventhost.connections.link import NO_ANSWER, Link, Surroundings, list_all, minimal_environment, refusal
from eventhost.connections.pool import ConnectionPool
from eventhost.connections.process import Child, Guardian, child, memory_bytes
from eventhost.connections.sourcelog import SourceLog
from eventhost.connections.states import EventSourceStatus
from eventhost.connections.status import ServerStatus

__all__ = [
    "NO_ANSWER",
    "Batch",
    "Child",
    "Connection",
    "ConnectionPool",
    "EventSourceStatus",
    "Guardian",
    "Link",
    "Received",
    "Receiver",
    "ServerStatus",
    "SourceLog",
    "Surroundings",
    "child",
    "list_all",
    "memory_bytes",
    "minimal_environment",
    "refusal",
]
