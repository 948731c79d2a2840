"""The section ``source`` of a contract: how deliveries are written, and what their columns mean."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from ml_platform.contract.column_types import ColumnType, fits
from ml_platform.contract.fields import (
    LONGEST_TEXT,
    MAXIMUM_COLUMNS,
    MAXIMUM_TEXT,
    MAXIMUM_VALUES,
    ColumnName,
    Day,
    Days,
    Section,
    listed,
)

#: What ``format`` may say besides strptime's directives.
FORMAT_WORDS = ("iso", "epoch_seconds", "epoch_milliseconds", "epoch_microseconds")


#: Columns that a contract may derive.
MAXIMUM_DERIVED = 500


QUOTE, BACKSLASH = '"', "\\"


EVENT_DAY = "event_day"


LABEL_KNOWN_ON = "label_known_on"


RESERVED_COLUMNS: frozenset[str] = frozenset({EVENT_DAY, LABEL_KNOWN_ON})


def _word(value: object) -> object:
    """Accept words that YAML takes for numbers and booleans."""
    return str(value) if isinstance(value, bool | int) else value


#: Characters that have to be themselves in every encoding of files.
_PROBE = 'az09 ,;|+~"\\\r\n'


def _encoding(name: str) -> str:
    try:
        codec = codecs.lookup(name).name.removesuffix("-sig")
        wide = codec.startswith(("utf-16", "utf-32"))
        if codec.startswith("utf-7") or not (wide or _PROBE.encode(codec) == _PROBE.encode("ascii")):
            raise LookupError
    except (LookupError, UnicodeError, ValueError):
        raise ValueError(
            f"{name!r} is no encoding of text; accepted are utf-8, utf-16, latin-1, windows-1252 and others "
            "that Python knows"
        ) from None
    return codec


def _escape(value: str) -> str:
    if len(value) != 1 or not value.isascii() or value.isalnum() or value.isspace():
        raise ValueError(
            f"{value!r} can't escape a quote; accepted are '\\' and other ASCII signs, "
            "or '\"' if quotes are doubled"
        )
    return value


_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def _time_of_day(value: object) -> object:
    """Accept 10:00 without quotes, which YAML takes for a number of minutes."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 24 * 60:
        return f"{value // 60:02}:{value % 60:02}"
    return value


def _a_time_of_day(value: str) -> str:
    match = _TIME.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no time of day; accepted are 00:00 to 23:59, for instance 10:00")
    return f"{int(match[1]):02}:{match[2]}"


TimeOfDay = Annotated[str, BeforeValidator(_time_of_day), AfterValidator(_a_time_of_day)]
"""Hours and minutes, as ``10:00``."""


def minutes_of(time: str) -> int:
    """The minutes since midnight of a :data:`TimeOfDay`."""
    hours, minutes = time.split(":")
    return 60 * int(hours) + int(minutes)


class Column(Section):
    """A column of the deliveries."""

    type: ColumnType
    nullable: bool = False
    allowed: Annotated[tuple[str | int | float | bool, ...], Field(max_length=MAXIMUM_VALUES)] | None = None
    fill_null: str | int | float | bool | None = None
    format: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="strptime format of a date or timestamp, iso, epoch_seconds, epoch_milliseconds or "
        "epoch_microseconds, or a list of them; ISO 8601 without one",
    )
    true: tuple[Annotated[str, BeforeValidator(_word)], ...] = Field(
        default=(), description="words that mean yes in a boolean, in any case; true and 1 without them"
    )
    false: tuple[Annotated[str, BeforeValidator(_word)], ...] = Field(
        default=(), description="words that mean no in a boolean, in any case; false and 0 without them"
    )
    aliases: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="other names that the column has in the header of some files"
    )
    since: Day | None = Field(
        default=None, description="first day whose files must have the column; it may be missing before"
    )
    sensitive: bool = Field(default=False, description="its values are masked in reports, checks and alerts")
    description: Annotated[str, Field(max_length=MAXIMUM_TEXT)] = Field(
        default="", description="what it means, for people: shown in the UI, the catalog and the API"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.format is not None and self.type not in ("date", "timestamp"):
            raise ValueError(f"format is for columns of type date or timestamp, not {self.type}")
        for format_ in self.formats:
            if "%" not in format_ and format_ not in FORMAT_WORDS:
                raise ValueError(
                    f"format {format_!r} is none of strptime's, nor one of {listed(FORMAT_WORDS)}"
                )
        words = [word.strip().casefold() for word in (*self.true, *self.false)]
        if words and self.type != "boolean":
            raise ValueError(f"true and false are for columns of type boolean, not {self.type}")
        if bool(self.true) != bool(self.false):
            raise ValueError("true and false go together: give the words of both")
        if len(set(words)) < len(words):
            raise ValueError("a word stands twice in true and false (case does not count)")
        if self.allowed is not None and self.type in ("date", "timestamp", "double", "boolean"):
            raise ValueError(f"allowed is for columns of type string, integer or long, not {self.type}")
        for value in (*(self.allowed or ()), *([] if self.fill_null is None else [self.fill_null])):
            if not fits(value, self.type):
                raise ValueError(f"{value!r} is not a {self.type}")
        if self.fill_null is not None and self.allowed and self.fill_null not in self.allowed:
            raise ValueError(f"fill_null {self.fill_null!r} is not among the allowed values")
        return self

    @model_validator(mode="before")
    @classmethod
    def _with_words_as_keys(cls, content: object) -> object:
        """YAML takes the keys true and false for booleans."""
        if not isinstance(content, dict):
            return content
        return {str(key).lower() if isinstance(key, bool) else key: value for key, value in content.items()}

    @property
    def formats(self) -> tuple[str, ...]:
        """How dates and moments may be written; ISO 8601 if nothing is said."""
        return (self.format,) if isinstance(self.format, str) else self.format or ()

    def may_be_missing(self, day: date) -> bool:
        """Whether a file of ``day`` may lack the column; its values are null then, or ``fill_null``."""
        return day < self.since if self.since else self.nullable or self.fill_null is not None

    def must_have_value(self, day: date) -> bool:
        """Whether a row of ``day`` is of no use without a value."""
        return not self.nullable and not (self.since and day < self.since)


class Derived(Section):
    """A column of the ARDS that is made of the others of its row."""

    expression: Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)] = Field(
        description="in SQL, of columns of the deliveries but the label, and of other derived ones"
    )
    sensitive: bool = Field(
        default=False,
        description="its values are masked in reports, checks and alerts, as those made of such columns are",
    )
    description: Annotated[str, Field(max_length=MAXIMUM_TEXT)] = ""

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, content: object) -> object:
        """The expression may stand alone."""
        return {"expression": content} if isinstance(content, str) else content


class Source(Section):
    """The deliveries: how CSV files are written, and what the columns of all files mean."""

    encoding: Annotated[str, AfterValidator(_encoding)] = Field(
        default="utf-8", description="of files without a byte order mark, which tells by itself"
    )
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    trailing_delimiter: bool = Field(
        default=False, description="whether lines may end with a delimiter that no field follows"
    )
    escape: Annotated[str, AfterValidator(_escape)] | None = Field(
        default=None,
        description="what stands before a quote within quotes, if that isn't doubled, and before itself",
    )
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'", "_"] | None = Field(
        default=None, description="what stands between groups of three digits in some or all numbers"
    )
    null_values: tuple[str, ...] = ("",)
    header_match: Literal["exact", "relaxed"] = Field(
        default="exact", description="relaxed: names in headers match without case and outer spaces"
    )
    extra_columns: Literal["refuse", "ignore"] | tuple[str, ...] = Field(
        default="refuse", description="what happens to columns of files that are not declared, or their names"
    )
    key: tuple[str, ...] = Field(min_length=1)
    event_day: str
    label: str | None = Field(
        default=None, description="the column with the label; without one, mrds.label says what it is"
    )
    label_delay_days: Days = Field(default=1, ge=0)
    morning_ends: TimeOfDay = Field(
        default="10:00",
        description="what is delivered later on a day is known on the next, in the product's time zone",
    )
    columns: dict[ColumnName, Column] = Field(min_length=1, max_length=MAXIMUM_COLUMNS)

    derive: dict[ColumnName, Derived] = Field(
        default={},
        max_length=MAXIMUM_DERIVED,
        description="columns of the ARDS that are made of the others of their row, by name",
    )

    @field_validator("extra_columns", mode="before")
    @classmethod
    def _refuse_ignore_or_names(cls, value: object) -> object:
        names = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
        if value in ("refuse", "ignore") or names:
            return value
        raise ValueError(f"accepted are refuse, ignore, or a list of column names (found {value!r})")

    def folded(self, name: str) -> str:
        """A name as names in headers are compared."""
        return name.strip().casefold() if self.header_match == "relaxed" else name

    @cached_property
    def header_names(self) -> Mapping[str, str]:
        """The declared column that each accepted name of a header stands for; names are :meth:`folded`."""
        return {
            self.folded(name): column
            for column, declared in self.columns.items()
            for name in (column, *declared.aliases)
        }

    @model_validator(mode="after")
    def _distinct_header_names(self) -> Self:
        seen: dict[str, str] = {}
        for column, declared in self.columns.items():
            for name in (column, *declared.aliases):
                other = seen.setdefault(self.folded(name), column)
                if other != column:
                    raise ValueError(
                        f"in a header {name!r} would name both the columns {other!r} and {column!r}; "
                        "change the name or the aliases of one"
                    )
        if isinstance(self.extra_columns, tuple):
            for name in self.extra_columns:
                if self.folded(name) in seen:
                    raise ValueError(
                        f"extra_columns: {name!r} names the column {seen[self.folded(name)]!r}, which is read"
                    )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.delimiter in (QUOTE, "\n", "\r", "\0") or self.delimiter == self.decimal == ",":
            raise ValueError(f"the delimiter {self.delimiter!r} can't be told from the values")
        if self.thousands == self.decimal:
            raise ValueError(f"thousands and decimal can't both be {self.decimal!r}")
        if self.delimiter == self.escape:
            raise ValueError(f"the escape {self.escape!r} can't be told from the delimiter")
        for reserved in RESERVED_COLUMNS:
            if reserved in self.columns and not (reserved == EVENT_DAY == self.event_day):
                raise ValueError(f"the column name {reserved!r} is reserved; rename it in columns")
        folded = [name.casefold() for name in (*self.columns, *self.derive)]
        for name in (*self.columns, *self.derive):
            if name in self.derive and name in (*RESERVED_COLUMNS, self.event_day):
                raise ValueError(f"derive: the column name {name!r} is reserved; choose another")
            if name.startswith("_"):
                raise ValueError(f"the column name {name!r} begins with an underscore, which is reserved")
            if folded.count(name.casefold()) > 1:
                raise ValueError(f"column {name!r} is declared twice (case does not count)")
        for role, names in {
            "key": self.key,
            "event_day": (self.event_day,),
            "label": () if self.label is None else (self.label,),
        }.items():
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{role} names the column {name!r} twice")
                if name not in self.columns:
                    raise ValueError(
                        f"{role} names the column {name!r}, which columns does not declare; "
                        f"declared are {listed(self.columns)}"
                    )
        if self.columns[self.event_day].type != "date":
            raise ValueError(
                f"the event day {self.event_day!r} must be of type date, "
                f"not {self.columns[self.event_day].type}"
            )
        if self.label in self.key:
            raise ValueError(f"the label {self.label!r} can't be part of the key")
        if self.label is not None and self.columns[self.label].fill_null is not None:
            raise ValueError(f"the label {self.label!r} can't have fill_null: a null label has not come yet")
        for name in (*self.key, self.event_day):
            if self.columns[name].nullable:
                raise ValueError(f"{name!r} identifies a row and can't be nullable")
        for name in (*self.key, self.event_day, *([] if self.label is None else [self.label])):
            if self.columns[name].since:
                raise ValueError(f"since: {name!r} belongs to the key or is the label, and has no first day")
        return self
