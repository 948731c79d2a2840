"""What the texts of an expression's literals and casts stand for: a value, or none at all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone

from ml_platform.contract.column_types import INTEGER_BOUNDS, ColumnType
from ml_platform.contract.scalar_tree import PlainValue

#: How a text of each type is written, in words.
FORMS: Mapping[ColumnType, str] = {
    "integer": "digits with or without a sign, within 32 bits",
    "long": "digits with or without a sign, within 64 bits",
    "double": "a decimal number with or without an exponent",
    "boolean": "true, t, yes, y, 1, false, f, no, n or 0",
    "date": "a day like 2024-01-31",
    "timestamp": "a time like 2024-01-31 10:00:00, in UTC or with an offset like +02:00",
    "string": "a text",
}

#: The only sign that is ignored around a text's value.
SPACE = " "

_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_DOUBLE = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_TIMESTAMP = re.compile(
    rf"{_DATE.pattern}(?:[ T]([0-9]{{2}}):([0-9]{{2}})(?::([0-9]{{2}})(?:\.([0-9]{{1,6}}))?)?"
    r" ?(?:Z|([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?"
)
_WORDS = dict.fromkeys(("true", "t", "yes", "y", "1"), True) | dict.fromkeys(
    ("false", "f", "no", "n", "0"), False
)


def value_of(text: str, type_: ColumnType) -> PlainValue:
    """What a text stands for as a value of a type; None for nothing, and if it is beyond the type."""
    return _READERS[type_](text.strip(SPACE)) if type_ != "string" else text


def _integer(text: str, type_: ColumnType) -> int | None:
    least, greatest = INTEGER_BOUNDS[type_]
    number = int(text) if _INTEGER.fullmatch(text) else None
    return number if number is not None and least <= number <= greatest else None


def _double(text: str) -> float | None:
    number = float(text) if _DOUBLE.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


def _date(text: str) -> date | None:
    match = _DATE.fullmatch(text)
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def _timestamp(text: str) -> datetime | None:
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return None
    *parts, fraction, sign, hours, minutes = match.groups()
    microseconds = int((fraction or "").ljust(6, "0"))
    try:
        offset = timedelta(hours=int(hours or 0), minutes=_below_an_hour(minutes))
        zone = timezone(-offset if sign == "-" else offset)
        year, month, day, hour, minute, second = (int(part or 0) for part in parts)
        local = datetime(year, month, day, hour, minute, second, microseconds, zone)
        return local.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


def _below_an_hour(minutes: str | None) -> int:
    if int(minutes or 0) > 59:
        raise ValueError
    return int(minutes or 0)


_READERS: Mapping[ColumnType, Callable[[str], PlainValue]] = {
    "integer": lambda text: _integer(text, "integer"),
    "long": lambda text: _integer(text, "long"),
    "double": _double,
    "boolean": lambda text: _WORDS.get(text.lower()),
    "date": _date,
    "timestamp": _timestamp,
}
