"""Windows, labels ahead and populations where only Spark writes: the same as where tasks write files."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.contract.product import Product
from ml_platform.data_engineering import windowed_by_spark
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.engine import test_labels_ahead as labels_ahead
from ml_platform_tests.engine import test_population as population
from ml_platform_tests.engine import test_trailing_histories as histories
from ml_platform_tests.engine.test_labels_ahead import DAY
from ml_platform_tests.engine.test_trailing_histories import (
    HISTORIES,
    START,
    File,
    as_scored,
    contents,
    deliver,
    deliveries,
    failures,
    rows,
)
from ml_platform_tests.small_platform import Platform, carry_by, shop_contract

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FEATURES: dict[str, Any] = {
    **population.FEATURES,
    "spent": {"sum": "spend", "days": "all"},
    "channels": {"distinct": "channel", "days": 4, "until": "yesterday"},
    "by_web": {"mean": "pages", "days": 3, "where": "channel = 'web'"},
    "share": {"expression": "visits_3 / nullif(days_3, 0)"},
}
TABLES = ("mrds", "mrds_served", "daily_aggregates", "daily_aggregates_versions")


def ahead(**changes: Any) -> Product:
    return labels_ahead.product(
        labels_ahead.ANY, FEATURES, model__features={"numeric": ["visits_3"]}, **changes
    )


PRODUCTS = {
    "windows": histories.product(),
    "a label ahead": ahead(),
    "a population": ahead(mrds__population={"active_within_days": 4, "weekdays": ["mon", "tue", "fri"]}),
}


def run_by(
    carrier: str,
    product: Product,
    files: Iterable[File],
    order: Iterable[list[Any]],
    folder: Path,
    spark: SparkSession,
) -> Platform:
    """A platform after some runs, whose days are written by tasks or by Spark."""
    platform = Platform(settings_in(folder / carrier.replace(" ", "_")), spark, product)
    deliver(platform, files)
    with pytest.MonkeyPatch.context() as patch:
        carry_by(carrier, patch)
        for some in order:
            platform.run("ards", some)
            platform.run("mrds", some)
    return platform


def held(platform: Platform, table: str) -> list[str]:
    return sorted(map(repr, rows(platform, table)))


def check_equal(found: Platform, wanted: Platform) -> None:
    assert not failures(found)
    assert contents(found) == contents(wanted)
    assert as_scored(found) == as_scored(wanted)
    for table in TABLES:
        assert held(found, table) == held(wanted, table), table


@pytest.mark.parametrize(
    ("name", "carrier"),
    [
        ("a population", "Spark"),
        *(pytest.param(name, "buckets of Spark", marks=pytest.mark.slow) for name in PRODUCTS),
    ],
)
def test_days_with_corrections_are_the_same(
    name: str, carrier: str, tmp_path: Path, spark: SparkSession
) -> None:
    """In two runs, of which the second makes days again whose windows hold a correction."""
    files = labels_ahead.plain_history(9)
    files.append(labels_ahead.file_of(files[2].day, START + DAY * 6, ["ann", "cid"]))
    files.append(labels_ahead.file_of(files[4].day, START + DAY * 7, ["bob"], replaces=True))
    every = sorted({file.day for file in files})
    order = [every[:5], every]
    by_tasks = run_by("tasks", PRODUCTS[name], files, order, tmp_path, spark)
    check_equal(run_by(carrier, PRODUCTS[name], files, order, tmp_path, spark), by_tasks)
    assert rows(by_tasks, "mrds_served")


@pytest.mark.slow
@settings(HISTORIES, max_examples=10)
@given(
    name=st.sampled_from(list(PRODUCTS)),
    files=deliveries(),
    draw=st.randoms(use_true_random=False),
    carrier=st.sampled_from(["Spark", "buckets of Spark"]),
)
def test_histories_in_any_order_are_the_same(
    name: str,
    files: list[File],
    draw: random.Random,
    carrier: str,
    tmp_path_factory: pytest.TempPathFactory,
    spark: SparkSession,
) -> None:
    if not files:
        return
    folder, every = tmp_path_factory.mktemp("history"), sorted({file.day for file in files})
    by_tasks = run_by("tasks", PRODUCTS[name], files, [every], folder, spark)
    order = [*every]
    draw.shuffle(order)
    cut = draw.randint(0, len(order))
    some = [part for part in (order[:cut], order[cut:], every) if part]
    check_equal(run_by(carrier, PRODUCTS[name], files, some, folder, spark), by_tasks)


def test_shares_of_entities_make_the_same(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = labels_ahead.plain_history(7)
    every = [file.day for file in files]
    by_tasks = run_by("tasks", PRODUCTS["a population"], files, [every], tmp_path, spark)
    monkeypatch.setattr(windowed_by_spark, "VALUES_AT_ONCE", 20)
    check_equal(run_by("Spark", PRODUCTS["a population"], files, [every], tmp_path, spark), by_tasks)


def test_totals_beyond_their_type_refuse_the_same_days_for_the_same_reasons(
    tmp_path: Path, spark: SparkSession
) -> None:
    """Days by themselves, days by their windows, and days whose windows hold what one of them once was."""
    content = shop_contract()
    product = labels_ahead.product(
        {"any": "visit", "within_days": 1},
        {"large_3": {"sum": "large", "days": 3}},
        model__features={"numeric": ["large_3"]},
        source__columns={**content["source"]["columns"], "large": {"type": "long"}},
        mrds__aggregate={**content["mrds"]["aggregate"], "large": "sum"},
    )
    platforms = []
    for carrier in ("tasks", "Spark"):
        platform = Platform(settings_in(tmp_path / carrier.replace(" ", "_")), spark, product)
        for number, (values, later) in enumerate(LARGE):
            day = START + DAY * number
            platform.deliver(day, f"{day + DAY}T0100_rows.csv", large_rows(number, values))
            if later is not None:
                platform.deliver(day, f"{day + DAY * 3}T0100_fix.csv", large_rows(number, later))
        every = [START + DAY * number for number in range(len(LARGE))]
        with pytest.MonkeyPatch.context() as patch:
            carry_by(carrier, patch)
            for step in ("ards", "mrds"):
                platform.run(step, every)
        platforms.append(platform)
    by_tasks, by_spark = platforms
    refused = {
        day: record.reason
        for day, record in by_tasks.ledger.latest("mrds").items()
        if record.outcome == "refused"
    }
    assert len(refused) >= 2
    assert refused == {
        day: record.reason
        for day, record in by_spark.ledger.latest("mrds").items()
        if record.outcome == "refused"
    }
    assert contents(by_spark) == contents(by_tasks)


#: By day the values of two customers, and what one of them is corrected to.
LARGE: list[tuple[list[int], list[int] | None]] = [
    ([1, 2], None),
    ([2**62, 1], None),
    ([2**62, 2**61], None),
    ([5, 6], None),
    ([7, 2**63 - 1], [1, 1]),
    ([3, 3], None),
    ([3, 3], None),
    ([3, 3], None),
]


def large_rows(number: int, values: list[int]) -> str:
    day = START + DAY * number
    lines = ["visit,day,customer,spend,pages,channel,large"]
    lines += [
        f"{10 * number + n},{day},{name},1,1,web,{value}"
        for n, (name, value) in enumerate(zip(("ann", "bob"), values, strict=True))
    ]
    if number == 4:
        lines.append(f"{10 * number + 5},{day},bob,1,1,web,9")
    return "\n".join([*lines, ""])
