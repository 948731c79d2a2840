"""An evaluation is of what was known on its morning, whenever it is made: labels, rows, and usable days."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from deltalake import DeltaTable
from sklearn.metrics import f1_score

from ml_platform.contract.windows import days_evaluated
from ml_platform.data_engineering import buckets
from ml_platform.machine_learning import performance
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, deliver_visits, shop, visits

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = timedelta(days=1)
ALL, SCORED = days("2024-01-22", "2024-02-08"), days("2024-02-01", "2024-02-08")
CORRECTED, BLOCKED, LATE = D("2024-02-02"), D("2024-02-03"), D("2024-02-04")
LIMIT = 1000
SIZE: dict[str, Any] = {"rows": 80, "customers": 300}
RULES: dict[str, Any] = {
    "model__holdout": "entities",
    "evaluation__window_days": 4,
    "evaluation__minimum_rows": 5,
    "evaluation__minimum_positives": 1,
    "validation__ranges": {"spend": {"maximum": LIMIT}},
}
PRODUCT = shop(**RULES)


def deliver_later(platform: Platform) -> None:
    """Labels turn round, customers move, a day is blocked, and one has more rows than anybody knew."""
    frame = visits(CORRECTED, **SIZE)
    labels = frame[["visit", "day", "bought"]].assign(bought=1 - frame["bought"])[::2]
    platform.deliver(CORRECTED, "2024-02-12_labels.csv", labels.to_csv(index=False))
    moved = frame.drop(columns="bought").assign(customer=frame["customer"] + "x")[1::5]
    platform.deliver(CORRECTED, "2024-02-13_fix.csv", moved.to_csv(index=False))
    garbage = visits(BLOCKED, **SIZE).drop(columns="bought").assign(spend=2 * LIMIT)
    platform.deliver(BLOCKED, "2024-02-12_fix.csv", garbage.to_csv(index=False))
    more = visits(LATE, seed=1, **SIZE)
    more = more.assign(visit=more["visit"] + 50_000, customer=more["customer"] + "y")
    platform.deliver(LATE, "2024-02-12_more.csv", more.to_csv(index=False))


def evaluations(platform: Platform) -> dict[date, dict[str, Any]]:
    return performance.evaluations(platform.tables, platform.product)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Platform:
    """Days that are scored and evaluated."""
    made = Platform(settings_in(tmp_path_factory.mktemp("evaluated")), spark, PRODUCT)
    deliver_visits(made, ALL, **SIZE)
    for step in ("ards", "mrds"):
        made.run(step, ALL)
    made.run("model", D("2024-02-01"))
    for step in ("predictions", "model_performance"):
        made.run(step, SCORED)
    return made


def by_hand(scored: pd.DataFrame, day: date) -> tuple[int, float]:
    """The rows of an evaluation and its F1, from the predictions and the labels as they were delivered."""
    window = days_evaluated(PRODUCT, day)
    rows = scored[scored["event_day"].between(window.first, window.last)]
    bought = pd.concat(visits(known, **SIZE) for known in window).sort_values("visit")
    bought["day"] = pd.to_datetime(bought["day"]).dt.date
    last = bought.groupby(["day", "customer"])["bought"].last()
    labels = [last[row.event_day, row.customer] for row in rows.itertuples()]
    return len(rows), float(f1_score(labels, rows["decision"]))


def test_what_comes_later_changes_no_evaluation(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluations(platform)
    scored = DeltaTable(platform.tables.path("shop", "predictions")).to_pandas()
    day = D("2024-02-05")
    rows, value = by_hand(scored, day)
    assert (first[day]["rows"], first[day]["labelled"]) == (rows, rows)
    assert first[day]["value"] == pytest.approx(value)

    deliver_later(platform)
    for step in ("ards", "mrds", "predictions"):
        platform.run(step, [CORRECTED, BLOCKED, LATE])
    outcomes = [platform.ledger.latest("mrds")[day].outcome for day in (CORRECTED, BLOCKED, LATE)]
    assert outcomes == ["written", "held_back", "written"]
    later = DeltaTable(platform.tables.path("shop", "predictions")).to_pandas()
    assert len(later) > len(scored), "who came late is scored"
    platform.run("model_performance", SCORED, force=True)
    assert evaluations(platform) == first

    # One at a time, or where Spark reads.
    for one in SCORED[::-1]:
        platform.run("model_performance", [one], force=True)
    assert evaluations(platform) == first
    monkeypatch.setattr(buckets, "HELD_BYTES", 0)
    monkeypatch.setattr(buckets, "PROCESS_BYTES", 0)
    platform.run("model_performance", SCORED, force=True)
    assert evaluations(platform) == first

    # The share of a sample is that of its own window, whatever else is evaluated.
    platform.product = shop(**RULES | {"evaluation__maximum_rows": 150})
    platform.run("model_performance", SCORED)
    together = evaluations(platform)
    assert {row["sampled"] for day, row in together.items() if day >= SCORED[4]} == {True}
    for one in SCORED:
        platform.run("model_performance", [one], force=True)
    assert evaluations(platform) == together
    platform.product = PRODUCT


def test_a_replay_scores_and_evaluates_what_was_usable_before_it_was_blocked(
    platform: Platform, tmp_path: Path, spark: SparkSession
) -> None:
    deliver_later(platform)
    for step in ("ards", "mrds", "predictions", "model_performance"):
        platform.run(step, [*ALL])
    replay = Platform(settings_in(tmp_path), spark, PRODUCT)
    deliver_visits(replay, ALL, **SIZE)
    deliver_later(replay)
    for step in ("ards", "mrds"):
        replay.run(step, ALL)
    replay.run("model", D("2024-02-01"))
    for step in ("predictions", "model_performance"):
        replay.run(step, SCORED)
    assert replay.ledger.latest("predictions")[BLOCKED].outcome == "held_back"
    columns = ["event_day", "customer", "probability", "decision", "model_fingerprint"]
    made, kept = (
        DeltaTable(one.tables.path("shop", "predictions"))
        .to_pandas()[columns]
        .sort_values(columns, ignore_index=True)
        for one in (replay, platform)
    )
    assert BLOCKED in set(made["event_day"])
    pd.testing.assert_frame_equal(made, kept)
    assert evaluations(replay) == evaluations(platform)
    # To score days again takes nothing of a day that can't be used now.
    replay.run("predictions", SCORED, rescore=True)
    again = DeltaTable(replay.tables.path("shop", "predictions")).to_pandas()
    assert (again["event_day"] == BLOCKED).sum() == (made["event_day"] == BLOCKED).sum() > 0
