"""Whether a day could be used counts as it was known: by a delivery that blocks it, and by who accepts it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from ml_platform.engine import training_plan
from ml_platform.engine.acceptance import accept
from ml_platform.engine.compared_rows import UnseenRows
from ml_platform.engine.context import left_out
from ml_platform.engine.local import context_for
from ml_platform.engine.model_training import ModelTraining
from ml_platform.engine.step import StepRequest
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.storage.ledger import DayRecord, Outcome
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, deliver_visits, shop, visits

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ALL = [*days("2024-01-08", "2024-01-14"), *days("2024-02-04", "2024-02-05")]
DAY = D("2024-01-10")
AS_OF = D("2024-02-01")
KNOWN = D("2024-02-06")
RULES = {"retrain__training_days": 40}
PRODUCT = shop(validation__ranges={"spend": {"maximum": 1000}}, **RULES)


def learned(platform: Platform, as_of: str | date) -> set[date]:
    """The days whose rows a model as of a date learns from."""
    request = StepRequest(step="model", product="shop", days=(), run_id="look")
    context = context_for(
        request, platform.product, platform.settings, lambda: platform.spark, lambda _: None
    )
    asked = D(as_of) if isinstance(as_of, str) else as_of
    plan = training_plan.plans(context, [asked])[asked]
    rows = ModelTraining(context, plan, "entities", UnseenRows(context)).slice.collect()
    return {pd.Timestamp(day).date() for day in rows["event_day"]}


def fingerprints(platform: Platform) -> list[str]:
    """Those of the model as of 2024-02-01, which is brought up to date: each that it has ever had."""
    platform.run("model", AS_OF)
    table = ModelHistory(platform.tables, platform.product)._models.read()
    return sorted({str(row["fingerprint"]) for row in table})


def run(platform: Platform, chosen: Iterable[date]) -> None:
    for step in ("ards", "mrds"):
        platform.run(step, list(chosen))


def outcomes(platform: Platform) -> tuple[str, str]:
    records = [platform.ledger.latest(asset)[DAY] for asset in ("ards", "mrds")]
    return records[0].outcome, records[1].outcome


def garbage(platform: Platform, name: str) -> None:
    frame = visits(DAY, rows=80).drop(columns="bought")
    platform.deliver(DAY, name, frame.assign(spend=frame["spend"] + 5000)[:20].to_csv(index=False))


def good(platform: Platform, name: str) -> None:
    platform.deliver(DAY, name, visits(DAY, rows=80).drop(columns="bought").to_csv(index=False))


def blocked(home: Path, spark: SparkSession) -> Platform:
    """A platform to which garbage was delivered for one day, and nothing else."""
    platform = Platform(settings_in(home / "home"), spark, PRODUCT)
    deliver_visits(platform, ALL, rows=80)
    for path in platform.folder(DAY).glob("*visits.csv"):
        garbage(platform, path.name)
    run(platform, ALL)
    return platform


@pytest.mark.slow
def test_a_delivery_that_blocks_its_day_leaves_what_was_learned_before(
    tmp_path: Path, spark: SparkSession
) -> None:
    live = Platform(settings_in(tmp_path / "live"), spark, PRODUCT)
    deliver_visits(live, ALL, rows=80)
    run(live, ALL)
    (before,) = fingerprints(live)
    assert DAY in learned(live, AS_OF)
    rows_before = live.rows("mrds")
    garbage(live, f"{KNOWN}_fix.csv")
    run(live, [DAY])
    assert outcomes(live) == ("blocked", "held_back")
    assert fingerprints(live) == [before]
    pd.testing.assert_frame_equal(live.rows("mrds"), rows_before)
    assert live.run("mrds", DAY).days[0].up_to_date
    assert DAY in learned(live, "2024-02-05")
    assert DAY not in learned(live, KNOWN)

    replay = Platform(settings_in(tmp_path / "replay"), spark, PRODUCT)
    deliver_visits(replay, ALL, rows=80)
    garbage(replay, f"{KNOWN}_fix.csv")
    run(replay, ALL[::-1])
    assert outcomes(replay) == ("blocked", "held_back")
    assert fingerprints(replay) == [before]
    assert DAY not in learned(replay, KNOWN)

    for platform in (live, replay):
        good(platform, "2024-02-08_fix.csv")
        run(platform, [DAY])
        assert outcomes(platform) == ("written", "written")
        assert fingerprints(platform) == [before]
        assert DAY not in learned(platform, "2024-02-06")
        assert DAY in learned(platform, "2024-02-08")
    assert DAY not in learned(replay, "2024-02-07")
    assert live.fingerprints("ards", "mrds") == replay.fingerprints("ards", "mrds")


@pytest.mark.slow
def test_a_day_counts_for_models_since_the_day_on_which_it_was_accepted(
    tmp_path: Path, spark: SparkSession
) -> None:
    platform = blocked(tmp_path, spark)
    assert outcomes(platform) == ("blocked", "held_back")
    (before,) = fingerprints(platform)
    accept(platform.ledger, DAY, reason="it was so", by="ann", on=D("2024-02-04"))
    run(platform, [DAY])
    assert outcomes(platform) == ("written", "written")
    assert platform.run("model", AS_OF).days[0].up_to_date
    assert fingerprints(platform) == [before]
    assert DAY not in learned(platform, "2024-02-03")
    assert DAY in learned(platform, "2024-02-04")
    # A verdict that is given again, since a rule has changed, leaves when it was accepted.
    platform.product = shop(validation__ranges={"spend": {"maximum": 900}}, **RULES)
    run(platform, ALL)
    assert DAY not in learned(platform, "2024-02-03")
    assert DAY in learned(platform, "2024-02-04")


@pytest.mark.slow
def test_when_a_day_was_accepted_is_known_also_after_other_deliveries(
    tmp_path: Path, spark: SparkSession
) -> None:
    platform = blocked(tmp_path, spark)
    accept(platform.ledger, DAY, reason="it was so", by="ann", on=D("2024-02-04"))
    run(platform, [DAY])
    frame = visits(DAY, rows=80).drop(columns="bought")
    worse = frame.assign(spend=frame["spend"] + 7000)[20:40]
    platform.deliver(DAY, "2024-02-06_fix.csv", worse.to_csv(index=False))
    run(platform, [DAY])
    assert outcomes(platform) == ("blocked", "held_back")
    counted = {"2024-02-03": False, "2024-02-04": True, "2024-02-05": True, "2024-02-06": False}
    assert {day: DAY in learned(platform, day) for day in counted} == counted
    good(platform, "2024-02-08_fix.csv")
    run(platform, [DAY])
    counted |= {"2024-02-07": False, "2024-02-08": True}
    assert {day: DAY in learned(platform, day) for day in counted} == counted
    # Labels that come change nothing of it.
    labels = visits(DAY, rows=80)[["visit", "day", "bought"]]
    platform.deliver(DAY, "2024-02-09_labels.csv", labels.assign(bought=1).to_csv(index=False))
    run(platform, [DAY])
    assert {day: DAY in learned(platform, day) for day in counted} == counted


def test_labels_of_rows_that_are_unusable_leave_a_day_accepted(tmp_path: Path, spark: SparkSession) -> None:
    platform = Platform(settings_in(tmp_path), spark, PRODUCT)
    frame = visits(DAY, rows=80)
    unusable = frame.drop(columns="bought").astype({"pages": object})
    unusable.loc[:29, "pages"] = "many"
    platform.deliver(DAY, "2024-01-11_visits.csv", unusable.to_csv(index=False))
    run(platform, [DAY])
    assert outcomes(platform) == ("blocked", "held_back")
    accept(platform.ledger, DAY, reason="it was so", by="ann", on=D("2024-01-12"))
    run(platform, [DAY])
    labels = frame[["visit", "day", "bought"]].to_csv(index=False)
    platform.deliver(DAY, "2024-01-12_labels.csv", labels)
    run(platform, [DAY])
    record = platform.ledger.latest("ards")[DAY]
    assert record.counts["quarantined"] == 60
    assert record.details["metadata"]["quarantined_rows"] == 30
    assert outcomes(platform) == ("written", "written")


@pytest.mark.slow
def test_a_delivery_that_breaks_a_rule_of_the_mrds_leaves_what_was_learned_before(
    tmp_path: Path, spark: SparkSession
) -> None:
    of_a_day = {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "spend", "max_value": 3000},
        "on": "mrds",
    }
    product = shop(validation__expectations=[of_a_day], **RULES)
    live = Platform(settings_in(tmp_path / "live"), spark, product)
    deliver_visits(live, ALL, rows=80)
    run(live, ALL)
    (before,) = fingerprints(live)
    garbage(live, f"{KNOWN}_fix.csv")
    run(live, [DAY])
    replay = Platform(settings_in(tmp_path / "replay"), spark, product)
    deliver_visits(replay, ALL, rows=80)
    garbage(replay, f"{KNOWN}_fix.csv")
    run(replay, ALL[::-1])
    for platform in (live, replay):
        assert outcomes(platform) == ("written", "blocked")
        assert fingerprints(platform) == [before]
        assert DAY in learned(platform, "2024-02-05")
        assert DAY not in learned(platform, KNOWN)
        assert all(day.up_to_date for day in platform.run("mrds", DAY).days)
    # Accepted it is learned from again, as what was first served.
    accept(live.ledger, DAY, reason="it was so", by="ann", on=D("2024-02-07"))
    run(live, [DAY])
    assert outcomes(live) == ("written", "written")
    counted = {"2024-02-05": True, "2024-02-06": False, "2024-02-07": True}
    assert {day: DAY in learned(live, day) for day in counted} == counted
    assert fingerprints(live) == [before]
    assert all(day.up_to_date for day in live.run("mrds", DAY).days)
    for platform in (live, replay):
        good(platform, "2024-02-08_fix.csv")
        run(platform, [DAY])
        assert outcomes(platform) == ("written", "written")
        assert fingerprints(platform) == [before]
        assert DAY not in learned(platform, "2024-02-06")
        assert DAY in learned(platform, "2024-02-08")
    # What somebody accepted could be used from then on; where nobody did, it couldn't.
    assert DAY in learned(live, "2024-02-07")
    assert DAY not in learned(replay, "2024-02-07")
    assert live.fingerprints("ards") == replay.fingerprints("ards")


@pytest.mark.slow
def test_a_day_that_was_accepted_as_of_its_own_morning_counts_for_all(
    tmp_path: Path, spark: SparkSession
) -> None:
    platform = blocked(tmp_path, spark)
    assert len(fingerprints(platform)) == 1
    accept(platform.ledger, DAY, reason="it was so", by="ann")
    run(platform, [DAY])
    assert len(fingerprints(platform)) == 2
    assert DAY in learned(platform, AS_OF)


@pytest.mark.parametrize(
    ("outcome", "barred", "usable"),
    [
        ("written", (None, None), [True, True, True]),
        ("written", (None, D("2024-02-04")), [False, False, True]),
        ("written", (D("2024-02-03"), D("2024-02-04")), [True, False, True]),
        ("empty", (D("2024-02-03"), D("2024-02-04")), [True, False, True]),
        ("held_back", (None, None), [False, False, False]),
        ("held_back", (D("2024-02-03"), None), [True, False, False]),
        ("blocked", (D("2024-02-03"), None), [True, False, False]),
        ("blocked", (None, None), [False, False, False]),
        ("missing", (None, None), [False, False, False]),
        ("not_due", (None, None), [True, True, True]),
    ],
)
def test_a_record_says_on_which_dates_its_day_could_be_used(
    outcome: Outcome, barred: tuple[date | None, date | None], usable: list[bool]
) -> None:
    record = DayRecord("mrds", DAY, outcome, "", "", "", barred_from=barred[0], barred_to=barred[1])
    dates = (D("2024-02-02"), D("2024-02-03"), D("2024-02-04"))
    assert [record.usable_on(as_of) for as_of in dates] == usable


def test_a_day_that_was_accepted_later_is_said_to_be_left_out() -> None:
    accepted = DayRecord("mrds", DAY, "written", "", "", "", barred_to=D("2024-02-04"))
    held = DayRecord("mrds", D("2024-01-11"), "held_back", "", "", "", barred_from=D("2024-02-04"))
    records = {record.day: record for record in (accepted, held)}
    assert left_out(records, D("2024-02-03")) == ["2024-01-10 (accepted later)"]
    assert left_out(records, D("2024-02-04")) == ["2024-01-11 (held_back)"]
    assert left_out(records) == ["2024-01-11 (held_back)"]
