"""Event days and months: ranges of them, and the arithmetic of the partitions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, timedelta


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


def month_from(day: date) -> date:
    """The first month that begins on ``day`` or later."""
    return day if day.day == 1 else add_months(day, 1)


def add_months(month: date, count: int) -> date:
    """The first day of the month ``count`` months after ``month``'s (before, if negative)."""
    index = month.year * 12 + month.month - 1 + count
    return date(index // 12, index % 12 + 1, 1)


def days_between(first: date, last: date) -> list[date]:
    """Every day from ``first`` to ``last``, both included; none if they are the wrong way round."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def last_day_of(month: date) -> date:
    """The last day of a month, by its first."""
    return add_months(month, 1) - timedelta(days=1)


def days_of_month(month: date) -> list[date]:
    """The days of a month, by its first."""
    return days_between(month, last_day_of(month))


def months_between(first: date, last: date) -> list[date]:
    """The months that hold a day from ``first`` to ``last``, each by its first day."""
    return [add_months(first, n) for n in range(12 * (last.year - first.year) + last.month - first.month + 1)]


def named(period: str, first: date, last: date | None = None) -> str:
    """A partition as people call it, ``2013-02-08`` or ``2013-02``; or those from ``first`` to ``last``."""
    texts = [f"{day:%Y-%m}" if period == "month" else day.isoformat() for day in (first, last or first)]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"


def counted(count: int, noun: str) -> str:
    """How many there are of something: ``1 day``, ``2,000 days``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def in_a_sentence(period: str, partitions: Collection[date]) -> str:
    """Partitions by number and range, ``3 days from 2013-02-08 to 2013-02-12``; a single one by its name."""
    first, last = min(partitions), max(partitions)
    if len(partitions) == 1:
        return named(period, first)
    return f"{counted(len(partitions), period)} from {named(period, first, last)}"


def whole_months_between(first: date, last: date) -> list[date]:
    """The months all of whose days lie from ``first`` to ``last``."""
    return [month for month in months_between(first, last) if month >= first and last_day_of(month) <= last]
