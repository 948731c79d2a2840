"""A number as the label, on real data: how many minutes late do flights from New York arrive?

Several months go through every step; what comes out is held against scikit-learn's and pandas' own figures.
"""

from __future__ import annotations

import copy
import json
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn import metrics as sk

from ml_platform.contract.loading import parse_product
from ml_platform.contract.windows import days_evaluated
from ml_platform.engine import evolution
from ml_platform.engine.step import PermanentError
from ml_platform.machine_learning import performance
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.machine_learning.registry import Registry
from ml_platform.machine_learning.training_data import HELD_OUT
from ml_platform.samples import flights
from ml_platform.settings import PACKAGE
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow

ALL = days("2013-01-01", "2013-03-10")
MONTHS = [D("2013-02-01"), D("2013-03-01")]
SCORED = days("2013-02-01", "2013-03-10")
#: Drift of a month is known when the labels of its last days are.
DRIFT = [D("2013-02-01")]
COLUMNS = [
    "date",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "hour",
    "sched_dep_time",
    "distance",
    "dep_delay",
]


def contract(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((PACKAGE / "products" / "flights.yaml").read_text())
    content |= {
        "name": "delays",
        "description": "How many minutes late does an aircraft's last flight arrive?",
    }
    source = content["source"]
    source["label"] = "arr_delay"
    del source["columns"]["late"], source["columns"]["dest"]
    source["columns"]["arr_delay"] = {"type": "double", "nullable": True, "description": "minutes"}
    rules = content["mrds"]["aggregate"]
    del rules["late"]
    rules |= {"dep_delay": "last", "arr_delay": "last"}
    content["model"] |= {
        "estimator": {"class": "sklearn.linear_model.Ridge", "params": {"alpha": 1.0}},
        "interval": 0.9,
        "holdout": "entities",
        "training_months": 2,
    }
    content["evaluation"] = {"metric": "rmse", "threshold": 17.5, "window_days": 14, "minimum_rows": 1000}
    for section, values in changes.items():
        content[section] |= values
    return content


@pytest.fixture(scope="module")
def delivered() -> pd.DataFrame:
    year = pd.read_csv(flights._source(), low_memory=False)
    year["date"] = pd.to_datetime(year[["year", "month", "day"]]).dt.date
    return year[year["date"].isin(ALL)][[*COLUMNS, "arr_delay"]]


@pytest.fixture(scope="module")
def platform(
    tmp_path_factory: pytest.TempPathFactory, spark: SparkSession, delivered: pd.DataFrame
) -> Platform:
    platform = Platform(
        settings_in(tmp_path_factory.mktemp("delays")), spark, parse_product(contract(), "delays.yaml")
    )
    for day, rows in delivered.groupby("date"):
        text = rows.to_csv(index=False, float_format="%.0f")
        platform.deliver(str(day), "flights.csv", text)
    for step in ("ards", "mrds", "online_features"):
        platform.run(step, ALL)
    for month in MONTHS:
        platform.run("model", [month])
    platform.run("predictions", SCORED)
    platform.run("model_performance", SCORED)
    platform.run("drift_report", DRIFT)
    return platform


@pytest.fixture(scope="module")
def mrds(delivered: pd.DataFrame) -> pd.DataFrame:
    """The model-ready rows, by pandas from the source."""
    rows = delivered.dropna(subset=["tailnum"]).drop_duplicates(["date", "carrier", "flight", "origin"])
    rows = rows.sort_values(["date", "tailnum", "sched_dep_time", "carrier", "flight", "origin"])
    last = rows.groupby(["date", "tailnum"], as_index=False).nth(-1)
    shortest = rows.groupby(["date", "tailnum"])["distance"].min().rename("shortest")
    joined = last.join(shortest, on=["date", "tailnum"]).drop(columns="distance")
    return joined.rename(columns={"shortest": "distance", "date": "event_day"})


def test_the_rows_are_those_of_pandas_with_labels_as_numbers(platform: Platform, mrds: pd.DataFrame) -> None:
    found = platform.rows("mrds", ["event_day", "tailnum"])
    expected = mrds.sort_values(["event_day", "tailnum"])
    assert len(found) == len(expected) > 35_000
    np.testing.assert_array_equal(found["arr_delay"].to_numpy(), expected["arr_delay"].to_numpy())
    for day, record in platform.ledger.latest("mrds").items():
        of_day = mrds[mrds["event_day"] == day]
        assert record.counts == {"rows": len(of_day), "labelled": int(of_day["arr_delay"].notna().sum())}


def test_predictions_are_what_the_serving_model_says_and_hold_an_interval(platform: Platform) -> None:
    product, history = platform.product, ModelHistory(platform.tables, platform.product)
    models = {model.fingerprint: model for model in history.models()}
    served = {decision.as_of for decision in history.decisions() if decision.promoted}
    assert D("2013-02-01") in served
    predictions = platform.rows("predictions", ["event_day", "tailnum"])
    features = platform.rows("mrds", ["event_day", "tailnum"])
    assert set(predictions["event_day"]) == set(SCORED)
    for fingerprint, rows in predictions.groupby("model_fingerprint"):
        model = models[str(fingerprint)]
        assert model.threshold is None
        pipeline = Registry.of(platform.settings).load(product, model.version, model.fingerprint).pipeline
        own = features.merge(rows[["tailnum", "event_day"]]).astype({"dep_delay": float, "hour": float})
        expected = pipeline.predict(own[[*product.model.features.all]])
        np.testing.assert_allclose(rows["prediction"], expected, rtol=1e-8)
        widths = (rows["upper"] - rows["lower"]) / 2
        np.testing.assert_allclose(widths, pipeline.label_facts_["half_width"], rtol=1e-6)
    assert "probability" not in predictions


def test_evaluations_are_those_of_scikit_learn(platform: Platform) -> None:
    rules = platform.product.evaluation
    predictions = platform.rows("predictions")
    labels = platform.rows("mrds")[["tailnum", "event_day", "arr_delay"]]
    joined = predictions.merge(labels, on=["tailnum", "event_day"]).dropna(subset=["arr_delay"])
    found = performance.evaluations(platform.tables, platform.product)
    assert {row["verdict"] for row in found.values()} >= {"insufficient", "passed"}
    for day, row in found.items():
        window = days_evaluated(platform.product, day)
        inside = joined[joined["event_day"].between(window.first, window.last)]
        assert row["labelled"] == len(inside)
        assert row["positives"] == row["champion_positives"] == 0
        if not len(inside):
            continue
        label, value = inside["arr_delay"], inside["prediction"]
        figures = json.loads(row["figures"])
        rmse = sk.root_mean_squared_error(label, value)
        assert row["value"] == pytest.approx(rmse)
        assert figures["rmse"] == pytest.approx(rmse)
        assert figures["mae"] == pytest.approx(sk.mean_absolute_error(label, value))
        assert figures["r2"] == pytest.approx(sk.r2_score(label, value))
        assert figures["median_absolute_error"] == pytest.approx(sk.median_absolute_error(label, value))
        assert "mape" not in figures  # some flights are on time to the minute
        assert figures["interval_coverage"] == pytest.approx(
            label.between(inside["lower"], inside["upper"]).mean()
        )
        assert 0.8 < figures["interval_coverage"] < 0.97
        assert row["baseline"] == pytest.approx(label.std(ddof=0))  # of the mean, in hindsight
        enough = len(inside) >= rules.minimum_rows
        expected = ("passed" if rmse <= rules.threshold else "failed") if enough else "insufficient"
        assert row["verdict"] == expected


def test_what_people_see_of_an_evaluation_is_of_numbers_alone(platform: Platform) -> None:
    result = platform.run("model_performance", [SCORED[-1]]).days[0]
    (check,) = result.checks
    assert "positives" not in {*result.metadata, *check.metadata}
    assert {"rmse", "mae", "r2", "interval_coverage"} <= set(result.metadata)
    assert check.description.startswith("rmse ")
    side = "at most" if check.passed else "above"
    assert f" is {side} the threshold 17.5 over " in check.description


def test_the_first_model_has_beaten_its_baselines_on_held_out_aircraft(
    platform: Platform, mrds: pd.DataFrame
) -> None:
    first, second = ModelHistory(platform.tables, platform.product).decisions()
    comparison = first.comparison
    assert comparison is not None
    assert first.promoted
    assert set(comparison.baselines) == {"training_mean", "training_median", "last_known_value"}
    assert comparison.challenger is not None
    assert all(comparison.challenger < (value or 0) for value in comparison.baselines.values())
    assert "rmse" in first.reason
    assert "baseline: better by" in first.reason
    labelled = mrds.dropna(subset=["arr_delay"])
    # Of the days whose labels are known on the first of February, about a tenth of the aircraft.
    known = labelled[labelled["event_day"] <= D("2013-01-30")]
    assert comparison.rows == pytest.approx(len(known) / HELD_OUT, rel=0.15)
    later = second.comparison
    assert later is not None
    assert second.champion_before == first.fingerprint
    assert later.lower is not None
    assert second.promoted == (later.lower > 0)


def test_drift_of_delays_is_the_population_stability_index_of_ten_bins(platform: Platform) -> None:
    """By its definition: bins by deciles of the reference, and the sum of (p - q) ln(p / q)."""
    path = platform.settings.reports_path / "delays" / "drift_report" / "2013-02-01" / "report.json"
    against_january = json.loads(path.read_text())["comparisons"][0]
    columns = {column["column"]: column for column in against_january["columns"]}
    assert columns["arr_delay"]["kind"] == columns["prediction"]["kind"] == "quantiles"
    ards = platform.rows("ards").dropna(subset=["arr_delay"])
    day = pd.to_datetime(ards["event_day"])
    before, now = (ards.loc[day.dt.month == month, "arr_delay"].to_numpy() for month in (1, 2))
    edges = np.unique(np.quantile(before, np.arange(1, 10) / 10))
    p, q = (
        np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) / len(values)
        for values in (now, before)
    )
    expected = np.sum((p - q) * np.log(p / q))
    assert columns["arr_delay"]["score"] == pytest.approx(expected, abs=1e-3)
    assert columns["arr_delay"]["range_now"]


def test_all_is_up_to_date_when_it_is_asked_for_again(platform: Platform) -> None:
    before = platform.fingerprints("ards", "mrds", "predictions", "model_performance")
    for step, chosen in (
        ("ards", ALL),
        ("mrds", ALL),
        ("predictions", SCORED),
        ("model_performance", SCORED),
    ):
        assert all(day.up_to_date for day in platform.run(step, chosen).days)
    assert platform.fingerprints("ards", "mrds", "predictions", "model_performance") == before


@pytest.mark.parametrize("change", ["type", "task"])
def test_another_kind_of_label_is_refused_before_anything_is_written(platform: Platform, change: str) -> None:
    content = copy.deepcopy(contract())
    if change == "type":
        content["source"]["columns"]["arr_delay"]["type"] = "long"
        content["model"]["task"] = "regression"
        named = "source.columns.arr_delay.type"
    else:
        content["source"]["columns"]["arr_delay"] |= {"type": "integer", "allowed": [0, 1]}
        content["model"]["estimator"] = {"class": "sklearn.linear_model.LogisticRegression"}
        del content["model"]["interval"]
        content["evaluation"] |= {"metric": "f1", "threshold": 0.5}
        named = "model.task was regression, and is binary now"
    other = Platform(platform.settings, platform.spark, parse_product(content, "delays.yaml"))
    files = sorted(path for path in platform.settings.home.rglob("*") if path.is_file())

    for step, day in (("ards", ALL[-1] + timedelta(days=1)), ("mrds", ALL[0]), ("model", MONTHS[0])):
        with pytest.raises(PermanentError, match=named) as caught:
            other.run(step, [day])
        assert "Give the product another name" in str(caught.value)

    assert sorted(path for path in platform.settings.home.rglob("*") if path.is_file()) == files
    assert evolution.change_of_label(other.tables, other.product)
    assert evolution.change_of_label(platform.tables, platform.product) is None
    content["name"] = "other_delays"
    assert evolution.change_of_label(other.tables, parse_product(content, "other.yaml")) is None


def test_a_stricter_threshold_evaluates_again_and_asks_for_a_retrain(platform: Platform) -> None:
    from ml_platform.machine_learning.retraining import decide

    strict = parse_product(contract(evaluation={"threshold": 1.0}), "delays.yaml")
    other = Platform(platform.settings, platform.spark, strict)
    day: date = SCORED[-1]
    (check,) = other.run("model_performance", [day]).days[0].checks
    assert not check.passed
    row = performance.performance_row(performance.evaluations(other.tables, strict)[day])
    decision = decide(strict, row, [], [day])
    assert decision.act
    assert "is above 1 (" in decision.reason
    platform.run("model_performance", [day])
