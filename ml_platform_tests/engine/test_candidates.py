"""Several estimators and a search, through the real steps: what is chosen, recorded, shown, made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.engine.compared_rows import seed_of
from ml_platform.machine_learning import search, training_data
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.machine_learning.registry import Registry
from ml_platform.machine_learning.selection import Selection
from ml_platform.machine_learning.training import Choosing, train
from ml_platform_tests import tasks_here
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import SHOP, D, Platform, days, deliver_visits, forget_registry

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_days")]

LOGISTIC = "sklearn.linear_model.LogisticRegression"
DUMMY = "sklearn.dummy.DummyClassifier"
MONTHS = [D("2024-02-01"), D("2024-03-01")]
ALL = days("2024-01-01", "2024-03-02")
#: So strong a penalty leaves next to nothing of the coefficients; a weak one is known to be better here.
SEARCHED = {
    "class": LOGISTIC,
    "params": {"random_state": 1},
    "search": {"params": {"C": {"low": 1e-6, "high": 1.0, "log": True}}, "trials": 6, "seconds": 3600},
}
FAILING = {"class": "sklearn.neighbors.KNeighborsClassifier", "params": {"n_neighbors": 10**6}}


def product_of(*estimators: dict[str, Any], metric: str = "roc_auc") -> Product:
    content = json.loads(json.dumps(SHOP))
    del content["model"]["estimator"]
    content["model"]["estimators"] = list(estimators)
    content["evaluation"]["metric"] = metric
    return parse_product(content, "shop.yaml")


@pytest.fixture(scope="module")
def platform(small_days: None, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    session: Any = tasks_here.TasksHere()
    product = product_of({"class": DUMMY}, SEARCHED, FAILING)
    made = Platform(settings_in(tmp_path_factory.mktemp("candidates")), session, product)
    deliver_visits(made, ALL, rows=80)
    for step in ("ards", "mrds"):
        made.run(step, ALL)
    made.run("model", MONTHS)
    return made


def learned_from(platform: Platform, as_of: str) -> pd.DataFrame:
    """The rows that a model as of a date learned from."""
    first = platform.product.start
    return training_data.labelled(
        lambda: platform.spark,
        platform.product,
        platform.tables,
        days(str(first), str(platform.product.last_labelled_day(D(as_of)))),
        D(as_of),
        held_out=False,
        maximum_rows=10**6,
    ).collect()


def test_the_winner_of_each_month_is_that_of_scikit_learns_cross_validation(platform: Platform) -> None:
    models = ModelHistory(platform.tables, platform.product).models()
    assert [model.as_of for model in models] == MONTHS
    for model in models:
        assert model.selection is not None
        chosen = Selection.read(model.selection)
        frame = learned_from(platform, str(model.as_of))
        rows = frame.sort_values(["event_day", "customer"], ignore_index=True)
        # The folds as the documents tell them, made here another way.
        day = pd.to_datetime(rows["event_day"])
        length = (day.max() - day.min()).days + 1
        start = day.min() + pd.Timedelta(days=length * 4 // 5)
        hashed = pd.util.hash_pandas_object(rows[["customer"]], index=False)
        group = hashed.map({one: at for at, one in enumerate(sorted(set(hashed)))}).to_numpy() % 5
        is_scored, is_learned = day >= start, day < start - pd.Timedelta(days=1)
        features = rows[["spend", "pages", "channel"]]
        expected: dict[str, float] = {}
        for name, estimator in {
            "dummy": DummyClassifier(random_state=0),
            "logistic": LogisticRegression(random_state=1, **chosen.tried[1].values),
        }.items():
            numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
            pipeline = make_pipeline(
                ColumnTransformer([("n", numbers, ["spend", "pages"]), ("c", OneHotEncoder(), ["channel"])]),
                estimator,
            )
            scores = []
            for fold in range(5):
                kept = (is_learned & (group != fold)) | (is_scored & (group == fold))
                split = PredefinedSplit(np.where(is_scored[kept], 0, -1))
                (score,) = cross_val_score(
                    pipeline, features[kept], rows["bought"][kept], cv=split, scoring="roc_auc"
                )
                scores.append(score)
            expected[name] = float(np.mean(scores))
        assert chosen.folds == 5
        assert chosen.tried[0].score.mean == pytest.approx(expected["dummy"])
        assert chosen.tried[1].score.mean == pytest.approx(expected["logistic"])
        assert chosen.chosen == int(expected["logistic"] > expected["dummy"]) == 1


def test_the_search_finds_more_than_the_defaults_and_what_is_known_to_be_good(platform: Platform) -> None:
    for model in ModelHistory(platform.tables, platform.product).models():
        assert model.selection is not None
        chosen = Selection.read(model.selection)
        assert chosen.trials == [None, 6, None]
        assert chosen.tried[1].values["C"] > 1e-3
        assert "Expected n_neighbors" in chosen.tried[2].score.failure


def test_people_see_what_was_tried_and_why_the_winner_won(platform: Platform) -> None:
    import mlflow

    client = mlflow.MlflowClient(platform.settings.tracking_uri)
    for model in ModelHistory(platform.tables, platform.product).models():
        metadata = platform.ledger.latest("model")[model.as_of].details["metadata"]
        assert metadata["estimator"] == LOGISTIC
        assert "against 0.500 of DummyClassifier" in metadata["selection"]
        assert "left out is KNeighborsClassifier: ValueError" in metadata["selection"]
        assert metadata["search_trials"] == 6
        run = client.get_run(model.mlflow_run_id)
        assert run.data.params["estimator"] == LOGISTIC
        assert run.data.tags["selection"] == metadata["selection"]
        experiment = run.info.experiment_id

        def below(run_id: str, experiment: str = experiment) -> dict[str, Any]:
            found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
            return {one.info.run_name: one for one in found}

        candidates = below(model.mlflow_run_id)
        assert {name: one.data.tags["result"] for name, one in candidates.items()} == {
            "estimator 1 of 3: DummyClassifier": "not chosen",
            "estimator 2 of 3: LogisticRegression": "chosen",
            "estimator 3 of 3: KNeighborsClassifier": "failed",
        }
        searched = candidates["estimator 2 of 3: LogisticRegression"]
        trials = below(searched.info.run_id)
        assert set(trials) == {f"trial {number} of LogisticRegression" for number in range(1, 7)}
        scores = [trial.data.metrics["folds_roc_auc"] for trial in trials.values()]
        assert max(scores) == searched.data.metrics["folds_roc_auc"]
        assert all(1e-6 <= float(trial.data.params["C"]) <= 1 for trial in trials.values())
        assert {one.info.status for one in (*candidates.values(), *trials.values())} == {"FINISHED", "FAILED"}
        plots = {file.path for file in client.list_artifacts(searched.info.run_id, "plots")}
        assert plots == {"plots/trials.png"}


def test_a_replay_elsewhere_finds_the_same(platform: Platform, tmp_path: Path) -> None:
    again = Platform(settings_in(tmp_path / "again"), platform.spark, platform.product)
    deliver_visits(again, ALL, rows=80)
    for step in ("ards", "mrds"):
        again.run(step, ALL)
    again.run("model", MONTHS)
    before, after = (ModelHistory(one.tables, one.product).models() for one in (platform, again))
    assert [model.fingerprint for model in before] == [model.fingerprint for model in after]
    assert [model.selection for model in before] == [model.selection for model in after]
    for first, second in zip(before, after, strict=True):
        one, other = (
            Registry.of(each.settings).load(each.product, model.version, model.fingerprint).pipeline
            for each, model in ((platform, first), (again, second))
        )
        np.testing.assert_array_equal(one[-1].coef_, other[-1].coef_)


def test_a_registry_that_lost_its_models_gets_the_same_ones_without_another_search(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(platform.settings.home, home, copy_function=shutil.copy2)
    lost = Platform(
        settings_in(home, mlflow_tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"),
        platform.spark,
        platform.product,
    )
    forget_registry()

    def no_search(*_: Any, **__: Any) -> None:
        raise AssertionError("what was found is recorded")

    monkeypatch.setattr(search, "run", no_search)
    lost.run("model", MONTHS)
    before, after = (ModelHistory(one.tables, one.product).models() for one in (platform, lost))
    assert [model.mlflow_run_id for model in before] != [model.mlflow_run_id for model in after]
    assert [(model.fingerprint, model.selection) for model in before] == [
        (model.fingerprint, model.selection) for model in after
    ]
    assert {model.selection is None for model in after} == {False}
    # Nor is the record needed, as long as the registry is there.
    assert [Registry.of(lost.settings).tracking.selection(model.mlflow_run_id) for model in after] == [
        Selection.read(str(model.selection)) for model in after
    ]


def test_a_search_is_not_lost_when_its_model_could_not_be_logged(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    again = Platform(settings_in(tmp_path / "again"), platform.spark, platform.product)
    deliver_visits(again, ALL, rows=80)
    for step in ("ards", "mrds"):
        again.run(step, ALL)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("the server has no room")

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "log", fails)
        (result,) = again.run("model", MONTHS[0]).days
    assert (result.outcome, "no room" in result.reason) == ("refused", True)
    assert not ModelHistory(again.tables, again.product).models()

    def no_search(*_: Any, **__: Any) -> None:
        raise AssertionError("what was found is kept")

    monkeypatch.setattr(search, "run", no_search)
    assert again.run("model", MONTHS[0]).metadata["models_trained"] == 1
    before = ModelHistory(platform.tables, platform.product).models()[0]
    (after,) = ModelHistory(again.tables, again.product).models()
    assert (after.fingerprint, after.selection) == (before.fingerprint, before.selection)
    # All that was tried is in MLflow as if nothing had happened.
    client, names = mlflow.MlflowClient(again.settings.tracking_uri), set()
    for run in client.search_runs([client.get_experiment_by_name("shop").experiment_id]):
        names.add(run.info.run_name)
    assert {f"trial {number} of LogisticRegression" for number in range(1, 7)} <= names


def test_a_twin_makes_as_many_trials_as_its_challenger_whatever_the_clock_says(platform: Platform) -> None:
    content = json.loads(json.dumps(SHOP))
    content["model"]["estimator"] = {**SEARCHED, "search": {**SEARCHED["search"], "seconds": 1}}
    content["evaluation"]["metric"] = "roc_auc"
    product = parse_product(content, "shop.yaml")
    frame = learned_from(platform, "2024-02-01")
    ticks = iter(range(0, 10_000, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.time, "monotonic", lambda: float(next(ticks)))
        cut = train(product, frame, Choosing("time", seed=seed_of("0" * 32)))
        assert cut.selection is not None
        assert cut.selection.trials == [1]
        assert "ended by its 1 s after 1 of 6 trials" in cut.selection.reason
        whole = train(product, frame, Choosing("time", seed=seed_of("0" * 32), trials=[3]))
    assert whole.selection is not None
    assert whole.selection.trials == [3]
