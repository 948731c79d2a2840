"""Entities without rows of a day: who has a row on it, and what is in it, beside plain Python."""

from __future__ import annotations

import collections
import contextlib
import random
from collections.abc import Collection, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.contract.calendars import WEEKDAYS, Weekday
from ml_platform.contract.learning import Population
from ml_platform.contract.product import Product
from ml_platform.data_engineering import windowed_days, windowed_rows
from ml_platform.online_store.store import OnlineStore
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.engine import test_labels_ahead as labels_ahead
from ml_platform_tests.engine.test_labels_ahead import DAY, Oracle
from ml_platform_tests.engine.test_trailing_histories import (
    CUSTOMERS,
    HISTORIES,
    LAST,
    START,
    File,
    contents,
    deliver,
    deliveries,
    failures,
    rows,
)
from ml_platform_tests.small_platform import D, Platform

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LABEL = {"any": "visit", "within_days": 2, "patience_days": 1}
FEATURES = {"visits_3": {"count": "visit", "days": 3}, "since": {"days_since": "visit"}}
Key = tuple[date, str]
DAILY = ("ards", "mrds", "online_features", "predictions", "model_performance", "validation_report")
NAMES = [f"c{n:03d}" for n in range(300)]


def product(within: int, weekdays: Collection[Weekday] = WEEKDAYS, **changes: Any) -> Product:
    return labels_ahead.product(
        LABEL,
        FEATURES,
        mrds__population={"active_within_days": within, "weekdays": list(weekdays)},
        model__features={"numeric": ["visits_3"]},
        **changes,
    )


# -- by plain Python -----------------------------------------------------------------------------------


def scored_on(oracle: Oracle, day: date, morning: date) -> date | None:
    """The morning on which rows were scored that models learn from as of another; None if they do not.

    The days since the last visit reach back to the first day of all, so that no repair is out of reach.
    """
    if not oracle.could_be_used(day, morning):
        return None
    mornings = [START + DAY * n for n in range((morning - START).days + 1)]
    first = next(one for one in mornings if oracle.could_be_used(day, one))
    replaced = {
        file.morning
        for file in oracle.files
        if file.replaces
        and file.day <= day
        and (file.day == day or file.morning > first)
        and file.morning <= morning
        and file.day in oracle.usable
    }
    begin = max(replaced, default=first)
    return next(one for one in mornings if one >= begin and oracle.could_be_used(day, one))


def customers(oracle: Oracle, day: date, morning: date) -> list[str]:
    return [row[0] for row in oracle.rows(day, morning)] if oracle.could_be_used(day, morning) else []


def wanted(
    oracle: Oracle, within: int, weekdays: Collection[Weekday], morning: date
) -> dict[Key, tuple[int, int | None]]:
    """The label of each entity that a model as of a morning learns from, and of silent ones the visits."""
    found: dict[Key, tuple[int, int | None]] = {}
    for day in {file.day for file in oracle.files if WEEKDAYS[file.day.weekday()] in weekdays}:
        given = oracle.given_on(day)
        scored = scored_on(oracle, day, morning)
        if given is None or given > morning or scored is None:
            continue
        ahead = [
            row
            for other in oracle.inside(day)
            if oracle.could_be_used(other, morning)
            for row in oracle.rows(other, morning)
        ]
        lately = [customers(oracle, day - DAY * n, scored) for n in range(max(within, 3))]
        silent = {name for some in lately[:within] for name in some} - set(lately[0])
        for name in silent | set(customers(oracle, day, morning)):
            visits = sum(some.count(name) for some in lately[:3]) if name in silent else None
            found[day, name] = (oracle.is_one([row for row in ahead if row[0] == name]), visits)
    return found


def learned(platform: Platform, morning: date) -> dict[Key, tuple[int, int]]:
    """The same by the tables, with the visits of everybody."""
    labels = labels_ahead.learned(platform, morning)
    served = rows(platform, "mrds_served")
    with_states = {row["event_day"] for row in served}
    found = [row for row in rows(platform, "mrds") if row["event_day"] not in with_states]
    found += [
        row
        for row in served
        if row["known_from"] <= morning and (row["known_to"] is None or morning < row["known_to"])
    ]
    visits = {(row["event_day"], row["customer"]): row["visits_3"] for row in found}
    return {key: (label, visits[key]) for key, label in labels.items()}


# -- histories -----------------------------------------------------------------------------------------


def check(
    within: int,
    weekdays: list[Weekday],
    files: list[File],
    draw: random.Random,
    folder: Path,
    spark: SparkSession,
) -> None:
    live = Platform(settings_in(folder / "live"), spark, product(within, weekdays))
    predicted: dict[Key, int] = {}
    morning = START + DAY
    while morning <= LAST:
        deliver(live, [file for file in files if file.morning == morning])
        if came := sorted({file.day for file in files if file.morning == morning}):
            made = sorted({file.day for file in files if file.morning <= morning})
            live.run("ards", came)
            live.run("mrds", made)
            assert not failures(live)
            usable = {day for day, record in live.ledger.latest("mrds", set(made)).items() if record.usable}
            for row in rows(live, "mrds"):
                if row["event_day"] in usable:
                    predicted.setdefault((row["event_day"], row["customer"]), row["visits_3"])
        morning += DAY

    replay = Platform(settings_in(folder / "replay"), spark, product(within, weekdays))
    deliver(replay, files)
    delivered = sorted({file.day for file in files})
    order = list(delivered)
    draw.shuffle(order)
    while order:
        some, order = order[:3], order[3:]
        replay.run("ards", some)
        replay.run("mrds", some)
    replay.run("mrds", delivered)

    assert contents(replay) == contents(live)
    oracle = Oracle.of(LABEL, files, replay)
    morning = START + DAY
    while morning <= LAST:
        found, expected = learned(replay, morning), wanted(oracle, within, weekdays, morning)
        assert {key: label for key, (label, _) in found.items()} == {
            key: label for key, (label, _) in expected.items()
        }, morning
        for key, (_, visits) in expected.items():
            assert visits is None or found[key][1] == visits, (morning, key)
        morning += DAY
    assert len(set(scored(replay))) == len(scored(replay))
    assert set(scored(replay)) <= set(predicted)


def scored(platform: Platform) -> list[Key]:
    """The entities of days with states, each as often as it was scored."""
    return [(row["event_day"], row["customer"]) for row in rows(platform, "mrds_served") if row["is_scored"]]


HISTORY: Mapping[str, Any] = {
    "within": st.sampled_from([1, 2, 4, 30]),
    "weekdays": st.just([*WEEKDAYS])
    | st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=3, unique=True),
    "files": deliveries(),
    "draw": st.randoms(use_true_random=False),
}


@settings(HISTORIES, max_examples=2)
@given(**HISTORY)
def test_who_is_scored_is_what_plain_python_says_on_every_morning(
    within: int,
    weekdays: list[Weekday],
    files: list[File],
    draw: random.Random,
    tmp_path_factory: pytest.TempPathFactory,
    spark: SparkSession,
) -> None:
    if files:
        check(within, weekdays, files, draw, tmp_path_factory.mktemp("history"), spark)


@pytest.mark.slow
@settings(HISTORIES, max_examples=10)
@given(**HISTORY)
def test_who_is_scored_in_many_histories_is_what_plain_python_says(
    within: int,
    weekdays: list[Weekday],
    files: list[File],
    draw: random.Random,
    tmp_path_factory: pytest.TempPathFactory,
    spark: SparkSession,
) -> None:
    if files:
        check(within, weekdays, files, draw, tmp_path_factory.mktemp("history"), spark)


def test_shares_and_groups_of_days_make_the_same(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = labels_ahead.plain_history(8)
    platforms = [Platform(settings_in(tmp_path / name), spark, product(4)) for name in ("whole", "cut")]
    for platform in platforms:
        deliver(platform, files)
        platform.run("ards", [file.day for file in files])
    platforms[0].run("mrds", [file.day for file in files])
    monkeypatch.setattr(windowed_days, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(windowed_rows, "OUTPUTS_AT_ONCE", 2)
    platforms[1].run("mrds", [file.day for file in files])
    assert contents(platforms[0]) == contents(platforms[1])
    assert len(rows(platforms[0], "mrds")) > sum(
        len({row[0] for row in file.rows.values()}) for file in files
    )


def test_the_online_store_holds_the_population_of_the_newest_day(platform: Platform) -> None:
    """Whoever was active in the last two days; one that comes back is back, and values of the day are 0."""
    platform.product = product(2)
    came = [["ann", "bob"], ["bob"], ["cid"], ["ann"], ["ann"]]
    files = [
        labels_ahead.file_of(START + DAY * n, START + DAY * (n + 1), names) for n, names in enumerate(came)
    ]
    stored = []
    for file in files:
        deliver(platform, [file])
        for step in ("ards", "mrds", "online_features"):
            platform.run(step, file.day)
        with contextlib.closing(OnlineStore(platform.settings.online_url)) as store:
            found = store.get(platform.product, [["ann"], ["bob"], ["cid"]])
        assert {row["event_day"] for row in found if row} == {file.day}
        stored.append("".join(name[0] for name, row in zip(CUSTOMERS, found, strict=True) if row))
    assert stored == ["ab", "ab", "bc", "ac", "a"]

    rows_of = {(row["event_day"], row["customer"]): row for row in rows(platform, "mrds")}
    silent = rows_of[START + DAY, "ann"]
    assert (silent["visits_3"], silent["since"], silent["channel"]) == (1, 1, None)
    assert platform.run("online_features", [file.day for file in files], force=True).days
    with contextlib.closing(OnlineStore(platform.settings.online_url)) as store:
        assert [bool(row) for row in store.get(platform.product, [["ann"], ["bob"]])] == [True, False]


def test_a_population_that_is_withdrawn_gives_way_to_the_one_before(platform: Platform) -> None:
    """Also who had left with it is there again."""
    platform.product = product(2)
    came = [["ann", "bob"], ["bob"], ["cid"]]
    made = [START + DAY * n for n in range(len(came))]
    for day, names in zip(made, came, strict=True):
        deliver(platform, [labels_ahead.file_of(day, day + DAY, names)])
        for step in ("ards", "mrds", "online_features"):
            platform.run(step, day)
    assert stored(platform) == {"bob": made[2], "cid": made[2]}
    for file in platform.folder(made[2]).iterdir():
        file.unlink()
    for step in ("ards", "mrds", "online_features"):
        platform.run(step, made[2])
    assert stored(platform) == {"ann": made[1], "bob": made[1]}
    # A day in the middle changes nothing of the newest one.
    for file in platform.folder(made[0]).iterdir():
        file.unlink()
    for step in ("ards", "mrds", "online_features"):
        platform.run(step, made[:2])
    assert stored(platform) == {"bob": made[1]}


def stored(platform: Platform) -> dict[str, date]:
    """By entity the day that the online store has its features of."""
    with contextlib.closing(OnlineStore(platform.settings.online_url)) as store:
        return {row["customer"]: row["event_day"] for row in store.rows(platform.product)}


def test_on_other_weekdays_nobody_is_scored_and_windows_hold_them_all_the_same(platform: Platform) -> None:
    """2024 begins with a Monday: of ten days Mondays and Thursdays are scored."""
    platform.product = product(4, ["mon", "thu"])
    made = [START + DAY * n for n in range(10)]
    for number, day in enumerate(made):
        names = [CUSTOMERS[number % len(CUSTOMERS)], CUSTOMERS[0]]
        deliver(platform, [labels_ahead.file_of(day, day + DAY, names)])
    for step in DAILY:
        platform.run(step, made)
    scored = [day for day in made if day.weekday() in (0, 3)]
    for step in ("mrds", "online_features", "predictions"):
        outcomes = {day: record.outcome for day, record in platform.ledger.latest(step).items()}
        assert [day for day in made if outcomes[day] == "not_due"] == [
            day for day in made if day not in scored
        ]
    assert (
        "the population is scored on Mondays, Thursdays only"
        in platform.ledger.latest("mrds")[made[1]].reason
    )
    found = {(row["event_day"], row["customer"]): row["visits_3"] for row in rows(platform, "mrds")}
    assert {day for day, _ in found} == set(scored)
    visits = collections.Counter(
        (day, CUSTOMERS[n % len(CUSTOMERS)]) for n, day in enumerate(made) for _ in range(1)
    ) + collections.Counter((day, CUSTOMERS[0]) for day in made)
    for (day, customer), count in found.items():
        assert count == sum(visits[day - DAY * n, customer] for n in range(3)), (day, customer)
    assert set(stored(platform).values()) == {scored[-1]}
    assert platform.run("mrds", made).metadata["days_up_to_date"] == len(made)


def test_what_was_scored_before_the_weekdays_were_named_stays(platform: Platform) -> None:
    """The days that are scored no more leave the MRDS and the store; their predictions stay."""
    platform.product = product(3, evaluation__metric="roc_auc")
    made = [START + DAY * n for n in range(45)]
    draw = random.Random(7)
    for day in made:
        names = [name for n, name in enumerate(NAMES) if draw.random() < (0.8 if n % 2 else 0.1)]
        deliver(platform, [labels_ahead.file_of(day, day + DAY, names)])
    platform.run("ards", made)
    platform.run("mrds", made)
    (model,) = platform.run("model", D("2024-02-01")).days
    assert model.metadata["promoted"], str(model.metadata)
    for step in ("predictions", "online_features"):
        platform.run(step, made)
    before = rows(platform, "predictions")
    assert {row["event_day"] for row in before} == set(made[31:])
    assert set(stored(platform).values()) == {made[-1]}

    population = {"active_within_days": 3, "weekdays": ["mon"]}
    weekly = product(3).mrds.model_copy(update={"population": Population(**population)})
    platform.product = platform.product.model_copy(update={"mrds": weekly})
    for _ in range(2):
        for step in ("ards", "mrds", "predictions", "online_features"):
            platform.run(step, made)
        mondays = [day for day in made if day.weekday() == 0]
        assert {row["event_day"] for row in rows(platform, "mrds")} == set(mondays)
        assert rows(platform, "predictions") == before
        assert set(stored(platform).values()) == {mondays[-1]}
        kept = platform.ledger.latest("predictions")[made[33]]
        assert (kept.outcome, kept.counts["rows"] > 0) == ("written", True)
        assert "Mondays only" in kept.details["metadata"]["not_scored_again"]
