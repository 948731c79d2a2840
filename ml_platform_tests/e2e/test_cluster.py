"""A standalone Spark cluster makes the same tables as the embedded session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from ml_platform.contract.assets import StepName
from ml_platform.contract.days import DayRange
from ml_platform.spark.session import JVM_FOR_LITTLE_WORK
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests.cluster import standalone_cluster
from ml_platform_tests.conftest import CHECKOUT, settings_in
from ml_platform_tests.small_platform import SHOP, D, Platform, days, deliver_visits, shop

# More days than a step does without Spark (DAYS_HERE).
FIRST, LAST = "2023-12-01", "2024-02-07"
CONTRACT = {**SHOP, "start": FIRST}
DAILY: tuple[StepName, ...] = (
    "ards",
    "mrds",
    "online_features",
    "validation_report",
    "predictions",
    "model_performance",
)
ASSETS: tuple[StepName, ...] = (*DAILY, "model")


def run_backfill(home: Path, landing: Path, contracts: Path, **environment: str) -> str:
    """A backfill of the product ``shop`` of these tests."""
    days_ = DayRange(D(FIRST), D(LAST))
    return backfill_elsewhere("shop", days_, ASSETS, home, landing, contracts, **environment)


def backfill_elsewhere(
    product: str,
    days_: DayRange,
    assets: Sequence[str],
    home: Path,
    landing: Path,
    contracts: Path,
    **environment: str,
) -> str:
    """A backfill of a product in a process of its own, since a process has one Spark session."""
    (home / "dagster").mkdir(parents=True)
    conf = {
        "spark.jars.ivy": str(CHECKOUT / "var" / "ivy"),
        "spark.sql.shuffle.partitions": "4",
        **json.loads(environment.pop("conf", "{}")),
    }
    command = [str(Path(sys.executable).parent / "ml-platform"), "backfill", product]
    command += ["--from", str(days_.first), "--to", str(days_.last), "--select", ",".join(assets)]
    finished = subprocess.run(
        command,
        env=os.environ
        | {
            "ML_PLATFORM_HOME": str(home),
            "ML_PLATFORM_LANDING": str(landing),
            "ML_PLATFORM_PRODUCTS": str(contracts),
            "ML_PLATFORM_SPARK_DRIVER_MEMORY": "1g",
            "ML_PLATFORM_SPARK_CONF": json.dumps(conf),
            "DAGSTER_HOME": str(home / "dagster"),
            "JAVA_TOOL_OPTIONS": JVM_FOR_LITTLE_WORK,
        }
        | environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def fingerprints(home: Path) -> dict[tuple[str, str], tuple[str, str | None]]:
    ledger = Ledger(Tables(str(home / "tables")), "shop")
    return {
        (asset, str(day)): (record.outcome, record.fingerprint)
        for asset in ASSETS
        for day, record in ledger.latest(asset).items()
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cluster_makes_the_same_tables_as_the_embedded_session(tmp_path: Path, spark: SparkSession) -> None:
    landing = tmp_path / "landing"
    embedded = Platform(settings_in(tmp_path / "embedded", landing=landing), spark, shop(start=FIRST))
    deliver_visits(embedded, days(FIRST, LAST))
    contracts = tmp_path / "contracts"
    contracts.mkdir()
    (contracts / "shop.yaml").write_text(yaml.safe_dump(CONTRACT, sort_keys=False))
    # What the workers have installed must not be what runs there.
    outdated = tmp_path / "outdated" / "ml_platform"
    outdated.mkdir(parents=True)
    (outdated / "__init__.py").write_text("raise ImportError('an outdated version of the package')\n")

    for asset in DAILY[:4]:
        embedded.run(asset, days(FIRST, LAST))
    embedded.run("model", "2024-02-01")
    for asset in DAILY[4:]:
        embedded.run(asset, days(FIRST, LAST))
    with standalone_cluster(tmp_path / "cluster", workers=2) as cluster:
        run_backfill(
            tmp_path / "remote",
            landing,
            contracts,
            SPARK_MASTER=cluster.url,
            conf=json.dumps(
                {"spark.executor.memory": "800m", "spark.executorEnv.PYTHONPATH": str(outdated.parent)}
            ),
        )
        applications = cluster.applications()
        executors = cluster.executors()

    assert applications
    assert {one["cores"] for one in applications} == {2}
    assert {executor.parents[1].name for executor in executors} == {"worker-0", "worker-1"}
    found = fingerprints(tmp_path / "remote")
    assert found == fingerprints(tmp_path / "embedded")
    assert found["predictions", LAST][0] == "written"
    assert found["model", "2024-02-01"][0] == "written"
    assert len(found) == len(DAILY) * len(days(FIRST, LAST)) + 1
