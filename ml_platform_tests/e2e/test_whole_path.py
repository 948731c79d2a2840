"""Random products, whose files arrive in a random order: the tables are those that were worked out by hand.

Each case runs every step, also halfway through its deliveries. Nothing may end in anything but an outcome
or a clear failure, and what arrived in which order must not show in the end.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sklearn.metrics import f1_score

from ml_platform.contract.days import month_of
from ml_platform.contract.windows import days_evaluated
from ml_platform.engine.step import PermanentError
from ml_platform.machine_learning import performance
from ml_platform.online_store.store import OnlineStore
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.random_product import (
    FIRST_MODEL,
    Case,
    Expected,
    case,
    expected_day,
    expected_features,
)
from ml_platform_tests.small_platform import Platform

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: How many cases a run of the slow tests tries, and from which seed on.
CASES = int(os.environ.get("ML_PLATFORM_TEST_CASES", "3"))
FIRST_SEED = int(os.environ.get("ML_PLATFORM_TEST_FIRST_CASE", "0"))

DAILY = ("ards", "mrds", "online_features", "predictions", "model_performance", "validation_report")
#: A model whose as-of date lies beyond what has been delivered is not due yet.
OUTCOMES = {"written", "empty", "missing", "refused", "blocked", "held_back", "no_model", "not_due"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + CASES))
def test_a_random_product_comes_out_as_worked_out_by_hand(
    spark: SparkSession, tmp_path: Path, seed: int
) -> None:
    given, draw = case(seed), random.Random(seed)
    platform = Platform(settings_in(tmp_path / "a"), spark, given.product)
    files = draw.sample(given.files, len(given.files))
    cuts = sorted(draw.sample(range(len(files) + 1), 2))
    for part in (files[: cuts[0]], files[cuts[0] : cuts[1]], files[cuts[1] :]):
        for file in part:
            platform.deliver(file.day, file.name, file.text)
        first = draw.randrange(len(given.days))
        some = given.days[first : first + draw.randint(1, 4)]
        for step in draw.sample(DAILY, 3):
            run(platform, step, some)
        if draw.random() < 0.3:
            run(platform, "model", [FIRST_MODEL])
    bring_up_to_date(platform, given.days)

    expected = {day: expected_day(given, day) for day in given.days}
    assert_accounts_add_up(platform, expected)
    assert_tables_equal(platform, given, expected)
    assert_predictions_follow(platform)
    assert_evaluations_follow(platform)

    other = Platform(settings_in(tmp_path / "b"), spark, given.product)
    for file in given.files:
        other.deliver(file.day, file.name, file.text)
    for day in draw.sample(given.days, len(given.days)):
        run(other, "ards", [day])
    bring_up_to_date(other, given.days)
    assets = ("ards", "mrds", "model", "predictions", "model_performance")
    assert platform.fingerprints(*assets) == other.fingerprints(*assets)


def bring_up_to_date(platform: Platform, days: Sequence[date]) -> None:
    for step in ("ards", "mrds", "online_features", "validation_report"):
        run(platform, step, days)
    run(platform, "model", [FIRST_MODEL])
    run(platform, "predictions", days, rescore=True)
    run(platform, "model_performance", days)
    run(platform, "drift_report", [FIRST_MODEL])
    for step in DAILY:
        again = run(platform, step, days)
        assert all(result.up_to_date for result in again), f"{step} is not up to date after it was done"


def run(platform: Platform, step: str, days: Sequence[date], **options: Any) -> Sequence[Any]:
    try:
        results = platform.run(step, days, **options).days
    except PermanentError as error:
        raise AssertionError(f"{step} failed for data that some outcome is for: {error}") from error
    asked = {month_of(day) for day in days} if step in ("model", "drift_report") else set(days)
    assert [result.day for result in results] == sorted(asked)
    for result in results:
        assert result.outcome in OUTCOMES
        assert result.outcome == "written" or result.reason, f"{step} gives no reason for {result.outcome}"
    return results


def assert_accounts_add_up(platform: Platform, expected: Mapping[date, Expected | None]) -> None:
    records = platform.ledger.latest("ards")
    for day, wanted in expected.items():
        if wanted is None:
            assert records[day].outcome == "missing"
            continue
        counts = dict(records[day].counts)
        assert counts.pop("delivered") == wanted.delivered
        counts.pop("labelled")
        assert sum(counts.values()) == wanted.delivered, counts
        found = [counts[name] for name in ("rows", "superseded", "labels_applied", "quarantined")]
        assert found == [len(wanted.rows), wanted.superseded, wanted.labels_applied, wanted.quarantined]


def assert_tables_equal(platform: Platform, given: Case, expected: Mapping[date, Expected | None]) -> None:
    product = given.product
    rows = [row for wanted in expected.values() if wanted for row in wanted.rows.values()]
    same = [*product.source.columns, "label_known_on"]
    assert_same_rows(rows_of(platform, "ards"), rows, same)

    records = platform.ledger.latest("ards")
    usable = [day for day, wanted in expected.items() if wanted and records[day].usable]
    features = [
        row
        for day in usable
        for row in expected_features(product, day, expected[day].rows).values()  # type: ignore[union-attr]
    ]
    known = platform.ledger.latest("mrds")
    present = [row for row in rows_of(platform, "mrds") if known[row["event_day"]].outcome != "held_back"]
    assert_same_rows(present, features, ["who", "event_day", *product.mrds.aggregate, "label_known_on"])

    published = platform.ledger.latest("online_features")
    newest: dict[Any, dict[str, Any]] = {}
    for row in sorted(features, key=lambda row: row["event_day"]):
        if published[row["event_day"]].outcome == "written":
            newest[row["who"]] = row
    if newest:
        stored = OnlineStore(platform.settings.online_url).rows(product)
        wanted = {who: {n: row[n] for n in ("event_day", *product.features)} for who, row in newest.items()}
        found = {row["who"]: {n: row[n] for n in ("event_day", *product.features)} for row in stored}
        assert {who: plain(row) for who, row in found.items()} == {w: plain(r) for w, r in wanted.items()}


def rows_of(platform: Platform, table: str) -> list[dict[str, Any]]:
    """A whole table; pandas could not hold its earliest and latest times."""
    if not platform.tables.exists(platform.product.name, table):
        return []
    found: list[dict[str, Any]] = (
        platform.tables.read(platform.spark, platform.product.name, table).toArrow().to_pylist()
    )
    return found


def assert_same_rows(
    rows: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> None:
    found = [plain({name: row[name] for name in names}) for row in rows]
    expected = [plain({name: row[name] for name in names}) for row in wanted]
    assert sorted(found, key=repr) == sorted(expected, key=repr)


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values as one compares them, whatever pandas made of their types."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat()
    return float(value) if isinstance(value, int | float | bool) else value


def assert_predictions_follow(platform: Platform) -> None:
    records = platform.ledger.latest("predictions")
    served = {day for day, record in records.items() if record.outcome == "written"}
    predictions = rows_of(platform, "predictions")
    assert {row["event_day"] for row in predictions} == served
    wanted = [(r["who"], r["event_day"]) for r in rows_of(platform, "mrds") if r["event_day"] in served]
    found = [(row["who"], row["event_day"]) for row in predictions]
    assert sorted(found, key=repr) == sorted(wanted, key=repr)
    for row in predictions:
        assert 0 <= row["probability"] <= 1
        assert row["decision"] == int(row["probability"] >= row["threshold"])
        assert row["model_as_of"] <= row["event_day"]


def assert_evaluations_follow(platform: Platform) -> None:
    product = platform.product
    records = platform.ledger.latest("model_performance")
    done = {day for day, record in records.items() if record.outcome == "written"}
    labels = {(row["who"], row["event_day"]): row for row in rows_of(platform, "mrds")}
    scored = [(row, labels[row["who"], row["event_day"]]) for row in rows_of(platform, "predictions")]
    found = performance.evaluations(platform.tables, product)
    assert set(found) == done
    for day in done:
        window = days_evaluated(product, day)
        inside = [(row, label) for row, label in scored if row["event_day"] in window]
        morning = day + timedelta(days=1)
        known = [
            (label["y"], row["decision"])
            for row, label in inside
            if label["y"] is not None and label["label_known_on"] <= morning
        ]
        positives = sum(y for y, _ in known)
        counted = (found[day]["rows"], found[day]["labelled"], found[day]["positives"])
        assert counted == (len(inside), len(known), positives)
        if positives:
            wanted = f1_score(*zip(*known, strict=True), zero_division=0)
            assert found[day]["value"] == pytest.approx(wanted, abs=1e-6)
