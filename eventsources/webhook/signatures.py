"""Tells whether a request was made by who knows the secret, in constant time; one function for each custom.

Formats: GitHub, "Validating webhook deliveries"; Stripe, "Verify webhook signatures manually"; the Standard Webhooks
specification 1.0; RFC 6750 for bearer tokens.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence


class Refused(Exception):
    """The request is not authentic; the text is a class of reasons, which tells a forger nothing."""


def verify(
    scheme: str, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, *, now_s: float, tolerance_s: float
) -> None:
    """Check `body` as it came, and `headers` (names in lower case), against any of `secrets`.

    `tolerance_s` is how far a signed time may lie from `now_s`, both ways.

    Raises:
        Refused: missing signature, stale timestamp, or wrong signature.
    """
    _SCHEMES[scheme](secrets, headers, body, now_s, tolerance_s)


def check_secret(scheme: str, secret: str) -> None:
    """Refuse a secret that `scheme` cannot use.

    Raises:
        ValueError: how it must look.
    """
    if scheme == "standard":
        _standard_key(secret)


def _github(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_s: float, tolerance_s: float) -> None:
    given = _need(headers, "x-hub-signature-256")
    _match((f"sha256={_hmac(secret.encode(), body).hex()}" for secret in secrets), [given])


def _stripe(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_s: float, tolerance_s: float) -> None:
    fields = [part.strip().partition("=") for part in _need(headers, "stripe-signature").split(",")]
    stamps = [value for key, _, value in fields if key == "t"]
    if len(stamps) != 1:
        raise Refused("missing signature")
    _fresh(stamps[0], now_s, tolerance_s)
    signed = stamps[0].encode() + b"." + body
    _match((_hmac(secret.encode(), signed).hex() for secret in secrets), [v for key, _, v in fields if key == "v1"])


def _standard(
    secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_s: float, tolerance_s: float
) -> None:
    message_id, stamp = _need(headers, "webhook-id"), _need(headers, "webhook-timestamp")
    given = [part.removeprefix("v1,") for part in _need(headers, "webhook-signature").split() if part.startswith("v1,")]
    _fresh(stamp, now_s, tolerance_s)
    signed = f"{message_id}.{stamp}.".encode() + body
    _match((base64.b64encode(_hmac(_standard_key(secret), signed)).decode() for secret in secrets), given)


def _bearer(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_s: float, tolerance_s: float) -> None:
    scheme, _, token = _need(headers, "authorization").partition(" ")
    if scheme.lower() != "bearer":
        raise Refused("missing signature")
    _match(secrets, [token.strip()])


_SCHEMES: Mapping[str, Callable[[Sequence[str], Mapping[str, str], bytes, float, float], None]] = {
    "github": _github,
    "stripe": _stripe,
    "standard": _standard,
    "bearer": _bearer,
}

SCHEMES = tuple(_SCHEMES)
"""What a route's `signature` may be."""


def _need(headers: Mapping[str, str], name: str) -> str:
    if not headers.get(name):
        raise Refused("missing signature")
    return headers[name]


def _fresh(stamp: str, now_s: float, tolerance_s: float) -> None:
    # `isdecimal` alone lets other scripts' digits pass, and a very long number is no time.
    if not (stamp.isascii() and stamp.isdecimal() and len(stamp) < 16 and abs(now_s - int(stamp)) <= tolerance_s):
        raise Refused("stale timestamp")


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _match(expected: Iterable[str], given: Sequence[str]) -> None:
    # Every pair is compared, so that time tells neither which secret nor which signature fits.
    matches = [hmac.compare_digest(right.encode(), said.encode()) for right in expected for said in given[:16]]
    if not any(matches):
        raise Refused("wrong signature")


def _standard_key(secret: str) -> bytes:
    text = secret.removeprefix("whsec_")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError('a secret of Standard Webhooks is base64, written as "whsec_…"') from None
