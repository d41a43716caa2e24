"""A connection on which nothing is acknowledged before it is asked for, and no more is read than there is room for.

aiomqtt has neither. paho, below it, has the first for QoS 1 alone; of QoS 2 it says that it has a message as soon as it
has read it. So this reaches into both, and `tests/test_source_iot.py` holds what it relies on.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, cast

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from messages import Message
from options import Broker, Tls
from paho.mqtt import client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from reasons import Refused, closed, not_reached, refused
from session import Receipt, Step, iso
from topics import Subscription

from eventhost.kit.upstream import Unavailable

MOST_WAITING: Final = 500
"""How many messages wait for the host at most; a broker that speaks MQTT 5 is told so."""

MOST_BYTES: Final = 4_000_000
ANSWER_S: Final = 10.0
"""How long the broker has to answer."""

_MOST_AT_ONCE: Final = 200
"""How many packets are read before anything else has its turn."""

_GOODBYE_S: Final = 0.5
"""How long saying goodbye may take; less than the kit leaves for it."""

_SEND_ON_NEW: Final = 1
_DO_NOT_SEND: Final = 2

Packet = Message | int
"""A message, or the number of one of QoS 2 that the broker has released."""


class _Paho(paho.Client):
    """Hands messages of QoS 2 on when they come, and says nothing of them by itself."""

    released: Callable[[int], None]

    def _send_pubrec(self, mid: int) -> MQTTErrorCode:
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_publish(self) -> MQTTErrorCode:
        result = super()._handle_publish()
        # It keeps those of QoS 2 until they are released, and hands them on only then.
        kept, self._in_messages = self._in_messages, OrderedDict()
        for message in kept.values():
            self._handle_on_message(message)
        return result

    def _handle_pubrel(self) -> MQTTErrorCode:
        self.released(int.from_bytes(self._in_packet["packet"][:2], "big"))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def tell(self, number: int, step: Step) -> None:
        if step is Step.PUBREC:
            super()._send_pubrec(number)
        else:
            self.ack(number, 1 if step is Step.PUBACK else 2)


class Connection(aiomqtt.Client):
    """One connection to a broker; use it as a context, once.

    Raises:
        Unavailable: by each method, when the broker cannot be reached, refuses, or is gone.
        OSError: on entering, when a file of `tls` cannot be used.
    """

    def __init__(self, broker: Broker, client_id: str) -> None:
        self._broker = broker
        self._is_v5 = broker.version == "5"
        super().__init__(
            broker.host,
            broker.port,
            username=broker.username,
            password=broker.password,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if self._is_v5 else aiomqtt.ProtocolVersion.V311,
            clean_session=None if self._is_v5 else False,
            clean_start=False if self._is_v5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
            keepalive=broker.keep_alive_s,
            timeout=ANSWER_S,
            max_concurrent_outgoing_calls=10,
            properties=_connect_properties(broker) if self._is_v5 else None,
            tls_context=_tls_context(broker.tls) if broker.tls else None,
        )
        self._client.__class__ = _Paho
        self._paho: _Paho = self._client  # type: ignore[assignment]
        self._paho.manual_ack_set(True)
        self._paho.released = self._on_released
        self.session_present = False
        self.identifies = False
        """Whether the broker says for which subscription a message comes."""
        self._heard_s = time.time()
        self._packets: deque[Packet] = deque()
        self._waiting_bytes = 0
        self._came = 0
        self._paused = False
        self._happened = asyncio.Event()
        self._ended: Unavailable | None = None

    async def __aenter__(self) -> Connection:
        try:
            await super().__aenter__()
        except BaseException as error:
            self._abort()
            if isinstance(error, MqttConnectError):
                raise refused(error.rc, self._broker) from None
            if isinstance(error, aiomqtt.MqttError):
                raise not_reached(str(error), self._broker) from None
            raise
        # A failure to write is told to nobody else.
        self._disconnected.add_done_callback(lambda _: self._happened.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await super().__aexit__(kind, error, traceback)
        except (TimeoutError, aiomqtt.MqttError):
            pass  # The broker finds out.
        finally:
            self._abort()

    def _abort(self) -> None:
        """Leave nothing open, whatever has happened."""
        self._paho._sock_close()
        for future in (self._connected, self._disconnected):
            if future.done() and not future.cancelled():
                future.exception()  # Else asyncio complains that nobody has asked.

    @property
    def heard(self) -> str:
        """When anything came from the broker last, in ISO 8601."""
        return iso(self._heard_s)

    @property
    def has_waiting(self) -> bool:
        """Whether `packets` returns at once."""
        return bool(self._packets)

    async def packets(self) -> list[Packet]:
        """What has come, as much as is good to hand on together; waits until there is something.

        What came before the connection ended is returned all the same.
        """
        while not self._packets:
            if self._disconnected.done():
                raise self._ended or closed(self._disconnected.exception(), self._broker)
            self._happened.clear()
            await self._happened.wait()
        found: list[Packet] = []
        size = 0
        while self._packets and len(found) < MOST_WAITING and size < MOST_BYTES:
            packet = self._packets.popleft()
            found.append(packet)
            size += _size(packet)
        self._waiting_bytes -= size
        if self._paused and not self._is_full():
            self._resume()
        return found

    def tell(self, receipts: list[Receipt]) -> None:
        """Acknowledge; to a broker that is gone this does nothing."""
        for number, step in receipts:
            self._paho.tell(number, step)
        if receipts:
            # Not when the loop gets to it: a kill between the disk and the broker makes doubles.
            self._write()

    async def ask(self, subscription: Subscription, number: int) -> int | Refused:
        """Subscribe; return the quality of service that is granted."""
        if not self._is_v5:
            (code,) = await self._answered(self.subscribe(subscription.filter, subscription.qos))
        else:
            options = SubscribeOptions(
                qos=subscription.qos, retainHandling=_SEND_ON_NEW if subscription.retained else _DO_NOT_SEND
            )
            properties = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]
            if self.identifies:
                properties.SubscriptionIdentifier = number
            (code,) = await self._answered(self.subscribe(subscription.filter, options=options, properties=properties))
        granted = code.value if isinstance(code, ReasonCode) else int(code)
        return granted if granted < 0x80 else Refused(subscription.filter, str(code))

    async def drop(self, topic_filter: str) -> None:
        """Unsubscribe."""
        await self._answered(self.unsubscribe(topic_filter))

    async def _answered(self, asked: Any) -> Any:
        try:
            return await asked
        except aiomqtt.MqttError as error:
            raise (self._ended or closed(error, self._broker)) from None

    def _on_connect(
        self, client: paho.Client, userdata: Any, flags: paho.ConnectFlags, reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:  # fmt: skip
        self.session_present = flags.session_present
        self.identifies = self._is_v5 and getattr(properties, "SubscriptionIdentifierAvailable", 1) == 1
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self, client: paho.Client, userdata: Any, flags: paho.DisconnectFlags, reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:  # fmt: skip
        if flags.is_disconnect_packet_from_server:
            text = getattr(properties, "ReasonString", "")
            self._ended = self._ended or refused(reason_code, self._broker, text, connected=True)
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("the broker closed the connection before it answered"))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._queue_packet(_message(message))

    def _on_released(self, number: int) -> None:
        self._queue_packet(number)

    def _queue_packet(self, packet: Packet) -> None:
        self._packets.append(packet)
        self._came += 1
        self._waiting_bytes += _size(packet)
        self._happened.set()
        sock = self._socket()
        if sock is not None and not self._paused and self._is_full():
            self._paused = True
            self._loop.remove_reader(sock)

    def _socket(self) -> socket.socket | None:
        return cast("socket.socket | None", self._paho.socket())

    def _is_open(self, sock: Any) -> bool:
        return sock is self._socket()

    def _is_full(self) -> bool:
        return len(self._packets) >= MOST_WAITING or self._waiting_bytes >= MOST_BYTES

    def _resume(self) -> None:
        self._paused = False
        sock = self._socket()
        if sock is not None:
            self._loop.add_reader(sock, self._read)
            # TLS may hold what it has read already, of which the loop knows nothing.
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._heard_s = time.time()
        try:
            # All that is there, for what comes together is kept and handed on together; within bounds, for others.
            for _ in range(_MOST_AT_ONCE):
                sock, before = self._socket(), self._came
                if sock is None or self._paused:
                    return
                self._paho.loop_read()
                if self._came == before and not (isinstance(sock, ssl.SSLSocket) and _holds_more(sock)):
                    return
            self._loop.call_soon(self._read)
        except Exception as error:
            self._fail(error)

    def _write(self) -> None:
        try:
            self._paho.loop_write()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        for future in (self._connected, self._disconnected):
            if not future.done():
                future.set_exception(error)
                return

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        # Called in the thread that connects.
        def begin() -> None:
            if self._is_open(sock):
                self._loop.add_reader(sock, self._read)
                self._misc_task = self._loop.create_task(self._misc_loop())

        self._loop.call_soon_threadsafe(begin)

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        # Called in the thread that connects, too. By the time of `begin` all may be written, or the socket be closed,
        # and another have its number.
        def begin() -> None:
            if self._is_open(sock) and client.want_write():
                self._loop.add_writer(sock, self._write)

        self._loop.call_soon_threadsafe(begin)

    async def _misc_loop(self) -> None:
        while True:
            if self._paused:
                # The answer to a ping waits behind what is not read yet.
                self._paho._ping_t = 0.0
            if self._paho.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return
            await asyncio.sleep(min(1.0, self._broker.keep_alive_s / 4))


def _connect_properties(broker: Broker) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = broker.session_expiry_s
    properties.ReceiveMaximum = MOST_WAITING
    return properties


def _tls_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        # Without a password OpenSSL would ask for one, at a terminal.
        context.load_cert_chain(tls.cert, tls.key, password=tls.key_password)
    return context


def _message(message: paho.MQTTMessage) -> Message:
    properties = message.properties
    numbers = getattr(properties, "SubscriptionIdentifier", ())
    return Message(
        topic=message._topic.decode(errors="replace"),
        payload=bytes(message.payload),
        qos=message.qos,
        number=message.mid,
        retained=message.retain,
        duplicate=message.dup,
        subscriptions=tuple(numbers) if isinstance(numbers, list | tuple) else (numbers,),
        content_type=getattr(properties, "ContentType", None),
        user_properties=tuple(getattr(properties, "UserProperty", ())),
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation_data=getattr(properties, "CorrelationData", None),
        expiry_s=getattr(properties, "MessageExpiryInterval", None),
    )


def _holds_more(sock: ssl.SSLSocket) -> bool:
    """Whether it holds what the loop cannot see; one that was closed holds nothing."""
    return sock.fileno() != -1 and sock.pending() > 0


def _size(packet: Packet) -> int:
    return 0 if isinstance(packet, int) else len(packet.payload)
