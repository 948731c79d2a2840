"""Which days windows may hold, now and as it was known on earlier mornings, by what the ledger says.

A window leaves out days that are missing, blocked or refused, as they were on the morning that counts. When
something of its days has changed after a day was first scored, what was served of that day is kept. From the
days ahead it follows since when a label is known that looks at them.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

from ml_platform.contract.days import DayRange
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.labels_ahead import LEAST_SHARE
from ml_platform.contract.product import Product
from ml_platform.contract.trailing import days_reached
from ml_platform.data_engineering.row_versions import Morning
from ml_platform.data_engineering.trailing_windows import Interval, UsableDays, could_be_used
from ml_platform.engine.earlier_verdicts import mornings_of
from ml_platform.storage.ledger import HISTORY, WITHOUT_ROWS, DayRecord

#: In the metadata of a day of the ARDS: since which morning it has had rows, if not since the one after it.
FIRST_MORNING = "rows_known_since"


@dataclass(frozen=True)
class WindowDay:
    """A day as windows see it.

    Attributes:
        intervals: the mornings between which it could be used.
        changes: those on which something of it changed, or it could be used no longer, or again; ascending.
        repaired_on: those since which it is read as repaired.
        content: a hash of what is kept of it.
        empty_before: the morning on which it got rows that nobody expected.
    """

    intervals: tuple[Interval, ...]
    changes: tuple[date, ...] = ()
    repaired_on: tuple[date, ...] = ()
    content: str = ""
    empty_before: date | None = None

    @property
    def changed_on(self) -> date | None:
        """The last morning on which anything of it changed."""
        return self.changes[-1] if self.changes else None

    def could_be_used(self, morning: date) -> bool:
        """Whether it could be used on a morning."""
        return could_be_used(self.intervals, morning)

    def number(self, day: date) -> int:
        """A hash of all that decides what the day is to windows; those of several days are added."""
        intervals = [[str(start), str(end)] for start, end in self.intervals]
        repaired = [str(morning) for morning in self.repaired_on]
        plain = [str(day), intervals, str(self.changed_on), repaired, self.content, str(self.empty_before)]
        return int(fingerprint_of(plain), 16)


def window_days(
    product: Product, days: DayRange, ards: Mapping[date, DayRecord], kept: Mapping[date, DayRecord]
) -> dict[date, WindowDay]:
    """The days of a range that a window could hold, now or on some morning.

    Args:
        ards: what the ledger says of days of the ARDS.
        kept: what it says of what is kept of them.
    """
    found = {}
    for day in days:
        record = ards.get(day)
        if record is None or record.outcome in WITHOUT_ROWS:
            if not product.due(day):
                found[day] = WindowDay(((None, None),))  # nobody expects anything of it
            continue
        if day not in kept or not kept[day].usable:
            continue
        if intervals := intervals_of(record):
            mornings = own_mornings(record)
            bounds = {bound for interval in intervals for bound in interval if bound is not None}
            found[day] = WindowDay(
                intervals,
                tuple(sorted(bounds | {morning.day for morning in mornings})),
                tuple(morning.day for morning in mornings if morning.replaces),
                kept[day].fingerprint or "",
                None if product.due(day) else first_morning(record),
            )
    return found


def own_mornings(record: DayRecord) -> list[Morning]:
    """The mornings on which rows of a day of the ARDS came, or it was accepted, and if it was usable then."""
    known = mornings_of(record)
    mornings = known or [Morning(first_morning(record), is_usable=record.usable)]
    barred_from, barred_to = record.barred
    if barred_to is None or not record.usable:
        return mornings
    judged = [
        replace(morning, is_usable=False)
        if (barred_from is None or morning.day >= barred_from) and morning.day < barred_to
        else morning
        for morning in mornings
    ]
    accepted = [] if any(morning.day == barred_to for morning in judged) else [Morning(barred_to)]
    return sorted([*judged, *accepted], key=lambda morning: morning.day)


def intervals_of(record: DayRecord) -> tuple[Interval, ...]:
    """The mornings from one on and before another in which a day of the ARDS could be used."""
    found: list[Interval] = []
    mornings = own_mornings(record)
    for morning, after in zip(mornings, [*mornings[1:], None], strict=True):
        if not morning.is_usable:
            continue
        end = after.day if after else None
        if found and found[-1][1] == morning.day:
            found[-1] = (found[-1][0], end)
        else:
            found.append((morning.day, end))
    return tuple(found)


def first_morning(record: DayRecord) -> date:
    """The morning on which rows of a day of the ARDS first came."""
    if history := record.details.get(HISTORY):
        return date.fromisoformat(history["mornings"][0][0])
    said = record.details.get("metadata", {}).get(FIRST_MORNING)
    return date.fromisoformat(said) if said else record.day + timedelta(days=1)


Arrived = Callable[[date], date | None]
"""The first morning, not before a date, on which the first rows of any day came; None if none has yet."""


@dataclass(frozen=True)
class Windows:
    """The days that the windows of some day of the MRDS may hold together.

    Attributes:
        known: of all days of a history, as far as windows may hold them.
        changing: those of them of which something changed later than on their first morning, ascending.
        reached: the days that the windows hold; None if there is none.
        number: a hash of these.
        lacking: those that have been delivered and aren't made, of those that have failed with the reason.
        label: of a label that looks ahead, the mornings on which it was given, and then changed.
        ahead: a hash of the days that it was given by.
    """

    known: Mapping[date, WindowDay]
    changing: Sequence[date]
    reached: DayRange | None
    number: int
    lacking: Mapping[date, str] = field(default_factory=dict)
    label: tuple[date, ...] = ()
    ahead: int = 0

    def mornings(self, own: Sequence[Morning], day: date) -> list[Morning] | None:
        """The mornings of a day, with those on which days of its windows were repaired.

        Args:
            own: those of the day itself.

        Returns:
            None if nothing of its windows has changed since the day was first served, nor its label since it
            was given.
        """
        first = next((morning.day for morning in own if morning.is_usable), None)
        if first is None:
            return None
        others = self._others(day)
        if not any(other.changed_on is not None and other.changed_on > first for other in others):
            return list(own) if len(self.label) > 1 else None
        repaired = {morning for other in others for morning in other.repaired_on if morning > first}
        found = {morning.day: morning for morning in own}
        for morning in repaired:
            before = [known for known in own if known.day <= morning]
            found[morning] = replace(before[-1], day=morning, replaces=True)
        return [found[morning] for morning in sorted(found)]

    def with_changes(self, own: Sequence[Morning], day: date) -> list[Morning]:
        """The mornings of a day, with all on which days of its windows changed since it could be used first.

        Rules about what is of its windows may have been broken on any of them.

        Args:
            own: those of the day itself.
        """
        first = next((morning.day for morning in own if morning.is_usable), None)
        if first is None:
            return list(own)
        changes = {change for other in self._others(day) for change in other.changes if change > first}
        found = {morning.day: morning for morning in own}
        for change in changes - set(found):
            before = [known for known in own if known.day <= change]
            found[change] = replace(before[-1], day=change, replaces=False)
        return [found[morning] for morning in sorted(found)]

    def _others(self, day: date) -> list[WindowDay]:
        """The other days in its windows of which something changed later than on their first morning."""
        if self.reached is None:
            return []
        inside = self.changing[_within(self.changing, self.reached)]
        return [self.known[other] for other in inside if other != day]


def that_count(judged: Sequence[Morning], own: Sequence[Morning]) -> list[Morning]:
    """Of the mornings of :meth:`Windows.with_changes` those of the day itself, and those that decide.

    These are the ones on which the day could be used again, or no longer.
    """
    own_days = {morning.day for morning in own}
    found: list[Morning] = []
    for morning in judged:
        if morning.day in own_days or (found and found[-1].is_usable != morning.is_usable):
            found.append(morning)
    return found


def windows_of(
    product: Product,
    days: Iterable[date],
    known: Mapping[date, WindowDay],
    lacking: Mapping[date, str],
    arrived: Arrived,
) -> dict[date, Windows]:
    """The days that the windows of each of some days may hold.

    Args:
        known: all days that any of them may hold.
        lacking: days that have been delivered and aren't made, of those that have failed with the reason.
        arrived: says when rows came, so that time has passed.
    """
    windows, start = product.mrds.looks_back, product.start
    ordered, missing = sorted(known), sorted(lacking)
    totals = [0, *itertools.accumulate(known[day].number(day) for day in ordered)]
    changing = [
        day
        for day in ordered
        if (changed := known[day].changed_on) is not None and changed > day + timedelta(days=1)
    ]
    looks_ahead = [] if product.mrds.label is None else [product.mrds.label.window]

    def total(inside: DayRange | None) -> int:
        if inside is None:
            return 0
        found = _within(ordered, inside)
        return totals[found.stop] - totals[found.start]

    found = {}
    for day in days:
        label = label_mornings(product, day, known, lacking, arrived)
        ahead = total(days_reached(looks_ahead, day, start)) if label else 0
        reached = days_reached(windows, day, start)
        inside = missing[_within(missing, reached)] if reached is not None else []
        unmade = {other: lacking[other] for other in inside}
        found[day] = Windows(known, changing, reached, total(reached), unmade, label, ahead)
    return found


def _within(days: Sequence[date], inside: DayRange) -> slice[int, int, None]:
    """The places of those of some days, ascending, that lie in a range."""
    return slice(bisect_left(days, inside.first), bisect_right(days, inside.last))


def label_mornings(
    product: Product, day: date, known: Mapping[date, WindowDay], lacking: Collection[date], arrived: Arrived
) -> tuple[date, ...]:
    """The mornings on which a day's label, which looks ahead, was given, and on which it may have changed.

    It is given for all entities at once: on the first morning after its window on which anything has come,
    and all days of it that are due could be used. Some that never come are waited for so long as the contract
    says; then, on the next morning on which anything new comes, it is given by the others, if these are
    :data:`.LEAST_SHARE` of them, or never.

    Args:
        lacking: days that have been delivered, and are not made yet: they are waited for in any case.

    Returns:
        None of them if it isn't given, or not yet.
    """
    label = product.mrds.label
    if label is None:
        return ()
    window = label.window
    inside = DayRange(window.first(day, product.start), window.last(day))
    if (product.end is not None and inside.last > product.end) or any(other in lacking for other in inside):
        return ()
    given = _given(product, inside, known, label.patience_days, arrived)
    if given is None:
        return ()
    # Rows of the day itself may have come, or could be used, only later.
    begins = [start for start, _ in (known[day].intervals if day in known else ()) if start is not None]
    given = max([given, *begins[:1]])
    changes = {change for other in inside if other in known for change in known[other].changes}
    return (given, *sorted(change for change in changes if change > given))


def _given(
    product: Product, inside: DayRange, known: Mapping[date, WindowDay], patience: int, arrived: Arrived
) -> date | None:
    """The morning on which a label over some days is given; None if never, or not yet."""
    due = product.due_days(inside)
    over = inside.last + timedelta(days=1)
    latest = over + timedelta(days=patience)
    came = {bound for other in due if other in known for bound, _ in known[other].intervals}
    mornings = {bound for bound in came if bound is not None and over <= bound <= latest}
    # Nobody knows that the window is over before something newer comes; its days have to be there in time.
    ended = arrived(over)
    if ended is not None and (ended <= latest or _usable_on(due, known, latest) == len(due)):
        mornings.add(ended)
    for morning in sorted(mornings):
        if _usable_on(due, known, morning) == len(due):
            return morning
    given = arrived(latest)
    if given is None or _usable_on(due, known, given) < LEAST_SHARE * len(due):
        return None
    return given


def _usable_on(days: Iterable[date], known: Mapping[date, WindowDay], morning: date) -> int:
    """How many of some days could be used on a morning."""
    return sum(day in known and known[day].could_be_used(morning) for day in days)


def usable_days(windows: Iterable[Windows]) -> UsableDays:
    """What windows are told of the days that they may hold."""
    found: dict[date, tuple[Interval, ...]] = {}
    empty: dict[date, date] = {}
    seen: set[int] = set()
    for of_day in windows:
        if id(of_day.known) not in seen:
            seen.add(id(of_day.known))
            found |= {day: known.intervals for day, known in of_day.known.items()}
            empty |= {day: came for day, known in of_day.known.items() if (came := known.empty_before)}
    return UsableDays(found, empty)
