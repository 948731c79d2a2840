"""Features over trailing windows: histories made morning by morning, and at once, in any order."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ml_platform.contract.product import Product
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import Platform, shop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

START = date(2024, 1, 1)
DAYS = 9
FEATURES: dict[str, Any] = {
    "spent_3": {"sum": "spend", "days": 3},
    "spent_before": {"sum": "spend", "days": 2, "until": "yesterday"},
    "visits_all": {"count": "visit", "days": "all"},
    "most_4": {"max": "spend", "days": 4},
    "last_channel": {"last": "channel", "days": 3, "until": "yesterday"},
    "channels_5": {"distinct": "channel", "days": 5},
    "since": {"days_since": "spend"},
}
CUSTOMERS = ("ann", "bob", "cid")


def product(**changes: Any) -> Product:
    """The product ``shop`` with windows; a row without pages blocks its day."""
    return shop(mrds__features=FEATURES, **changes)


@dataclass(frozen=True)
class File:
    """A file of a delivery: the morning on which it comes, and its rows by visit."""

    day: date
    morning: date
    name: str
    rows: Mapping[int, tuple[str, float | None, str, str]]
    replaces: bool = False

    @property
    def text(self) -> str:
        lines = ["visit,day,customer,spend,pages,channel"]
        for visit, (customer, spend, pages, channel) in self.rows.items():
            shown = "" if spend is None else repr(spend)
            lines.append(f"{visit},{self.day},{customer},{shown},{pages},{channel}")
        return "\n".join(lines) + "\n"


def day_of(number: int) -> date:
    return START + timedelta(days=number)


@st.composite
def deliveries(draw: st.DrawFn) -> list[File]:
    """Days with gaps, late days and rows, corrections, rows that move, repairs, days bad at first."""
    found, visit = [], 0
    row = st.tuples(
        st.sampled_from(CUSTOMERS),
        st.one_of(st.none(), st.sampled_from([0.1, 0.2, 0.3, 5.5, 1e15, -1e15])),
        st.just("1"),
        st.sampled_from(["web", "app"]),
    )
    for number in range(DAYS):
        day = day_of(number)
        if draw(st.sampled_from([True] * 7 + [False])):
            first = day + timedelta(days=draw(st.sampled_from([1, 1, 1, 1, 3])))
            visits = list(range(visit, visit + draw(st.integers(1, 4))))
            visit += len(visits)
            rows = {one: draw(row) for one in visits}
            if draw(st.sampled_from([False] * 5 + [True])):  # blocked until it is corrected, if ever
                customer, spend, _, channel = rows[visits[0]]
                rows[visits[0]] = (customer, spend, "", channel)
            found.append(File(day, first, f"{first}T0100_rows.csv", rows))
            for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
                later = first + timedelta(days=draw(st.integers(1, 5)))
                chosen = draw(
                    st.lists(st.sampled_from([*visits, visit]), min_size=1, max_size=3, unique=True)
                )
                visit += visit in chosen
                replaces = draw(st.sampled_from([False, False, False, True]))
                name = f"{later}T0{draw(st.integers(1, 8))}00_fix.csv"
                if all(file.name != name for file in found if file.day == day):
                    found.append(File(day, later, name, {one: draw(row) for one in chosen}, replaces))
    return found


#: To make a history shorter would take longer than to look at it.
HISTORIES = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
LAST = START + timedelta(days=DAYS + 12)


def deliver(platform: Platform, files: Iterable[File]) -> None:
    for file in files:
        if file.replaces:
            platform.deliver(file.day, f"{file.name}.manifest.yaml", "replaces: true\n")
        platform.deliver(file.day, file.name, file.text)


@dataclass
class Live:
    """A platform that runs every morning, and what each entity of each day was first scored from."""

    platform: Platform
    scored: dict[tuple[date, str], dict[str, Any]] = field(default_factory=dict)

    def run(self, files: list[File]) -> None:
        morning = START + timedelta(days=1)
        while morning <= LAST:
            deliver(self.platform, [file for file in files if file.morning == morning])
            came = sorted({file.day for file in files if file.morning == morning})
            made = sorted({file.day for file in files if file.morning <= morning})
            if came:
                self.platform.run("ards", came)
                self.platform.run("mrds", made)
                assert not failures(self.platform)
                self._score(made)
            morning += timedelta(days=1)

    def _score(self, made: list[date]) -> None:
        usable = {
            day for day, record in self.platform.ledger.latest("mrds", set(made)).items() if record.usable
        }
        for row in rows(self.platform, "mrds"):
            if row["event_day"] in usable:
                self.scored.setdefault(
                    (row["event_day"], row["customer"]), _features(self.platform.product, row)
                )


def _features(of: Product, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in of.features}


def as_scored(platform: Platform) -> dict[tuple[date, str], dict[str, Any]]:
    """What the tables say of it in the end."""
    found = {}
    records, served = platform.ledger.latest("mrds"), rows(platform, "mrds_served")
    with_states = {row["event_day"] for row in served}
    for row in rows(platform, "mrds"):
        if row["event_day"] not in with_states and records[row["event_day"]].usable:
            found[row["event_day"], row["customer"]] = _features(platform.product, row)
    for row in served:
        if row["is_scored"]:
            found[row["event_day"], row["customer"]] = _features(platform.product, row)
    return found


def rows(platform: Platform, table: str) -> list[dict[str, Any]]:
    """A whole table, if there is one."""
    if not platform.tables.exists("shop", table):
        return []
    found: list[dict[str, Any]] = (
        DeltaTable(platform.tables.path("shop", table)).to_pyarrow_table().to_pylist()
    )
    return found


def failures(platform: Platform) -> list[str]:
    """What an exception has ended."""
    return [
        f"{asset} {day}: {record.reason}"
        for asset in ("ards", "daily_aggregates", "mrds")
        for day, record in platform.ledger.latest(asset).items()
        if record.failed
    ]


def contents(platform: Platform) -> dict[str, Any]:
    """The fingerprints of all days of both tables."""
    return {
        f"{asset} {day}": (record.outcome, record.fingerprint)
        for asset in ("ards", "daily_aggregates", "mrds")
        for day, record in platform.ledger.latest(asset).items()
    }


#: A rule about what is of windows: days may break it, until days before them are corrected.
RANGES: dict[str, Any] = {"validation__ranges": {"spent_3": {"maximum": 100}}}


def check(files: list[File], draw: random.Random, folder: Path, spark: SparkSession, **changes: Any) -> None:
    live = Live(Platform(settings_in(folder / "live"), spark, product(**changes)))
    live.run(files)
    replay = Platform(settings_in(folder / "replay"), spark, product(**changes))
    deliver(replay, files)
    days = sorted({file.day for file in files})
    order = list(days)
    draw.shuffle(order)
    at = 0
    while at < len(order):
        some = order[at : at + draw.randint(1, len(order))]
        at += len(some)
        replay.run("ards", some)
        replay.run("mrds", some)
    replay.run("mrds", days)
    assert contents(replay) == contents(live.platform)
    assert _differences(as_scored(replay), as_scored(live.platform)) == {}
    # What a day that is blocked now would be served as, could it be used, nobody reads.
    blocked = {day for day, one in live.platform.ledger.latest("mrds").items() if one.outcome == "blocked"}
    known, scored = (
        {key: row for key, row in found.items() if key[0] not in blocked}
        for found in (as_scored(live.platform), live.scored)
    )
    assert _differences(known, scored) == {}


def _differences(found: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> dict[Any, Any]:
    """What differs, by key: what was found, and what should have been."""
    return {
        key: (found.get(key), wanted.get(key))
        for key in {**found, **wanted}
        if found.get(key) != wanted.get(key)
    }


@settings(HISTORIES, max_examples=2)
@given(files=deliveries(), draw=st.randoms(use_true_random=False))
def test_a_replay_in_any_order_keeps_what_every_morning_scored(
    files: list[File], draw: random.Random, tmp_path_factory: pytest.TempPathFactory, spark: SparkSession
) -> None:
    if files:
        check(files, draw, tmp_path_factory.mktemp("history"), spark)


@pytest.mark.slow
@settings(HISTORIES, max_examples=10)
@given(files=deliveries(), draw=st.randoms(use_true_random=False))
def test_many_replays_in_any_order_keep_what_every_morning_scored(
    files: list[File], draw: random.Random, tmp_path_factory: pytest.TempPathFactory, spark: SparkSession
) -> None:
    if files:
        check(files, draw, tmp_path_factory.mktemp("history"), spark)


@pytest.mark.slow
@settings(HISTORIES, max_examples=10)
@given(files=deliveries(), draw=st.randoms(use_true_random=False))
def test_days_that_break_rules_of_windows_are_scored_from_the_morning_on_that_mends_them(
    files: list[File], draw: random.Random, tmp_path_factory: pytest.TempPathFactory, spark: SparkSession
) -> None:
    if files:
        check(files, draw, tmp_path_factory.mktemp("history"), spark, **RANGES)
