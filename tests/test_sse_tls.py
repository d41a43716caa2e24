"""A plain event stream over TLS: whom the host trusts, and as whom it comes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from anyio.streams.tls import TLSAttribute
from cryptography.hazmat.primitives.serialization import Encoding
from hosting import Hosting, hosting
from sse_peer import SsePeer, status, stream
from test_web_access import Certificates

from eventhost.config import ServerConfig, ServerKind, SseConfig
from eventhost.connections import EventSourceStatus

pytestmark = pytest.mark.anyio

ONE = stream("data: 1\n\n", hold=True)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Hosting]:
    async with hosting(tmp_path) as made:
        yield made


@pytest.fixture
def server_tls(tmp_path: Path) -> ssl.SSLContext:
    folder = tmp_path / "server"
    folder.mkdir()
    Certificates(folder).issue()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def endpoint(host: Hosting, peer: SsePeer, **more: Any) -> ServerConfig:
    sse = SseConfig(**{"first_delay_s": 0.01, "longest_delay_s": 0.02, "max_attempts": 1, **more})
    return host.server("mai", ServerKind.SSE, url=peer.url, sse=sse)


async def test_a_certificate_that_nobody_trusts_is_refused_and_the_error_says_so(
    host: Hosting, server_tls: ssl.SSLContext
) -> None:
    async with SsePeer(ONE, tls=server_tls).serving() as peer:
        client = host.source(endpoint(host, peer))
        await host.becomes("mai", EventSourceStatus.ERROR)
        assert str(client.connection.last_error).startswith("the server's certificate is not trusted: ")
        assert "see verify_ssl" in str(client.connection.last_error)
        assert peer.asked == []


async def test_it_is_not_looked_at_where_verify_ssl_is_off(host: Hosting, server_tls: ssl.SSLContext) -> None:
    async with SsePeer(ONE, tls=server_tls).serving() as peer:
        host.source(endpoint(host, peer, verify_tls=False))
        await host.events(1)


async def test_the_host_shows_its_certificate_to_its_server_and_to_no_other(
    host: Hosting, server_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    mine = Certificates(tmp_path)
    mine.issue()
    shown: list[object] = []

    def asking(mode: ssl.VerifyMode) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "server/cert.pem", tmp_path / "server/key.pem")
        context.load_verify_locations(cadata=mine.root.public_bytes(Encoding.PEM).decode())
        context.verify_mode = mode
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    async def look(connection: Any, asked: Any) -> None:
        shown.append(connection.extra(TLSAttribute.peer_certificate, None))
        await ONE(connection, asked)

    async with (
        SsePeer(look, tls=asking(ssl.CERT_OPTIONAL)).serving() as other,
        SsePeer(status(307, location=other.url), tls=asking(ssl.CERT_REQUIRED)).serving() as peer,
    ):
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        host.source(endpoint(host, peer, verify_tls=False, cert=cert, key=key))
        await host.events(1)
        assert len(peer.asked) == 1
        assert shown == [None]


@pytest.mark.parametrize("password", [b"", b"hunter2"])
async def test_a_client_certificate_that_cannot_be_used_is_an_error(
    host: Hosting, server_tls: ssl.SSLContext, tmp_path: Path, password: bytes
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    if password:
        Certificates(tmp_path).issue(password=password)
    async with SsePeer(ONE, tls=server_tls).serving() as peer:
        client = host.source(endpoint(host, peer, cert=cert, key=key))
        await host.becomes("mai", EventSourceStatus.ERROR)
        assert "the client certificate cannot be used" in str(client.connection.last_error)
        assert "see ssl_cert_path" in str(client.connection.last_error)


async def test_no_redirect_leads_from_tls_to_plain_text(host: Hosting, server_tls: ssl.SSLContext) -> None:
    async with (
        SsePeer(ONE).serving() as plain,
        SsePeer(status(301, location=plain.url), tls=server_tls).serving() as peer,
    ):
        client = host.source(replace(endpoint(host, peer, verify_tls=False), headers={"X-Key": "hunter2"}))
        await host.becomes("mai", EventSourceStatus.ERROR)
        assert "redirects from https to http, which is refused" in str(client.connection.last_error)
        assert plain.asked == []
