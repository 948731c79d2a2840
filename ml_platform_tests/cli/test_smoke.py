"""The check of a set-up on Databricks, against the fake workspace."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import pytest
from typer.testing import CliRunner

from ml_platform.cli import smoke
from ml_platform.cli.main import app
from ml_platform.cli.smoke import Smoke
from ml_platform.cli.smoke_page import Page
from ml_platform.cli.smoke_traces import Trace, traces_of
from ml_platform.contract.days import DayRange
from ml_platform.contract.product import Product
from ml_platform.engine.databricks.workspace import Workspace
from ml_platform.engine.step import DayResult, StepRequest, StepResult
from ml_platform.machine_learning.registry import Registry
from ml_platform.settings import Settings
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.engine.databricks.conftest import VOLUME, step
from ml_platform_tests.fake_workspace import TOKEN, USER, FakeWorkspace, Fault
from ml_platform_tests.small_platform import shop


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorkspace]:
    found = FakeWorkspace(tmp_path / "workspace")
    conf = json.dumps(settings_in(tmp_path).spark_options)
    for name, value in {
        "DATABRICKS_HOST": found.url,
        "DATABRICKS_TOKEN": TOKEN,
        "ML_PLATFORM_DATABRICKS_VOLUME": VOLUME,
        "ML_PLATFORM_DATABRICKS_POLL_SECONDS": "0.1",
        "ML_PLATFORM_HOME": str(tmp_path / "home"),
        "ML_PLATFORM_TABLES": str(tmp_path / "tables"),
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


def the_page(tmp_path: Path) -> str:
    """The page, which the output has as well."""
    (file,) = (tmp_path / "home" / "smoke").iterdir()
    return file.read_text()


def left_behind(workspace: FakeWorkspace) -> list[str]:
    """Files in the volume but for the wheel."""
    volume = workspace.path(VOLUME)
    return [str(one) for one in volume.rglob("*") if one.is_file() and one.suffix != ".whl"]


@pytest.mark.slow
def test_what_is_the_same_here_and_there_passes(
    workspace: FakeWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "LocalStepRunner", Here)
    workspace.jobs.prelude = step(WRITES % FACTS)
    code, output = run("--assets", "ards,drift_report")
    assert code == 0, output
    before, _, after = output.partition("wheel uploaded to")
    assert f"folder of the volume {VOLUME}/smoke/smoke_" in before, "said before anything is made"
    assert f"folder of tables {tmp_path}/tables/smoke_" in before
    assert "All 42 partitions are the same here and there." in after
    assert workspace.asked("PUT", "/landing/"), "the deliveries were copied"
    assert not left_behind(workspace)
    assert not workspace.path(f"{VOLUME}/smoke").exists()
    assert len(workspace.jobs.deleted) == 2
    assert not workspace.jobs.runs
    page = the_page(tmp_path)
    assert page.startswith("# Check of a set-up on Databricks: passed\n")
    assert f"as {USER}" in page
    assert "| ards | 41 | 41 |" in page
    assert "| drift_report | 1 | 1 |" in page
    assert "- there: Python 3." in page, "what the step has said of its environment"
    assert "| job run | 1000 | removed |" in page
    assert "To be removed by hand" not in page
    assert TOKEN not in output


@pytest.mark.slow
def test_a_difference_is_named_and_fails(
    workspace: FakeWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "LocalStepRunner", Here)
    workspace.jobs.prelude = step(WRITES % {"outcome": "written", "fingerprint": "f2"})
    code, output = run("--assets", "drift_report,online_features")
    assert code == 1
    assert "drift_report 2022-01-01: here written f1, there written f2" in the_page(tmp_path)
    assert "| drift_report | 1 | 0 |" in output
    assert "1 partitions differ" in output
    assert "online_features was left out" in output


def test_a_failure_over_there_is_told_and_cleaned_up(workspace: FakeWorkspace, tmp_path: Path) -> None:
    # What the step has made until then goes as well.
    made = (
        "import pathlib, os; t = pathlib.Path(context.settings.tables_root, context.product.name, 'ards'); "
    )
    workspace.jobs.prelude = step(made + "t.mkdir(parents=True); raise ValueError('no such thing here')")
    code, output = run("--assets", "mrds")
    assert code == 1
    assert "mrds on the engine databricks: mrds failed on Databricks: no such thing here" in output
    page = the_page(tmp_path)
    assert page.startswith("# Check of a set-up on Databricks: failed\n")
    assert "/runs/1000" in page, "the page of the run, which stays therefore"
    assert "| job run | 1000 | stays: its page says why the step failed" in page
    assert not left_behind(workspace)
    assert list((tmp_path / "tables").iterdir()) == []
    assert "To be removed by hand" not in page


@pytest.mark.slow
def test_what_can_not_be_removed_is_named_with_what_to_do(
    workspace: FakeWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "LocalStepRunner", Here)
    workspace.jobs.prelude = step(WRITES % FACTS)
    workspace.inject(Fault(403, method="DELETE", part="/landing/", times=None))
    workspace.inject(Fault(403, method="POST", part="/runs/delete", times=None))
    code, output = run("--assets", "drift_report")
    assert code == 1, "a check that leaves things behind is none that passes"
    page = the_page(tmp_path)
    by_hand = page.partition("## To be removed by hand")[2]
    assert f"- databricks fs rm -r dbfs:{VOLUME}/smoke/smoke_" in by_hand
    assert "- databricks jobs delete-run 1000" in by_hand
    assert "PermissionDenied: injected" in page
    assert "| folder of tables |" in page, "what comes after it was looked at all the same"
    assert "2 of what was created could not be removed" in output


def test_an_interruption_ends_the_run_and_cleans_up(workspace: FakeWorkspace, tmp_path: Path) -> None:
    workspace.jobs.prelude = step("import time; time.sleep(120)")
    workspace.jobs.when_running = lambda _: os.kill(os.getpid(), signal.SIGINT)
    code, _ = run("--assets", "mrds")
    assert code != 0
    page = the_page(tmp_path)
    assert page.startswith("# Check of a set-up on Databricks: interrupted\n")
    assert not workspace.jobs.active
    assert not left_behind(workspace)
    assert f"| folder of the volume | {VOLUME}/smoke/" in page
    assert "| job run | 1000 | removed |" in page
    assert "LEFT" not in page


def test_a_second_interruption_names_what_is_left() -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    page = Page("smoke_1", "https://host")
    page.traces = [
        Trace("folder", "a", "remove a", lambda: True),
        Trace("folder", "b", "remove b", interrupted),
        Trace("folder", "c", "remove c", lambda: True),
    ]
    check = Smoke.__new__(Smoke)
    check.say = lambda _: None
    check._clean(page)
    assert [trace.name for trace in page.left] == ["b", "c"]
    assert page.outcome == "interrupted"
    text = page.text(Settings())
    assert "- remove b\n- remove c" in text
    assert "| folder | a | removed |" in text


def test_tables_and_models_of_a_catalog_are_named_by_their_full_names_and_dropped(
    workspace: FakeWorkspace, tmp_path: Path
) -> None:
    settings = Settings(
        tables="uc:main.ml",
        control_tables=str(tmp_path / "control"),
        mlflow_tracking_uri="databricks",  # type: ignore[arg-type]
        model_schema="main.models",
    )
    client = Workspace(60)
    found = traces_of(shop(), settings, client, f"{VOLUME}/smoke/shop", ["model"])
    named = {trace.name for trace in found}
    assert {
        "main.ml.shop_ards",
        "main.ml.shop_predictions",
        "main.models.shop",
        "/Shared/ml_platform/shop",
    } <= named
    assert f"{tmp_path}/control/shop" in named
    locks = tmp_path / "control" / ".locks"
    (tmp_path / "control" / "shop" / "days").mkdir(parents=True)
    locks.mkdir()
    for name in ("shop.days.lock", "shops.days.lock"):
        (locks / name).touch()
    (folder,) = (trace for trace in found if trace.kind == "folder of tables")
    folder.clean()
    assert folder.state == "removed"
    assert [each.name for each in locks.iterdir()] == ["shops.days.lock"], "another product's lock stays"
    workspace.tables = {"main.ml.shop_ards", "main.ml.shop_mrds", "main.ml.shops_ards"}
    tables = {trace.name: trace for trace in found if trace.kind == "table"}
    for trace in tables.values():
        trace.clean()
    assert workspace.tables == {"main.ml.shops_ards"}, "another product's table stays"
    assert tables["main.ml.shop_ards"].state == "removed"
    assert tables["main.ml.shop_predictions"].state == "was never made"


@pytest.mark.parametrize(
    ("tables", "told"),
    [(None, "ML_PLATFORM_TABLES=uc:catalog.schema"), ("/Volumes/a/b/c", "a volume has neither")],
)
def test_without_a_place_for_tables_nothing_is_made(
    workspace: FakeWorkspace, monkeypatch: pytest.MonkeyPatch, tables: str | None, told: str
) -> None:
    monkeypatch.delenv("ML_PLATFORM_TABLES")
    code, output = run(*(["--tables", tables] if tables else []))
    assert code == 1
    assert told in " ".join(output.split())
    assert not workspace.asked("PUT", "")


def test_the_page_shows_no_secret(tmp_path: Path) -> None:
    settings = Settings(
        tables="/srv/tables",
        mlflow_tracking_uri="https://someone:hidden-word@mlflow.example.com",  # type: ignore[arg-type]
        online_store_url="postgresql+psycopg://u:other-word@h/d",  # type: ignore[arg-type]
        databricks_secrets={"ML_PLATFORM_ONLINE_STORE_URL": "scope/key"},
        databricks_compute={  # type: ignore[arg-type]
            "new_cluster": {"spark_version": "17.3.x", "spark_env_vars": {"A": "third-word"}}
        },
    )
    page = Page("smoke_1", "https://host", error="it said other-word")
    text = page.text(settings)
    assert not [word for word in ("hidden-word", "other-word", "third-word") if word in text]
    assert "ML_PLATFORM_TABLES: /srv/tables" in text
    assert "17.3.x" in text


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_small_product_is_the_same_here_and_there(
    workspace: FakeWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "DAYS", DayRange(date(2022, 1, 17), date(2022, 2, 2)))
    code, output = run("--rows-per-day", "100", "--assets", "ards,mrds,model")
    assert code == 0, output
    assert "All 35 partitions are the same here and there." in output
    assert not left_behind(workspace)
    assert [one for one in (tmp_path / "tables").rglob("*") if one.is_file()] == []
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    # The run here has a registry of its own, which it leaves as the one of the process.
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    assert not client.search_registered_models()
    assert [one.name for one in client.search_experiments()] == ["Default"]
    lines = [
        line for line in output.splitlines() if line.startswith(("| registered model |", "| experiment |"))
    ]
    assert len(lines) == 2, output
    assert all("| removed" in line for line in lines), lines


def test_a_model_and_its_experiment_are_removed_and_no_other(
    workspace: FakeWorkspace, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    settings = Settings(tables=str(tmp_path / "t"), mlflow_tracking_uri=uri, mlflow_experiments="/Shared/x")  # type: ignore[arg-type]
    Registry.of(settings).tracking.prepare("shop")
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    for name in ("shop", "shops"):
        client.create_registered_model(name)
        client.create_model_version(name, "file:///nowhere")
    client.create_experiment("/Shared/x/shops")
    for expected in ("removed", "was never made"):
        traces = traces_of(shop(), settings, Workspace(60), f"{VOLUME}/smoke/shop", ["model"])
        of_mlflow = [trace for trace in traces if trace.kind in ("registered model", "experiment")]
        for trace in of_mlflow:
            trace.clean()
        assert [trace.state for trace in of_mlflow] == [expected] * 2
    assert [model.name for model in client.search_registered_models()] == ["shops"]
    assert {one.name for one in client.search_experiments()} == {"Default", "/Shared/x/shops"}
