"""Models made again from their manifests and their rows, or their deliveries, and compared."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ml_platform.cli.main import app
from ml_platform.engine import local, reproduction
from ml_platform.engine.reproduction import Reproduction
from ml_platform.engine.step import StepRequest
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord
from ml_platform_tests.small_platform import D, Platform, days, shop
from ml_platform_tests.trained_platform import copied, file_of, forget, rename_class, trained

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_days")]

ALL = days("2024-01-01", "2024-01-31")
DAY = D("2024-01-10")


@pytest.fixture(scope="module")
def made(small_days: None, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return trained(tmp_path_factory.mktemp("made"), ALL)


@pytest.fixture
def platform(made: Platform, tmp_path: Path) -> Platform:
    return copied(made, tmp_path / "home")


def models(platform: Platform) -> list[ModelRecord]:
    return ModelHistory(platform.tables, platform.product).models()


def reproduced(
    platform: Platform, said: list[str] | None = None, *, model: ModelRecord | None = None, **options: Any
) -> Reproduction:
    request = StepRequest(step="model", product="shop", days=(), run_id="reproduce")
    log = (said if said is not None else []).append
    context = local.context_for(request, platform.product, platform.settings, lambda: platform.spark, log)
    (found,) = reproduction.reproduce(context, [model or models(platform)[0]], **options)
    return found


def verdicts(found: Reproduction) -> dict[str, bool | None]:
    return {one.what: one.same for one in found.compared}


def details(found: Reproduction) -> dict[str, str]:
    return {one.what: one.detail for one in found.compared}


def content(platform: Platform) -> dict[str, bytes]:
    """All that is kept, but for the logs of MLflow's database."""
    return {
        str(path): path.read_bytes()
        for path in platform.settings.home.rglob("*")
        if path.is_file() and path.suffix not in (".log", ".db-wal", ".db-shm", ".lock")
    }


SAME = {
    "training rows": True,
    "learned": True,
    "predictions": True,
    "decision threshold": True,
    "held-out metrics": True,
}


@pytest.mark.parametrize("from_deliveries", [False, True])
def test_a_model_is_what_it_was_and_nothing_is_changed(platform: Platform, from_deliveries: bool) -> None:
    before = content(platform)
    found = reproduced(platform, from_deliveries=from_deliveries)
    assert verdicts(found) == SAME
    assert found.is_same
    assert content(platform) == before


def test_it_is_made_from_the_deliveries_alone_where_the_tables_are_gone(platform: Platform) -> None:
    for table in ("ards", "mrds"):
        shutil.rmtree(platform.tables.path("shop", table))
    assert verdicts(reproduced(platform, from_deliveries=True)) == SAME


def test_a_correction_after_its_date_changes_nothing(platform: Platform) -> None:
    frame = pd.read_csv(next(platform.folder(DAY).glob("*visits.csv"))).assign(spend=1.0)
    platform.deliver(DAY, "2024-02-20T0600_visits.csv", frame.to_csv(index=False))
    assert verdicts(reproduced(platform, from_deliveries=True)) == SAME
    for step in ("ards", "mrds"):
        platform.run(step, DAY)
    assert verdicts(reproduced(platform)) == SAME


def test_rows_that_have_changed_are_named_and_nothing_is_trained(platform: Platform) -> None:
    """As if the file had been edited: it was known before the model's date."""
    frame = pd.read_csv(next(platform.folder(DAY).glob("*visits.csv"))).assign(spend=1.0)
    platform.deliver(DAY, f"{DAY}_visits.csv", frame.to_csv(index=False))
    next(platform.folder(DAY).glob("*T0600_visits.csv")).unlink()
    said: list[str] = []
    found = reproduced(platform, said, from_deliveries=True)
    assert verdicts(found) == {"training rows": False}
    assert "ards: the deliveries give another result for 2024-01-10" in said
    # The tables have the rows of before still.
    assert verdicts(reproduced(platform)) == SAME


def test_a_day_that_is_gone_is_named(platform: Platform) -> None:
    shutil.rmtree(platform.folder(DAY))
    for step in ("ards", "mrds"):
        platform.run(step, DAY)
    found = reproduced(platform)
    assert verdicts(found) == {"training rows": False}
    assert "not usable now: 2024-01-10 (missing)" in details(found)["training rows"]
    before = models(platform)[0].rows
    assert f"not the {before:,} of then" in details(found)["training rows"]


def test_a_contract_that_has_changed_is_said_if_it_matters(platform: Platform) -> None:
    estimator = {"class": "sklearn.linear_model.LogisticRegression", "params": {"C": 0.001}}
    platform.product = shop(model__estimator=estimator)
    assert verdicts(reproduced(platform)) == SAME  # the manifest has the section of then
    aggregate = {"spend": "max", "pages": "max", "channel": "last", "visit": "count", "bought": "last"}
    platform.product = shop(mrds__aggregate=aggregate)
    found = reproduced(platform)
    assert verdicts(found) == {"training rows": False}
    assert "the contract has changed since" in details(found)["training rows"]


def test_another_coefficient_in_the_registry_is_found(platform: Platform) -> None:
    path = file_of(platform, models(platform)[0])
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [
        name
        for name, data in held.items()
        if name.endswith(".npy")
        and np.load(io.BytesIO(data), allow_pickle=False).shape[:1] == (1,)
        and np.load(io.BytesIO(data)).ndim == 2
    ]
    values = np.load(io.BytesIO(held[name]))
    changed = io.BytesIO()
    np.save(changed, values + 0.01)
    held[name] = changed.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in held.items():
            archive.writestr(entry, data)
    forget()
    found = reproduced(platform)
    assert not found.is_same
    assert verdicts(found) | {"learned": False, "predictions": False} == verdicts(found)
    assert details(found)["learned"].endswith("coef_")
    assert details(found)["predictions"].startswith("the largest difference is ")


def test_a_version_that_can_not_be_loaded_is_compared_by_what_it_predicted(platform: Platform) -> None:
    model = models(platform)[0]
    rename_class(platform, model, "LogisticRegression", "LogisticRegressionOfOld")
    found = reproduced(platform)
    assert verdicts(found) == SAME | {"learned": None}
    assert "can't be loaded" in details(found)["learned"]
    other = json.loads(str(model.manifest)) | {"outputs": "0" * 32}
    found = reproduced(platform, model=dataclasses.replace(model, manifest=json.dumps(other)))
    assert verdicts(found) == SAME | {"learned": None, "predictions": False}


def test_other_libraries_than_then_are_named(platform: Platform) -> None:
    model = models(platform)[0]
    manifest = json.loads(str(model.manifest))
    older = ["numpy==1.0.0", *(one for one in manifest["libraries"] if not one.startswith("numpy=="))]
    record = dataclasses.replace(model, manifest=json.dumps(manifest | {"libraries": older}))
    found = reproduced(platform, model=record)
    assert verdicts(found) == SAME | {"libraries": None}
    assert details(found)["libraries"] == f"numpy is {np.__version__}, was 1.0.0"
    assert found.is_same


def test_a_record_of_old_can_not_be_made_again_and_says_why(platform: Platform) -> None:
    found = reproduced(platform, model=dataclasses.replace(models(platform)[0], manifest=None))
    assert verdicts(found) == {"made again": False}
    assert "older than manifests" in details(found)["made again"]


def test_the_command_says_what_was_compared_and_ends_with_1_if_a_model_differs(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    contracts = platform.settings.home / "contracts"
    contracts.mkdir()
    written = platform.product.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    (contracts / "shop.yaml").write_text(json.dumps(written))
    monkeypatch.setenv("ML_PLATFORM_HOME", str(platform.settings.home))
    monkeypatch.setenv("ML_PLATFORM_PRODUCTS", str(contracts))
    monkeypatch.setattr("ml_platform.graph.resources.LocalStepRunner.session", lambda *_: platform.spark)
    call = CliRunner().invoke
    result = call(app, ["reproduce", "shop", "2024-02"])
    assert result.exit_code == 0, result.output
    assert "Model 1 as of 2024-02-01: the same" in result.output
    assert "1 of 1 model of shop is what it was" in result.output
    (plain,) = json.loads(call(app, ["reproduce", "shop", "--json", "--version", "1"]).output)
    assert plain["same"] is True
    assert {one["what"]: one["same"] for one in plain["compared"]} == SAME
    for asked, said in (
        (["2024-03"], "there is no model of 2024-03; versions are: 1 as of 2024-02-01"),
        (["2024-02", "--version", "7"], "there is no model of 2024-02 with version 7"),
    ):
        result = call(app, ["reproduce", "shop", *asked])
        assert result.exit_code == 1
        assert said in result.stderr
    shutil.rmtree(platform.folder(DAY))
    result = call(app, ["reproduce", "shop", "--from-deliveries"])
    assert result.exit_code == 1
    assert "training rows: not the same" in result.output
