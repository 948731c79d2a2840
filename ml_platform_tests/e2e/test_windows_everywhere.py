"""The sample of a shop, with windows, a label ahead and a population, is the same wherever its steps run.

Over Spark Connect with tables in a catalog it is in `spark_connect/test_serverless.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from ml_platform.cli.backfill import Backfill
from ml_platform.contract.assets import DAILY_AGGREGATES
from ml_platform.contract.days import DayRange
from ml_platform.samples import contract_of_sample, shop
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests.cluster import standalone_cluster
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.e2e.test_cluster import backfill_elsewhere
from ml_platform_tests.e2e.test_parity import workspace
from ml_platform_tests.engine.databricks.conftest import remote_settings
from ml_platform_tests.fake_workspace import FakeWorkspace
from ml_platform_tests.small_platform import D, Platform

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["workspace"]

PRODUCT = contract_of_sample("shop")
# More days than a step does without Spark (DAYS_HERE).
DAYS = DayRange(D("2023-01-01"), D("2023-03-10"))
ROWS_PER_DAY = 150
ASSETS = ("ards", "mrds", "online_features")


def recorded(tables: Tables) -> dict[str, tuple[str, str | None, int]]:
    """What the ledger says of every day of what was made."""
    ledger = Ledger(tables, PRODUCT.name)
    return {
        f"{asset} {day}": (record.outcome, record.fingerprint, record.counts.get("labelled", 0))
        for asset in (*ASSETS, DAILY_AGGREGATES)
        for day, record in ledger.latest(asset).items()
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_sample_of_a_shop_is_the_same_on_a_cluster_and_through_remote_steps(
    tmp_path: Path, spark: SparkSession, workspace: FakeWorkspace
) -> None:
    landing = tmp_path / "landing"
    shop.land(PRODUCT, landing, DAYS, rows_per_day=ROWS_PER_DAY)
    here = Platform(settings_in(tmp_path / "here", landing=landing), spark, PRODUCT)
    for step in ASSETS:
        here.run(step, DAYS)
    wanted = recorded(here.tables)
    assert len(wanted) == 4 * len(DAYS)
    assert {outcome for outcome, _, _ in wanted.values()} == {"written"}
    assert sum(labelled for _, _, labelled in wanted.values()) > 1000

    remote = remote_settings(tmp_path / "remote", engine="databricks", landing=landing)
    Backfill(PRODUCT, remote, dg.DagsterInstance.ephemeral(), select=ASSETS).run(DAYS)
    assert {run.result_state for run in workspace.jobs.runs.values()} == {"SUCCESS"}
    assert recorded(Tables.of(remote)) == wanted

    with standalone_cluster(tmp_path / "cluster", workers=2) as cluster:
        home = tmp_path / "on_cluster"
        contracts = Path(shop.__file__).parents[1] / "products"
        backfill_elsewhere("shop", DAYS, ASSETS, home, landing, contracts, SPARK_MASTER=cluster.url)
        assert cluster.applications()
    assert recorded(Tables(str(home / "tables"))) == wanted
