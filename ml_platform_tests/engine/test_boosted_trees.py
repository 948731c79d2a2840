"""A product with LightGBM over three months, through every step, against LightGBM and scikit-learn."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from ml_platform.contract.windows import days_evaluated
from ml_platform.machine_learning import model_history, performance, retraining
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.machine_learning.registry import Registry
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, shop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow
pytest.importorskip("lightgbm")

ALL = days("2024-01-01", "2024-04-05")
MONTHS = [D("2024-02-01"), D("2024-03-01"), D("2024-04-01")]
SCORED = days("2024-02-01", "2024-04-05")
A_DAY = 120
#: From then on buyers come by another channel.
CHANGE = D("2024-03-01")


def delivered(day: date, number: int) -> pd.DataFrame:
    """A day's visits; the channel decides more than any linear order of channels could say."""
    rng = np.random.default_rng(number)
    channel = rng.choice(["web", "app", "other"], A_DAY)
    spend = np.where(rng.random(A_DAY) < 0.2, np.nan, rng.gamma(2, 10, A_DAY).round(2))
    wanted = ["app"] if day < CHANGE else ["web", "other"]
    score = np.isin(channel, wanted) * 2.0 + np.nan_to_num(spend, nan=45) / 20 + rng.normal(0, 0.5, A_DAY)
    return pd.DataFrame(
        {
            "visit": range(number * A_DAY, (number + 1) * A_DAY),
            "day": str(day),
            "customer": [f"c{customer}" for customer in rng.permutation(400)[:A_DAY]],
            "spend": spend,
            "pages": rng.integers(1, 9, A_DAY),
            "channel": channel,
            "bought": (score > 2.3).astype(int),
        }
    )


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Platform:
    estimator = {"class": "lightgbm.LGBMClassifier", "params": {"n_estimators": 20, "num_leaves": 8}}
    product = shop(model__estimator=estimator, drift={"minimum_rows": 100}, model__training_months=1)
    platform = Platform(settings_in(tmp_path_factory.mktemp("trees")), spark, product)
    for number, day in enumerate(ALL):
        platform.deliver(day, "visits.csv", delivered(day, number).to_csv(index=False))
    for step, chosen in (("ards", ALL), ("mrds", ALL), ("model", MONTHS)):
        platform.run(step, chosen)
    for step in ("predictions", "model_performance"):
        platform.run(step, SCORED)
    platform.run("drift_report", [D("2024-02-01"), D("2024-03-01")])
    return platform


def test_the_gate_promotes_the_first_model_and_the_one_that_has_learned_of_the_change(
    platform: Platform,
) -> None:
    decisions = {each.as_of: each for each in ModelHistory(platform.tables, platform.product).decisions()}
    assert list(decisions) == MONTHS
    assert [decisions[month].promoted for month in MONTHS] == [True, False, True]


def test_predictions_are_what_the_champion_says_in_lightgbms_own_words(platform: Platform) -> None:
    history = ModelHistory(platform.tables, platform.product)
    models = {model.fingerprint: model for model in history.models()}
    predictions = platform.rows("predictions", ["event_day", "customer"])
    features = platform.rows("mrds", ["event_day", "customer"])
    assert set(predictions["event_day"]) == set(SCORED)
    assert predictions["model_fingerprint"].nunique() == 2
    for fingerprint, scored in predictions.groupby("model_fingerprint"):
        model = models[str(fingerprint)]
        pipeline = (
            Registry.of(platform.settings).load(platform.product, model.version, model.fingerprint).pipeline
        )
        own = features.merge(scored[["customer", "event_day"]])
        booster = pipeline.named_steps["estimator"].booster_
        codes = own["channel"].map({"app": 0.0, "other": 1.0, "web": 2.0})
        said = booster.predict(np.column_stack([own["spend"].astype(float), own["pages"], codes]))
        np.testing.assert_allclose(scored["probability"], said, atol=1e-6)
        assert booster.model_to_string().count("num_cat=0") < booster.num_trees()


def test_evaluations_are_those_of_scikit_learn_and_fall_after_the_change(platform: Platform) -> None:
    labels = platform.rows("mrds")[["customer", "event_day", "bought"]]
    joined = (
        platform.rows("predictions").merge(labels, on=["customer", "event_day"]).dropna(subset=["bought"])
    )
    found = performance.evaluations(platform.tables, platform.product)
    values = {}
    for day in SCORED[5:]:
        row, window = found[day], days_evaluated(platform.product, day)
        inside = joined[joined["event_day"].between(window.first, window.last)]
        assert row["labelled"] == len(inside)
        assert row["value"] == pytest.approx(sk.f1_score(inside["bought"], inside["decision"]))
        assert row["lower"] < row["value"] < row["upper"]
        values[day] = row["value"]
    assert values[D("2024-02-28")] > 0.85
    assert values[D("2024-03-20")] < values[D("2024-02-28")] - 0.1


def test_drift_of_the_predictions_is_measured(platform: Platform) -> None:
    path = platform.settings.reports_path / "shop" / "drift_report" / "2024-03-01" / "report.json"
    (before, *_) = json.loads(path.read_text())["comparisons"]
    columns = {column["column"]: column for column in before["columns"]}
    assert columns["channel"]["verdict"] == "stable"
    assert columns["predicted probability"]["score"] >= 0


def test_models_that_are_trained_again_are_the_same_and_score_the_same(platform: Platform) -> None:
    history = ModelHistory(platform.tables, platform.product)
    before = {model.as_of: model.fingerprint for model in history.models()}
    tables = platform.fingerprints("predictions", "model_performance")
    platform.run("model", MONTHS, force=True)
    assert {model.as_of: model.fingerprint for model in history.models()} == before
    for day in (SCORED[3], SCORED[40]):
        platform.run("predictions", day, rescore=True, force=True)
        platform.run("model_performance", day, force=True)
    assert platform.fingerprints("predictions", "model_performance") == tables


def test_all_is_up_to_date_when_it_is_asked_for_again(platform: Platform) -> None:
    for step, chosen in (("model", MONTHS), ("predictions", SCORED[-9:]), ("model_performance", SCORED[-9:])):
        assert all(day.up_to_date for day in platform.run(step, chosen).days)


def test_days_scored_one_by_one_are_those_scored_together(platform: Platform) -> None:
    before = platform.fingerprints("predictions")
    for day in (SCORED[1], SCORED[1] + timedelta(days=30)):
        platform.run("predictions", day, rescore=True, force=True)
    assert platform.fingerprints("predictions") == before


def test_a_failed_evaluation_asks_for_a_retrain_which_learns_of_the_change(platform: Platform) -> None:
    tables, product = platform.tables, platform.product
    found = performance.evaluations(tables, product)
    below = [day for day in SCORED if day in found and found[day]["verdict"] == "failed"]
    assert below, "the change costs more than the threshold allows"
    assert CHANGE < below[0] < MONTHS[-1]

    def decided_on(day: date) -> retraining.RetrainDecision:
        known = [each for each in model_history.attempts(tables, product) if each.as_of <= day]
        newest = days(str(day - timedelta(days=2)), str(day))
        return retraining.decide(product, performance.performance_row(found[day]), known, newest)

    assert "the cooldown of 7 days after the training as of 2024-03-01" in decided_on(below[0]).reason
    asked = next(decision for day in below if (decision := decided_on(day)).act)
    assert (asked.month, asked.as_of) == (CHANGE, CHANGE + timedelta(days=7))
    platform.run("model", asked.month, as_of=asked.as_of)
    (model,) = [each for each in ModelHistory(tables, product).models() if each.as_of == asked.as_of]
    assert model.kind == "retrain"
    assert model.last_day < asked.as_of
    loaded = Registry.of(platform.settings).load(product, model.version, model.fingerprint).pipeline
    assert type(loaded.named_steps["estimator"]).__module__.startswith("lightgbm")
    decisions = {each.as_of: each for each in ModelHistory(tables, product).decisions()}
    comparison = decisions[asked.as_of].comparison
    assert comparison is not None
    assert comparison.challenger is not None
    assert comparison.champion is not None
    assert decisions[asked.as_of].promoted == (comparison.lower is not None and comparison.lower > 0)
    assert comparison.challenger > comparison.champion, "it has seen days after the change"
