"""Values of a column as files hold them, which may be more than texts, and what they are under a contract.

A file that has types of its own says what a text can't: that something is a number, whatever the decimal mark
of the contract's texts is, or a day. Such a value counts if it is exactly one of the column's type; all else
is what its text would be in a CSV file, so that a delivery is the same in each format.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.column_types import ColumnType
from ml_platform.contract.source import Column, Source
from ml_platform.data_engineering import conversion
from ml_platform.data_engineering.conversion import ARROW_TYPES, positions

_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_NANOSECONDS = 1_000  # in a microsecond
_SECOND = 1_000_000
_FIRST_MOMENT = (date.min - date(1970, 1, 1)).days * 86_400 * _SECOND
_LAST_MOMENT = ((date.max - date(1970, 1, 1)).days + 1) * 86_400 * _SECOND - 1
_FIRST_DAY, _LAST_DAY = ((day - date(1970, 1, 1)).days for day in (date.min, date.max))
_UTC = (None, "UTC", "Etc/UTC", "Z", "+00:00", "GMT")


class Cells(Protocol):
    """Some values of a column, in order."""

    def cast(self, declared: Column, source: Source) -> tuple[pa.Array, list[int]]:
        """Them as values of the column's type, and the places of those that are none."""

    def is_null(self) -> pa.Array:
        """Which of them are no values in the file already."""

    def text(self, place: int) -> str:
        """One of them in words."""

    def dialect(self, place: int, declared: Column, source: Source) -> tuple[Column, Source]:
        """How the text of one of them is read."""


@dataclass(frozen=True)
class Texts:
    """Texts, of which those that mean null are null already."""

    array: pa.Array

    def cast(self, declared: Column, source: Source) -> tuple[pa.Array, list[int]]:
        return conversion.cast(self.array, declared, source)

    def is_null(self) -> pa.Array:
        return self.array.is_null()

    def text(self, place: int) -> str:
        return str(self.array[place].as_py())

    def dialect(self, place: int, declared: Column, source: Source) -> tuple[Column, Source]:
        return declared, source


@dataclass(frozen=True)
class JsonValues:
    """Values of JSON as texts; ``own`` says which of them aren't texts there, but numbers or truth values."""

    array: pa.Array
    own: pa.Array

    def cast(self, declared: Column, source: Source) -> tuple[pa.Array, list[int]]:
        texts = pc.if_else(self.own, pa.scalar(None, pa.string()), self.array)
        if texts.null_count == len(texts):
            texts = None
        found = [] if texts is None else [conversion.cast(texts, declared, source)]
        owned = pc.if_else(self.own, self.array, pa.scalar(None, pa.string()))
        found.append(conversion.cast(owned, *_own_dialect(declared, source)))
        values = [value for value, _ in found]
        return pc.coalesce(*values), sorted(place for _, places in found for place in places)

    def is_null(self) -> pa.Array:
        return self.array.is_null()

    def text(self, place: int) -> str:
        return str(self.array[place].as_py())

    def dialect(self, place: int, declared: Column, source: Source) -> tuple[Column, Source]:
        return _own_dialect(declared, source) if self.own[place].as_py() else (declared, source)


@dataclass(frozen=True)
class TypedValues:
    """Values of a type of Arrow's.

    Args:
        null_values: texts that stand for null.
    """

    given: pa.Array
    null_values: Sequence[str] = ()

    @cached_property
    def array(self) -> pa.Array:
        """The values, without those that stand for null."""
        found = self.given
        if pa.types.is_null(found.type):
            return pa.nulls(len(found), pa.string())
        if not is_text_type(found.type) and not set(self.null_values) - {""}:
            return found
        stand_for_null = pc.is_in(as_text(found), value_set=pa.array(list(self.null_values), pa.string()))
        if not pc.any(stand_for_null).as_py():
            return found
        return found.take(pa.array(np.arange(len(found)), mask=stand_for_null.to_numpy(zero_copy_only=False)))

    def cast(self, declared: Column, source: Source) -> tuple[pa.Array, list[int]]:
        array = self.array
        if (found := cast_as_is(array, declared.type)) is not None:
            return found
        if _has_no_text(array.type):
            return pa.nulls(len(array), ARROW_TYPES[declared.type]), positions(array.is_valid())
        text = as_text(array)
        return conversion.cast(text, *self.dialect(0, declared, source))

    def is_null(self) -> pa.Array:
        return self.array.is_null()

    def text(self, place: int) -> str:
        return str(as_text(self.array.slice(place, 1))[0].as_py())

    def dialect(self, place: int, declared: Column, source: Source) -> tuple[Column, Source]:
        return (declared, source) if is_text_type(self.array.type) else _own_dialect(declared, source)


def _own_dialect(declared: Column, source: Source) -> tuple[Column, Source]:
    """How numbers and truth values are written by programs, whatever a contract says of texts."""
    if declared.type in ("integer", "long"):
        # With groups of digits, of which there are none, 1.000 isn't a thousand to anybody.
        return declared, source.model_copy(update={"decimal": ".", "thousands": "_"})
    if declared.type == "double":
        return declared, source.model_copy(update={"decimal": ".", "thousands": None})
    if declared.true:
        words = {"true": (*declared.true, "true"), "false": (*declared.false, "false")}
        return declared.model_copy(update=words), source
    return declared, source


# -- values that are of a column's type by themselves ------------------------------------------------


def cast_as_is(array: pa.Array, type_: ColumnType) -> tuple[pa.Array, list[int]] | None:
    """Values that need no text to be those of a column's type, and the places of those that are none."""
    given = array.type
    match type_:
        case "integer" | "long" if pa.types.is_integer(given):
            return _within(array, ARROW_TYPES[type_])
        case "double" if pa.types.is_float64(given):
            return _only(pc.is_finite(array), pc.add(array, 0.0), array)
        case "double" if pa.types.is_integer(given):
            return array.cast(pa.float64(), safe=False), []
        case "boolean" if pa.types.is_boolean(given):
            return array, []
        case "date" if pa.types.is_date(given):
            days = array.cast(pa.date32(), safe=False)
            return _only(_between(days.cast(pa.int32()), _FIRST_DAY, _LAST_DAY), days, array)
        case "date" if pa.types.is_timestamp(given) and given.tz in _UTC:
            moments = _microseconds(array)
            whole = pc.equal(pc.multiply(_days(moments), 86_400 * _SECOND), moments)
            if pa.types.is_timestamp(given) and given.unit == "ns":
                nanoseconds = array.cast(pa.int64())
                whole = pc.and_(whole, pc.equal(pc.multiply(moments, _NANOSECONDS), nanoseconds))
            good = pc.and_(whole, _between(moments, _FIRST_MOMENT, _LAST_MOMENT))
            days = pc.if_else(good, _days(moments), pa.scalar(None, pa.int64()))
            return _only(good, days.cast(pa.int32()).cast(pa.date32()), array)
        case "timestamp" if pa.types.is_timestamp(given):
            moments = _microseconds(array)
            return _only(
                _between(moments, _FIRST_MOMENT, _LAST_MOMENT), moments.cast(ARROW_TYPES["timestamp"]), array
            )
        case "timestamp" if pa.types.is_date(given):
            days = array.cast(pa.date32(), safe=False).cast(pa.int32()).cast(pa.int64())
            moments = pc.multiply(days, 86_400 * _SECOND)
            return _only(_between(days, _FIRST_DAY, _LAST_DAY), moments.cast(ARROW_TYPES["timestamp"]), array)
    return None


def _within(array: pa.Array, type_: pa.DataType) -> tuple[pa.Array, list[int]]:
    try:
        return array.cast(type_), []
    except pa.ArrowInvalid:
        limits = np.iinfo(type_.to_pandas_dtype())
        good = _between(array.cast(pa.decimal128(20, 0)), limits.min, limits.max)
        value = pc.if_else(good, array, pa.scalar(None, array.type))
        return value.cast(type_), positions(pc.invert(good))


def _between(array: pa.Array, least: int, greatest: int) -> pa.Array:
    type_ = array.type
    least_of, greatest_of = (pa.scalar(bound, pa.int64()).cast(type_) for bound in (least, greatest))
    return pc.and_(pc.greater_equal(array, least_of), pc.less_equal(array, greatest_of))


def _only(good: pa.Array, value: pa.Array, array: pa.Array) -> tuple[pa.Array, list[int]]:
    """The values that are good, and the places of the others that aren't null."""
    if pc.all(good, min_count=0).as_py() is not False:
        return value, []
    bad = pc.and_(array.is_valid(), pc.invert(pc.fill_null(good, True)))
    return pc.if_else(pc.fill_null(good, False), value, pa.scalar(None, value.type)), positions(bad)


def _microseconds(moments: pa.Array) -> pa.Array:
    """Microseconds since 1970, of what lies between them the one before; beyond all bounds the last one."""
    counts, unit = moments.cast(pa.int64()), moments.type.unit
    if unit == "ns":
        return _floored(counts, _NANOSECONDS)
    factor = _MICROSECONDS[unit]
    bound = (2**63 - 1) // factor
    clipped = pc.max_element_wise(
        pc.min_element_wise(counts, pa.scalar(bound, pa.int64()), skip_nulls=False),
        pa.scalar(-bound, pa.int64()),
        skip_nulls=False,
    )
    return pc.multiply(clipped, factor)


def _days(moments: pa.Array) -> pa.Array:
    return _floored(moments, 86_400 * _SECOND)


def _floored(counts: pa.Array, by: int) -> pa.Array:
    """Whole numbers divided, rounded down; Arrow rounds towards zero."""
    towards_zero = pc.divide(counts, by)
    is_below = pc.less(counts, pc.multiply(towards_zero, by))
    return pc.subtract(towards_zero, is_below.cast(pa.int64()))


# -- values as texts ---------------------------------------------------------------------------------


def is_text_type(type_: pa.DataType) -> bool:
    """Whether values of a type are texts."""
    return bool(
        pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    )


def is_bytes_type(type_: pa.DataType) -> bool:
    """Whether values of a type are bytes, of one length or of any."""
    return bool(
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_fixed_size_binary(type_)
        or pa.types.is_binary_view(type_)
    )


def _has_no_text(type_: pa.DataType) -> bool:
    """Whether no CSV file could hold such values: lists, structures, lengths of time."""
    return bool(
        pa.types.is_nested(type_)
        or pa.types.is_duration(type_)
        or pa.types.is_interval(type_)
        or is_bytes_type(type_)
    )


def plain(array: pa.Array) -> pa.Array:
    """The same values without dictionaries and names of types, bytes that are text as such."""
    if isinstance(array, pa.ExtensionArray):
        if array.type.extension_name == "arrow.uuid":
            return pa.array([value and str(value) for value in array.to_pylist()], pa.string())
        return plain(array.storage)
    if pa.types.is_dictionary(array.type):
        # Texts are looked at once each.
        values = plain(array.dictionary)
        return values.take(array.indices) if len(values) else pa.nulls(len(array), values.type)
    if is_text_type(array.type) or is_bytes_type(array.type):
        return _checked_text(array)
    if pa.types.is_float16(array.type):
        return array.cast(pa.float32())
    return array


def _checked_text(array: pa.Array) -> pa.Array:
    """Texts, or bytes where one of them is no text; a column of texts that has any is one of bytes."""
    as_bytes = array.cast(pa.large_binary()) if not pa.types.is_fixed_size_binary(array.type) else array
    try:
        return as_bytes.cast(pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return as_bytes.cast(pa.binary())


def is_bytes(array: pa.Array) -> bool:
    """Whether :func:`plain` has found bytes that are no text."""
    return is_bytes_type(array.type)


def not_text(array: pa.Array) -> list[int]:
    """The places of bytes that are no text."""
    found = []
    for place, value in enumerate(array.to_pylist()):
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            found.append(place)
    return found


def readable(array: pa.Array) -> pa.Array:
    """Bytes as texts, those that are no text escaped."""
    texts = [value and value.decode(errors="backslashreplace") for value in array.to_pylist()]
    return pa.array(texts, pa.string())


def as_text(array: pa.Array) -> pa.Array:
    """Values as their texts; a number with a fraction is written as Python writes it, 1.0."""
    given = array.type
    if is_text_type(given):
        return array.cast(pa.string())
    if pa.types.is_floating(given):
        return pc.replace_substring_regex(array.cast(pa.string()), r"^(-?[0-9]+)$", r"\1.0")
    if pa.types.is_timestamp(given):
        return _moments_as_text(array)
    if _has_no_text(given):
        return pa.array([_in_words(value) for value in array], pa.string())
    try:
        return array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([_in_words(value) for value in array], pa.string())


def _moments_as_text(array: pa.Array) -> pa.Array:
    try:
        text = array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # a time zone that isn't known here
        text = array.cast(pa.timestamp(array.type.unit, "UTC")).cast(pa.string())
    return pc.replace_substring_regex(text, r"\.0+\b", "")


def _in_words(value: pa.Scalar) -> str | None:
    if not value.is_valid:
        return None
    try:
        found = value.as_py()
        if isinstance(found, bytes):
            return found.decode(errors="backslashreplace")
        return json.dumps(found, default=str, ensure_ascii=False)
    except (ValueError, OverflowError, TypeError, RecursionError):
        return f"a value of type {value.type}"
