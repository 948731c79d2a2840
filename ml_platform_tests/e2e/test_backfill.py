"""Whole histories through Dagster runs on a persistent instance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.cli.backfill import Backfill, BackfillError
from ml_platform.contract.assets import table_names
from ml_platform.contract.days import DayRange
from ml_platform.engine.maintenance import small_tables_of_all
from ml_platform.engine.step import PermanentError
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform_tests.small_platform import SHOP, D, Platform, days, deliver_visits, shop

ALL = DayRange(D("2024-01-01"), D("2024-02-20"))
BEFORE_MODELS = ("ards", "mrds", "online_features", "validation_report")
AFTER_MODELS = ("predictions", "model_performance")
ASSETS = (*BEFORE_MODELS, "model", *AFTER_MODELS, "drift_report")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


def backfill(platform: Platform, instance: dg.DagsterInstance) -> Backfill:
    return Backfill(platform.product, platform.settings, instance)


def materialized(instance: dg.DagsterInstance, asset: str) -> set[str]:
    return set(instance.get_materialized_partitions(dg.AssetKey(["shop", asset])))


def test_a_backfill_is_four_runs_and_nothing_the_second_time(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    deliver_visits(platform, ALL)
    bad = D("2024-02-10")
    for path in platform.folder(bad).iterdir():
        path.write_text("no,header\n")
    reports = backfill(platform, instance).run(ALL)
    assert [report.assets for report in reports] == [
        BEFORE_MODELS,
        ("model",),
        AFTER_MODELS,
        ("drift_report",),
    ]
    assert instance.get_runs_count() == 4
    months = {"model": {"2024-02-01"}, "drift_report": {"2024-01-01"}}
    for asset in ASSETS:
        assert materialized(instance, asset) == months.get(asset, {str(day) for day in ALL})

    key = dg.AssetKey(["shop", "ards"])
    by_day = {
        record.partition_key: record.asset_materialization.metadata
        for record in instance.fetch_materializations(key, limit=100).records
        if record.asset_materialization
    }
    good = by_day["2024-02-09"]
    assert good["outcome"].value == "written"
    assert good["delivered"].value == 300
    assert good["rows"].value == 150
    assert good["labels_applied"].value == 150
    assert by_day[str(bad)]["outcome"].value == "refused"
    checks = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(key, "data_quality"), limit=200
    )
    verdicts = {one.partition: one.status.value for one in checks if one.partition}
    assert verdicts.pop(str(bad)) == "FAILED"
    assert set(verdicts.values()) == {"SUCCEEDED"}
    assert len(verdicts) == len(ALL) - 1

    before = platform.fingerprints(*ASSETS)
    assert backfill(platform, instance).run(ALL) == []
    assert instance.get_runs_count() == 4

    tables = {path.name for path in Path(platform.tables.path("shop", "ards")).parent.iterdir()}
    assert tables <= {*table_names(), *small_tables_of_all()}, "maintenance knows every table"

    # Mending the day is one run over it for each stage that reads it, and the model stays.
    deliver_visits(platform, [bad])
    mended = backfill(platform, instance).run(DayRange(bad, bad))
    assert [report.assets[0] for report in mended if report.assets != ("model",)] == ["ards", "predictions"]
    after = platform.fingerprints("ards", "mrds", "predictions")
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed == {(asset, bad) for asset in ("ards", "mrds", "predictions")}


def test_days_that_a_killed_run_has_written_are_shown_by_the_next(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    """A run that ends between its last write and its events leaves days that only the ledger knows."""
    week = days("2024-01-01", "2024-01-07")
    deliver_visits(platform, week)
    for asset in ("ards", "mrds", "online_features"):
        platform.run(asset, week)
    before = platform.fingerprints("ards", "mrds")
    assert materialized(instance, "ards") == set()

    select = ("ards", "mrds")
    reports = Backfill(platform.product, platform.settings, instance, select=select).run(
        DayRange(week[0], week[-1])
    )
    assert [report.assets for report in reports] == [select]
    for asset in select:
        assert materialized(instance, asset) == {str(day) for day in week}
    assert platform.fingerprints("ards", "mrds") == before
    again = Backfill(platform.product, platform.settings, instance, select=select)
    assert again.run(DayRange(week[0], week[-1])) == []


def test_a_run_of_just_a_missing_day_fails_and_says_why(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    day = D("2024-01-05")
    with pytest.raises(BackfillError, match="2024-01-05 is missing: no rows have been delivered"):
        backfill(platform, instance).run(DayRange(day, day))
    (run,) = instance.get_runs()
    assert run.status == dg.DagsterRunStatus.FAILURE


@pytest.mark.slow
def test_a_month_with_too_little_to_learn_from_doesnt_end_a_backfill(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    """Its run has one partition, like a run of just that month, which would fail."""
    chosen = DayRange(D("2024-01-30"), D("2024-02-02"))
    deliver_visits(platform, chosen, rows=5)
    reports = backfill(platform, instance).run(chosen)
    assert [report.assets for report in reports] == [BEFORE_MODELS, ("model",), AFTER_MODELS]
    assert platform.ledger.latest("model")[D("2024-02-01")].outcome == "refused"
    assert {one.outcome for one in platform.ledger.latest("predictions").values()} == {"no_model"}
    assert backfill(platform, instance).run(chosen) == []
    alone = Backfill(platform.product, platform.settings, instance, select=["model"], force=True)
    with pytest.raises(BackfillError, match="deliver labelled rows"):
        alone.run(DayRange(chosen.last, chosen.last))


@pytest.mark.slow
def test_training_as_of_now_makes_the_days_of_an_earlier_contract_again_first(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    deliver_visits(platform, ALL)
    backfill(platform, instance).run(ALL)
    # The retrain learns from the two weeks before its date, and is compared on the days before that too.
    platform.product = shop(mrds__aggregate=SHOP["mrds"]["aggregate"] | {"pages": "min"})
    work = backfill(platform, instance)
    assert work.train() == D("2024-02-21")
    assert [report.assets for report in work.reports] == [("mrds",), ("model",)]
    made = {day: record.contract for day, record in platform.ledger.latest("mrds").items()}
    present = platform.product.hash_of("source", "mrds")
    again = {day for day, contract in made.items() if contract == present}
    assert again == set(days("2024-02-06", "2024-02-19"))
    history = ModelHistory(platform.tables, platform.product)
    decision = next(one for one in history.decisions() if one.as_of == D("2024-02-21"))
    assert decision.comparison is not None
    assert "can't be evaluated under this contract" in decision.comparison.reason
    assert "pages aggregated by max, and the contract says min" in decision.comparison.reason


@pytest.mark.slow
def test_training_as_of_now_ends_with_the_last_month_of_a_finished_history(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    """The morning after its last day lies in a month that the product hasn't got."""
    platform.product = shop(end="2024-02-29")
    chosen = DayRange(D("2024-02-10"), D("2024-02-29"))
    deliver_visits(platform, chosen)
    work = Backfill(platform.product, platform.settings, instance, select=["ards", "mrds"])
    work.run(chosen)
    with pytest.raises(PermanentError, match="ends on 2024-02-29; the latest as-of is 2024-02-29"):
        work.train(D("2024-03-01"))
    assert work.train() == D("2024-02-29")
    (model,) = ModelHistory(platform.tables, platform.product).models()
    assert (model.as_of, model.last_day) == (D("2024-02-29"), D("2024-02-27"))


def test_training_needs_days_to_learn_from(platform: Platform, instance: dg.DagsterInstance) -> None:
    with pytest.raises(LookupError, match="shop has no day to learn from; land and backfill some first"):
        backfill(platform, instance).train()
