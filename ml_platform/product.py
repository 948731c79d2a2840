"""The contract of a product: one YAML file, validated, and what follows from it.

Here is everything that can be known of a product without looking at its data: names, types, rules,
days and months. Reading files, Spark and Dagster do not belong here; importing this module is cheap.
"""

from __future__ import annotations

import codecs
import difflib
import hashlib
import json
import keyword
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ml_platform import estimators
from ml_platform.calendars import Delivery
from ml_platform.compute import EngineChoice
from ml_platform.expressions import check_expression
from ml_platform.yaml_text import YamlError, read_yaml

#: Bounds of a contract, far beyond any real one: what they let through can be computed with, and stored.
LONGEST_NAME = 128  # characters of a column; databases take between 63 bytes and 128 characters
LONGEST_PRODUCT_NAME = 60  # it is part of the names of tables, folders, and jobs
LONGEST_TEXT = 2_000
MAXIMUM_COLUMNS = 2_000
MAXIMUM_VALUES = 10_000  # allowed values of a column
FIRST_DATE, LAST_DATE = date(1900, 1, 1), date(2200, 12, 31)
MAXIMUM_DAYS = 36_600  # a hundred years, so that no arithmetic leaves the calendar
MAXIMUM_MONTHS = 1_200
MAXIMUM_ROWS = 10**12
_INTEGERS: Mapping[str, tuple[int, int]] = {
    "integer": (-(2**31), 2**31 - 1),
    "long": (-(2**63), 2**63 - 1),
}

ColumnType = Literal["string", "integer", "long", "double", "boolean", "date", "timestamp"]
Aggregation = Literal["min", "max", "sum", "mean", "count", "first", "last"]
Metric = Literal["f1", "precision", "recall", "accuracy", "balanced_accuracy", "roc_auc", "average_precision"]

Holdout = Literal["entities", "time"]
"""What models are compared on: entities that none learns from, or the days after they have learned."""

Severity = Literal["error", "warning"]
DataSet = Literal["ards", "mrds"]
#: What a day of data is held against; each has a severity of its own.
Rule = Literal[
    "columns",
    "type",
    "minimum_rows",
    "unique",
    "not_null",
    "null_share",
    "allowed",
    "range",
    "aggregation",
    "rows_of_weekday",
    "quarantined_share",
    "superseded_share",
    "labelled_share",
    "nulls_of_history",
    "mean_of_history",
    "spread_of_history",
    "values_of_history",
    "shares_of_history",
]

NUMERIC_TYPES: frozenset[str] = frozenset({"integer", "long", "double"})
AGGREGATIONS_OF_NUMBERS: frozenset[str] = frozenset({"sum", "mean"})
#: What ``format`` may say besides strptime's directives.
FORMAT_WORDS = ("iso", "epoch_seconds", "epoch_milliseconds", "epoch_microseconds")
QUOTE, BACKSLASH = '"', "\\"
EVENT_DAY = "event_day"
LABEL_KNOWN_ON = "label_known_on"
#: What stands for a value of a sensitive column.
MASK = "•••"
RESERVED_COLUMNS: frozenset[str] = frozenset({EVENT_DAY, LABEL_KNOWN_ON})
#: Expectations of the library that a day of a Delta table can't be held against, and why.
UNSUPPORTED_EXPECTATIONS: dict[str, str] = {
    **dict.fromkeys(
        (
            "expect_column_values_to_match_like_pattern",
            "expect_column_values_to_match_like_pattern_list",
            "expect_column_values_to_not_match_like_pattern",
            "expect_column_values_to_not_match_like_pattern_list",
            "expect_query_results_to_match_comparison",
            "expect_table_row_count_to_equal_other_table",
            "unexpected_rows_expectation",
        ),
        "it works on SQL databases only",
    ),
    **dict.fromkeys(
        ("expect_column_values_to_be_increasing", "expect_column_values_to_be_decreasing"),
        "the rows of a table have no order",
    ),
    **dict.fromkeys(
        ("expect_column_type_to_be", "expect_column_values_to_be_of_type"),
        "the types are those of source.columns, and are always checked",
    ),
    "expect_column_values_to_be_dateutil_parseable": "declare the column as a date or timestamp",
}


#: Labelled days before a product's first model, unless its contract names the month: the shortest month
#: but for the one day that labels take in most products.
FIRST_LABELLED_DAYS = 27


#: Days on which a challenger is compared forward in time at least: an interval needs ten weeks.
LEAST_DAYS_FORWARD = 70


class ContractError(Exception):
    """A contract is wrong; the message names the file, the key path and what is accepted."""


@dataclass(frozen=True, order=True)
class DayRange:
    """Event days from ``first`` to ``last``, both included."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"the last day {self.last} lies before the first day {self.first}")

    def __iter__(self) -> Iterator[date]:
        return (self.first + timedelta(days=n) for n in range(len(self)))

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    def __contains__(self, day: object) -> bool:
        return isinstance(day, date) and self.first <= day <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


def month_of(day: date) -> date:
    """The first day of ``day``'s month, the name of a monthly partition."""
    return day.replace(day=1)


def _month_from(day: date) -> date:
    """The first month that begins on ``day`` or later."""
    return day if day.day == 1 else add_months(day, 1)


def add_months(month: date, count: int) -> date:
    """The first day of the month ``count`` months after ``month``'s (before, if negative)."""
    index = month.year * 12 + month.month - 1 + count
    return date(index // 12, index % 12 + 1, 1)


def _identifier(name: str) -> str:
    if (
        not re.fullmatch(r"[a-z][a-z0-9_]*", name)
        or keyword.iskeyword(name)
        or len(name) > LONGEST_PRODUCT_NAME
    ):
        raise ValueError(
            f"{name[:LONGEST_NAME]!r} can't name a product; accepted are up to {LONGEST_PRODUCT_NAME} "
            "lower-case letters, digits and underscores, with a letter first"
        )
    return name


def _column_name(name: str) -> str:
    if not name.isprintable() or not name.strip() or len(name) > LONGEST_NAME:
        raise ValueError(
            f"{name[:LONGEST_NAME]!r} can't name a column; accepted are up to {LONGEST_NAME} printable "
            "characters"
        )
    return name


def _date(value: date) -> date:
    if not FIRST_DATE <= value <= LAST_DATE:
        raise ValueError(f"{value} lies beyond the dates that are accepted, {FIRST_DATE} to {LAST_DATE}")
    return value


def _month(value: object) -> object:
    """Accept ``2022-02`` as the month's first day."""
    if isinstance(value, str) and len(value) == 7:
        return f"{value}-01"
    return value


def _first_of_month(value: date) -> date:
    if value.day != 1:
        raise ValueError(f"{value} is not a month; write it as {value:%Y-%m}")
    return value


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # a folder of zones is a path, too
        raise ValueError(
            f"{name[:LONGEST_NAME]!r} is not a time zone; accepted are names like Europe/Paris"
        ) from error
    return name


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


Month = Annotated[date, BeforeValidator(_month), AfterValidator(_first_of_month), AfterValidator(_date)]
Day = Annotated[date, AfterValidator(_date)]
ColumnName = Annotated[str, AfterValidator(_column_name)]
Days = Annotated[int, Field(le=MAXIMUM_DAYS)]
Months = Annotated[int, Field(le=MAXIMUM_MONTHS)]
Rows = Annotated[int, Field(le=MAXIMUM_ROWS)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Column(_Section):
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.format is not None and self.type not in ("date", "timestamp"):
            raise ValueError(f"format is for columns of type date or timestamp, not {self.type}")
        for format_ in self.formats:
            if "%" not in format_ and format_ not in FORMAT_WORDS:
                raise ValueError(
                    f"format {format_!r} is none of strptime's, nor one of {_listed(FORMAT_WORDS)}"
                )
        words = [one.strip().casefold() for one in (*self.true, *self.false)]
        if words and self.type != "boolean":
            raise ValueError(f"true and false are for columns of type boolean, not {self.type}")
        if bool(self.true) != bool(self.false):
            raise ValueError("true and false go together: give the words of both")
        if len(set(words)) < len(words):
            raise ValueError("a word stands twice in true and false (case does not count)")
        if self.allowed is not None and self.type in ("date", "timestamp", "double", "boolean"):
            raise ValueError(f"allowed is for columns of type string, integer or long, not {self.type}")
        for value in (*(self.allowed or ()), *([] if self.fill_null is None else [self.fill_null])):
            if not _fits(value, self.type):
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


def _fits(value: object, type_: ColumnType) -> bool:
    match type_:
        case "string":
            return isinstance(value, str)
        case "integer" | "long":
            least, greatest = _INTEGERS[type_]
            return isinstance(value, int) and not isinstance(value, bool) and least <= value <= greatest
        case "double":
            return (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and abs(value) <= sys.float_info.max
            )
        case "boolean":
            return isinstance(value, bool)
        case _:
            return False


class Source(_Section):
    """The deliveries: how the CSV files are written and what their columns mean."""

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
    label: str
    label_delay_days: Days = Field(default=1, ge=0)
    columns: dict[ColumnName, Column] = Field(min_length=1, max_length=MAXIMUM_COLUMNS)

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

    def allowed_in(self, name: str) -> tuple[str | int | float | bool, ...] | None:
        """The values that a column may have, None if it may have any; a label is 0 or 1."""
        declared = self.columns[name].allowed
        return (0, 1) if name == self.label and declared is None else declared

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
        folded = [name.casefold() for name in self.columns]
        for name in self.columns:
            if name.startswith("_"):
                raise ValueError(f"the column name {name!r} begins with an underscore, which is reserved")
            if folded.count(name.casefold()) > 1:
                raise ValueError(f"column {name!r} is declared twice (case does not count)")
        for role, names in {
            "key": self.key,
            "event_day": (self.event_day,),
            "label": (self.label,),
        }.items():
            for name in names:
                if name not in self.columns:
                    raise ValueError(
                        f"{role} names the column {name!r}, which columns does not declare; "
                        f"declared are {_listed(self.columns)}"
                    )
        if self.columns[self.event_day].type != "date":
            raise ValueError(
                f"the event day {self.event_day!r} must be of type date, "
                f"not {self.columns[self.event_day].type}"
            )
        if self.label in self.key:
            raise ValueError(f"the label {self.label!r} can't be part of the key")
        label = self.columns[self.label]
        if label.type not in ("integer", "long") or not set(label.allowed or ()) <= {0, 1}:
            raise ValueError(f"the label {self.label!r} must be an integer, 0 or 1; allowed is [0, 1]")
        if label.fill_null is not None:
            raise ValueError(f"the label {self.label!r} can't have fill_null: a null label has not come yet")
        for name in (*self.key, self.event_day):
            if self.columns[name].nullable:
                raise ValueError(f"{name!r} identifies a row and can't be nullable")
        for name in (*self.key, self.event_day, self.label):
            if self.columns[name].since:
                raise ValueError(f"since: {name!r} belongs to the key or is the label, and has no first day")
        return self


class Mrds(_Section):
    """How rows of the ARDS become one row per entity and event day."""

    entity: tuple[str, ...] = Field(min_length=1)
    order_by: tuple[str, ...] = ()
    aggregate: dict[str, Aggregation] = Field(min_length=1)


class Features(_Section):
    """The columns of the MRDS that a model sees."""

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.numeric, *self.categorical)


class Estimator(_Section):
    """A scikit-learn classifier and its parameters."""

    # `class` is what scikit-learn users expect to write, and no Python name.
    class_: Annotated[str, AfterValidator(estimators.check_class)] = Field(alias="class")
    params: dict[str, Any] = {}

    @model_validator(mode="after")
    def _constructible(self) -> Self:
        estimators.check(self.class_, self.params)
        return self

    def build(self) -> Any:
        """A new, unfitted estimator."""
        return estimators.build(self.class_, self.params)


class Model(_Section):
    """The model: features, estimator, and the days it learns from."""

    features: Features
    estimator: Estimator
    training_months: Months = Field(default=24, ge=1)
    holdout: Holdout | Literal["auto"] = Field(
        default="auto", description="what models are compared on; auto: time where entities are few"
    )
    holdout_days: Days = Field(default=31, ge=1)
    maximum_rows: Rows = Field(default=5_000_000, ge=1)
    minimum_rows: Rows = Field(default=100, ge=1)
    minimum_positives: Rows = Field(default=10, ge=1)
    decision_threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["tuned"] = "tuned"
    first_month: Month | None = None

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        is_given = "holdout_days" in self.model_fields_set
        if self.holdout == "time" and is_given and self.holdout_days < LEAST_DAYS_FORWARD:
            raise ValueError(
                f"holdout: time compares models on weeks, and needs holdout_days of at least "
                f"{LEAST_DAYS_FORWARD}, not {self.holdout_days}"
            )
        return self


class Promotion(_Section):
    """When a challenger becomes champion."""

    rule: Literal["superior", "non_inferior"] = "superior"
    margin: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rule == "superior" and self.margin:
            raise ValueError("a margin goes with the rule non_inferior")
        if self.rule == "non_inferior" and not self.margin:
            raise ValueError(
                "non_inferior needs a margin above 0, how much worse a challenger may be; without one it "
                "would ask for the same as superior"
            )
        return self


class Evaluation(_Section):
    """When the model counts as good enough, and on how much evidence."""

    metric: Metric = "f1"
    threshold: float = Field(ge=0, le=1)
    window_days: Days = Field(default=31, ge=1)
    minimum_rows: Rows = Field(default=1000, ge=1)
    minimum_positives: Rows = Field(default=50, ge=1)
    maximum_rows: Rows = Field(
        default=2_000_000, ge=1, description="rows a window; above it, a sample by hash of the entity"
    )


class Retrain(_Section):
    """How often a failed evaluation may train again, and on how much of the past."""

    cooldown_days: Days = Field(default=7, ge=0)
    back_off_after: int = Field(
        default=3, ge=1, description="retrains lost in a row, from which on each doubles the cooldown"
    )
    training_months: Months = Field(default=3, ge=1)
    training_days: Days | None = Field(
        default=None, ge=1, description="instead of training_months, when even they are too long"
    )


class Limits(_Section):
    """A least and a greatest value, both allowed; at least one is given."""

    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minimum is None and self.maximum is None:
            raise ValueError("minimum or maximum is needed")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class QuarantinedShare(_Section):
    """From which share of unusable records a day is worth a warning, and from which it is an error."""

    warning: float = Field(default=0.05, ge=0, le=1)
    error: float = Field(default=0.25, ge=0, le=1)


class History(_Section):
    """What a day's columns are held against: the days before it.

    A figure deviates when it lies more than ``deviation`` robust standard deviations from the median of
    the last ``days`` days, of which at least ``minimum_days`` are there.
    """

    days: int = Field(default=28, ge=3, le=366)
    minimum_days: int = Field(default=7, ge=3)
    deviation: float = Field(default=6.0, gt=0)


class CustomExpectation(_Section):
    """Any expectation of Great Expectations, by its name and arguments."""

    type: str
    kwargs: dict[str, Any] = {}
    on: DataSet = "ards"
    severity: Severity = "error"
    description: str = ""

    @model_validator(mode="after")
    def _known(self) -> Self:
        # A contract that adds none doesn't pay for the import, which takes seconds.
        from great_expectations.exceptions import ExpectationNotFoundError
        from great_expectations.expectations import registry

        if self.type in UNSUPPORTED_EXPECTATIONS:
            raise ValueError(
                f"type: {self.type!r} is not for this data: {UNSUPPORTED_EXPECTATIONS[self.type]}"
            )
        try:
            expectation = registry.get_expectation_impl(self.type)
        except ExpectationNotFoundError as error:
            known = sorted({*registry.list_registered_expectation_implementations()})
            near = difflib.get_close_matches(self.type, known, n=3, cutoff=0.5)
            raise ValueError(
                f"type: Great Expectations knows no {self.type!r}; "
                f"near it are {_listed(near) or 'none; names look like expect_column_mean_to_be_between'}"
            ) from error
        for expression in _expressions(self.kwargs):
            check_expression(expression)
        try:
            expectation(**self.kwargs)
        except ValueError as error:  # the library's models are pydantic's, of the version before
            problems = [
                f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}"
                for one in getattr(error, "errors", list)()
            ]
            raise ValueError(f"kwargs of {self.type}: {'; '.join(problems) or error}") from error
        except Exception as error:  # whatever the library's own code raises of arguments it doesn't expect
            raise ValueError(f"kwargs of {self.type}: {type(error).__name__}: {error}") from error
        return self

    @property
    def columns(self) -> list[str]:
        """The columns that the arguments name."""
        named = [self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs]
        listed = self.kwargs.get("column_list", ())
        return [str(name) for name in (*named, *(listed if isinstance(listed, list | tuple) else [listed]))]


def _expressions(kwargs: Mapping[str, Any]) -> list[str]:
    """The regular expressions among an expectation's arguments."""
    found: list[str] = []
    for name, value in kwargs.items():
        if "regex" in name:
            found += (
                [value] if isinstance(value, str) else [one for one in value or () if isinstance(one, str)]
            )
    return found


class Validation(_Section):
    """What every day of the data must fulfil."""

    minimum_rows: Rows = Field(default=1, ge=0)
    not_null: tuple[str, ...] = ()
    maximum_null_share: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    ranges: dict[str, Limits] = {}
    rows_of_weekday: Limits = Field(
        default=Limits(minimum=0.6, maximum=1.7),
        description="rows as a multiple of the median of the last four same weekdays",
    )
    quarantined_share: QuarantinedShare = QuarantinedShare()
    maximum_superseded_share: float = Field(default=0.2, ge=0, le=1)
    minimum_labelled_share: float = Field(default=0.5, ge=0, le=1)
    history: History = History()
    severity: dict[Rule, Severity] = {}
    expectations: tuple[CustomExpectation, ...] = ()


class Drift(_Section):
    """When a column counts as drifted, and a month with it."""

    method: Literal["psi", "jensenshannon", "hellinger", "kl_div"] = "psi"
    threshold: float = Field(default=0.15, gt=0)
    thresholds: dict[str, Annotated[float, Field(gt=0)]] = Field(default={}, description="of single columns")
    against: tuple[Literal["month_before", "training"], ...] = ("month_before", "training")
    minimum_rows: Rows = Field(default=1000, ge=1, description="values of a column in each window")
    maximum_rows: Rows = Field(
        default=100_000, ge=1000, description="rows of a window that are compared; above it, a sample"
    )
    maximum_null_change: float = Field(default=0.05, ge=0, le=1)
    maximum_share: float = Field(default=0.0, ge=0, le=1, description="of drifted columns, that is no drift")
    severity: Severity = "warning"
    retrain: bool = Field(default=False, description="whether drift alone trains the model again")


class Alerts(_Section):
    """What people are told of, and when something counts as overdue."""

    severity: Severity = "warning"
    due_hour: int = Field(default=10, ge=0, le=23, description="by then a day's rows and labels are there")
    materialized_within_hours: float = Field(default=3.0, gt=0, le=24 * MAXIMUM_DAYS)


class Product(_Section):
    """One ML use case, as its contract describes it."""

    name: Annotated[str, AfterValidator(_identifier)]
    description: str = Field(max_length=LONGEST_TEXT)
    owners: tuple[str, ...] = ()
    start: Day
    end: Day | None = None
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    delivery: Delivery = Delivery()
    source: Source
    mrds: Mrds
    model: Model
    promotion: Promotion = Promotion()
    evaluation: Evaluation
    retrain: Retrain = Retrain()
    validation: Validation = Validation()
    drift: Drift = Drift()
    alerts: Alerts = Alerts()
    engine: EngineChoice = EngineChoice()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        columns = self.source.columns
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end {self.end} lies before start {self.start}")
        for name in self.mrds.entity:
            if name in columns and columns[name].since:
                raise ValueError(f"since: {name!r} is what is scored (mrds.entity), and has no first day")

        for place, names in {
            "mrds.entity": self.mrds.entity,
            "mrds.order_by": self.mrds.order_by,
            "mrds.aggregate": tuple(self.mrds.aggregate),
            "validation.not_null": self.validation.not_null,
            "validation.maximum_null_share": tuple(self.validation.maximum_null_share),
            "validation.ranges": tuple(self.validation.ranges),
        }.items():
            for name in names:
                if name not in columns:
                    raise ValueError(
                        f"{place}: the column {name!r} is not declared in source.columns; "
                        f"declared are {_listed(columns)}"
                    )
        for name, rule in self.mrds.aggregate.items():
            if rule in AGGREGATIONS_OF_NUMBERS and columns[name].type not in NUMERIC_TYPES:
                raise ValueError(
                    f"mrds.aggregate.{name}: {rule} needs a number, and {name!r} is a "
                    f"{columns[name].type}; accepted are min, max, count, first, last"
                )
            if name in self.mrds.entity or name == self.source.event_day:
                raise ValueError(f"mrds.aggregate.{name}: the entity and the event day are kept as they are")
        if self.source.label not in self.mrds.aggregate:
            raise ValueError(
                f"mrds.aggregate: the label {self.source.label!r} needs a rule, "
                f"for instance {self.source.label}: last"
            )
        if self.mrds.aggregate[self.source.label] not in ("min", "max", "first", "last"):
            raise ValueError(
                f"mrds.aggregate.{self.source.label}: the label must stay 0 or 1; "
                "accepted are min, max, first, last"
            )

        known = (*self.mrds.entity, *self.mrds.aggregate)
        for kind, names in (
            ("numeric", self.model.features.numeric),
            ("categorical", self.model.features.categorical),
        ):
            for name in names:
                place = f"model.features.{kind}"
                if name == self.source.label:
                    raise ValueError(f"{place}: {name!r} is the label, and can't be a feature as well")
                if name not in known:
                    raise ValueError(
                        f"{place}: {name!r} is no column of the MRDS; its columns are {_listed(known)}"
                    )
                if kind == "numeric" and self.mrds_type(name) not in NUMERIC_TYPES:
                    raise ValueError(
                        f"{place}: {name!r} is a {self.mrds_type(name)}; list it under categorical"
                    )
        if not self.model.features.all:
            raise ValueError("model.features: at least one feature is needed")
        if len(set(self.model.features.all)) < len(self.model.features.all):
            raise ValueError("model.features: a feature is listed twice")
        for name in self.validation.ranges:
            type_ = columns[name].type
            if type_ not in NUMERIC_TYPES:
                raise ValueError(f"validation.ranges.{name}: a range is for numbers, not for a {type_}")
        for position, added in enumerate(self.validation.expectations):
            available = self.data_set_columns(added.on)
            for name in added.columns:
                if name not in available:
                    raise ValueError(
                        f"validation.expectations.{position}: {name!r} is no column of the "
                        f"{added.on.upper()}; its columns are {_listed(available)}"
                    )
        if self.first_month <= month_of(self.start):
            raise ValueError(
                f"model.first_month: no whole month lies between {self.start} and "
                f"{self.first_month:%Y-%m}; the first possible is {add_months(self.start, 1):%Y-%m}"
            )
        if self.last_labelled_day(self.first_month) < self.start:
            raise ValueError(
                f"model.first_month: no label is known on {self.first_month}: those of the first day, "
                f"{self.start}, come {self.source.label_delay_days} days after it; the first possible is "
                f"{_month_from(self.first_as_of(1)):%Y-%m}"
            )
        if self.end is not None and self.first_month > add_months(month_of(self.end), 1):
            raise ValueError(
                f"end: the history ends on {self.end}, before a first model can exist, that of "
                f"{self.first_month:%Y-%m}: labels come {self.source.label_delay_days} days after their rows"
            )
        return self

    # -- what follows from the contract ------------------------------------------------------------

    @property
    def first_month(self) -> date:
        """The first month that gets a model: the contract's, or the first with a whole month before it.

        Where labels come late, of that month the labels must be known, but for a day at most.
        """
        if self.model.first_month is not None:
            return self.model.first_month
        whole = add_months(self.start, 1 if self.start.day == 1 else 2)
        return max(whole, _month_from(self.first_as_of(FIRST_LABELLED_DAYS)))

    def first_as_of(self, labelled_days: int) -> date:
        """The first morning on which the labels of so many days can be known."""
        return self.start + timedelta(days=labelled_days + self.source.label_delay_days)

    def last_labelled_day(self, as_of: date) -> date:
        """The newest event day whose labels are all known on the morning of ``as_of``, if none is late.

        Whatever means "the newest labelled days" ends here and has its full length before it: the days
        after it have rows by then, but no labels that could be known.
        """
        return as_of - timedelta(days=1 + self.source.label_delay_days)

    @cached_property
    def required_since(self) -> date | None:
        """The first day whose rows have all features that must have a value; None if all days' rows do.

        A feature has a first day if its column has a ``since`` and is neither nullable nor filled.
        """
        declared = (self.source.columns[name] for name in self.model.features.all)
        return max(
            (
                column.since
                for column in declared
                if column.since and not column.nullable and column.fill_null is None
            ),
            default=None,
        )

    def trainable(self, day: date) -> bool:
        """Whether a model may learn from the rows of ``day``: not before :attr:`required_since`."""
        return self.required_since is None or day >= self.required_since

    def due(self, day: date) -> bool:
        """Whether a delivery is due for an event day, by the contract's calendar.

        Rows may be delivered for other days as well and are used like any; but nobody waits for them.
        """
        return self.delivery.due(day)

    def due_days(self, days: Iterable[date]) -> list[date]:
        """Those of ``days`` for which a delivery is due."""
        return [day for day in days if self.due(day)]

    def rows_expected_on(self, day: date) -> date:
        """The date on which the rows of a due event day arrive, in the morning."""
        return self.delivery.expected_on(day + timedelta(days=1))

    def labels_expected_on(self, day: date) -> date:
        """The date on which the labels of a due event day arrive, in the morning."""
        return self.delivery.expected_on(day + timedelta(days=1 + self.source.label_delay_days))

    @property
    def label(self) -> str:
        return self.source.label

    @property
    def entity(self) -> tuple[str, ...]:
        return self.mrds.entity

    @property
    def identity(self) -> list[str]:
        """The columns that tell rows of the MRDS apart: the entity and the event day."""
        return list(dict.fromkeys((*self.entity, EVENT_DAY)))

    @cached_property
    def ards_key(self) -> tuple[str, ...]:
        """What identifies a row of the ARDS: the contract's key within the event day."""
        return tuple(dict.fromkeys((self.source.event_day, *self.source.key)))

    @cached_property
    def label_file_columns(self) -> frozenset[str]:
        """The header that makes a file a label file."""
        return frozenset((*self.source.key, self.source.event_day, self.source.label))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Every aggregated column of the MRDS but the label: what scoring and the online store see."""
        return tuple(name for name in self.mrds.aggregate if name != self.source.label)

    def data_set_columns(self, data_set: DataSet) -> tuple[str, ...]:
        """The columns of the ARDS or the MRDS, in no order that matters."""
        own = self.source.columns if data_set == "ards" else (*self.mrds.entity, *self.mrds.aggregate)
        return tuple(dict.fromkeys((*own, EVENT_DAY, LABEL_KNOWN_ON)))

    @cached_property
    def sensitive(self) -> frozenset[str]:
        """The columns whose values nobody but the tables may show."""
        return frozenset(name for name, declared in self.source.columns.items() if declared.sensitive)

    def mrds_type(self, name: str) -> ColumnType:
        """The type of a column of the MRDS."""
        declared = self.source.columns[name].type
        match self.mrds.aggregate.get(name):
            case "count":
                return "long"
            case "mean":
                return "double"
            case "sum" if declared == "integer":
                return "long"
            case _:
                return declared

    def hash_of(self, *sections: str) -> str:
        """A hash of the named sections (dotted paths), so that a change elsewhere changes nothing.

        Keys at their defaults don't count: a key that the contract's language gains makes nothing out of
        date. Whoever changes a default raises the version of the steps that follow it.
        """
        return fingerprint_of(self.content_of(*sections))

    def content_of(self, *sections: str) -> dict[str, Any]:
        """What :meth:`hash_of` hashes: the named sections as plain data, without keys at their defaults."""
        content = self.model_dump(
            mode="json",
            by_alias=True,
            exclude_defaults=True,
            exclude={"source": {"columns": {"__all__": {"sensitive"}}}},
        )
        chosen: dict[str, Any] = {}
        for section in sections:
            value: Any = content
            for part in section.split("."):
                value = value.get(part, {})
            chosen[section] = value
        return chosen


def fingerprint_of(content: object) -> str:
    """A short hash of plain data (dicts, lists, strings, numbers); the order of dict keys is ignored."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(names)


# -- reading ---------------------------------------------------------------------------------------


def load_product(path: Path) -> Product:
    """Read and validate one contract.

    Raises:
        ContractError: the file can't be read as YAML, or breaks a rule; names file and key path.
    """
    try:
        content = read_yaml(path)
    except YamlError as error:
        raise ContractError(f"{path}: {error}") from error
    return parse_product(content, str(path))


def parse_product(content: object, origin: str) -> Product:
    """Validate the content of a contract; ``origin`` names it in errors.

    Raises:
        ContractError: as for :func:`load_product`.
    """
    if not isinstance(content, dict):
        raise ContractError(
            f"{origin}: a contract is a mapping of keys like name, start, source; this is not"
        )
    try:
        return Product.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
        lines = [_explain(problem) for problem in problems[:_PROBLEMS_SHOWN]]
        if len(problems) > _PROBLEMS_SHOWN:
            lines.append(f"and {len(problems) - _PROBLEMS_SHOWN} more")
        raise ContractError("\n".join(f"{origin}: {line}" for line in lines)) from error
    except (Exception, SystemExit) as error:  # one contract never takes the others down with it
        raise ContractError(f"{origin}: can't be understood: {type(error).__name__}: {error}") from error


#: Of a wrong contract so many problems are said, each with so much of what was found.
_PROBLEMS_SHOWN = 50
_FOUND_SHOWN = 200


def _explain(problem: Any) -> str:
    """One line of key path and reason for one of pydantic's errors."""
    location = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"unknown key; accepted are {_accepted_keys(problem['loc'])}"
    elif problem["type"] == "missing":
        message = "this key is required"
    elif problem["type"] not in ("value_error",):
        found = repr(problem["input"])
        found = found if len(found) <= _FOUND_SHOWN else f"{found[:_FOUND_SHOWN]}…"
        message = f"{message} (found {found})"
    return f"{location}: {message}" if location else message


def _accepted_keys(location: tuple[int | str, ...]) -> str:
    section: Any = Product
    for part in location[:-1]:
        if isinstance(section, type) and issubclass(section, BaseModel):
            fields = {f.alias or name: f.annotation for name, f in section.model_fields.items()}
            section = _without_none(fields.get(str(part)))
            if get_origin(section) is dict and get_args(section)[1] is Column:
                section = {"": Column}
        elif isinstance(section, dict):
            section = Column
    if isinstance(section, type) and issubclass(section, BaseModel):
        return _listed([f.alias or name for name, f in section.model_fields.items()])
    return "those of docs/contract.md"


def _without_none(annotation: Any) -> Any:
    """The section that an optional key holds."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and type(None) in get_args(annotation) else annotation


def contract_files(folders: Sequence[Path]) -> list[Path]:
    """The contracts in ``folders``, by name."""
    found = [path for folder in folders for pattern in ("*.yaml", "*.yml") for path in folder.glob(pattern)]
    return sorted(found, key=lambda path: path.name)


def load_products(folders: Sequence[Path]) -> tuple[dict[str, Product], dict[Path, ContractError]]:
    """Every valid product by name, and the error of each contract that is not valid.

    Two contracts with one name are both errors: which of them is meant can't be known.
    """
    products: dict[str, Product] = {}
    origins: dict[str, list[Path]] = {}
    errors: dict[Path, ContractError] = {}
    for path in contract_files(folders):
        try:
            product = load_product(path)
        except ContractError as error:
            errors[path] = error
            continue
        origins.setdefault(product.name, []).append(path)
        products[product.name] = product
    for name, paths in origins.items():
        if len(paths) > 1:
            del products[name]
            for path in paths:
                others = _listed([str(other) for other in paths if other != path])
                errors[path] = ContractError(f"{path}: name: {name!r} is also the name of {others}")
    return products, errors
