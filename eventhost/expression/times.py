"""Moments and durations: whole milliseconds, whatever the machine's clock, time zone and language are.

A moment is a number of milliseconds since 1970, as `timestamp` is; one that is `now()` is the event's time in the
journal, so that a replay sees what the first run saw.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from eventhost.durations import milliseconds, written
from eventhost.event import MAX_TIMESTAMP
from eventhost.expression.source import ExpressionError
from eventhost.expression.views import Budget, kind

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_MAX_WRITTEN: Final = 64
_MAX_FORMAT: Final = 256
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

_DIRECTIVE: Final = re.compile(r"%(-?)(.?)", re.DOTALL)
# What the machine's own `strftime` makes of these depends on the machine.
_DIRECTIVES: Final[dict[str, Callable[[datetime], str]]] = {
    "%": lambda _: "%",
    "a": lambda at: _DAYS[at.weekday()][:3],
    "A": lambda at: _DAYS[at.weekday()],
    "b": lambda at: _MONTHS[at.month - 1][:3],
    "B": lambda at: _MONTHS[at.month - 1],
    "d": lambda at: f"{at.day:02}",
    "f": lambda at: f"{at.microsecond:06}",
    "F": lambda at: f"{at.year:04}-{at.month:02}-{at.day:02}",
    "G": lambda at: f"{at.isocalendar().year:04}",
    "H": lambda at: f"{at.hour:02}",
    "I": lambda at: f"{at.hour % 12 or 12:02}",
    "j": lambda at: f"{at.timetuple().tm_yday:03}",
    "m": lambda at: f"{at.month:02}",
    "M": lambda at: f"{at.minute:02}",
    "p": lambda at: "AM" if at.hour < 12 else "PM",
    "S": lambda at: f"{at.second:02}",
    "T": lambda at: f"{at.hour:02}:{at.minute:02}:{at.second:02}",
    "u": lambda at: f"{at.isoweekday()}",
    "V": lambda at: f"{at.isocalendar().week:02}",
    "y": lambda at: f"{at.year % 100:02}",
    "Y": lambda at: f"{at.year:04}",
    "z": lambda at: _offset(at),
    "Z": lambda at: at.tzname() or "",
}


def functions(now: Callable[[], int]) -> dict[str, Callable[..., Any]]:
    """The functions by name; `now` gives the moment of the evaluation."""

    def now_() -> int:
        return now()

    return {"now": now_, "duration": duration}


def filters(budget: Budget) -> dict[str, Callable[..., Any]]:
    """The filters by name."""

    def format_time(moment: Any, layout: Any = None, zone: Any = "UTC") -> str:
        at = in_zone(moment, zone, "format_time")
        if layout is None:
            text = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        else:
            text = _DIRECTIVE.sub(lambda found: _directive(found, at), check_layout(layout))
        budget.write(len(text))
        return text

    def time_parts(moment: Any, zone: Any = "UTC") -> dict[str, Any]:
        at = in_zone(moment, zone, "time_parts")
        budget.read(10)
        return {
            "year": at.year,
            "month": at.month,
            "day": at.day,
            "hour": at.hour,
            "minute": at.minute,
            "second": at.second,
            "weekday": at.isoweekday(),
            "date": at.date().isoformat(),
            "time": f"{at.hour:02}:{at.minute:02}",
        }

    def format_duration(duration_ms: Any, units: Any = 2) -> str:
        if type(units) is not int or units < 1:
            raise ExpressionError(f"format_duration: units is a whole number above 0, got {units!r}")
        return written(_whole(duration_ms, "format_duration"), units)

    return {
        "timestamp": timestamp,
        "format_time": format_time,
        "time_parts": time_parts,
        "duration": duration,
        "format_duration": format_duration,
    }


def duration(duration_text: Any) -> int:
    """The milliseconds that a text such as `1h30m` stands for, rounded.

    Raises:
        ExpressionError: it is no duration.
    """
    found = _duration_ms(str(duration_text)) if isinstance(duration_text, str) else None
    if found is None:
        raise ExpressionError(
            f"duration: {_shown(duration_text)} is none; write numbers with d, h, m, s or ms, such as '1h30m'"
        )
    return found


def timestamp(moment: Any, zone: Any = "UTC") -> int:
    """The milliseconds since 1970 of a moment as ISO 8601 says it, or of one that is such a number already.

    A text without an offset is a time in `zone`.

    Raises:
        ExpressionError: it is neither.
    """
    at: datetime | None = None
    if type(moment) in (int, float):
        return _whole(moment, "timestamp")
    if isinstance(moment, str) and len(moment) <= _MAX_WRITTEN:
        try:
            at = datetime.fromisoformat(moment)
            # Within a day of the first year or of the last one an offset leads out of the calendar.
            at = at.replace(tzinfo=time_zone(zone)) if at.tzinfo is None else at
            return (at - _EPOCH) // _MILLISECOND
        except (ValueError, OverflowError):
            pass
    raise ExpressionError(
        f"timestamp: {_shown(moment)} is neither ISO 8601, such as '2026-01-31T12:00:00Z', nor a number of milliseconds"
    )


def in_zone(moment: Any, zone: Any, name: str) -> datetime:
    """A moment as the clocks of a time zone show it.

    Raises:
        ExpressionError: it is none, or there is no such zone.
    """
    try:
        return (_EPOCH + _whole(moment, name) * _MILLISECOND).astimezone(time_zone(zone))
    except OverflowError:
        raise ExpressionError(f"{name}: {moment} is not within the years 1 to 9999") from None


def time_zone(name: Any) -> tzinfo:
    """The time zone of a name such as `Europe/Berlin`.

    Raises:
        ExpressionError: there is none.
    """
    found = _zone(name) if isinstance(name, str) and len(name) <= _MAX_WRITTEN else None
    if found is None:
        raise ExpressionError(f"there is no time zone {_shown(name)}; write one such as 'Europe/Berlin'")
    return found


def check_layout(layout: Any) -> str:
    """`layout` itself.

    Raises:
        ExpressionError: it cannot be filled in.
    """
    if not isinstance(layout, str) or len(layout) > _MAX_FORMAT:
        raise ExpressionError(f"format_time: a layout is a string of at most {_MAX_FORMAT} characters")
    for found in _DIRECTIVE.finditer(layout):
        if found[2] not in _DIRECTIVES:
            raise ExpressionError(f"format_time: {found[0]} stands for nothing; there are {' '.join(_DIRECTIVES)}")
    return layout


def _directive(found: re.Match[str], at: datetime) -> str:
    text = _DIRECTIVES[found[2]](at)
    return (text.lstrip("0") or "0") if found[1] and text.isdecimal() else text


def _offset(at: datetime) -> str:
    offset_s = round((at.utcoffset() or timedelta()).total_seconds())
    minutes, seconds = divmod(abs(offset_s), 60)
    return f"{'-' if offset_s < 0 else '+'}{minutes // 60:02}{minutes % 60:02}" + (f"{seconds:02}" if seconds else "")


@lru_cache(maxsize=1024)
def _duration_ms(text: str) -> int | None:
    exact = milliseconds(text)
    return None if exact is None else round(exact)


@lru_cache(maxsize=1024)
def _zone(name: str) -> tzinfo | None:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # of the latter kind is a name that is not found
        return None


def _whole(value: Any, name: str) -> int:
    if type(value) in (int, float) and abs(value) <= MAX_TIMESTAMP:
        return int(value)
    raise ExpressionError(f"{name}: a number of milliseconds, up to 2^53, is needed, got {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:_MAX_WRITTEN])
    return str(value) if type(value) is int and abs(value) < 2**64 else kind(value)
