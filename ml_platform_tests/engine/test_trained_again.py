"""Versions that a library's upgrade has left unreadable: they are trained again when they are needed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner

from ml_platform.cli.findings import Examination
from ml_platform.cli.main import app
from ml_platform.contract.product import Product
from ml_platform.engine import local
from ml_platform.engine.deciding import Decider
from ml_platform.engine.step import StepRequest
from ml_platform.machine_learning import model_files, performance, training, unseen_rows
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord, champion
from ml_platform.machine_learning.pipeline import TrainingError
from ml_platform.machine_learning.registry import Registry
from ml_platform.overview import history as overview
from ml_platform.settings import Settings
from ml_platform_tests.small_platform import SHOP, D, Platform, days, shop
from ml_platform_tests.trained_platform import (
    copied,
    file_of,
    forget,
    rename_class,
    set_libraries,
    trained,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_days")]

ALL = days("2024-01-01", "2024-03-04")
MONTHS = [D("2024-02-01"), D("2024-03-01")]
SCORED = days("2024-02-01", "2024-02-20")
LATER = days("2024-02-21", "2024-02-25")


@pytest.fixture(scope="module")
def made(small_days: None, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    platform = trained(tmp_path_factory.mktemp("again"), ALL)
    platform.run("predictions", SCORED)
    return platform


@pytest.fixture
def platform(made: Platform, tmp_path: Path) -> Platform:
    """A copy with a registry of its own, which a test may damage."""
    return copied(made, tmp_path / "home")


def models(platform: Platform) -> list[ModelRecord]:
    return ModelHistory(platform.tables, platform.product).models()


def predictions(platform: Platform) -> pd.DataFrame:
    frame = DeltaTable(platform.tables.path("shop", "predictions")).to_pandas()
    return frame.sort_values(["event_day", "customer"], ignore_index=True)


def damage(platform: Platform, model: ModelRecord, how: str) -> str:
    """Leave a version that can't be loaded; returns what is said of it."""
    match how:
        case "a class is gone":
            rename_class(platform, model, "sklearn.linear_model._logistic", "sklearn.linear_model._gone")
            return "sklearn.linear_model._gone.LogisticRegression"
        case "a class is another":
            rename_class(platform, model, '"LogisticRegression"', '"_logistic_loss_of_old"')
            return "_logistic_loss_of_old"
        case "a file is cut":
            path = file_of(platform, model)
            path.write_bytes(path.read_bytes()[:200])
            forget()
            return "BadZipFile"
        case "another major version":
            set_libraries(platform, model, "numpy==2.0.0 scikit-learn==0.24.2 skops==0.14.0")
            return "it was made with scikit-learn 0.24.2, and 1."
        case _:
            set_libraries(platform, model, "xgboost==3.1.0 catboost==99.0" if how else "")
            return "it was made with catboost 99.0"


HOW = ["a class is gone", "a class is another", "a file is cut", "another major version", "a library"]


@pytest.mark.parametrize("how", HOW)
def test_days_are_scored_by_the_model_trained_again_and_history_says_so(
    platform: Platform, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = models(platform)
    served = predictions(platform)
    said = damage(platform, before, how)
    results = platform.run("predictions", [*SCORED, *LATER])
    assert {day.outcome for day in results.days} == {"written"}
    (after,) = models(platform)
    assert after.fingerprint == before.fingerprint
    assert after.version == str(int(before.version) + 1)
    assert after.threshold == before.threshold
    assert after.remark is not None
    assert after.remark.startswith("trained again as version 2, since ")
    assert said in after.remark
    assert after.remark.endswith("; it predicts the same as before")
    # What was served stays, and the new days are served by what is in force.
    now = predictions(platform)
    pd.testing.assert_frame_equal(
        now[now["event_day"].isin(SCORED)].reset_index(drop=True),
        served[served["event_day"].isin(SCORED)].reset_index(drop=True),
    )
    new = now[now["event_day"].isin(LATER)]
    assert set(new["event_day"]) == set(LATER)
    assert set(new["model_version"]) == {"2"}
    assert set(new["model_fingerprint"]) == {before.fingerprint}
    decisions = ModelHistory(platform.tables, platform.product).decisions()
    assert [decision.promoted for decision in decisions] == [True]
    (line,) = overview.models(platform.product, platform.settings)
    assert line.remark == after.remark
    client = Registry.of(platform.settings).tracking.client()
    assert client.get_model_version_by_alias("shop", "champion").version == 2
    # It is not trained a third time.
    platform.run("predictions", LATER, force=True, rescore=True)
    assert models(platform) == [after]


def test_the_command_history_shows_it(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = models(platform)
    damage(platform, before, "a class is gone")
    platform.run("predictions", LATER)
    products = platform.settings.home / "products"
    products.mkdir()
    (products / "shop.yaml").write_text(json.dumps(SHOP))
    monkeypatch.setenv("ML_PLATFORM_HOME", str(platform.settings.home))
    monkeypatch.setenv("ML_PLATFORM_PRODUCTS", str(products))
    shown = CliRunner().invoke(app, ["history", "shop"])
    assert shown.exit_code == 0, shown.output
    assert "trained again as version 2, since" in " ".join(shown.output.split())
    found = json.loads(CliRunner().invoke(app, ["history", "shop", "--json"]).output)
    assert found["models"][0]["remark"].endswith("it predicts the same as before")


def test_a_champion_is_compared_although_its_version_can_not_be_loaded(
    platform: Platform, made: Platform, tmp_path: Path
) -> None:
    (before,) = models(platform)
    damage(platform, before, "a class is gone")
    platform.run("model", MONTHS[1])
    first, second = models(platform)
    assert first.remark is not None
    assert "trained again as version" in first.remark
    assert second.remark is None
    decided = ModelHistory(platform.tables, platform.product).decisions()
    comparison = decided[1].comparison
    assert comparison is not None
    assert not comparison.failed
    # The same as where nothing was broken.
    whole = copied(made, tmp_path / "whole")
    whole.run("model", MONTHS[1])
    assert ModelHistory(whole.tables, whole.product).decisions() == decided


def test_the_month_itself_is_trained_again_when_it_is_asked_for(platform: Platform) -> None:
    (before,) = models(platform)
    damage(platform, before, "another major version")
    results = platform.run("model", MONTHS[0])
    assert results.metadata == {"models_trained": 1, "models_reused": 0}
    (after,) = models(platform)
    assert after.fingerprint == before.fingerprint
    assert results.days[0].metadata["remark"] == after.remark
    assert platform.run("model", MONTHS[0]).metadata == {"models_trained": 0, "models_reused": 0}
    damage(platform, after, "a class is gone")
    assert platform.run("model", MONTHS[0], force=True).metadata["models_trained"] == 1


def test_the_run_in_mlflow_says_from_what_a_model_was_made(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def said(model: ModelRecord) -> Any:
        run = mlflow.MlflowClient(platform.settings.tracking_uri).get_run(model.mlflow_run_id)
        return json.loads(Path(run.info.artifact_uri.removeprefix("file://"), "manifest.json").read_text())

    (before,) = models(platform)
    damage(platform, before, "a class is gone")
    platform.run("predictions", LATER)
    (after,) = models(platform)
    assert said(after) == json.loads(str(after.manifest))
    assert set(said(after)["columns"]) == {
        "event_day",
        "customer",
        "spend",
        "pages",
        "channel",
        "visit",
        "bought",
    }
    # A secret that somebody has written into a parameter isn't passed on.
    damage(platform, after, "a class is gone")
    monkeypatch.setattr(Settings, "secrets", frozenset({"LogisticRegression"}))
    platform.run("predictions", LATER, force=True, rescore=True)
    assert "LogisticRegression" not in json.dumps(said(models(platform)[0]))


def changed(product: Product) -> Product:
    return product.with_estimator(
        product.model.one.model_copy(update={"params": {"random_state": 1, "C": 0.001}})
    )


def test_a_model_of_an_earlier_contract_is_made_again_as_it_was(platform: Platform) -> None:
    (before,) = models(platform)
    damage(platform, before, "a class is gone")
    platform.product = changed(platform.product)
    platform.run("predictions", LATER)
    (after,) = models(platform)
    assert after.fingerprint == before.fingerprint
    assert str(after.remark).endswith("; it predicts the same as before")


def without_visits() -> Product:
    aggregate = {name: how for name, how in SHOP["mrds"]["aggregate"].items() if name != "visit"}
    return shop(mrds__aggregate=aggregate)


@pytest.mark.parametrize("months", [2, 1])
def test_columns_that_the_mrds_has_gained_since_are_none_of_the_models(
    platform: Platform, months: int
) -> None:
    now, platform.product = shop(model__training_months=months), without_visits()
    platform.run("mrds", ALL)
    platform.run("model", MONTHS[0])
    before = models(platform)[0]
    damage(platform, before, "a class is gone")
    platform.product = now
    assert {day.outcome for day in platform.run("predictions", LATER).days} == {"written"}
    after = models(platform)[0]
    assert (after.fingerprint, after.version) == (before.fingerprint, str(int(before.version) + 1))
    assert str(after.remark).endswith("; it predicts the same as before")
    # And once more: the new record says as much as the one before.
    damage(platform, after, "a class is gone")
    platform.run("predictions", LATER, force=True, rescore=True)
    again = models(platform)[0]
    assert again.fingerprint == before.fingerprint
    assert again.manifest == after.manifest == before.manifest


def test_a_column_that_is_gone_since_is_named(platform: Platform) -> None:
    (before,) = models(platform)
    damage(platform, before, "a class is gone")
    platform.product = without_visits()
    results = platform.run("predictions", LATER)
    assert {day.outcome for day in results.days} == {"refused"}
    assert (
        "the MRDS of now has no visit, which was among what it was made from, so that it can't be made "
        in (results.days[0].reason)
    )
    assert "ml-platform train shop" in results.days[0].reason
    assert models(platform) == [before]


def correct(platform: Platform) -> None:
    """Have a correction come of a day that the model has learned from."""
    day = D("2024-01-10")
    frame = pd.read_csv(next(platform.folder(day).glob("*visits.csv"))).head(5).assign(spend=1.0)
    platform.deliver(day, "2024-01-11T0700_visits.csv", frame.to_csv(index=False))
    for step in ("ards", "mrds"):
        platform.run(step, day)


def report(platform: Platform) -> str:
    return (
        platform.settings.reports_path / "shop" / "drift_report" / "2024-02-01" / "report.json"
    ).read_text()


def test_a_twin_is_made_as_its_model_was_whatever_the_contract_says_now(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model,) = models(platform)
    asked: list[Product] = []

    def train(product: Product, *_: Any) -> None:
        asked.append(product)
        raise TrainingError("seen enough")

    monkeypatch.setattr(training, "train", train)
    was, platform.product = platform.product, changed(platform.product)
    request = StepRequest(step="model", product="shop", days=(MONTHS[0],), run_id="run-1")
    context = local.context_for(request, platform.product, platform.settings, lambda: platform.spark, str)
    decider = Decider(context)
    found = decider._compare_twin(dataclasses.replace(model, holdout="time"), {})
    assert "seen enough" in found.reason
    assert [product.model for product in asked] == [was.model]
    # A record of old doesn't say how; one whose contract can be none any more has no twin.
    decider._compare_twin(dataclasses.replace(model, holdout="time", manifest=None), {})
    assert asked[-1].model == platform.product.model
    manifest = json.loads(str(model.manifest))
    gone = json.dumps(manifest | {"contract": "another", "columns": ["gone"]})
    record = dataclasses.replace(model, holdout="time", manifest=gone, fingerprint="another")
    assert "its contract of then is none now" in decider._compare_twin(record, {}).reason
    assert len(asked) == 2


def test_another_model_is_decided_about_and_says_what_it_is(platform: Platform) -> None:
    (before,) = models(platform)
    served = predictions(platform)
    damage(platform, before, "a class is gone")
    correct(platform)
    results = platform.run("predictions", LATER)
    history = ModelHistory(platform.tables, platform.product)
    (after,) = history.models()
    assert after.fingerprint != before.fingerprint
    assert str(after.remark).startswith("trained as version 2 in the place of another model of the same date")
    assert "its rows have changed since" in str(after.remark)
    (decision,) = history.decisions()
    assert decision.fingerprint == after.fingerprint
    assert decision.comparison is not None
    assert champion([decision]) == decision
    assert {day.outcome for day in results.days} == {"written"}
    now = predictions(platform)
    assert set(now[now["event_day"].isin(LATER)]["model_fingerprint"]) == {after.fingerprint}
    pd.testing.assert_frame_equal(now[now["event_day"].isin(SCORED)].reset_index(drop=True), served)


def test_a_library_that_is_missing_is_an_error_that_says_what_to_install(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = models(platform)
    set_libraries(platform, before, "scikit-learn==1.9.1 catboost==1.2.8")
    installed = model_files._installed
    monkeypatch.setattr(
        model_files, "_installed", lambda name: None if name == "catboost" else installed(name)
    )
    for step, chosen in (("predictions", LATER), ("drift_report", [D("2024-02-01")])):
        results = platform.run(step, chosen)
        assert {day.outcome for day in results.days} == {"refused"}
        assert (
            "catboost 1.2.8, which isn't installed here: install the extra catboost ("
            in results.days[0].reason
        )
    # Nor is it lost to those who look whether all is there.
    assert platform.run("model", MONTHS[0]).metadata == {"models_trained": 0, "models_reused": 0}
    (finding,) = Examination(platform.product, platform.settings)._history(set())
    assert (finding.part, finding.state, finding.repairable) == ("model", "unreadable", False)
    assert finding.command == "install the extra catboost (pip install 'ml-platform[catboost]')"
    assert models(platform) == [before]
    monkeypatch.undo()
    for step, chosen in (("predictions", LATER), ("drift_report", [D("2024-02-01")])):
        assert {day.outcome for day in platform.run(step, chosen).days} == {"written"}
    assert models(platform) == [before]


@pytest.mark.parametrize("step", ["model_performance", "drift_report"])
def test_whoever_needs_a_model_that_another_has_replaced_goes_on_with_that_one(
    platform: Platform, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = models(platform)
    if step == "model_performance":  # the champion is judged on unseen rows
        monkeypatch.setattr(unseen_rows, "SOON_ENOUGH", 0)
        platform.product = shop(evaluation__minimum_rows=10_000)
    asked = [D("2024-02-19"), D("2024-02-20")] if step == "model_performance" else [D("2024-02-01")]
    damage(platform, before, "a class is gone")
    correct(platform)
    results = platform.run(step, asked)
    assert {day.outcome for day in results.days} == {"written"}
    history = ModelHistory(platform.tables, platform.product)
    (after,) = history.models()
    assert after.fingerprint != before.fingerprint
    assert [decision.fingerprint for decision in history.decisions()] == [after.fingerprint]
    if step == "model_performance":
        found = performance.evaluations(platform.tables, platform.product)
        assert {found[day]["champion_fingerprint"] for day in asked} == {after.fingerprint}
        assert {found[day]["champion_judged_on"] for day in asked} == {"unseen"}
    else:
        assert json.loads(report(platform))["model"] == f"v{after.version}"
    # Nothing is recorded twice, and nothing is left to do.
    recorded = history._recorded()
    assert [model.fingerprint for model in recorded] == [before.fingerprint, after.fingerprint]
    assert all(day.up_to_date for day in platform.run(step, asked).days)
    assert history._recorded() == recorded


def test_what_can_not_be_trained_again_serves_nothing_and_promotes_nothing(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = models(platform)
    damage(platform, before, "a class is gone")

    def fails(*_: Any, **__: Any) -> None:
        raise ArithmeticError("no luck")

    monkeypatch.setattr(training, "train", fails)
    results = platform.run("predictions", LATER)
    assert {day.outcome for day in results.days} == {"refused"}
    assert "could not be trained again: ArithmeticError: no luck" in results.days[0].reason
    assert models(platform) == [before]
    assert [d.promoted for d in ModelHistory(platform.tables, platform.product).decisions()] == [True]
    monkeypatch.undo()
    assert {day.outcome for day in platform.run("predictions", LATER).days} == {"written"}


def test_a_model_that_predicts_otherwise_says_so(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression

    (before,) = models(platform)
    damage(platform, before, "a class is gone")
    fit = LogisticRegression.fit

    def another_solver(self: Any, X: Any, y: Any, **options: Any) -> Any:  # noqa: N803
        return fit(self.set_params(C=0.01), X, y, **options)

    monkeypatch.setattr(LogisticRegression, "fit", another_solver)
    platform.run("predictions", LATER)
    (after,) = models(platform)
    assert after.fingerprint == before.fingerprint
    assert str(after.remark).endswith("it predicts otherwise than before, and what was scored before stays")


def test_a_record_of_old_says_what_is_known(platform: Platform) -> None:
    """Models of before there were manifests are trained again under today's contract."""
    (before,) = models(platform)
    ModelHistory(platform.tables, shop()).add(
        ModelRecord(**{**vars(before), "manifest": None, "recorded_at": 0, "commit": None})
    )
    set_libraries(platform, before, "")
    damage(platform, before, "a file is cut")
    platform.run("predictions", LATER)
    after = models(platform)[-1]
    assert after.fingerprint == before.fingerprint
    assert str(after.remark).endswith("; what it predicted before isn't known")
