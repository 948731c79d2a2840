"""Trailing windows: the features of an entity that remember what its rows were on the days before.

What a contract may say of one, and what follows without data: its window, its type, what is kept of each day
for it. How they are computed is the business of :mod:`ml_platform.data_engineering.trailing_windows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ml_platform.contract.column_types import NUMERIC_TYPES, ColumnType
from ml_platform.contract.days import DayRange
from ml_platform.contract.fields import ColumnName, Days, Section, listed
from ml_platform.contract.scalar_syntax import LONGEST_TEXT

Rule = Literal["sum", "count", "mean", "min", "max", "first", "last", "distinct", "days_since"]
Until = Literal["today", "yesterday"]
#: The windows of labels begin after the event day.
AHEAD: Literal["ahead"] = "ahead"
#: What is kept of the rows of an entity and a day: enough for every rule over any days.
Part = Literal["rows", "count", "sum", "min", "max", "first", "last", "distinct"]
#: How many rows there are: kept where a condition chooses among them.
ROWS: Literal["rows"] = "rows"

RULES: tuple[Rule, ...] = (
    "sum",
    "count",
    "mean",
    "min",
    "max",
    "first",
    "last",
    "distinct",
    "days_since",
)
#: The parts that each rule is made of.
PARTS: Mapping[Rule, tuple[Part, ...]] = {
    "sum": ("count", "sum"),
    "count": ("count",),
    "mean": ("count", "sum"),
    "min": ("min",),
    "max": ("max",),
    "first": ("first",),
    "last": ("last",),
    "distinct": ("distinct",),
    "days_since": ("count",),
}
OF_NUMBERS: frozenset[Rule] = frozenset({"sum", "mean"})
#: Different values that are told apart in a window: of each day as many have to be kept.
DISTINCT_VALUES, MOST_DISTINCT_VALUES = 100, 1_000
MAXIMUM_FEATURES = 500

ALL: Literal["all"] = "all"


@dataclass(frozen=True, order=True)
class Window:
    """The days around an event day that a feature or a label looks at.

    Attributes:
        days: how many there are; None if all of the history.
        until: the event day itself is the last of them, or the day before it is; or they are those after it.
    """

    days: int | None
    until: Until | Literal["ahead"]

    @property
    def column(self) -> str:
        """The column of the MRDS that says how many days of the window could be used."""
        length = ALL if self.days is None else str(self.days)
        return f"days_{length}" if self.until == "today" else f"days_{length}_until_yesterday"

    @property
    def in_words(self) -> str:
        if self.until == AHEAD:
            return "the next day" if self.days == 1 else f"the next {self.days} days"
        last = "" if self.until == "today" else " before the event day"
        if self.days is None:
            return f"all days{last}" if last else "all days so far"
        if self.days == 1:
            return "the day before" if last else "the event day"
        return f"{self.days} days{last}"

    def last(self, day: date) -> date:
        """The newest day of the window of an event day."""
        if self.until == AHEAD:
            return day + timedelta(days=self.days or 0)
        return day if self.until == "today" else day - timedelta(days=1)

    def first(self, day: date, start: date) -> date:
        """The oldest day of the window of an event day, in a history since ``start``."""
        if self.until == AHEAD:
            return day + timedelta(days=1)
        if self.days is None:
            return start
        return max(start, self.last(day) - timedelta(days=self.days - 1))

    def first_full(self, start: date) -> date:
        """The first event day whose window doesn't reach before the ``start`` of the history."""
        lacking = (self.days or 1) - 1
        return start + timedelta(days=lacking if self.until == "today" else lacking + 1)


class Feature(Section):
    """A feature of an entity over the days up to an event day, or one made of other columns of the MRDS."""

    sum: ColumnName | None = None
    count: ColumnName | None = None
    mean: ColumnName | None = None
    min: ColumnName | None = None
    max: ColumnName | None = None
    first: ColumnName | None = None
    last: ColumnName | None = None
    distinct: ColumnName | None = None
    days_since: ColumnName | None = None
    days: Annotated[Days, Field(ge=1)] | Literal["all"] | None = Field(
        default=None, description="the length of the window; all for all of the history"
    )
    until: Until | None = Field(
        default=None,
        description="the last day of the window: today, the event day, or yesterday, the day before it",
    )
    up_to: Annotated[int, Field(ge=1, le=MOST_DISTINCT_VALUES)] | None = Field(
        default=None, description="how many different values distinct counts at most"
    )
    where: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = Field(
        default=None, description="a condition in SQL: only rows that fulfil it count"
    )
    expression: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = Field(
        default=None, description="instead of a rule: an expression in SQL of the MRDS's columns"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.expression is not None:
            others = sorted(self.model_fields_set - {"expression"})
            if others:
                raise ValueError(f"an expression stands alone; found beside it: {listed(others)}")
            return self
        given = [rule for rule in RULES if getattr(self, rule) is not None]
        if len(given) != 1:
            found = f"found are {listed(given)}" if given else "there is none"
            raise ValueError(
                f"one rule is needed, for instance `sum: amount`, or an expression; accepted are "
                f"{listed(RULES)} ({found})"
            )
        if self.days is None and self.rule != "days_since":
            raise ValueError(f"{self.rule} needs days: how many the window has, or all")
        if self.rule == "distinct" and self.days == ALL:
            raise ValueError("distinct needs a number of days: of all days the values can't be kept")
        if self.up_to is not None and self.rule != "distinct":
            raise ValueError(f"up_to is for distinct, not for {self.rule}")
        return self

    @property
    def rule(self) -> Rule:
        return next(rule for rule in RULES if getattr(self, rule) is not None)

    @property
    def column(self) -> str:
        """The column of the deliveries that it is of."""
        found: str = getattr(self, self.rule)
        return found

    @property
    def window(self) -> Window:
        length = None if self.days in (None, ALL) else int(self.days or 0)
        return Window(length, self.until or ("yesterday" if self.rule == "days_since" else "today"))

    @property
    def counts_days(self) -> bool:
        """Whether a column says how many days of its window could be used."""
        return self.days is not None

    @property
    def most_distinct(self) -> int:
        return self.up_to or DISTINCT_VALUES

    @property
    def in_words(self) -> str:
        """What it is, with all that decides its values but the columns of an expression."""
        if self.expression is not None:
            return self.expression
        where = f", where {self.where}" if self.where is not None else ""
        match self.rule:
            case "days_since":
                said = f"days since the newest earlier day with {self.column}"
                if self.window.until == "today":
                    said = f"days since the newest day with {self.column}"
                within = "" if self.window.days is None else f", within {self.window.in_words}"
                return f"{said}{within}{where}"
            case "distinct":
                said = f"different values of {self.column} (up to {self.most_distinct})"
            case rule:
                said = f"{rule} of {self.column}"
        return f"{said} over {self.window.in_words}{where}"

    def type_of(self, declared: ColumnType) -> ColumnType:
        """Its type, by that of its column."""
        match self.rule:
            case "count" | "distinct" | "days_since":
                return "long"
            case "mean":
                return "double"
            case "sum":
                return "double" if declared == "double" else "long"
            case _:
                return declared

    def accepts(self, declared: ColumnType) -> bool:
        """Whether it can be of a column of this type."""
        return self.rule not in OF_NUMBERS or declared in NUMERIC_TYPES


def windows_of(features: Iterable[Feature]) -> tuple[Window, ...]:
    """The different windows whose usable days are counted, the shortest first."""
    found = {feature.window for feature in features if feature.counts_days}
    return tuple(sorted(found, key=lambda window: (window.days is None, window.days or 0, window.until)))


def first_full(windows: Iterable[Window], start: date) -> date:
    """The first event day on which no window reaches before the ``start``; those over all days never do."""
    return max((window.first_full(start) for window in windows if window.days is not None), default=start)


def days_reached(
    windows: Iterable[Window], day: date, start: date, until: date | None = None
) -> DayRange | None:
    """The days that some windows of an event day hold together; None if there is none, as before the start.

    Args:
        until: those of all event days from ``day`` to this one instead.
    """
    chosen = list(windows)
    if not chosen:
        return None
    first = min(window.first(day, start) for window in chosen)
    last = max(window.last(until or day) for window in chosen)
    return DayRange(first, last) if first <= last else None
