"""Why a broker refuses, or is gone, in words that say how to mend it."""

from __future__ import annotations

from typing import NamedTuple

from options import Broker
from paho.mqtt.reasoncodes import ReasonCode

from eventhost.kit.upstream import Unavailable

_LONG_S = 30.0
"""How long to stay away from a broker that has another client under the same id: coming back would end that one."""


class Refused(NamedTuple):
    """A subscription that the broker does not grant."""

    filter: str
    reason: str

    def __str__(self) -> str:
        mend = _MENDS_OF_SUBSCRIPTIONS.get(self.reason, "is this user allowed to read it?")
        return f"the broker refuses the subscription to {self.filter}: {self.reason}; {mend}"


_MENDS = {
    "Bad user name or password": "see username and password",
    "Not authorized": "see username and password, and what the broker allows this user and this client id",
    "Client identifier not valid": "see clientId",
    "Server busy": "it may do so later",
    "Server unavailable": "it may do so later",
    "Use another server": "see url",
    "Server moved": "see url",
    "Bad authentication method": "this source knows passwords and certificates alone",
    "Packet too large": "the broker takes no connection with so long options",
}
_MENDS_OF_SUBSCRIPTIONS = {
    "Shared subscription not supported": "leave $share/GROUP/ out",
    "Wildcard subscription not supported": "name topics without + and #",
    "Topic filter invalid": "see topics",
}
_SUBSCRIPTION_ENDS = {
    "Session taken over": "another client has come under the same client id; give each its own, see clientId",
}


def refused(reason: ReasonCode | int | None, broker: Broker, text: str = "", *, connected: bool = False) -> Unavailable:
    """What the broker said when it refused the connection, or ended it."""
    name = reason.getName() if isinstance(reason, ReasonCode) else str(reason)
    said = f"{name} ({text})" if text and text != name else name
    if connected:
        after_s = _LONG_S if name in _SUBSCRIPTION_ENDS else 0
        mend = _SUBSCRIPTION_ENDS.get(name, "")
        return Unavailable(f"the broker has ended the connection: {said}{mend and f'; {mend}'}", after_s=after_s)
    mend = _MENDS.get(name, "")
    if name == "Unsupported protocol version":
        other = "3.1.1" if broker.version == "5" else "5"
        mend = f'write "version": "{other}"'
    return Unavailable(f"the broker refuses the connection: {said}{mend and f'; {mend}'}")


def not_reached(error: str, broker: Broker) -> Unavailable:
    """Nothing came of the attempt to connect."""
    mend = ""
    if "CERTIFICATE_VERIFY_FAILED" in error:
        mend = "; is its certificate for this name, and from whom `ca` trusts?"
    elif "WRONG_VERSION_NUMBER" in error:
        mend = "; it does not speak TLS there: write mqtt:// in `url`, or another port"
    elif "before it answered" in error:
        if broker.version == "3.1.1":
            mend = "; does it want TLS (mqtts://), or MQTT 5?"
        else:
            mend = '; does it want TLS (mqtts://), or "version": "3.1.1"?'
    return Unavailable(f"cannot connect to {broker.host}:{broker.port}: {error}{mend}")


def closed(error: BaseException | None, broker: Broker) -> Unavailable:
    """The connection has ended without a word of the broker's."""
    reason = getattr(error, "rc", None)
    name = reason.getName() if isinstance(reason, ReasonCode) else ""
    if name == "Keep alive timeout":
        return Unavailable(f"the connection has ended: the broker is silent; see keepAlive, {broker.keep_alive_s} s")
    said = f": {name or error}" if error is not None and name != "Unspecified error" else ""
    # Brokers that do not say so do this, too, and each time that this one comes back it ends the other.
    mend = "if that goes on, another client has the same client id: give each its own, see clientId"
    return Unavailable(f"the connection has ended{said}; {mend}")
