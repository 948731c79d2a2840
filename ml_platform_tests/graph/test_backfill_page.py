"""What the page of a backfill from the UI says of bad days; driven by the real code of Dagster's daemon."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg
import pytest
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

from ml_platform.contract.assets import DRIFT_REPORT, MODEL, daily
from ml_platform.graph import bad_days
from ml_platform.storage.ledger import Outcome
from ml_platform_tests.graph import code_location

FIRST, LAST = "2024-02-27", "2024-03-04"  # 7 days
ALL = (*daily(), MODEL, DRIFT_REPORT)
MONTHS = ("2024-02-01", "2024-03-01")
BLOCKED = "2024-02-28"
HELD: tuple[Outcome, str] = ("held_back", "the ARDS can't be used")
OUTCOMES: Mapping[str, tuple[Outcome, str]] = {
    f"ards {BLOCKED}": ("blocked", "missing required value in spend: 12"),
    **{f"{asset} {BLOCKED}": HELD for asset in ("mrds", "online_features", "predictions")},
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkspaceProcessContext]:
    monkeypatch.setattr(bad_days, "PAUSE_SECONDS", 0.0)  # no daemon looks on
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path / "home"))
    overrides = {
        "run_launcher": {
            "module": "dagster._core.launcher.sync_in_memory_run_launcher",
            "class": "SyncInMemoryRunLauncher",
        },
        "run_coordinator": {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"},
    }
    origin = InProcessCodeLocationOrigin(
        loadable_target_origin=LoadableTargetOrigin(
            module_name="ml_platform_tests.graph.code_location", attribute="defs"
        ),
        location_name="ml_platform",
    )
    with (
        dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance,
        create_test_daemon_workspace_context(InProcessWorkspaceLoadTarget(origin), instance) as context,
    ):
        yield context


def backfilled(
    workspace: WorkspaceProcessContext, assets: Sequence[str]
) -> tuple[BulkActionStatus, dict[str, tuple[int, int]]]:
    """The status of a backfill of all days and months, and what its page counts: materialized, failed."""
    graph = workspace.create_request_context().asset_graph
    backfill = PartitionBackfill.from_partitions_by_assets(
        backfill_id="bluebird",
        asset_graph=graph,
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=workspace.instance,
        partitions_by_assets=[
            PartitionsByAssetSelector(
                asset_key=dg.AssetKey(["shop", asset]),
                partitions=PartitionsSelector(
                    ranges=[
                        PartitionRangeSelector(*(MONTHS if asset in (MODEL, DRIFT_REPORT) else (FIRST, LAST)))
                    ]
                ),
            )
            for asset in assets
        ],
        title=None,
        description=None,
        run_config=None,
    )
    workspace.instance.add_backfill(backfill)
    for _ in range(12):
        for error in execute_backfill_iteration(workspace, logging.getLogger("backfill")):
            assert error is None, error
        found = workspace.instance.get_backfill("bluebird")
        assert found is not None
        if found.status != BulkActionStatus.REQUESTED:
            break
    counts = {}
    for of_asset in found.get_asset_backfill_data(graph).get_backfill_status_per_asset_key(graph):
        assert isinstance(of_asset, PartitionedAssetBackfillStatus)
        by_status = of_asset.partitions_counts_by_status
        made, failed = by_status[AssetBackfillStatus.MATERIALIZED], by_status[AssetBackfillStatus.FAILED]
        counts[of_asset.asset_key.path[-1]] = (made, failed)
    return found.status, counts


def red(workspace: WorkspaceProcessContext, asset: str) -> list[str]:
    """The failed partitions of an asset's page."""
    key = dg.AssetKey(["shop", asset])
    definition = workspace.create_request_context().asset_graph.get(key).partitions_def
    assert definition is not None
    found = get_and_update_asset_status_cache_value(workspace.instance, key, definition)
    assert found is not None
    return sorted(found.deserialize_failed_partition_subsets(definition).get_partition_keys())


def test_a_backfill_without_a_bad_day_is_a_success(workspace: WorkspaceProcessContext) -> None:
    status, counts = backfilled(workspace, ALL)
    assert status == BulkActionStatus.COMPLETED_SUCCESS
    assert counts == {**dict.fromkeys(daily(), (7, 0)), MODEL: (2, 0), DRIFT_REPORT: (2, 0)}


@pytest.mark.parametrize(
    "assets",
    [
        pytest.param(ALL, id="all"),
        pytest.param(("ards",), id="ards"),
        pytest.param(("ards", "mrds"), id="ards and mrds", marks=pytest.mark.slow),
        pytest.param(("ards", "mrds", "validation_report"), id="with the report", marks=pytest.mark.slow),
        pytest.param(
            ("ards", "mrds", MODEL, "predictions", DRIFT_REPORT),
            id="down to the drift",
            marks=pytest.mark.slow,
        ),
        pytest.param(("ards", DRIFT_REPORT), id="ards and the drift"),
    ],
)
def test_a_backfill_with_a_bad_day_ends_as_failed_and_all_else_is_done(
    workspace: WorkspaceProcessContext, monkeypatch: pytest.MonkeyPatch, assets: Sequence[str]
) -> None:
    for key, outcome in OUTCOMES.items():
        monkeypatch.setitem(code_location.OUTCOMES, key, outcome)
    status, counts = backfilled(workspace, assets)
    assert status == BulkActionStatus.COMPLETED_FAILED
    made_of_day = {"ards", "mrds", "online_features", "validation_report", "predictions", "model_performance"}
    for asset in assets:
        # Every partition has been done, and shows its facts; the bad ones are red.
        key = dg.AssetKey(["shop", asset])
        partitions = 2 if asset in (MODEL, DRIFT_REPORT) else 7
        assert len(workspace.instance.get_materialized_partitions(key)) == partitions
        assert red(workspace, asset) == ([BLOCKED] if asset in made_of_day else [])
        assert sum(counts[asset]) == partitions
    assert sum(failed for _, failed in counts.values()) >= 1, "the page counts it"
    assert counts.get(MODEL, (2, 0)) == (2, 0), "nothing downstream is left out"
