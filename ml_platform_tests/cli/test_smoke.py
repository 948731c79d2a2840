"""The check of a set-up on Databricks, against the fake workspace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import pytest
from typer.testing import CliRunner

from ml_platform.cli import smoke
from ml_platform.cli.main import app
from ml_platform.contract.product import Product
from ml_platform.engine.step import DayResult, StepRequest, StepResult
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.engine.databricks.conftest import VOLUME, step
from ml_platform_tests.fake_workspace import TOKEN, USER, FakeWorkspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorkspace]:
    found = FakeWorkspace(tmp_path / "workspace")
    conf = json.dumps(settings_in(tmp_path).spark_options)
    for name, value in {
        "DATABRICKS_HOST": found.url,
        "DATABRICKS_TOKEN": TOKEN,
        "ML_PLATFORM_DATABRICKS_VOLUME": VOLUME,
        "ML_PLATFORM_DATABRICKS_POLL_SECONDS": "0.1",
        "ML_PLATFORM_MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "ML_PLATFORM_SPARK_CONF": conf,
        "ML_PLATFORM_SPARK_DRIVER_MEMORY": "2g",
    }.items():
        monkeypatch.setenv(name, value)
    found.jobs.environment = {"ML_PLATFORM_SPARK_CONF": conf, "ML_PLATFORM_SPARK_DRIVER_MEMORY": "2g"}
    yield found
    found.close()


class Here:
    """Makes here what the stand-in of a step makes there."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def run(self, request: StepRequest, product: Product, context: dg.AssetExecutionContext) -> StepResult:
        made = [DayResult(day=day, outcome="written", metadata=FACTS) for day in request.days]
        return StepResult(days=made, metadata={})


FACTS = {"outcome": "written", "fingerprint": "f1"}
WRITES = "global DayResult; D = DayResult; DayResult = lambda **k: D(**k | {'metadata': %s})"


def run(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["databricks", "smoke", "--rows-per-day", "20", *options])
    return result.exit_code, result.output


def left_behind(workspace: FakeWorkspace) -> list[str]:
    """Files in the volume but for the wheel."""
    volume = workspace.path(VOLUME)
    return [str(one) for one in volume.rglob("*") if one.is_file() and one.suffix != ".whl"]


@pytest.mark.slow
def test_what_is_the_same_here_and_there_passes(
    workspace: FakeWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "LocalStepRunner", Here)
    workspace.jobs.prelude = step(WRITES % FACTS)
    code, output = run("--assets", "ards,drift_report")
    assert code == 0, output
    assert f"as {USER}" in output
    assert "All 42 partitions are the same here and there." in output
    assert workspace.asked("PUT", "/landing/"), "the deliveries were copied"
    assert not left_behind(workspace)


@pytest.mark.slow
def test_a_difference_is_named_and_fails(workspace: FakeWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "LocalStepRunner", Here)
    workspace.jobs.prelude = step(WRITES % {"outcome": "written", "fingerprint": "f2"})
    code, output = run("--assets", "drift_report,online_features")
    assert code == 1
    assert "drift_report 2022-01-01: here written f1, there written f2" in output
    assert "1 of 1 partitions differ" in output
    assert "online_features was left out" in output


def test_a_failure_over_there_is_told_and_cleaned_up(workspace: FakeWorkspace) -> None:
    workspace.jobs.prelude = step("raise ValueError('no such thing here')")
    code, output = run("--assets", "mrds")
    assert code == 1
    assert "mrds on the engine databricks: mrds failed on Databricks: no such thing here" in output
    assert "/runs/1000" in output, "the page of the run"
    assert f"{VOLUME}/smoke/" in output
    assert not left_behind(workspace)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_small_product_is_the_same_here_and_there(workspace: FakeWorkspace, tmp_path: Path) -> None:
    code, output = run("--rows-per-day", "100", "--assets", "ards,mrds,model")
    assert code == 0, output
    assert "All 83 partitions are the same here and there." in output
    assert not left_behind(workspace)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert not client.search_registered_models()
    assert [one.name for one in client.search_experiments()] == ["Default"]
