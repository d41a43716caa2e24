"""`Verdict`: what shaping made of an event; whatever did not run has one, is counted, and can be seen."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What became of an event between matching and running."""

    RUN = "run"
    HELD = "held"
    """It waits for its run: in a batch, a digest, for quiet, or for what is absent."""
    EXPIRED = "expired"
    """It was older than `maxAge`."""
    INACTIVE = "inactive"
    """It came outside of the hours and days of `active`."""
    DUPLICATE = "duplicate"
    """`dedupe` let another one with its key through lately, or `absence` is waiting for an answer to one already."""
    THROTTLED = "throttled"
    SUPERSEDED = "superseded"
    """A later event came before there was quiet."""
    ANSWERED = "answered"
    """What would have been absent came."""
    OVERFLOW = "overflow"
    """There was no room to hold it."""
    KEY_ERROR = "key_error"
    """Its key could not be filled in; see `Shaper.last_error`."""
    LOST = "lost"
    """It was held, and cannot be any longer: the journal does not have it, or what it was held for is gone."""

    # That of the text, which it equals; an enumeration's own is slow, and these are counted for each event.
    __hash__ = str.__hash__
