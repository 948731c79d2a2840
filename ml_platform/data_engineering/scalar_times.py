"""Functions of expressions on dates and timestamps, in UTC or at a time zone.

Years are those of the Gregorian calendar, also before it was introduced. A date or a time beyond the years 1
to 9999 is null. Weeks are those of ISO 8601: they begin on Monday, and the first of a year has its first
Thursday. ``isodow`` is 1 on Monday and 7 on Sunday, ``dow`` 0 on Sunday and 6 on Saturday.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from ml_platform.contract.scalar_tree import Call, Value
from ml_platform.data_engineering.scalar_numbers import Numbers, Operation, array, minus, numbers, plus

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND
_SIZES = {"hour": HOUR, "minute": MINUTE, "second": SECOND}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_DAY, LAST_DAY = ((day - _EPOCH.date()).days for day in (date.min, date.max))
_DATE, _TIMESTAMP = pa.date32(), pa.timestamp("us", "UTC")
#: Hours after which the calendar, and the days of the week, begin again.
_HOURS_OF_CYCLE = 146_097 * 24


def within_calendar(values: pa.Array) -> pa.Array:
    """Dates or timestamps, and null instead of those beyond the calendar."""
    if values.type == _DATE:
        return dates(*_days(values))
    return timestamps(*_microseconds(values))


def dates(days: Numbers, valid: Numbers) -> pa.Array:
    """Dates of their days since 1970."""
    valid = valid & (days >= FIRST_DAY) & (days <= LAST_DAY)
    return array(np.where(valid, days, 0).astype("int32"), valid).cast(_DATE)


def timestamps(microseconds: Numbers, valid: Numbers) -> pa.Array:
    """Timestamps of their microseconds since 1970."""
    valid = valid & (microseconds >= FIRST_DAY * DAY) & (microseconds < (LAST_DAY + 1) * DAY)
    return array(microseconds, valid).cast(_TIMESTAMP)


def date_at(times: pa.Array, zone: str) -> pa.Array:
    """The dates of timestamps at a time zone."""
    local, valid = _local(times, zone)
    return dates(local // DAY, valid)


def date_of(times: pa.Array) -> pa.Array:
    """The dates of timestamps in UTC."""
    microseconds, valid = _microseconds(times)
    return dates(microseconds // DAY, valid)


def midnight_of(days: pa.Array) -> pa.Array:
    """The timestamps at which dates begin in UTC."""
    since, valid = _days(days)
    return timestamps(since * DAY, valid)


def _days(values: pa.Array) -> tuple[Numbers, Numbers]:
    days, valid = numbers(values.cast(pa.int32()))
    return days.astype("int64"), valid


def _microseconds(values: pa.Array) -> tuple[Numbers, Numbers]:
    return numbers(values.cast(pa.int64()))


def _local(times: pa.Array, zone: str) -> tuple[Numbers, Numbers]:
    """What the clock of a time zone shows at timestamps, as if it were UTC."""
    microseconds, valid = _microseconds(times)
    local = microseconds + _offsets(microseconds, zone)
    return local, valid & (local >= FIRST_DAY * DAY) & (local < (LAST_DAY + 1) * DAY)


def _offsets(microseconds: Numbers, zone: str) -> Numbers:
    """The offsets of a time zone in microseconds; one for all of an hour in which it doesn't change."""
    hours, places = np.unique(microseconds // HOUR, return_inverse=True)
    starts = np.array([_offset(int(hour) * HOUR, zone) for hour in hours], dtype="int64")
    ends = np.array([_offset((int(hour) + 1) * HOUR, zone) for hour in hours], dtype="int64")
    offsets: Numbers = starts[places]
    for place in np.flatnonzero((starts != ends)[places]):
        offsets[place] = _offset(int(microseconds[place]), zone)
    return offsets


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _offset(microseconds: int, zone: str) -> int:
    hour = microseconds // HOUR
    # Local times beyond the calendar have no datetime; the zone's rules are the same a cycle away.
    if hour < FIRST_DAY * 24 + 48:
        microseconds += _HOURS_OF_CYCLE * HOUR
    elif hour > LAST_DAY * 24 - 48:
        microseconds -= _HOURS_OF_CYCLE * HOUR
    time = _EPOCH + timedelta(microseconds=microseconds)
    offset = time.astimezone(_zone(zone)).utcoffset()
    assert offset is not None
    return offset // timedelta(microseconds=1)


def _part(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    name, times = _plain(call.arguments[0]), operands[1]
    if times.type == _DATE:
        days, valid = _days(times)
        microseconds = days * DAY
    elif len(operands) == 3:
        microseconds, valid = _local(times, _plain(call.arguments[2]))
    else:
        microseconds, valid = _microseconds(times)
    if name == "epoch":
        return array(microseconds / SECOND, valid)
    if name in _SIZES:
        within = {"hour": DAY, "minute": HOUR, "second": MINUTE}[name]
        return array(microseconds % within // _SIZES[name], valid)
    return array(_part_of_days(name, microseconds // DAY), valid)


def _part_of_days(name: str, days: Numbers) -> Numbers:
    weekday = (days + 3) % 7  # 1970 began on a Thursday
    match name:
        case "dow":
            return (weekday + 1) % 7
        case "isodow":
            return weekday + 1
        case "doy":
            return days - _begin("year", days) + 1
        case "week":
            thursday = days - weekday + 3
            weeks: Numbers = (thursday - _begin("year", thursday)) // 7 + 1
            return weeks
        case "day":
            return days - _begin("month", days) + 1
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype("int64")
    years = months // 12 + 1970
    return {"year": years, "month": months % 12 + 1, "quarter": months % 12 // 3 + 1}[name]


def _begin(unit: str, days: Numbers) -> Numbers:
    """The first day of the year, quarter, month or week of days."""
    begin: Numbers
    if unit == "week":
        begin = days - (days + 3) % 7
        return begin
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype("int64")
    size = {"year": 12, "quarter": 3, "month": 1}[unit]
    begin = (months // size * size).astype("datetime64[M]").astype("datetime64[D]").astype("int64")
    return begin


def _truncated(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    unit, times = _plain(call.arguments[0]), operands[1]
    if times.type == _DATE:
        days, valid = _days(times)
        return dates(days if unit == "day" else _begin(unit, days), valid)
    microseconds, valid = _microseconds(times)
    if unit in _SIZES:
        return timestamps(microseconds // _SIZES[unit] * _SIZES[unit], valid)
    days = microseconds // DAY
    return timestamps((days if unit == "day" else _begin(unit, days)) * DAY, valid)


def _days_between(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    """The days from the second date to the first; of timestamps, from one's date in UTC to the other's."""
    end, begin = (one if one.type == _DATE else date_of(one) for one in operands)
    (last, last_valid), (first, first_valid) = _days(end), _days(begin)
    return array(last - first, last_valid & first_valid)


def _date_plus(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    first, second = (array(*_days(one)) if one.type == _DATE else one for one in operands)
    return dates(*numbers(plus(first, second)))


def _date_minus(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    return dates(*numbers(minus(array(*_days(operands[0])), operands[1])))


def _plain(node: Any) -> str:
    assert isinstance(node, Value)
    return str(node.value)


OPERATIONS: Mapping[str, Operation] = {
    "part": _part,
    "date_trunc": _truncated,
    "days": _days_between,
    "date +": _date_plus,
    "date -": _date_minus,
}
