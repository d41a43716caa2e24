"""One connection to the servers, made when somebody needs it and shared by all that read through it.

The library's own reconnecting is off: who reads is told that the connection has ended, tells what was missed meanwhile,
and asks for the next one.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import Client as NatsClient
from nats.aio.client import RawCredentials
from nats.aio.msg import Msg
from nats.js.errors import APIError, ServiceUnavailableError
from options import Connection

from eventhost.kit.upstream import Unavailable, first_to_end

_CONNECT_S = 5
_ANSWER_S = 10
_CLOSE_S = 0.5
_PING_EVERY_S = 15
_CREDENTIALS = re.compile(r"BEGIN NATS USER JWT-+\s+\S+.*BEGIN USER NKEY SEED-+\s+SU\S+", re.DOTALL)


class Client(NatsClient):
    """A connection that ends once and for all, and says why."""

    def __init__(self, needs_tls: bool) -> None:
        super().__init__()
        self.over = asyncio.Event()
        self.refusals: deque[str] = deque(maxlen=20)
        """What the server said that it does not permit."""
        self.troubles: deque[Exception] = deque(maxlen=20)
        self._needs_tls = needs_tls
        self._why = ""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # Else the library would go on without TLS, and send the password, to whoever says that he has none.
        if initial_connection and self._needs_tls and not info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        await super()._process_info(info, initial_connection)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        # The library stops reading, without a word, at a subject that is not UTF-8; servers let those through.
        names = subject.decode(errors="replace"), reply.decode(errors="replace")
        return self.msg_class(self, *names, data=data, headers=headers, _sid=sid)

    async def note_trouble(self, error: Exception) -> None:
        """The library's callback for errors."""
        if "permissions violation" in str(error):
            self.refusals.append(_bare(error))
        else:
            self.troubles.append(error)

    async def note_end(self) -> None:
        """The library's callback for the end of the connection."""
        self.over.set()

    async def ended(self) -> None:
        """Wait for the end of the connection.

        Raises:
            Unavailable: this is it.
        """
        over, reading = asyncio.ensure_future(self.over.wait()), self._reading_task
        try:
            await asyncio.wait({over, reading} if reading else {over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.over.wait()
        if not self.over.is_set():
            await self.end(_bare(self.last_error) or "what the server sent cannot be read")
        if self._why:
            raise Unavailable(self._why)
        said = "" if isinstance(self.last_error, nats.errors.UnexpectedEOF) else _bare(self.last_error)
        raise Unavailable(f"the server has closed the connection{said and f': {said}'}")

    async def round_trip(self) -> None:
        """Return when the server has seen all that was sent to it, and what it had sent before has arrived.

        Raises:
            Unavailable: it does not answer, or has ended the connection.
        """
        await first_to_end(self._pinged(), self.ended())

    async def _pinged(self) -> None:
        try:
            # The library's first ping may overtake what was sent just before it.
            await self.flush(_ANSWER_S)
            await self.flush(_ANSWER_S)
        except nats.errors.ConnectionClosedError:
            await self.ended()
        except nats.errors.TimeoutError:
            why = f"the server does not answer for {_ANSWER_S} s"
            await self.end(why)
            raise Unavailable(why) from None

    async def end(self, why: str = "") -> None:
        """Close it, whatever the other side does meanwhile; `why` is what those are told who still read."""
        self._why = self._why or why
        # The library waits for the other side, and after a handshake that failed it would do so for ever.
        with suppress(OSError, nats.errors.Error):
            async with asyncio.timeout(_CLOSE_S):
                await self.close()
        self.over.set()


class Servers:
    """The servers of one configured connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._connecting: asyncio.Task[Client] | None = None

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A connection, until the block ends; others use it too.

        Raises:
            Unavailable: there is none to be had, or it ended in the block.
        """
        client = await self._client()
        try:
            yield client
        except nats.errors.Error as error:
            raise Unavailable(_explained(client, error)) from None

    async def close(self) -> None:
        """End the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
            with suppress(asyncio.CancelledError, Unavailable):
                await (await self._connecting).end()
            self._connecting = None

    async def _client(self) -> Client:
        task = self._connecting
        if task is None or (task.done() and (task.exception() is not None or task.result().is_closed)):
            task = self._connecting = asyncio.ensure_future(self._connect())
        # Whoever gives up waiting must not take the connection from the others.
        return await asyncio.shield(task)

    async def _connect(self) -> Client:
        connection, login = self._connection, self._connection.login
        client = Client(connection.needs_tls and not connection.tls.first)
        try:
            await client.connect(
                servers=list(connection.urls),
                name=f"eventhost {connection.name}",
                error_cb=client.note_trouble,
                closed_cb=client.note_end,
                allow_reconnect=False,
                # With 0 it would try for ever.
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=_CONNECT_S,
                ping_interval=_PING_EVERY_S,
                tls=_tls_context(connection),
                tls_handshake_first=connection.tls.first,
                user=login.user or None,
                password=login.password or None,
                token=login.token or None,
                nkeys_seed_str=login.nkey_seed or None,
                user_credentials=_credentials(login.credentials),
            )
        except (nats.errors.Error, OSError) as error:
            await client.end()
            # An error of its own says only that none of them could be reached.
            is_summary = isinstance(error, nats.errors.NoServersError) and client.troubles
            cause = client.troubles[-1] if is_summary else error
            raise Unavailable(f"cannot connect to {connection.where}: {_mended(cause)}") from None
        return client


def _tls_context(connection: Connection) -> ssl.SSLContext | None:
    tls = connection.tls
    if not (tls.ca or tls.cert or tls.first or connection.needs_tls):
        return None
    for path in filter(None, (tls.ca, tls.cert, tls.key)):
        _readable(path)
    try:
        context = ssl.create_default_context(cafile=tls.ca or None)
        if tls.cert:
            context.load_cert_chain(tls.cert, tls.key or None, password="")
    except ssl.SSLError as error:
        raise Unavailable(f"{tls.ca} {tls.cert} {tls.key}".strip() + f": no PEM of what is needed: {error}") from None
    return context


def _credentials(path: str) -> RawCredentials | None:
    if not path:
        return None
    text = _readable(path)
    # The library would look for what is missing for ever.
    if not _CREDENTIALS.search(text):
        raise Unavailable(f"{path}: it holds no user's JWT and seed; write it with `nsc generate creds`")
    return RawCredentials(text)


def _readable(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Unavailable(f"{path}: {reason}; name a file that this source may read") from None


def _mended(error: Exception) -> str:
    said = _bare(error)
    if "authorization violation" in said.lower():
        return f"{said}; check user, password, token, nkeySeed or credentials"
    if isinstance(error, nats.errors.SecureConnWantedError):
        return "it offers no TLS; write nats:// and no `ca` to go without, or mend the server"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be verified ({error.verify_message}); name its authority as `ca`"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with it: {error.reason or said}"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, TimeoutError):
        return f"no answer within {_CONNECT_S} s"
    return said or type(error).__name__


def _explained(client: Client, error: nats.errors.Error) -> str:
    if isinstance(error, ServiceUnavailableError) and error.code is None:
        return "the server has no JetStream, or none for this account; start it with `jetstream {}`, or check `domain`"
    if isinstance(error, APIError):
        return f"JetStream refuses: {error.description}"
    if isinstance(error, nats.errors.TimeoutError):
        # What is not permitted is not answered.
        refused = f"; it said: {client.refusals[-1]}" if client.refusals else ""
        return f"the server does not answer{refused}"
    return _bare(error)


def _bare(error: Exception | None) -> str:
    return "" if error is None else str(error).removeprefix("nats: ").strip("' ")
