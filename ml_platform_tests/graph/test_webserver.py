"""The pages of partitions that plots are drawn from, asked of the web server as the UI does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.partitions.definition.time_window import TimeWindowPartitionsDefinition
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget

from ml_platform.graph import partitions, webserver
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.stand_ins import Graph
from ml_platform_tests.small_platform import shop


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    own = TimeWindowPartitionsDefinition.get_paginated_partition_keys
    monkeypatch.setattr(TimeWindowPartitionsDefinition, "get_paginated_partition_keys", own)


def pages(definition: TimeWindowPartitionsDefinition, limit: int) -> list[list[str]]:
    """All pages, from the newest."""
    found: list[list[str]] = []
    cursor = None
    with partition_loading_context() as context:
        while True:
            page = definition.get_paginated_partition_keys(context, limit, ascending=False, cursor=cursor)
            found.append([*page.results])
            cursor = page.cursor
            if not page.has_more:
                return found


ENDED = shop(end="2024-04-29")
AGO = (datetime.now(tz=UTC) - timedelta(days=100)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
LIVE = shop(start=f"{AGO:%Y-%m-%d}", model__first_month=f"{AGO + timedelta(days=31):%Y-%m}")


@pytest.mark.parametrize(
    "definition",
    [
        partitions.daily(ENDED),
        partitions.monthly_models(ENDED),
        partitions.monthly_drift(ENDED),
        partitions.daily(LIVE),
        partitions.monthly_models(LIVE),
        dg.DailyPartitionsDefinition(start_date=AGO, end_date=datetime.now(tz=UTC) + timedelta(days=90)),
    ],
    ids=["days", "models", "drift", "days of today", "models of today", "end to come"],
)
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_all_pages_together_are_all_partitions_from_the_newest(
    definition: TimeWindowPartitionsDefinition, limit: int
) -> None:
    webserver.install()
    found = pages(definition, limit)
    assert [key for page in found for key in page] == [*reversed(definition.get_partition_keys())]
    assert all(len(page) <= limit for page in found)


_NEWEST = """
query Newest($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) {
    ... on AssetNode { partitionKeyConnection(limit: 3, ascending: false) { results } }
  }
}
"""
_POINTS = """
query Points($asset: AssetKeyInput!, $partitions: [String!]) {
  assetNodeOrError(assetKey: $asset) {
    ... on AssetNode {
      assetMaterializations(partitions: $partitions) {
        partition
        metadataEntries { label ... on IntMetadataEntry { intValue } }
      }
    }
  }
}
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def test_the_plot_of_a_finished_history_has_points(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    from dagster_graphql.test.utils import execute_dagster_graphql

    graph = Graph(settings_in(tmp_path / "home"), instance, product=shop(end="2024-04-30"))
    assert graph.run(["ards"], "2024-04-27", "2024-04-30").success
    origin = InProcessCodeLocationOrigin(
        loadable_target_origin=LoadableTargetOrigin(
            module_name="ml_platform_tests.graph.code_location", attribute="defs"
        ),
        location_name="ml_platform",
    )
    with create_test_daemon_workspace_context(InProcessWorkspaceLoadTarget(origin), instance) as context:

        def ask(query: str, **variables: Any) -> Any:
            result = execute_dagster_graphql(
                context.create_request_context(),
                query,
                variables={"asset": {"path": ["shop", "ards"]}, **variables},
            )
            return result.data["assetNodeOrError"]

        def points() -> dict[str, dict[str, int]]:
            """By partition, what is plotted: the figures of the newest partitions that have been made."""
            newest = ask(_NEWEST)["partitionKeyConnection"]["results"]
            made = ask(_POINTS, partitions=newest)["assetMaterializations"]
            return {
                one["partition"]: {
                    entry["label"]: entry["intValue"]
                    for entry in one["metadataEntries"]
                    if "intValue" in entry
                }
                for one in made
            }

        assert points() == {}, "Dagster by itself"
        webserver.install()
        # The day's own figure, and none of the run as a whole.
        assert points() == {f"2024-04-{day}": {"rows": 10 * day} for day in (28, 29, 30)}
