"""`{"webhook": "url"}`: a request that succeeded is a 2xx and nothing else; no error ever shows a secret.

Messages name the URL as it is configured, and say what went wrong in words of their own: those of the HTTP library may
quote the request. Requests have nothing in common: no cookie of one is sent with the next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, ClassVar, Final, Literal

import anyio
import httpx2
import msgspec
from pydantic import BaseModel, ConfigDict, Field

from eventhost import __version__
from eventhost.actions.action import Context, as_text, describe, render, template
from eventhost.actions.caused import delivery_id
from eventhost.actions.secrets import Secrets
from eventhost.config.durations import Duration
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, ConfigError
from eventhost.expression import Template
from eventhost.journal import Entry

TIMEOUT_S: Final = 10.0

MAX_ANSWER: Final = 1_048_576
"""How many bytes of an answer are read."""

_RETRYABLE: Final = frozenset((408, 425, 429))
_BODILESS: Final = frozenset(("GET", "DELETE"))
_SHOWN_HEADERS: Final = ("content-type", "location", "etag", "last-modified", "x-request-id")

# It logs the URL of each request, with what secrets it holds.
logging.getLogger("httpx2").setLevel(logging.WARNING)


def http_client() -> httpx2.AsyncClient:
    """The client that all webhooks of an environment share. Close it, or use it as a context manager."""
    return httpx2.AsyncClient(
        follow_redirects=False,
        timeout=None,
        limits=httpx2.Limits(max_connections=100, max_keepalive_connections=20),
        # Answers are read as they come, and up to a bound: what is packed small could be of any size.
        headers={"User-Agent": f"eventhost/{__version__}", "Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )


class WebhookSpec(BaseModel):
    """A request, as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook: str = Field(
        min_length=1, description="The URL, http or https; a template.", examples=["https://example.com/hook"]
    )
    method: Literal["POST", "PUT", "PATCH", "GET", "DELETE"] = Field(
        default="POST", description="The request's method.", examples=["PUT"]
    )
    headers: dict[str, str] = Field(
        default={}, description="Further headers; templates.", examples=[{"Authorization": "Bearer ${env:TOKEN}"}]
    )
    body: Any = Field(
        default=None,
        description="What is sent, with templates in it: a string as plain text, anything else as JSON. "
        "Without it, the event as JSON.",
        examples=[{"order": "{{ payload.number }}"}],
    )
    timeout: Duration = Field(
        default=TIMEOUT_S, gt=0, description="How long the whole request may take.", examples=["10s"]
    )


@dataclass(slots=True)
class _Answer:
    """What has come of an answer so far; its status decides, even if the rest never comes."""

    status: int = 0
    reason: str = ""
    headers: httpx2.Headers = field(default_factory=httpx2.Headers)
    content: bytearray = field(default_factory=bytearray)

    async def read(self, response: httpx2.Response) -> None:
        """Read to the end, so that the connection can be used again; one that is too long is given up."""
        self.status, self.reason, self.headers = response.status_code, response.reason_phrase, response.headers
        async for chunk in response.aiter_raw():
            self.content += chunk[: MAX_ANSWER - len(self.content)]
            if len(self.content) >= MAX_ANSWER:
                return

    @property
    def body(self) -> Any:
        """The content: JSON that is declared as such is read, other text is text, anything else None."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().casefold()
        if not self.content or self.headers.get("content-encoding", "identity").casefold() != "identity":
            return None
        if kind == "application/json" or kind.endswith("+json"):
            try:
                return msgspec.json.decode(bytes(self.content))
            except (msgspec.DecodeError, RecursionError):
                pass
        try:
            return self.content.decode()
        except UnicodeDecodeError as error:
            # One that was cut may end within a character.
            cut = error.start >= len(self.content) - 3
            return self.content[: error.start].decode() if cut else None

    @property
    def after_s(self) -> float:
        """How long the server asks to wait, by `Retry-After`."""
        said = self.headers.get("retry-after", "").strip()
        if said.isascii() and said.isdigit():
            return float(said[:9])
        try:
            return max(parsedate_to_datetime(said).timestamp() - time.time(), 0)
        except (ValueError, OverflowError):
            return 0


@dataclass(frozen=True, slots=True)
class WebhookAction:
    """Sends a request, and gives the answer: `status`, some `headers`, `body`."""

    url: Template
    method: str
    headers: Template
    body: Template | None
    """None: the event itself."""
    timeout_s: float
    kind: ClassVar[str] = "webhook"

    async def run(self, entry: Entry, context: Context) -> dict[str, Any]:
        secrets = Secrets(context.hands.resolve_secret)
        content, content_type = self._content(entry, context, secrets)
        headers = httpx2.Headers({"Idempotency-Key": delivery_id(entry, context.rule, context.place)})
        if content is not None:
            headers["Content-Type"] = content_type
        url = as_text(render(self.url, entry, context, secrets))
        wanted = {name: as_text(value) for name, value in render(self.headers, entry, context, secrets).items()}
        try:
            headers.update(wanted)
        except UnicodeError:
            raise self._failed("a header is not allowed in HTTP once it is filled in", retry=False) from None
        answer = _Answer()
        try:
            with anyio.move_on_after(self.timeout_s):
                async with context.hands.http.stream(
                    self.method, url, content=content, headers=headers, follow_redirects=False, timeout=None
                ) as response:
                    await answer.read(response)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise self._failed("this is no http or https URL once it is filled in", retry=False) from None
        except httpx2.LocalProtocolError:
            raise self._failed("a header is not allowed in HTTP once it is filled in", retry=False) from None
        except httpx2.ConnectError:
            raise self._failed("could not be connected to") from None
        except httpx2.HTTPError as error:
            if not answer.status:
                raise self._failed(f"the connection failed ({type(error).__name__})") from None
        if not answer.status:
            raise self._failed(f"did not answer within {self.timeout_s:g} s")
        if 200 <= answer.status < 300:
            shown = {name: answer.headers[name] for name in _SHOWN_HEADERS if name in answer.headers}
            return {"status": answer.status, **secrets.hide_in({"headers": shown, "body": answer.body})}
        hint = ", and redirects are not followed" if 300 <= answer.status < 400 else ""
        reason = f"answered {answer.status} {answer.reason}".rstrip() + hint
        retry = answer.status >= 500 or answer.status in _RETRYABLE
        raise self._failed(secrets.hide(reason), retry=retry, after_s=answer.after_s)

    def describe(self, entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
        said: dict[str, Any] = {"webhook": as_text(describe(self.url, entry, values)), "method": self.method}
        if self.headers.value:
            said["headers"] = describe(self.headers, entry, values)
        if self.body is not None:
            said["body"] = describe(self.body, entry, values)
        return said

    def _content(self, entry: Entry, context: Context, secrets: Secrets) -> tuple[bytes | None, str]:
        if self.body is not None:
            body = render(self.body, entry, context, secrets)
            if isinstance(body, str):
                return body.encode(errors="replace"), "text/plain; charset=utf-8"
            return msgspec.json.encode(body), "application/json"
        if self.method in _BODILESS:
            return None, ""
        if context.batch is None:
            return entry.event.to_json(), "application/json"
        return b"[" + b",".join(one.event.to_json() for one in context.batch) + b"]", "application/json"

    def _failed(self, reason: str, *, retry: bool = True, after_s: float = 0) -> ActionError:
        return ActionError(f"{self.method} {self.url.value}: {reason}", retry=retry, after_s=after_s)


def parse(tree: Tree, names: Sequence[str]) -> WebhookAction:
    """The action that `tree` describes; its templates know `names` besides the event.

    Raises:
        ConfigError: with every problem.
    """
    spec = tree.validate(WebhookSpec)
    url = template(tree, "webhook", names=names, secrets=True)
    literal = spec.webhook.partition("{{")[0].partition("${")[0]
    if literal and not literal.casefold().startswith(("http://", "https://")):
        raise ConfigError([tree.problem("expected an http or https URL", mend="begin it with https://", at="webhook")])
    body = template(tree, "body", names=names, secrets=True) if "body" in tree.value else None
    headers = template(tree, "headers", names=names, secrets=True) if "headers" in tree.value else Template({})
    return WebhookAction(url, spec.method, headers, body, spec.timeout)
