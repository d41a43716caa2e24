"""API keys: named, with scopes, shown once; at rest there is only a digest of each, in a file of the environment.

A key holds 256 random bits, so that there is nothing to guess and a plain SHA-256 keeps it: the slow hashes are for
passwords, which people choose. Standard library only: the command line uses it too, and is quick.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from eventhost.access import Access
from eventhost.errors import ConfigError, EventhostError, NotFound, Problem

KEYS_FILE: Final = Path("var", "keys.json")
"""Relative to the environment's root."""

USED_FILE: Final = Path("var", "keys-used.json")
"""When each key was used last, as the host writes it now and then."""

SCOPES: Final = (Access.READ, Access.PUBLISH, Access.ADMIN)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WRITTEN = re.compile(r"eh_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without what opens anything; `rate_limit` is in requests a minute, `None` what the config says."""

    name: str
    id: str
    digest: str
    scopes: frozenset[Access]
    created: str
    rate_limit: int | None = None


def create_key(root: Path, name: str, scopes: Iterable[Access], rate_limit: int | None = None) -> str:
    """Make a key and return it: it cannot be had again.

    Raises:
        ConfigError: the name cannot be one or is taken, no scope is given, or the file of keys cannot be used.
        EventhostError: the file cannot be written.
    """
    if not _NAME.fullmatch(name):
        mend = "write at most 64 letters, digits, - _ and ., beginning with a letter or digit"
        raise ConfigError([Problem(repr(name), "this is not a name that a key can have", mend)])
    chosen = frozenset(scopes)
    if not chosen:
        raise ConfigError([Problem(name, "a key needs a scope", f"add --scope {'|'.join(SCOPES)}")])
    if rate_limit is not None and rate_limit < 1:
        raise ConfigError([Problem(name, "a rate limit must be at least 1", "leave it out for the config's own")])
    made = secrets.token_hex(6)
    text = f"eh_{made}_{secrets.token_urlsafe(32)}"
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    with _changing(root) as keys:
        if name in keys:
            mend = f"take another name, or revoke it first: eventhost key revoke {name}"
            raise ConfigError([Problem(str(KEYS_FILE), f"there is a key {name!r} already", mend)])
        keys[name] = Key(name, made, _digest(text), chosen, created, rate_limit)
    return text


def revoke_key(root: Path, name: str) -> None:
    """Make a key open nothing from now on.

    Raises:
        NotFound: there is none of this name.
        ConfigError, EventhostError: as `create_key`.
    """
    with _changing(root) as keys:
        if name not in keys:
            raise NotFound(f"there is no key {name!r}; there is: {', '.join(sorted(keys)) or 'none'}")
        del keys[name]


def read_keys(root: Path) -> tuple[Key, ...]:
    """All keys, by name.

    Raises:
        ConfigError: the file of keys cannot be used.
    """
    try:
        text = (root / KEYS_FILE).read_text("utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        mend = "let the host's own user read it, or remove it and make new keys"
        raise ConfigError([Problem(str(KEYS_FILE), f"cannot be read: {error}", mend)]) from error
    try:
        found = [_key(each) for each in json.loads(text)["keys"]]
    except (ValueError, KeyError, TypeError) as error:
        mend = "restore it from a backup, or remove it and make new keys"
        raise ConfigError([Problem(str(KEYS_FILE), "is no file of keys any longer", mend)]) from error
    return tuple(sorted(found, key=lambda key: key.name))


def last_used(root: Path) -> Mapping[str, str]:
    """When each key was used last, ISO 8601, by the key's id; to the minute, and empty where nobody knows."""
    try:
        used = json.loads((root / USED_FILE).read_text("utf-8"))
        return {str(name): str(when) for name, when in used.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def opened_by(text: str, keys: Mapping[str, Key]) -> Key | None:
    """The key that `text` is, among `keys` by id; how long that takes tells nothing of any of them."""
    written = _WRITTEN.fullmatch(text)
    found = keys.get(written[1]) if written else None
    fits = hmac.compare_digest(_digest(text), found.digest if found else _NO_DIGEST)
    return found if fits else None


def write_privately(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write JSON to a file that only the environment's own user can read, whole or not at all.

    What is not `durable` may be the old one again after a loss of power.

    Raises:
        OSError: it could not be written; the old one stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(handle, "w", encoding="utf-8") as opened:
            json.dump(value, opened, indent=2)
            opened.write("\n")
            opened.flush()
            if durable:
                os.fsync(opened.fileno())
            if os.geteuid() == 0:
                # Somebody with `sudo` makes it for the account that the host runs as.
                owner = path.parent.stat()
                os.fchown(opened.fileno(), owner.st_uid, owner.st_gid)
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


@contextmanager
def _changing(root: Path) -> Iterator[dict[str, Key]]:
    """The keys by name, written when the block ends well; meanwhile nobody else changes them."""
    path = root / KEYS_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder can be locked, and leaves no file behind.
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise EventhostError(f"cannot change {path}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = {key.name: key for key in read_keys(root)}
        yield keys
        write_privately(path, {"keys": [_written(key) for key in keys.values()]})
    except OSError as error:
        raise EventhostError(f"cannot change {path}: {error.strerror}") from error
    finally:
        os.close(folder)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _written(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "id": key.id,
        "sha256": key.digest,
        "scopes": sorted(key.scopes),
        "created": key.created,
        **({} if key.rate_limit is None else {"rate_limit": key.rate_limit}),
    }


def _key(said: Any) -> Key:
    scopes = frozenset(Access(scope) for scope in said["scopes"])
    texts = said["name"], said["id"], said["sha256"], said["created"]
    limit = said.get("rate_limit")
    if not all(isinstance(text, str) for text in texts) or not isinstance(limit, int | None):
        raise ValueError
    name, made, digest, created = texts
    return Key(name, made, digest, scopes, created, limit)
