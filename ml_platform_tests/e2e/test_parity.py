"""Both engines make the same of the same deliveries: tables, verdicts, metadata and MLflow records.

Here Spark's tasks do all days, over there the process that runs the step, as there are few of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import pytest
from pyspark.sql import SparkSession

from ml_platform.cli.backfill import Backfill
from ml_platform.contract.assets import names
from ml_platform.contract.days import DayRange
from ml_platform.data_engineering import buckets
from ml_platform.graph.assets import asset_key
from ml_platform.settings import Settings
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.engine.databricks.conftest import remote_settings
from ml_platform_tests.fake_workspace import TOKEN, FakeWorkspace
from ml_platform_tests.small_platform import D, Platform, deliver_visits

ALL = DayRange(D("2024-01-01"), D("2024-02-20"))
MISSING, REFUSED = D("2024-01-20"), D("2024-02-10")
#: Where a run was, when, how fast, and under which number.
_OF_THE_RUN = {"commit", "databricks_run", "mlflow_run", "run_id", "recorded_at", "rows_per_second"}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorkspace]:
    found = FakeWorkspace(tmp_path / "workspace")
    monkeypatch.setenv("DATABRICKS_HOST", found.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
    conf = settings_in(tmp_path).spark_options
    found.jobs.environment = {
        "ML_PLATFORM_SPARK_CONF": json.dumps(conf),
        "ML_PLATFORM_SPARK_DRIVER_MEMORY": "2g",
    }
    yield found
    found.close()


def on_engine(engine: str, tmp_path: Path, spark: SparkSession) -> tuple[Platform, dg.DagsterInstance]:
    """A platform whose history was made by one engine; deliveries and reports lie in the same places."""
    settings = remote_settings(
        tmp_path / engine,
        engine=engine,
        landing=tmp_path / "landing",
        report_targets=(str(tmp_path / "reports"),),
    )
    platform = Platform(settings, spark)
    instance = dg.DagsterInstance.ephemeral()
    Backfill(platform.product, settings, instance).run(ALL)
    return platform, instance


def same(facts: Any, home: Path) -> Any:
    """Facts without what belongs to one run, and with the platform's home as a word."""
    if isinstance(facts, Mapping):
        return {name: same(value, home) for name, value in facts.items() if name not in _OF_THE_RUN}
    if type(facts) in (list, tuple):
        return [same(value, home) for value in facts]
    if isinstance(facts, float):
        return facts
    return str(facts).replace(str(home), "HOME")


def differences(here: Any, there: Any, place: str = "") -> Iterator[str]:
    """Where two sets of facts differ, a line each.

    Of a mean the last digit may: where an array begins in memory changes how BLAS adds up a row's products.
    """
    if isinstance(here, dict) and isinstance(there, dict):
        for name in sorted({*here, *there}):
            yield from differences(here.get(name), there.get(name), f"{place}/{name}")
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for number, pair in enumerate(zip(here, there, strict=True)):
            yield from differences(*pair, f"{place}/{number}")
    elif here != (pytest.approx(there, rel=1e-14) if isinstance(there, float) else there):
        yield f"{place}: here {here}, there {there}"


def ledger(platform: Platform) -> dict[str, Any]:
    home = platform.settings.home
    return {
        f"{asset} {day}": same(asdict(record), home)
        for asset in names()
        for day, record in platform.ledger.latest(asset).items()
    }


def materializations(platform: Platform, instance: dg.DagsterInstance) -> dict[str, Any]:
    found = {}
    for asset in names():
        key = asset_key(platform.product, asset)
        for record in instance.fetch_materializations(key, limit=1000).records:
            assert record.asset_materialization is not None
            metadata = {name: value.value for name, value in record.asset_materialization.metadata.items()}
            found[f"{asset} {record.partition_key}"] = same(metadata, platform.settings.home)
    return found


def checks(platform: Platform, instance: dg.DagsterInstance) -> dict[str, Any]:
    found = {}
    for asset, name in (
        ("ards", "data_quality"),
        ("mrds", "data_quality"),
        ("model", "challenger_beats_champion"),
        ("model_performance", "performance_above_threshold"),
        ("drift_report", "no_drift"),
    ):
        key = dg.AssetCheckKey(asset_key(platform.product, asset), name)
        for one in instance.event_log_storage.get_asset_check_execution_history(key, limit=1000):
            evaluation = one.evaluation
            assert evaluation is not None
            metadata = {name: value.value for name, value in evaluation.metadata.items()}
            facts = (evaluation.passed, evaluation.severity.value, evaluation.description, metadata)
            found[f"{asset} {name} {one.partition}"] = same(facts, platform.settings.home)
    return found


def models(settings: Settings) -> list[Any]:
    """What MLflow knows of each model: its numbers and tags, but for ids and times."""
    client = mlflow.MlflowClient(settings.tracking_uri, settings.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'shop'")
    found = []
    for run in client.search_runs([experiment.experiment_id], order_by=["attributes.run_name"]):
        tags = {
            name: value
            for name, value in run.data.tags.items()
            if not name.startswith("mlflow.") and "run_id" not in name
        }
        inputs = [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs]
        facts = (run.data.params, run.data.metrics, tags, inputs, run.info.status)
        found.append(same(facts, settings.home))
    for version in client.search_model_versions("name = 'shop'"):
        tags = {name: value for name, value in version.tags.items() if "run_id" not in name}
        found.append(same((version.version, version.aliases, tags), settings.home))
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_both_engines_make_the_same(
    tmp_path: Path, spark: SparkSession, workspace: FakeWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing = Platform(remote_settings(tmp_path / "none", landing=tmp_path / "landing"), spark)
    deliver_visits(landing, [day for day in ALL if day != MISSING])
    for path in landing.folder(REFUSED).iterdir():
        path.write_text("no,header\n")
    with monkeypatch.context() as patch:
        patch.setattr(buckets, "DAYS_HERE", 0)
        here, runs_here = on_engine("local", tmp_path, spark)
    there, runs_there = on_engine("databricks", tmp_path, spark)

    ran = {run.name.split("/")[1].split()[0] for run in workspace.jobs.runs.values()}
    assert ran == set(names()), "every step was run over there"
    assert {run.result_state for run in workspace.jobs.runs.values()} == {"SUCCESS"}
    assert {asset for asset, _ in (name.split() for name in ledger(here))} == set(names())
    assert not list(differences(ledger(here), ledger(there)))
    made_here, made_there = materializations(here, runs_here), materializations(there, runs_there)
    assert not list(differences(made_here, made_there))
    assert not list(differences(checks(here, runs_here), checks(there, runs_there)))
    assert not list(differences(models(here.settings), models(there.settings)))
    for table in ("ards", "mrds", "predictions"):
        assert there.rows(table).equals(here.rows(table))
