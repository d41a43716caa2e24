"""TLS for the port: certificate and key from files, and from those that replace them while the host runs."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from eventhost.config.model import TlsConfig
from eventhost.errors import ConfigError, Problem

log = structlog.get_logger()


class Certificate:
    """What `http.tls` names. `context` is for the server, TLS 1.2 or newer.

    Raises:
        ConfigError: one of the files cannot be used; the message says which, and why.
    """

    def __init__(self, root: Path, tls: TlsConfig) -> None:
        self._files = (root / tls.cert, root / tls.key)
        self._said = tls
        self._seen = self._stamps()
        self.context = _context()
        self._load(self.context)

    def refresh(self) -> None:
        """Take what replaced the files; new connections get it. What cannot be used leaves things as they are."""
        if (seen := self._stamps()) == self._seen:
            return
        self._seen = seen
        try:
            # The other half of a pair may not be there yet.
            self._load(_context())
            self._load(self.context)
        except ConfigError as error:
            log.warning("certificate_unusable", problem=str(error))
        else:
            log.info("certificate_renewed", cert=self._said.cert)

    def _load(self, context: ssl.SSLContext) -> None:
        cert, key = self._files
        for path, field, said, begins in (
            (cert, "cert", self._said.cert, "CERTIFICATE-----"),
            (key, "key", self._said.key, "PRIVATE KEY-----"),
        ):
            try:
                text = path.read_text("latin-1")
            except OSError as error:
                mend = "write the path of a PEM file, from the environment's folder, that the host may read"
                raise _unusable(field, f"{said} cannot be read: {error.strerror}", mend) from error
            if begins not in text:
                what = "certificate" if field == "cert" else "private key"
                raise _unusable(field, f"{said} holds no {what}", f"name a PEM file with -----BEGIN … {begins}")
        try:
            # Without a password of ours OpenSSL would ask at the terminal, and wait.
            context.load_cert_chain(cert, key, password=lambda: b"")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                message = f"{self._said.key} is not the key of the first certificate in {self._said.cert}"
                raise _unusable("key", message, "put the host's own certificate first, the chain after it") from error
            if "ENCRYPTED" in key.read_text("latin-1"):
                mend = "remove the password: openssl pkey -in KEY -out NEW, readable by the host alone"
                raise _unusable("key", f"{self._said.key} is protected by a password", mend) from error
            message = f"{self._said.cert} and {self._said.key} cannot be used: {error.reason or error}"
            raise _unusable("cert", message, "name a certificate with its chain, and its key, both PEM") from error

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        try:
            return tuple((found.st_ino, found.st_mtime_ns) for found in (path.stat() for path in self._files))
        except OSError:
            return ()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _unusable(key: str, message: str, mend: str) -> ConfigError:
    return ConfigError([Problem("config.jsonc", message, mend, f"http.tls.{key}")])
