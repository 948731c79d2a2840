"""Limits for the validation of a product's days, proposed from the days that it has had.

Each comes with what it would have done: the days whose figures lie beyond it. A limit encloses all days but
for at most one in fifty that lie far from all others, and leaves room beyond them: a limit at the greatest
value ever seen would block the first day that is a little busier.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

from ml_platform.contract.column_types import NUMERIC_TYPES
from ml_platform.contract.monitoring import MASK
from ml_platform.contract.product import Product
from ml_platform.mlops.quality.expectations import number
from ml_platform.mlops.quality.profiles import ColumnProfile, Profile

#: Days with rows that a proposal needs: with fewer their extremes say little.
LEAST_DAYS = 14
#: Of the days so many may lie beyond a limit, if they lie far from all others.
_BEYOND = 0.02
#: Median absolute deviations from the median that are far: of normally distributed figures one in 10^8 is.
_FAR = 9.0
#: Room beyond what was seen: of the span of a column's values, of a share of nulls, of the rows of a day.
_ROOM_OF_SPAN, _ROOM_OF_SHARE, _ROOM_OF_ROWS = 0.25, 1.5, 0.5
_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Suggestion:
    """A limit for the section ``validation``.

    Attributes:
        key: of the section, like ``ranges.amount``.
        value: what to write there, as plain data.
        now: what the contract says there; None if nothing.
        seen: the figures that it encloses, in words.
        beyond: the days that it would have blocked, each with its figure.
        days: how many days it was compared with.
        is_masked: whether the limit tells the values of a sensitive column.
    """

    key: str
    value: int | float | dict[str, float]
    now: int | float | dict[str, float] | None
    seen: str
    days: int
    beyond: Mapping[date, str] = field(default_factory=dict)
    is_masked: bool = False

    @property
    def is_new(self) -> bool:
        """Whether the contract says something else."""
        return self.value != self.now


def suggest(product: Product, profiles: Mapping[date, Profile]) -> list[Suggestion]:
    """Limits of a day of the ARDS, each with its history; none from fewer than :data:`LEAST_DAYS` days.

    Columns that tell rows apart, the label, and columns with allowed values get no range; columns that are
    never null by contract, or are filled, no share of nulls.
    """
    filled = {day: profile for day, profile in sorted(profiles.items()) if profile.rows}
    if len(filled) < LEAST_DAYS:
        return []
    found = [_minimum_rows(product, filled)]
    for name, declared in product.columns.items():
        columns = {
            day: profile.columns[name]
            for day, profile in filled.items()
            if name in profile.columns and (declared.since is None or day >= declared.since)
        }
        if len(columns) < LEAST_DAYS or name == product.label:
            continue
        if declared.nullable and declared.fill_null is None:
            rows = {day: filled[day].rows for day in columns}
            found += _null_share(product, name, columns, rows)
        keys = {*product.ards_key, *product.entity, product.source.event_day}
        if declared.type in NUMERIC_TYPES and name not in keys and not declared.allowed:
            found += _range(product, name, columns, is_whole=declared.type != "double")
    return [limit for limit in found if len(limit.beyond) <= 2 * _BEYOND * limit.days]


def _minimum_rows(product: Product, profiles: Mapping[date, Profile]) -> Suggestion:
    rows = {day: float(profile.rows) for day, profile in profiles.items()}
    usual = _usual(rows.values(), low=True)
    value = int(_rounded(usual[0] * _ROOM_OF_ROWS, down=True))
    return Suggestion(
        key="minimum_rows",
        value=max(value, 1),
        now=product.validation.minimum_rows,
        seen=f"{number(usual[0])} to {number(usual[-1])} rows a day",
        days=len(rows),
        beyond={day: f"{number(count)} rows" for day, count in rows.items() if count < max(value, 1)},
    )


def _null_share(
    product: Product, name: str, columns: Mapping[date, ColumnProfile], rows: Mapping[date, int]
) -> Iterator[Suggestion]:
    shares = {day: column.nulls / rows[day] for day, column in columns.items()}
    usual = _usual(shares.values(), high=True)
    value = min(1.0, max(_LEAST_SHARE, math.ceil(usual[-1] * _ROOM_OF_SHARE * 100) / 100))
    if value >= 1:  # which would say nothing
        return
    yield Suggestion(
        key=f"maximum_null_share.{name}",
        value=value,
        now=product.validation.maximum_null_share.get(name),
        seen=f"{usual[0]:.1%} to {usual[-1]:.1%} nulls a day",
        days=len(shares),
        beyond={day: f"{share:.1%} nulls" for day, share in shares.items() if share > value},
    )


def _range(
    product: Product, name: str, columns: Mapping[date, ColumnProfile], *, is_whole: bool
) -> Iterator[Suggestion]:
    least = {day: column.minimum for day, column in columns.items() if column.minimum is not None}
    most = {day: column.maximum for day, column in columns.items() if column.maximum is not None}
    if len(least) < LEAST_DAYS:
        return
    lowest, highest = _usual(least.values(), low=True)[0], _usual(most.values(), high=True)[-1]
    room = _ROOM_OF_SPAN * (highest - lowest)
    if room <= 0:  # what has always been the same says nothing of what may come
        return
    minimum = _outward(lowest - room, room, down=True, is_whole=is_whole)
    maximum = _outward(highest + room, room, down=False, is_whole=is_whole)
    # What is never negative, like a price or a count, has its natural end at zero.
    minimum = 0.0 if lowest >= 0 > minimum else minimum
    maximum = 0.0 if highest <= 0 < maximum else maximum
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        return
    limits = product.validation.ranges.get(name)
    now = limits.model_dump(exclude_none=True) if limits else None
    masked = name in product.sensitive
    beyond = {
        day: MASK if masked else f"{number(least[day])} to {number(most[day])}"
        for day in least
        if least[day] < minimum or most[day] > maximum
    }
    yield Suggestion(
        key=f"ranges.{name}",
        value={"minimum": _plain(minimum), "maximum": _plain(maximum)},
        now=now,
        seen=MASK if masked else f"values from {number(lowest)} to {number(highest)}",
        days=len(least),
        beyond=beyond,
        is_masked=masked,
    )


def _usual(figures: Iterable[float], *, low: bool = False, high: bool = False) -> list[float]:
    """The figures in order, without the few at an end that lie far from all others."""
    ordered = sorted(figures)
    middle = statistics.median(ordered)
    far = _FAR * statistics.median(abs(figure - middle) for figure in ordered)
    for _ in range(int(_BEYOND * len(ordered))):
        if high and ordered[-1] > middle + far:
            ordered.pop()
        elif low and ordered[0] < middle - far:
            ordered.pop(0)
    return ordered


def _rounded(value: float, *, down: bool) -> float:
    """A number with two digits that tell something."""
    if not value or not math.isfinite(value):
        return value
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float((math.floor if down else math.ceil)(value / step) * step)


def _outward(value: float, room: float, *, down: bool, is_whole: bool) -> float:
    """A limit that is rounded away from what it encloses, by at most a tenth of the room that it leaves."""
    if not math.isfinite(value) or not math.isfinite(room):
        return value
    step = 10.0 ** math.floor(math.log10(room) - 1)
    if is_whole:
        step = max(step, 1.0)
    digits = max(0, 2 - math.floor(math.log10(step)))
    return round(float((math.floor if down else math.ceil)(value / step) * step), digits)


def _plain(value: float) -> float:
    """Whole numbers as such, so that a contract reads ``100`` and not ``100.0``."""
    return int(value) if value.is_integer() and abs(value) < 1e15 else value
