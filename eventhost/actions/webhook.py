"""`{"webhook": "url"}`: a request that succeeded is a 2xx and nothing else; no error ever shows a secret.

Messages name the URL as it is configured, and say what went wrong in words of their own: those of the HTTP library may
quote the request.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import anyio
import httpx2
import msgspec
from pydantic import BaseModel, ConfigDict, Field

from eventhost import __version__
from eventhost.actions.action import Context, as_text, render, template
from eventhost.config.durations import Duration
from eventhost.config.tree import Tree
from eventhost.errors import ActionError, ConfigError
from eventhost.expression import Template
from eventhost.journal import Entry

TIMEOUT_S: Final = 10.0

_RETRYABLE: Final = frozenset((408, 425, 429))
_BODILESS: Final = frozenset(("GET", "DELETE"))
_MAX_ANSWER: Final = 65_536

# It logs the URL of each request, with what secrets it holds.
logging.getLogger("httpx2").setLevel(logging.WARNING)


def http_client() -> httpx2.AsyncClient:
    """The client that all webhooks of an environment share. Close it, or use it as a context manager."""
    return httpx2.AsyncClient(
        follow_redirects=False,
        timeout=None,
        limits=httpx2.Limits(max_connections=100, max_keepalive_connections=20),
        headers={"User-Agent": f"eventhost/{__version__}"},
    )


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook: str = Field(min_length=1, examples=["https://example.com/hook"])
    method: Literal["POST", "PUT", "PATCH", "GET", "DELETE"] = "POST"
    headers: dict[str, str] = Field(default={}, examples=[{"Authorization": "Bearer ${env:TOKEN}"}])
    body: Any = None
    timeout: Duration = Field(default=TIMEOUT_S, gt=0, examples=["10s"])


@dataclass(frozen=True, slots=True)
class WebhookAction:
    """Sends the event, or what `body` makes of it, to a URL."""

    url: Template
    method: str
    headers: Template
    body: Template | None
    """None: the event itself."""
    timeout_s: float
    kind: ClassVar[str] = "webhook"

    async def run(self, entry: Entry, context: Context) -> int:
        content, content_type = self._content(entry, context)
        headers = httpx2.Headers({"Content-Type": content_type} if content is not None else {})
        url = as_text(render(self.url, entry, context))
        wanted = {name: as_text(value) for name, value in render(self.headers, entry, context).items()}
        try:
            headers.update(wanted)
        except UnicodeError:
            raise self._failed("a header is not allowed in HTTP once it is filled in", retry=False) from None
        try:
            with anyio.fail_after(self.timeout_s):
                async with context.hands.http.stream(
                    self.method, url, content=content, headers=headers, follow_redirects=False, timeout=None
                ) as response:
                    await _read(response)
        except TimeoutError:
            raise self._failed(f"did not answer within {self.timeout_s:g} s") from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise self._failed("this is no http or https URL once it is filled in", retry=False) from None
        except httpx2.LocalProtocolError:
            raise self._failed("a header is not allowed in HTTP once it is filled in", retry=False) from None
        except httpx2.ConnectError:
            raise self._failed("could not be connected to") from None
        except httpx2.HTTPError as error:
            raise self._failed(f"the connection failed ({type(error).__name__})") from None
        status = response.status_code
        if 200 <= status < 300:
            return status
        hint = ", and redirects are not followed" if response.is_redirect else ""
        reason = f"answered {status} {response.reason_phrase}".rstrip() + hint
        raise self._failed(reason, retry=status >= 500 or status in _RETRYABLE)

    def _content(self, entry: Entry, context: Context) -> tuple[bytes | None, str]:
        if self.body is not None:
            body = render(self.body, entry, context)
            if isinstance(body, str):
                return body.encode(), "text/plain; charset=utf-8"
            return msgspec.json.encode(body), "application/json"
        return (None, "") if self.method in _BODILESS else (entry.event.to_json(), "application/json")

    def _failed(self, reason: str, *, retry: bool = True) -> ActionError:
        return ActionError(f"{self.method} {self.url.value}: {reason}", retry=retry)


async def _read(response: httpx2.Response) -> None:
    """Read an answer to its end, so that the connection can be used again; one that is too long is given up."""
    length = 0
    async for chunk in response.aiter_raw():
        length += len(chunk)
        if length > _MAX_ANSWER:
            return


def parse(tree: Tree) -> WebhookAction:
    """The action that `tree` describes.

    Raises:
        ConfigError: with every problem.
    """
    spec = tree.validate(_Spec)
    url = template(tree, "webhook", secrets=True)
    literal = spec.webhook.partition("{{")[0].partition("${")[0]
    if literal and not literal.casefold().startswith(("http://", "https://")):
        raise ConfigError([tree.problem("expected an http or https URL", mend="begin it with https://", at="webhook")])
    body = template(tree, "body", secrets=True) if "body" in tree.value else None
    headers = template(tree, "headers", secrets=True) if "headers" in tree.value else Template({})
    return WebhookAction(url, spec.method, headers, body, spec.timeout)
