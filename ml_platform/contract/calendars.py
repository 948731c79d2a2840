"""Business calendars: on which days a business delivers, by weekdays, public holidays and dates of its own.

Days are plain dates; time zones and what is delivered do not belong here. The ``holidays`` package is
imported when a calendar names a country, since that takes half a second.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from datetime import date, timedelta
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)
_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
#: A business that delivers on some weekday isn't closed for longer than this.
_LONGEST_BREAK_DAYS = 366
#: Years over which the longest break is looked for: holidays fall on another weekday every year.
_YEARS_LOOKED_AT = 11


def _each_once(weekdays: tuple[Weekday, ...]) -> tuple[Weekday, ...]:
    if len(set(weekdays)) < len(weekdays):
        raise ValueError("a weekday is listed twice")
    return weekdays


#: Some weekdays, by which a contract names days.
Weekdays = Annotated[tuple[Weekday, ...], Field(min_length=1), AfterValidator(_each_once)]


class Delivery(BaseModel):
    """For which event days a delivery is due. For other days one may come; it is not missed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weekdays: Weekdays = Field(default=WEEKDAYS, description="event days for which deliveries are due")
    holidays: tuple[date | str, ...] = Field(
        default=(),
        description="days without a delivery: a country (US), one of its parts (US-NY), a stock exchange "
        "(XNYS), dates, or a list of these",
    )
    arrives: Literal["any_day", "due_days"] = Field(
        default="any_day",
        description="the day after the event day, whichever it is; or the next day that is due itself",
    )

    @field_validator("holidays", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return (value,) if isinstance(value, str | date) else value

    @field_validator("holidays")
    @classmethod
    def _dates_and_calendars(cls, values: tuple[date | str, ...]) -> tuple[date | str, ...]:
        found: list[date | str] = []
        for value in values:
            if isinstance(value, str):
                try:
                    value = date.fromisoformat(value)
                except ValueError:
                    _calendar(value)
            found.append(value)
        return tuple(found)

    @cached_property
    def dates(self) -> frozenset[date]:
        """The holidays that are given as dates."""
        return frozenset(value for value in self.holidays if isinstance(value, date))

    @cached_property
    def calendars(self) -> tuple[str, ...]:
        """The names of the holiday calendars."""
        return tuple(value for value in self.holidays if isinstance(value, str))

    @property
    def is_daily(self) -> bool:
        """Whether a delivery is due for every day."""
        return len(self.weekdays) == len(WEEKDAYS) and not self.holidays

    def why_not_due(self, day: date) -> str | None:
        """Why no delivery is due for an event day, in words; None if one is."""
        if weekday_of(day) not in self.weekdays:
            return f"no delivery is due for {_NAMES[day.weekday()]}s"
        if day in self.dates:
            return "no delivery is due for this date (delivery.holidays)"
        for name in self.calendars:
            if (holiday := _calendar(name).get(day)) is not None:
                return f"no delivery is due for a holiday of {name}: {holiday}"
        return None

    def due(self, day: date) -> bool:
        """Whether a delivery is due for an event day."""
        return self.why_not_due(day) is None

    def expected_on(self, day: date) -> date:
        """The first date from ``day`` on on which something can arrive."""
        if self.arrives == "any_day":
            return day
        return next((later for later in _from(day) if self.due(later)), day)

    @property
    def arrival_weekdays(self) -> tuple[int, ...]:
        """The weekdays (Monday is 0) on which the rows of due days arrive, one day later if need be."""
        due = [WEEKDAYS.index(name) for name in self.weekdays]
        return tuple(sorted(due if self.arrives == "due_days" else {(weekday + 1) % 7 for weekday in due}))

    def longest_break(self, start: date) -> int:
        """The most days from one due day to the next, in the years after ``start``."""
        days = [start + timedelta(days=n) for n in range(366 * _YEARS_LOOKED_AT)]
        due = [day for day in days if self.due(day)]
        return max(((later - day).days for day, later in pairwise(due)), default=1)

    def in_words(self) -> str:
        """For which days deliveries are due."""
        if self.is_daily:
            return "for every day"
        parts = [f"the holidays of {name}" for name in self.calendars]
        if self.dates:
            parts.append(f"{len(self.dates)} dates" if len(self.dates) > 1 else str(*self.dates))
        without = f", without {' and '.join(parts)}" if parts else ""
        late = (
            "; what would arrive on another day comes on the next of them"
            if self.arrives != "any_day"
            else ""
        )
        return f"for {weekdays_in_words(self.weekdays)}{without}{late}"


def _from(day: date) -> list[date]:
    return [day + timedelta(days=n) for n in range(_LONGEST_BREAK_DAYS)]


def weekday_of(day: date) -> Weekday:
    """The weekday of a day, as contracts name it."""
    return WEEKDAYS[day.weekday()]


def weekdays_in_words(weekdays: Collection[Weekday]) -> str:
    """Weekdays in words, those that follow each other as a span."""
    found: list[list[int]] = []
    for weekday in sorted(map(WEEKDAYS.index, weekdays)):
        if found and found[-1][-1] == weekday - 1:
            found[-1].append(weekday)
        else:
            found.append([weekday])
    words = []
    for span in found:
        names = [f"{_NAMES[weekday]}s" for weekday in span]
        words += [f"{names[0]} to {names[-1]}"] if len(names) > 2 else names
    return ", ".join(words)


@lru_cache(maxsize=256)
def _calendar(name: str) -> Any:
    """The holidays of a country, of a part of one, or of a stock exchange; by date, worked out when asked.

    Raises:
        ValueError: there is no such calendar; names those like it.
    """
    import holidays

    country, _, part = name.partition("-")
    try:
        return holidays.country_holidays(country, subdiv=part or None)
    except NotImplementedError:
        pass
    countries = holidays.list_supported_countries()
    if country in countries:
        parts = sorted(countries[country])
        raise ValueError(
            f"holidays: {country} has no part {part!r}; accepted are {', '.join(parts) or 'none'}"
        )
    try:
        return holidays.financial_holidays(name)
    except NotImplementedError:
        known = [*countries, *holidays.list_supported_financial()]
        near = difflib.get_close_matches(name.upper(), known, n=5, cutoff=0.5)
        raise ValueError(
            f"holidays: no calendar {name!r} is known; accepted are the codes of countries (US, DE), of "
            "their parts (US-NY, DE-BY), of stock exchanges (XNYS, XECB), and dates (2024-12-24)"
            + (f"; near it are {', '.join(near)}" if near else "")
        ) from None
