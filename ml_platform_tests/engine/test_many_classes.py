"""A product whose label is one of many classes, through every step, against scikit-learn's own figures."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from ml_platform.contract.windows import days_evaluated
from ml_platform.machine_learning import performance
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.machine_learning.registry import Registry
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.machine_learning.test_multiclass import CLASS, rows
from ml_platform_tests.small_platform import D, Platform, days, shop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow

ALL = days("2024-01-01", "2024-03-02")
SCORED = days("2024-02-01", "2024-03-02")
A_DAY = 120
UNKNOWN = "gold"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Platform:
    # Of the training data only held-out entities' predictions count, a few hundred.
    product = shop(**CLASS, drift={"minimum_rows": 100})
    platform = Platform(settings_in(tmp_path_factory.mktemp("classes")), spark, product)
    for number, day in enumerate(ALL):
        made = rows(A_DAY, seed=number).assign(
            day=str(day), visit=range(number * A_DAY, (number + 1) * A_DAY), bought=""
        )
        made.loc[0, "paid"] = UNKNOWN
        chosen = made[["visit", "day", "customer", "spend", "pages", "channel", "bought", "paid"]]
        platform.deliver(day, "visits.csv", chosen.to_csv(index=False))
    for step, chosen_days in (("ards", ALL), ("mrds", ALL), ("model", [D("2024-02-01"), D("2024-03-01")])):
        platform.run(step, chosen_days)
    for step in ("predictions", "model_performance"):
        platform.run(step, SCORED)
    platform.run("drift_report", [D("2024-02-01")])
    return platform


def test_a_class_that_is_not_allowed_is_quarantined(platform: Platform) -> None:
    quarantined = platform.rows("quarantine")
    assert len(quarantined) == len(ALL)
    assert quarantined["reason"].str.contains("value not allowed in paid").all()
    assert UNKNOWN not in set(platform.rows("ards")["paid"])
    assert "positives" not in platform.ledger.latest("mrds")[ALL[0]].counts


def test_a_class_without_training_rows_is_in_the_metadata_of_the_model(platform: Platform) -> None:
    for record in platform.ledger.latest("model").values():
        assert record.outcome == "written"
        assert record.details["metadata"]["remark"] == "no training rows of never seen"
        assert "decision_threshold" not in record.details["metadata"]


def test_predictions_are_what_the_promoted_model_says(platform: Platform) -> None:
    history = ModelHistory(platform.tables, platform.product)
    first = history.decisions()[0]
    assert first.promoted
    assert first.comparison is not None
    assert set(first.comparison.baselines) == {"majority_class", "last_known_class"}
    models = {model.fingerprint: model for model in history.models()}
    predictions = platform.rows("predictions", ["event_day", "customer"])
    features = platform.rows("mrds", ["event_day", "customer"])
    assert set(predictions["event_day"]) == set(SCORED)
    for fingerprint, scored in predictions.groupby("model_fingerprint"):
        model = models[str(fingerprint)]
        registry = Registry.of(platform.settings)
        pipeline = registry.load(platform.product, model.version, model.fingerprint).pipeline
        own = features.merge(scored[["customer", "event_day"]]).astype({"pages": float})
        said = pipeline.predict_proba(own[["spend", "pages", "channel"]]).round(6)
        assert list(scored["prediction"]) == list(pipeline.classes_[np.argmax(said, axis=1)])
        np.testing.assert_allclose(scored["probability"], said.max(axis=1), atol=1e-6)
        assert json.loads(scored["probabilities"].iloc[0])["never seen"] == 0


def test_evaluations_are_those_of_scikit_learn(platform: Platform) -> None:
    labels = platform.rows("mrds")[["customer", "event_day", "paid"]]
    joined = platform.rows("predictions").merge(labels, on=["customer", "event_day"]).dropna(subset=["paid"])
    found = performance.evaluations(platform.tables, platform.product)
    for day in SCORED[5:]:
        row, window = found[day], days_evaluated(platform.product, day)
        inside = joined[joined["event_day"].between(window.first, window.last)]
        label, said = inside["paid"], inside["prediction"]
        figures = json.loads(row["figures"])
        assert row["labelled"] == len(inside)
        assert row["value"] == pytest.approx(sk.f1_score(label, said, average="macro"))
        assert figures["accuracy"] == pytest.approx(sk.accuracy_score(label, said))
        assert figures["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(label, said))
        assert row["lower"] < row["value"] < row["upper"]
        majority = [label.mode()[0]] * len(label)
        assert row["baseline"] == pytest.approx(sk.f1_score(label, majority, average="macro"))


def test_drift_of_classes_is_measured_by_class(platform: Platform) -> None:
    path = platform.settings.reports_path / "shop" / "drift_report" / "2024-02-01" / "report.json"
    for comparison in json.loads(path.read_text())["comparisons"]:
        columns = {column["column"]: column for column in comparison["columns"]}
        assert columns["paid"]["kind"] == "categorical"
        assert columns["paid"]["verdict"] == "stable"
    against_training = {column["column"]: column for column in comparison["columns"]}
    assert against_training["predicted class"]["verdict"] == "stable"


def test_all_is_up_to_date_when_it_is_asked_for_again(platform: Platform) -> None:
    for step, chosen in (("mrds", ALL), ("predictions", SCORED), ("model_performance", SCORED)):
        assert all(day.up_to_date for day in platform.run(step, chosen).days)


def test_days_scored_one_by_one_are_those_scored_together(platform: Platform) -> None:
    before = platform.fingerprints("predictions", "model_performance")
    for day in (SCORED[3], SCORED[3] + timedelta(days=9)):
        platform.run("predictions", day, rescore=True, force=True)
        platform.run("model_performance", day, force=True)
    assert platform.fingerprints("predictions", "model_performance") == before
    assert pd.notna(before["predictions", SCORED[3]])
