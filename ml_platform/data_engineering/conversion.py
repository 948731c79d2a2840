"""Texts as values of a column's type: what a text stands for, or which key would let it stand for something.

A text is accepted only if the value is exactly what it says: ``1.0`` is an integer and ``1.5`` is none. Where
a record stands, and what happens to one without a value, is :mod:`.parsing`'s business.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.column_types import COLUMN_TYPES
from ml_platform.contract.source import Column, Source

ARROW_TYPES: dict[str, pa.DataType] = {name: names.arrow_type for name, names in COLUMN_TYPES.items()}

ISO = "iso"
#: How many of the unit are a second.
EPOCHS = {"epoch_seconds": 1, "epoch_milliseconds": 1_000, "epoch_microseconds": 1_000_000}
DEFAULT_TRUE, DEFAULT_FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_MIDNIGHT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]00:00(?::00(?:[.,]0+)?)?(?:Z|[+]00:?00)?")
_MAYBE_GROUPED = r"^[+-]?[1-9][0-9]{0,2}\.000$"
_DIGITS_OF_LONG = 19
_FIRST_DAY = (date.min - date(1970, 1, 1)).days
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Spaces that group digits, besides the plain one.
_SPACES = "\u00a0\u202f"


def cast(text: pa.Array, declared: Column, source: Source) -> tuple[pa.Array, list[int]]:
    """Texts as values of a column's type, and the places of those that are none."""
    if declared.type == "string":
        return text, positions(pc.match_substring(text, "\0")) if _may_hold(text, b"\0") else []
    match declared.type:
        case "integer" | "long":
            return _cast_integers(text, ARROW_TYPES[declared.type], source)
        case "double":
            return _cast_doubles(text, source)
        case "date" if not declared.formats:
            return _cast_dates(text, declared)
        case _:
            trimmed = pc.ascii_trim_whitespace(text)
            nothing = pa.nulls(len(trimmed), ARROW_TYPES[declared.type])
            return _with_distinct(nothing, trimmed, lambda text: value_of(text, declared))


def day_of(text: str, declared: Column, source: Source) -> date | None:
    """The day that a text of a column of type date stands for; None if for none."""
    value, _ = cast(pa.array([text], pa.string()), declared, source)
    day: date | None = value[0].as_py()
    return day


def positions(mask: pa.Array) -> list[int]:
    """Where a mask is true."""
    found: list[int] = pc.indices_nonzero(mask).to_pylist()
    return found


# -- numbers -----------------------------------------------------------------------------------------


def _cast_integers(text: pa.Array, type_: pa.DataType, source: Source) -> tuple[pa.Array, list[int]]:
    # Arrow reads hexadecimal numbers, people don't.
    if not _may_hold(text, b"x") and not _may_hold(text, b"X"):
        try:
            return text.cast(type_), []
        except pa.ArrowInvalid:
            pass
    text = pc.ascii_trim_whitespace(text)
    plain = _plain_numbers(text, source)
    if source.thousands is None:
        # By those who group digits with a point it is a thousand times as much.
        plain = _null_where(pc.match_substring_regex(plain, _MAYBE_GROUPED), plain)
    written = pc.replace_substring_regex(_without(plain, "x"), r"^([+-]?[0-9]+)\.0*$", r"\1")
    value = _cast_halves(written, type_)
    limits = np.iinfo(type_.to_pandas_dtype())

    def parse(text: str) -> int | None:
        whole = _whole(text)
        return whole if whole is not None and limits.min <= whole <= limits.max else None

    return _with_distinct(value, plain, parse, text)


def _whole(text: str) -> int | None:
    """The integer that a number is exactly, as ``1.50e1`` is 15."""
    if not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    if number.adjusted() >= _DIGITS_OF_LONG or number != number.to_integral_value():
        return None
    return int(number)


def _cast_doubles(text: pa.Array, source: Source) -> tuple[pa.Array, list[int]]:
    if source.decimal != "." or source.thousands is not None:
        value = _cast_halves(_plain_numbers(pc.ascii_trim_whitespace(text), source), pa.float64())
    else:
        value = _cast_trimmed(text, pa.float64())
    is_finite = pc.is_finite(value)
    if not pc.all(is_finite, min_count=0).as_py():
        value = pc.if_else(is_finite, value, pa.scalar(None, pa.float64()))
    value = pc.add(value, 0.0)  # -0.0 becomes 0.0: they are one key, and one value
    if value.null_count == text.null_count:
        return value, []
    return value, positions(pc.and_(value.is_null(), text.is_valid()))


def _cast_dates(text: pa.Array, declared: Column) -> tuple[pa.Array, list[int]]:
    trimmed, value = text, None
    with contextlib.suppress(pa.ArrowInvalid):
        value = text.cast(pa.date32())
    least = pc.min(value.view(pa.int32()), min_count=0).as_py() if value is not None else None
    if value is None or (least is not None and least < _FIRST_DAY):
        trimmed = pc.ascii_trim_whitespace(text)
        # Arrow knows a year 0, Python and Spark do not.
        year_zero = pc.starts_with(trimmed, "0000")
        value = _cast_halves(_null_where(year_zero, trimmed), pa.date32())
    return _with_distinct(value, trimmed, lambda text: value_of(text, declared))


def _plain_numbers(text: pa.Array, source: Source) -> pa.Array:
    """Numbers with a point and no groups of digits; null where a text isn't written as the contract says."""
    point, groups = source.decimal, source.thousands
    written = text
    if groups is not None:
        if groups == " ":
            written = pc.replace_substring_regex(written, f"[{_SPACES}]", " ")
        mark = re.escape(groups)
        grouped = rf"^[+-]?[0-9]{{1,3}}(?:{mark}[0-9]{{3}})+(?:{re.escape(point)}[0-9]*)?$"
        is_grouped = pc.match_substring_regex(written, grouped)
        written = pc.if_else(is_grouped, pc.replace_substring(written, groups, ""), written)
        written = _without(written, groups) if groups in ".," else written
    if point == ",":
        written = pc.replace_substring(_without(written, "."), ",", ".")
    return written


def _without(text: pa.Array, forbidden: str) -> pa.Array:
    """Null where a text has a character that Arrow would read as part of a number, and people don't."""
    return _null_where(pc.match_substring(text, forbidden, ignore_case=True), text)


def _null_where(unwanted: pa.Array, text: pa.Array) -> pa.Array:
    return pc.if_else(unwanted, pa.scalar(None, pa.string()), text)


def _cast_trimmed(text: pa.Array, type_: pa.DataType) -> pa.Array:
    """The values of texts without spaces around them, of which there are rarely any; null for no value."""
    try:
        return text.cast(type_)
    except pa.ArrowInvalid:
        return _cast_halves(pc.ascii_trim_whitespace(text), type_)


def _cast_halves(text: pa.Array, type_: pa.DataType) -> pa.Array:
    """A cast that gives null for what it can't read, found by halving: good data is never looped over."""
    try:
        return text.cast(type_)
    except pa.ArrowInvalid:
        if len(text) == 1:
            return pa.nulls(1, type_)
        middle = len(text) // 2
        halves = [_cast_halves(text[:middle], type_), _cast_halves(text[middle:], type_)]
        return pa.concat_arrays(halves)


def _with_distinct(
    value: pa.Array, written: pa.Array, parse: Callable[[str], Any], text: pa.Array | None = None
) -> tuple[pa.Array, list[int]]:
    """Values, those that are null read from what is written by Python, each distinct text once.

    Args:
        text: as delivered, if it isn't what is written; where it is a text and no value, it is none.
    """
    text = written if text is None else text
    missing = pc.and_(value.is_null(), written.is_valid())
    if pc.any(missing).as_py():
        encoded = _null_where(pc.invert(missing), written).dictionary_encode()
        parsed = pa.array([parse(text) for text in encoded.dictionary.to_pylist()], value.type)
        value = pc.coalesce(value, parsed.take(encoded.indices))
    if value.null_count == text.null_count:
        return value, []
    return value, positions(pc.and_(value.is_null(), text.is_valid()))


def _may_hold(text: pa.Array, byte: bytes) -> bool:
    """Whether any of the texts may hold an ASCII character: a quick look at all of them at once."""
    data = text.buffers()[2]
    return data is not None and byte in memoryview(data).tobytes()


# -- booleans, dates, moments ------------------------------------------------------------------------


def value_of(text: str, declared: Column) -> Any:
    """What a text without spaces around it is in a column of booleans, dates or moments; None if nothing."""
    if declared.type == "boolean":
        word = text.casefold()
        if word in {accepted.casefold() for accepted in declared.true or DEFAULT_TRUE}:
            return True
        return (
            False if word in {accepted.casefold() for accepted in declared.false or DEFAULT_FALSE} else None
        )
    readings = {_read(text, declared, format_) for format_ in declared.formats or (ISO,)} - {None}
    # What two formats read differently is no value.
    return readings.pop() if len(readings) == 1 else None


def _read(text: str, declared: Column, format_: str) -> date | datetime | None:
    """What a text stands for in one format; moments without an offset are UTC."""
    try:
        if format_ in EPOCHS:
            moment = _of_epoch(text, EPOCHS[format_])
            if moment is None or declared.type == "timestamp":
                return moment
            return moment.date() if moment == datetime.combine(moment, datetime.min.time(), UTC) else None
        if format_ == ISO and declared.type == "date":
            found = _MIDNIGHT.fullmatch(text)
            day = date.fromisoformat(found.group(1) if found else text)
            return day if found or day.isoformat() == text else None
        # strptime gives moments without an offset, too.
        moment = datetime.fromisoformat(text) if format_ == ISO else datetime.strptime(text, format_)  # noqa: DTZ007
        if declared.type == "date":
            return moment.date()
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):  # an overflow: in UTC it lies before year 1 or after 9999
        return None


def _of_epoch(text: str, per_second: int) -> datetime | None:
    if not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    if number.adjusted() >= _DIGITS_OF_LONG:
        return None
    microseconds = number * (1_000_000 // per_second)
    if microseconds != microseconds.to_integral_value():
        return None
    return _EPOCH + timedelta(microseconds=int(microseconds))


# -- which key would accept a text -------------------------------------------------------------------

#: Words by which people say that there is no value, in any case; those for true, each with its opposite.
NULL_WORDS = frozenset(
    {
        "na",
        "n/a",
        "#n/a",
        "nan",
        "null",
        "none",
        "nil",
        "\\n",
        "-",
        "--",
        "?",
        ".",
        "nat",
        "missing",
        "unknown",
    }
)
TRUE_WORDS = {"yes": "no", "y": "n", "t": "f", "on": "off", "ja": "nein", "j": "n", "oui": "non", "si": "no"}
_FORMATS = (
    ISO,
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%Y/%m/%d",
    "%d-%m-%Y",
    "%Y%m%d",
    "%d.%m.%y",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%Y/%m/%d %H:%M:%S",
)
#: Numbers of seconds and milliseconds from 1990 on that a person would take for a moment of today's.
_MOMENTS = {"epoch_seconds": (631e6, 4.1e9), "epoch_milliseconds": (631e9, 4.1e12)}


def hint(text: str, declared: Column, source: Source) -> str:
    """Which key would make a value of a text that is none, in words for people; empty if none is known."""
    accepting = list(dict.fromkeys(_accepting(text, declared, source)))
    return f"`{'` or `'.join(accepting)}` would accept it" if accepting else ""


def _accepting(text: str, declared: Column, source: Source) -> Iterator[str]:
    word = text.strip()
    if word.casefold() in NULL_WORDS:
        yield f"null_values: {json.dumps([*source.null_values, word], ensure_ascii=False)}"
        return
    match declared.type:
        case "integer" | "long" | "double":
            yield from _accepting_number(word, declared, source)
        case "boolean":
            for true, false in TRUE_WORDS.items():
                if word.casefold() in (true, false):
                    yes, no = (true.upper(), false.upper()) if word.isupper() else (true, false)
                    yield f"true: [{json.dumps(yes)}], false: [{json.dumps(no)}]"
                    return
        case "date" | "timestamp":
            yield from _accepting_moment(word, declared)


def _accepting_number(word: str, declared: Column, source: Source) -> Iterator[str]:
    def accepts(column: Column, **changes: Any) -> bool:
        changed = source.model_copy(update=changes)
        return not cast(pa.array([word], pa.string()), column, changed)[1]

    for groups in (",", ".", " ", "'", "_"):
        grouped = any(space in word for space in _SPACES) if groups == " " else False
        if groups in (source.decimal, source.thousands) or not (grouped or groups in word):
            continue
        if accepts(declared, thousands=groups):
            yield f"thousands: {json.dumps(groups)}"
            return
    other = "," if source.decimal == "." else "."
    if source.thousands != other and accepts(declared, decimal=other):
        yield f"decimal: {json.dumps(other)}"
        return
    if accepts(declared, decimal=other, thousands=source.decimal):
        yield f"decimal: {json.dumps(other)}, thousands: {json.dumps(source.decimal)}"
        return
    for type_ in ("long", "double"):
        if declared.type != type_ and accepts(declared.model_copy(update={"type": type_})):
            yield f"type: {type_}"
            return


def _accepting_moment(word: str, declared: Column) -> Iterator[str]:
    if len({_read(word, declared, format_) for format_ in declared.formats} - {None}) > 1:
        return  # its formats read it differently
    for format_ in _FORMATS:
        if format_ not in declared.formats and _read(word, declared, format_) is not None:
            yield f"format: {json.dumps([*declared.formats, format_] if declared.formats else format_)}"
    if _NUMBER.fullmatch(word):
        for format_, (least, greatest) in _MOMENTS.items():
            if least <= float(word) <= greatest and _read(word, declared, format_) is not None:
                yield f"format: {format_}"
    if declared.type == "date" and _read(word, declared.model_copy(update={"type": "timestamp"}), ISO):
        yield "type: timestamp"
