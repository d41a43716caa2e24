"""JSON-RPC 2.0 as clients of a session send it: single requests and notifications, or a batch of them."""

from __future__ import annotations

from typing import Any, Final

from eventhost.web.answers import ErrorCode

MAX_BATCH: Final = 50


def fault(message: Any) -> str | None:
    """Why this is no JSON-RPC message, nor a batch of them; None if it is."""
    if not isinstance(message, list):
        return _fault(message)
    if not 1 <= len(message) <= MAX_BATCH:
        return f"a batch has 1 to {MAX_BATCH} messages, this one {len(message)}"
    found = ((place, _fault(each)) for place, each in enumerate(message))
    return next((f"[{place}]: {what}" for place, what in found if what is not None), None)


def failure(code: ErrorCode, text: str) -> dict[str, Any]:
    """The answer to what is no request."""
    return {"jsonrpc": "2.0", "id": None, "error": {"code": int(code), "message": text}}


def _fault(message: Any) -> str | None:
    if not isinstance(message, dict):
        return "a JSON-RPC message is an object"
    if message.get("jsonrpc") != "2.0":
        return 'jsonrpc: a JSON-RPC message has "2.0" here'
    if not isinstance(message.get("method"), str):
        return "method: a request names one; answers are not expected here"
    if "id" in message and (isinstance(message["id"], bool) or not isinstance(message["id"], str | int)):
        return "id: expected a string or an integer; a notification has none"
    if not isinstance(message.get("params", {}), dict):
        return "params: expected an object"
    return None
