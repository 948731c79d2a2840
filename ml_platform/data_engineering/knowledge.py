"""Since when a delivered file is known: by the date at the head of its name, and by when it was first seen.

The clock's grain is a morning: what arrives until :attr:`.Source.morning_ends` is known on that day, what
arrives later on the next. A name may say when a file was delivered. A file that had not been there when its
day was first looked at can't have been known earlier than it was seen, whatever its name says: it must not
change a past that was used already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from ml_platform.contract.product import Product
from ml_platform.contract.source import Source, minutes_of

_STATED = re.compile(r"(\d{4}-\d{2}-\d{2})(?!\d)(?:T(\d{2}):?(\d{2})?)?")
_DAY = timedelta(days=1)
_PACKED = ".gz"


@dataclass(frozen=True)
class Known:
    """The mornings since which a file's rows and its labels are known."""

    rows: date
    labels: date


class FileFacts(NamedTuple):
    """A file as it lies there: its name, its size in bytes, and what changes when it is written.

    ``modified`` is when it was written, in ns since 1970; in an object store a number made of its ETag.
    """

    name: str
    size: int
    modified: int


@dataclass(frozen=True)
class Arrival:
    """A content of a file that somebody has looked at, and the morning on which it was first seen."""

    file: FileFacts
    content: str
    seen_on: date


@dataclass(frozen=True)
class Seen:
    """When the files of a day were first seen, as mornings.

    Attributes:
        first_look: the first morning on which a file of the day was there; that after the event day at least.
        files: by name, the morning on which its present content was first seen; what nobody has looked at
            yet is not among them.
    """

    first_look: date
    files: Mapping[str, date]

    def late(self, name: str) -> date | None:
        """The morning since which a file is known at the earliest, if it came after the first look."""
        seen = self.files.get(name)
        return seen if seen is not None and seen > self.first_look else None

    @property
    def late_files(self) -> dict[str, date]:
        """The files that came after the first look, by name, each with the morning on which it came."""
        return {name: late for name in sorted(self.files) if (late := self.late(name)) is not None}


@dataclass(frozen=True)
class Arrivals:
    """What was seen of some days' files, by day."""

    days: Mapping[date, Sequence[Arrival]] = field(default_factory=dict)

    def seen(self, day: date, present: Iterable[FileFacts]) -> Seen | None:
        """When the present files of a day were first seen; None if nobody has looked at the day.

        Another machine may see other times: then the newest content of the same size is the present one.
        """
        known = self.days.get(day)
        if not known:
            return None
        found = {}
        for file in present:
            arrival = self.of_file(day, file) or max(
                (arrival for arrival in known if arrival.file[:2] == file[:2]),
                key=lambda arrival: arrival.seen_on,
                default=None,
            )
            if arrival is not None:
                found[file.name] = arrival.seen_on
        return Seen(max(day + _DAY, min(arrival.seen_on for arrival in known)), found)

    def of_file(self, day: date, file: FileFacts) -> Arrival | None:
        """What is known of a file that lies there as it did before."""
        alike = [arrival for arrival in self.days.get(day, ()) if arrival.file == file]
        return min(alike, key=lambda arrival: arrival.seen_on, default=None)

    def of_content(self, day: date, name: str, content: str) -> Arrival | None:
        """The first arrival of a content of a file, packed or not."""
        alike = [
            arrival
            for arrival in self.days.get(day, ())
            if (_plain(arrival.file.name), arrival.content) == (_plain(name), content)
        ]
        return min(alike, key=lambda arrival: arrival.seen_on, default=None)


def _plain(name: str) -> str:
    """A file's name without that it is packed."""
    return name[: -len(_PACKED)] if name.lower().endswith(_PACKED) else name


def stated_on(source: Source, name: str) -> date | None:
    """The morning on which a file was delivered, as the head of its name says; None if it says nothing."""
    match = _STATED.match(name)
    if match is None:
        return None
    try:
        day = date.fromisoformat(match[1])
    except ValueError:
        return None
    hour, minute = int(match[2] or 0), int(match[3] or 0)
    is_a_time = hour < 24 and minute < 60
    after_the_morning = is_a_time and 60 * hour + minute > minutes_of(source.morning_ends)
    return day + _DAY if after_the_morning and day < date.max else day


def known(product: Product, day: date, name: str, seen: Seen | None = None) -> Known:
    """Since when a file of an event day is known.

    By its name: the date at its head if that is after the event day. Otherwise nothing is known of when it
    came, and it counts as delivered when it should have been: rows on the morning after the event day, labels
    (also those that rows bring) ``label_delay_days`` later.

    Args:
        seen: when the day's files were first seen, if anybody has looked.
    """
    stated = stated_on(product.source, name)
    if stated is not None and stated > day:
        found = Known(stated, stated)
    else:
        found = Known(day + _DAY, day + _DAY + timedelta(days=product.source.label_delay_days))
    late = seen.late(name) if seen is not None else None
    return found if late is None else Known(max(found.rows, late), max(found.labels, late))


def dated_ahead(product: Product, day: date, names: Iterable[str], seen: Seen | None) -> dict[str, date]:
    """The files of an event day whose names say a later date than that on which they were seen to be there.

    They are known since the date that they say all the same. A date up to the event day says nothing.

    Returns:
        By name, the morning on which each was first seen.
    """
    found = {}
    for name in names:
        stated, came = stated_on(product.source, name), seen.files.get(name) if seen is not None else None
        if stated is not None and came is not None and stated > max(day, came):
            found[name] = came
    return found


def morning_of(product: Product, moment: datetime) -> date:
    """The morning to which a moment belongs, in the product's time zone: the next day's, once it is over."""
    local = moment.astimezone(ZoneInfo(product.timezone))
    over = 60 * local.hour + local.minute > minutes_of(product.source.morning_ends)
    return local.date() + _DAY if over else local.date()
