"""Features over trailing windows, beside what plain Python makes of the rows themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering import daily_aggregates, resolution, row_versions, trailing_windows
from ml_platform.data_engineering.trailing_windows import BEYOND, MORNING, UsableDays
from ml_platform_tests.small_platform import shop

START = date(2024, 1, 1)
DAYS = 12

WEB = "channel = 'web' and pages > 0"
FEATURES: dict[str, Any] = {
    "spent_3": {"sum": "spend", "days": 3},
    "spent_all": {"sum": "spend", "days": "all"},
    "pages_4": {"sum": "pages", "days": 4, "until": "yesterday"},
    "visits_1": {"count": "visit", "days": 1},
    "visits_yesterday": {"count": "visit", "days": 1, "until": "yesterday"},
    "spends_5": {"count": "spend", "days": 5},
    "mean_spend": {"mean": "spend", "days": 4},
    "mean_pages": {"mean": "pages", "days": 40},
    "least": {"min": "spend", "days": 3},
    "most": {"max": "spend", "days": 7},
    "least_channel": {"min": "channel", "days": 3},
    "most_channel": {"max": "channel", "days": "all"},
    "first_spend": {"first": "spend", "days": 3},
    "last_channel": {"last": "channel", "days": 5, "until": "yesterday"},
    "channels": {"distinct": "channel", "days": 4},
    "different": {"distinct": "spend", "days": 6, "up_to": 3},
    "since": {"days_since": "spend"},
    "since_now": {"days_since": "spend", "until": "today", "days": 3},
    "web_spent": {"sum": "spend", "days": 4, "where": WEB},
    "web_visits": {"count": "visit", "days": "all", "where": WEB},
    "web_mean": {"mean": "spend", "days": 6, "where": WEB},
    "web_most": {"max": "pages", "days": 3, "where": WEB},
    "web_first": {"first": "spend", "days": 5, "where": WEB},
    "web_last": {"last": "spend", "days": 5, "until": "yesterday", "where": WEB},
    "web_pages": {"distinct": "pages", "days": 5, "where": WEB},
    "since_known": {"days_since": "visit", "where": "spend is not null"},
}
#: The same in Python.
CONDITIONS: dict[str, Callable[[Row], bool]] = {
    WEB: lambda row: row.channel == "web" and row.pages > 0,
    "spend is not null": lambda row: row.spend is not None,
}


@pytest.fixture(scope="module")
def product() -> Product:
    return shop(mrds__features=FEATURES)


@dataclass(frozen=True)
class Row:
    """A row of the deliveries, and between which mornings it was the truth."""

    visit: int
    day: date
    customer: str
    spend: float | None
    pages: int
    channel: str
    begun: date
    ended: date | None

    def stood(self, morning: date | None) -> bool:
        if morning is None:
            return self.ended is None
        return self.begun <= morning and (self.ended is None or morning < self.ended)


spends = st.one_of(
    st.none(),
    st.sampled_from([0.1, 0.2, 0.3, 1e16, -1e16, 1.0, 2.5]),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Row], UsableDays]:
    """Rows of some days, some corrected, late, of another customer later, or gone; and usable days."""
    rows, visit = [], 0
    intervals: dict[date, tuple[tuple[date | None, date | None], ...]] = {}
    for number in range(DAYS):
        day = START + timedelta(days=number)
        first = day + timedelta(days=1)
        kind = draw(st.sampled_from(["usable"] * 6 + ["never", "late", "until", "gap"]))
        a, b = (
            first + timedelta(days=draw(st.integers(1, 4))),
            first + timedelta(days=draw(st.integers(5, 8))),
        )
        match kind:
            case "usable":
                intervals[day] = ((first, None),)
            case "late":
                intervals[day] = ((a, None),)
            case "until":
                intervals[day] = ((first, a),)
            case "gap":
                intervals[day] = ((first, a), (b, None))
        for _ in range(draw(st.integers(0, 3))):
            visit += 1
            begun = first + timedelta(days=draw(st.sampled_from([0, 0, 0, 2, 5])))
            ends = [
                begun + timedelta(days=n) for n in draw(st.lists(st.integers(1, 5), max_size=2, unique=True))
            ]
            bounds = [begun, *sorted(ends), None]
            goes = draw(st.sampled_from([False, False, True]))
            for at, (start, end) in enumerate(itertools.pairwise(bounds)):
                if goes and end is None and at:
                    break
                rows.append(
                    Row(
                        visit,
                        day,
                        draw(st.sampled_from(["ann", "bob", "ünï"])),
                        draw(spends),
                        draw(st.integers(-(2**31), 2**31 - 1)),
                        draw(st.sampled_from(["web", "app", "other"])),
                        start,  # type: ignore[arg-type]
                        end,
                    )
                )
    return rows, UsableDays(intervals)


def tables(product: Product, rows: list[Row]) -> tuple[pa.Table, pa.Table]:
    """What is kept of the days, as the step makes it of the ARDS and its versions."""
    kept, versions = [], []
    for number in range(DAYS):
        day = START + timedelta(days=number)
        of_day = [row for row in rows if row.day == day]
        changed = {row.visit for row in of_day if sum(other.visit == row.visit for other in of_day) > 1}
        first = day + timedelta(days=1)
        changed |= {row.visit for row in of_day if row.begun > first or row.ended}
        now = ards(product, [row for row in of_day if row.ended is None])
        states = ards(product, [row for row in of_day if row.visit in changed], with_interval=True)
        kept.append(daily_aggregates.aggregate(product, day, now))
        versions.append(daily_aggregates.states_of(product, day, first, now, states))
    return pa.concat_tables(kept), pa.concat_tables(versions)


def ards(product: Product, rows: list[Row], *, with_interval: bool = False) -> pa.Table:
    schema = row_versions.ards_schema(product) if with_interval else resolution.rows_schema(product)
    plain = [
        {
            "visit": row.visit,
            "day": row.day,
            "event_day": row.day,
            "customer": row.customer,
            "spend": row.spend,
            "pages": row.pages,
            "channel": row.channel,
            "bought": None,
            "label_known_on": None,
            "known_from": row.begun,
            "known_to": row.ended,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(
        [{name: value[name] for name in schema.names} for value in plain], schema=schema
    )


def expected(
    rows: list[Row], usable: UsableDays, customer: str, day: date, morning: date | None
) -> dict[str, Any]:
    """All features of an output, by going through the rows."""

    def could(day_: date) -> bool:
        found = usable.intervals.get(day_, ())
        if morning is None:
            return bool(found) and found[-1][1] is None
        return any((a is None or a <= morning) and (b is None or morning < b) for a, b in found)

    seen = sorted(
        (row for row in rows if row.customer == customer and row.stood(morning) and could(row.day)),
        key=lambda row: (row.day, row.visit),
    )
    found = {}
    for name, rule in FEATURES.items():
        function, column = next(iter(rule.items()))
        holds = CONDITIONS.get(rule.get("where", ""), lambda _: True)
        until = rule.get("until", "yesterday" if function == "days_since" else "today")
        last = day if until == "today" else day - timedelta(days=1)
        length = rule.get("days", "all")
        first = START if length == "all" else max(START, last - timedelta(days=length - 1))
        days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        counted = sum(could(one) for one in days)
        inside = [row for row in seen if first <= row.day <= last and holds(row)]
        values = [getattr(row, column) for row in inside]
        known = [value for value in values if value is not None]
        value: Any
        match function:
            case "count":
                value = len(known) if counted else None
            case "sum":
                by_day = _day_sums(inside, column)
                value = (0 if not inside else None) if not known else _total(by_day)
                value = value if counted else None
            case "mean":
                value = _total(_day_sums(inside, column)) / len(known) if known else None
            case "min":
                value = min(known, default=None)
            case "max":
                value = max(known, default=None)
            case "first":
                value = values[0] if values else None
            case "last":
                value = values[-1] if values else None
            case "distinct":
                value = min(len(set(known)), rule.get("up_to", 100)) if counted else None
            case "days_since":
                with_value = [row.day for row in inside if getattr(row, column) is not None]
                value = (day - max(with_value)).days if with_value else None
        found[name] = value
        if "days" in rule:
            suffix = "" if until == "today" else "_until_yesterday"
            found[f"days_{length}{suffix}"] = counted
    return found


def _day_sums(rows: list[Row], column: str) -> list[Any]:
    """The sum of each day: values are added one by one in their order, as the MRDS's own sums are."""
    found = []
    for day in sorted({row.day for row in rows}):
        values = sorted(
            value for row in rows if row.day == day and (value := getattr(row, column)) is not None
        )
        total: Any = 0
        for value in values:
            total = total + value
        found.append(total)
    return found


def _total(values: list[Any]) -> Any:
    return sum(values) if all(isinstance(value, int) for value in values) else math.fsum(values)


@settings(deadline=None, max_examples=60)
@given(histories(), st.data())
def test_windows_hold_what_a_walk_through_the_rows_gives(
    product: Product, drawn: tuple[list[Row], UsableDays], data: st.DataObject
) -> None:
    """Now, and on any morning: corrected, late, moved and vanished rows, days that could be used at times."""
    rows, usable = drawn
    kept, versions = tables(product, rows)
    mornings = st.one_of(st.none(), st.integers(1, DAYS + 10).map(lambda n: START + timedelta(days=n)))
    asked = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(["ann", "bob", "ünï", "nobody"]),
                st.integers(0, DAYS - 1).map(lambda n: START + timedelta(days=n)),
                mornings,
            ),
            min_size=1,
            max_size=12,
        )
    )
    outputs = pa.table(
        {
            "customer": pa.array([customer for customer, _, _ in asked], pa.string()),
            EVENT_DAY: pa.array([day for _, day, _ in asked], pa.date32()),
            MORNING: pa.array([morning for _, _, morning in asked], pa.date32()),
        }
    )

    made = trailing_windows.fold(product, outputs, kept, versions, usable).to_pylist()

    for (customer, day, morning), found in zip(asked, made, strict=True):
        wanted = expected(rows, usable, customer, day, morning)
        assert not found.pop(BEYOND)
        assert found == {name: wanted[name] for name in found}, (customer, day, morning)
