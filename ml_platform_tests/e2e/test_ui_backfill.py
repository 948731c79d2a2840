"""A backfill as the UI launches it, driven by the real code of Dagster's daemon."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.selector import (
    PartitionRangeSelector,
    PartitionsByAssetSelector,
    PartitionsSelector,
)
from dagster._core.execution.asset_backfill import AssetBackfillStatus, PartitionedAssetBackfillStatus
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from pyspark.sql import SparkSession

from ml_platform.contract.assets import DRIFT_REPORT, MODEL, StepName, daily
from ml_platform.graph import bad_days
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import SHOP, D, Platform, days, deliver_visits, shop

FIRST, LAST = "2024-01-01", "2024-03-10"
ASSETS: tuple[StepName, ...] = (*daily(), MODEL, DRIFT_REPORT)
MONTHS = {MODEL: ("2024-02-01", "2024-03-01"), DRIFT_REPORT: ("2024-01-01", "2024-02-01")}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance whose runs are executed in this process, one when it is launched."""
    overrides = {
        "run_launcher": {
            "module": "dagster._core.launcher.sync_in_memory_run_launcher",
            "class": "SyncInMemoryRunLauncher",
        },
        "run_coordinator": {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"},
    }
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster"), overrides=overrides) as made:
        yield made


@pytest.fixture
def closed(tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A finished history whose code location is loaded from the environment, as in production."""
    monkeypatch.setattr(bad_days, "PAUSE_SECONDS", 0.0)  # no daemon looks on
    content = SHOP | {"end": LAST}
    contracts = tmp_path / "contracts"
    contracts.mkdir()
    (contracts / "shop.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    settings = settings_in(tmp_path / "home")
    monkeypatch.setenv("ML_PLATFORM_HOME", str(settings.home))
    monkeypatch.setenv("ML_PLATFORM_PRODUCTS", str(contracts))
    monkeypatch.setenv("ML_PLATFORM_OWN_PRODUCTS", "false")
    monkeypatch.setenv("ML_PLATFORM_SPARK_CONF", json.dumps(settings.spark_options))
    return Platform(settings, spark, shop(end=LAST))


@pytest.fixture
def workspace(closed: Platform, instance: dg.DagsterInstance) -> Iterator[WorkspaceProcessContext]:
    origin = InProcessCodeLocationOrigin(
        loadable_target_origin=LoadableTargetOrigin(
            python_file=str(Path(__file__).with_name("code_location.py")), attribute="defs"
        ),
        location_name="ml_platform",
    )
    target = InProcessWorkspaceLoadTarget(origin)
    with create_test_daemon_workspace_context(target, instance) as context:
        yield context


def launch(workspace: WorkspaceProcessContext) -> str:
    """One backfill of all assets, daily and monthly, over the history; returns its id."""
    instance = workspace.instance
    graph = workspace.create_request_context().asset_graph
    ranges = {asset: MONTHS.get(asset, (FIRST, LAST)) for asset in ASSETS}
    backfill = PartitionBackfill.from_partitions_by_assets(
        backfill_id=f"backfill-{time.time_ns()}",
        asset_graph=graph,
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=instance,
        partitions_by_assets=[
            PartitionsByAssetSelector(
                asset_key=dg.AssetKey(["shop", asset]),
                partitions=PartitionsSelector(ranges=[PartitionRangeSelector(start=first, end=last)]),
            )
            for asset, (first, last) in ranges.items()
        ],
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def tick(workspace: WorkspaceProcessContext) -> None:
    """One iteration of the daemon; errors are raised."""
    for error in execute_backfill_iteration(workspace, logging.getLogger("backfill")):
        if error is not None:
            raise AssertionError(error)


def status(workspace: WorkspaceProcessContext, backfill: str) -> BulkActionStatus:
    found = workspace.instance.get_backfill(backfill)
    assert found is not None
    return found.status


def finish(workspace: WorkspaceProcessContext, backfill: str) -> None:
    for _ in range(12):
        tick(workspace)
        if status(workspace, backfill) not in (BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING):
            return
    pytest.fail(f"the backfill doesn't end; its runs: {asked(workspace.instance)}")


def asked(instance: dg.DagsterInstance) -> list[tuple[set[str], str, str]]:
    """Assets and range of each run, in the order in which they were launched."""
    runs = reversed(list(instance.get_runs()))
    return [
        (
            {key.path[-1] for key in run.asset_selection or ()},
            run.tags.get("dagster/asset_partition_range_start", run.tags.get("dagster/partition", "")),
            run.tags.get("dagster/asset_partition_range_end", run.tags.get("dagster/partition", "")),
        )
        for run in runs
    ]


def failed_partitions(workspace: WorkspaceProcessContext, asset: str) -> set[str]:
    """The red ones of an asset's page."""
    key = dg.AssetKey(["shop", asset])
    definition = workspace.create_request_context().asset_graph.get(key).partitions_def
    assert definition is not None
    found = get_and_update_asset_status_cache_value(workspace.instance, key, definition)
    assert found is not None
    return {*found.deserialize_failed_partition_subsets(definition).get_partition_keys()}


def counted(workspace: WorkspaceProcessContext, backfill: str) -> dict[str, tuple[int, int]]:
    """What the backfill's page counts of each asset: materialized and failed."""
    graph = workspace.create_request_context().asset_graph
    found = workspace.instance.get_backfill(backfill)
    assert found is not None
    statuses = found.get_asset_backfill_data(graph).get_backfill_status_per_asset_key(graph)
    counts = {}
    for of_asset in statuses:
        assert isinstance(of_asset, PartitionedAssetBackfillStatus)
        by_status = of_asset.partitions_counts_by_status
        counts[of_asset.asset_key.path[-1]] = (
            by_status[AssetBackfillStatus.MATERIALIZED],
            by_status[AssetBackfillStatus.FAILED],
        )
    return counts


def errors_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """Why the steps of a run have failed, as the run's page says."""
    found = []
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = entry.dagster_event
        assert event is not None
        told = event.step_failure_data.user_failure_data
        assert told is not None
        found.append(told.description or "")
    return found


def cancel(workspace: WorkspaceProcessContext, backfill: str) -> None:
    """What the button does."""
    found = workspace.instance.get_backfill(backfill)
    assert found is not None
    workspace.instance.update_backfill(found.with_status(BulkActionStatus.CANCELING))


@pytest.mark.slow
def test_one_backfill_over_days_and_months_takes_few_runs_and_continues_where_it_was_cancelled(
    closed: Platform, workspace: WorkspaceProcessContext
) -> None:
    instance = workspace.instance
    chosen = days(FIRST, LAST)
    missing, refused, blocked = D("2024-02-11"), D("2024-03-05"), D("2024-02-20")
    deliver_visits(closed, [day for day in chosen if day != missing])
    for path in closed.folder(refused).iterdir():
        path.write_text("no,header\n")
    for path in closed.folder(blocked).glob("*_visits.csv"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text(
            "".join([lines[0], *(line.replace(",web", ",").replace(",app", ",tv") for line in lines[1:])])
        )

    first = launch(workspace)
    tick(workspace)
    assert asked(instance) == [({"ards", "mrds", "online_features", "validation_report"}, FIRST, LAST)]
    cancel(workspace, first)
    finish(workspace, first)
    assert status(workspace, first) == BulkActionStatus.CANCELED
    (run_of_data,) = [run.run_id for run in instance.get_runs()]

    second = launch(workspace)
    finish(workspace, second)
    # Some days can't be used, so it has failed, and all else is done.
    assert status(workspace, second) == BulkActionStatus.COMPLETED_FAILED
    assert asked(instance)[2:] == [
        ({MODEL}, *MONTHS[MODEL]),
        ({"predictions", "model_performance"}, FIRST, LAST),
        ({DRIFT_REPORT}, *MONTHS[DRIFT_REPORT]),
    ]
    assert instance.get_runs_count() == 5
    assert [run.status.value for run in reversed(list(instance.get_runs()))] == [
        "FAILURE",  # the cancelled backfill's
        "FAILURE",
        "SUCCESS",
        "FAILURE",
        "SUCCESS",
    ]

    # Nothing that the first one had made was made again, and every partition has been materialized.
    for asset in ("ards", "mrds", "online_features", "validation_report"):
        assert {record.run_id for record in closed.ledger.latest(asset).values()} == {run_of_data}
    bad = {str(missing), str(refused), str(blocked)}
    # An evaluation ends with the day whose labels have come, the day before.
    unscored = {
        "predictions": {str(day) for day in days("2024-01-01", "2024-01-31")},
        "model_performance": {str(day) for day in days("2024-01-01", "2024-02-01")},
    }
    for asset in ASSETS:
        made = instance.get_materialized_partitions(dg.AssetKey(["shop", asset]))
        assert len(made) == {MODEL: 2, DRIFT_REPORT: 2}.get(asset, len(chosen))
        expected = set() if asset in MONTHS else bad | unscored.get(asset, set())
        assert failed_partitions(workspace, asset) == expected, asset
    counts = counted(workspace, second)
    assert counts["ards"] == (len(chosen), 0)
    assert counts["validation_report"] == (len(chosen) - 3, 3)
    assert counts["model_performance"] == (len(chosen) - 3 - 32, 3 + 32)
    assert counts[MODEL] == counts[DRIFT_REPORT] == (2, 0)
    errors = [told for run in instance.get_runs() for told in errors_of(instance, run)]
    assert any(f"{blocked} blocked (ards): " in told and f"accept shop {blocked}" in told for told in errors)
    assert any("2024-01-01 to 2024-01-31 no model (predictions)" in told for told in errors)

    outcomes = {asset: closed.ledger.latest(asset) for asset in daily()}
    expected = {
        "ards": {missing: "missing", refused: "refused", blocked: "blocked"},
        "mrds": {missing: "missing", refused: "held_back", blocked: "held_back"},
        "predictions": {missing: "missing", refused: "held_back", blocked: "held_back"},
    }
    first_scored = D("2024-02-01")
    for asset, bad in expected.items():
        known = {day: outcomes[asset][day].outcome for day in bad}
        assert known == bad
        rest = {
            record.outcome
            for day, record in outcomes[asset].items()
            if day not in bad and day >= first_scored
        }
        assert rest == {"written"}
    assert {outcomes["model_performance"][day].outcome for day in days("2024-02-12", LAST)} == {"written"}
