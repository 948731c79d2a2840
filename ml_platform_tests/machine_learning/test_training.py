import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from threadpoolctl import threadpool_info, threadpool_limits

from ml_platform import products as products_package
from ml_platform.contract.loading import load_product
from ml_platform.contract.product import Product
from ml_platform.machine_learning import training
from ml_platform.machine_learning.binary import best_threshold, probabilities
from ml_platform.machine_learning.pipeline import TrainingError, build_pipeline, feature_frame
from ml_platform.machine_learning.training import train

FLIGHTS = load_product(Path(products_package.__path__[0]) / "flights.yaml")
LOGISTIC = "sklearn.linear_model.LogisticRegression"


def contract(class_=LOGISTIC, params=None, metric="f1", **model) -> Product:
    """Flights with another estimator, metric or other settings of the model."""
    estimator = FLIGHTS.model.estimator.model_validate({"class": class_, "params": params or {}})
    return FLIGHTS.model_copy(
        update={
            "model": FLIGHTS.model.model_copy(update={"estimator": estimator, **model}),
            "evaluation": FLIGHTS.evaluation.model_copy(update={"metric": metric}),
        }
    )


def labelled_rows(aircraft=60, days=20, seed=0) -> pd.DataFrame:
    """One row per aircraft and day, with nulls, as Arrow gives them; late mostly after a late departure."""
    rng = np.random.default_rng(seed)
    rows = aircraft * days
    delay = rng.exponential(20, rows) - 10
    return pd.DataFrame(
        {
            "tailnum": np.tile([f"N{number}" for number in range(aircraft)], days).astype(object),
            "event_day": np.repeat([date(2013, 1, 1) + timedelta(days=n) for n in range(days)], aircraft),
            "dep_delay": np.where(rng.random(rows) < 0.03, np.nan, delay),
            "hour": rng.integers(5, 23, rows).astype("int32"),
            "distance": rng.uniform(100, 4000, rows),
            "carrier": rng.choice(np.array(["UA", "AA", "DL", None], dtype=object), rows),
            "origin": rng.choice(np.array(["EWR", "JFK", "LGA"], dtype=object), rows),
            "late": (delay + rng.normal(0, 10, rows) > 15).astype("int32"),
        }
    )


def one_row(**values) -> pd.DataFrame:
    row = {"dep_delay": 10.0, "hour": 12, "distance": 500.0, "carrier": "UA", "origin": "JFK"} | values
    return pd.DataFrame([row])


# -- threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("small", "threads"), [(100_000, 1), (0, 2)])
def test_a_fit_on_little_data_takes_one_thread_and_one_on_more_all(monkeypatch, small, threads):
    """Threads that wait for each other at every node of small trees take many times longer."""
    monkeypatch.setattr(training, "SMALL_CELLS", small)
    found, fit = set(), HistGradientBoostingClassifier.fit

    def recorded(self, *arguments, **named):
        found.update(each["num_threads"] for each in threadpool_info() if each["user_api"] == "openmp")
        return fit(self, *arguments, **named)

    monkeypatch.setattr(HistGradientBoostingClassifier, "fit", recorded)
    with threadpool_limits(limits=2, user_api="openmp"):
        train(contract("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 2}), labelled_rows())
        after = {each["num_threads"] for each in threadpool_info() if each["user_api"] == "openmp"}
    assert found == {threads}
    assert after == {2}


# -- the same model from the same rows -------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_", "params"),
    [
        (LOGISTIC, {}),
        ("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 5}),
        ("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 5, "early_stopping": True}),
    ],
)
def test_the_order_of_the_rows_changes_nothing(class_, params):
    product, rows = contract(class_, params), labelled_rows()
    first = train(product, rows)
    again = train(product, rows.sample(frac=1, random_state=3))
    assert first.threshold == again.threshold
    np.testing.assert_array_equal(
        probabilities(first.pipeline, product, rows), probabilities(again.pipeline, product, rows)
    )


def test_a_trained_model_says_what_it_has_learnt_from():
    rows = labelled_rows(aircraft=30, days=10)
    model = train(FLIGHTS, rows)
    assert (model.rows, model.positives, model.days) == (300, rows["late"].sum(), 10)
    assert (model.first_day, model.last_day) == (date(2013, 1, 1), date(2013, 1, 10))
    assert list(model.example.columns) == ["dep_delay", "hour", "distance", "carrier", "origin"]


@pytest.mark.parametrize(
    ("class_", "params"),
    [
        (LOGISTIC, {}),
        ("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 5}),
        ("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 5}),
        ("sklearn.neighbors.KNeighborsClassifier", {}),
    ],
)
def test_a_pipeline_survives_skops_with_equal_predictions(class_, params):
    product, rows = contract(class_, params), labelled_rows(days=5)
    pipeline = train(product, rows).pipeline
    written = skops.io.dumps(pipeline)
    read = skops.io.loads(written, trusted=skops.io.get_untrusted_types(data=written))
    np.testing.assert_array_equal(probabilities(pipeline, product, rows), probabilities(read, product, rows))


# -- what a batch may hold -------------------------------------------------------------------------


def test_an_unknown_category_counts_as_none():
    model = train(FLIGHTS, labelled_rows())
    scored = probabilities(model.pipeline, FLIGHTS, one_row(carrier="new", origin="new"))

    estimator, extraction = model.pipeline.named_steps["estimator"], model.pipeline.named_steps["features"]
    scaler = extraction.named_transformers_["numeric"].named_steps["scale"]
    scaled = (np.array([10.0, 12, 500]) - scaler.mean_) / scaler.scale_
    logit = estimator.intercept_[0] + scaled @ estimator.coef_[0][:3]
    assert scored == pytest.approx([1 / (1 + np.exp(-logit))])


@pytest.mark.parametrize("missing", [np.nan, None, np.inf, -np.inf])
def test_a_missing_or_infinite_number_counts_as_the_median(missing):
    rows = labelled_rows()
    model = train(FLIGHTS, rows)
    scored = probabilities(model.pipeline, FLIGHTS, one_row(dep_delay=missing))
    median = one_row(dep_delay=rows["dep_delay"].median())
    assert scored == pytest.approx(probabilities(model.pipeline, FLIGHTS, median))


@pytest.mark.parametrize("missing", [np.nan, pd.NA, pd.NaT])
def test_every_kind_of_missing_category_is_the_same(missing):
    model = train(FLIGHTS, labelled_rows())
    expected = probabilities(model.pipeline, FLIGHTS, one_row(carrier=None))
    np.testing.assert_array_equal(probabilities(model.pipeline, FLIGHTS, one_row(carrier=missing)), expected)
    assert expected != probabilities(model.pipeline, FLIGHTS, one_row(carrier="never seen"))


def test_a_batch_without_a_single_value_is_scored():
    model = train(FLIGHTS, labelled_rows())
    empty = one_row(dep_delay=None, hour=None, distance=None, carrier=None, origin=None)
    scored = probabilities(model.pipeline, FLIGHTS, empty)
    assert 0 < scored[0] < 1


def test_a_batch_without_rows_has_no_probabilities():
    model = train(FLIGHTS, labelled_rows())
    assert probabilities(model.pipeline, FLIGHTS, labelled_rows().head(0)).shape == (0,)


def test_features_without_a_value_in_training_are_no_error():
    rows = labelled_rows().assign(distance=np.nan, carrier=None)
    model = train(FLIGHTS, rows)
    assert np.isfinite(probabilities(model.pipeline, FLIGHTS, one_row())).all()


@pytest.mark.parametrize(
    "hours", [[5, 7], np.array([5.0, 7.0]), pd.array([5, 7], dtype="Int32"), np.array([5, 7], dtype=object)]
)
def test_a_whole_number_as_category_is_the_same_in_every_batch(hours):
    features = FLIGHTS.model.features.model_copy(update={"numeric": (), "categorical": ("hour",)})
    frame = feature_frame(contract(features=features), pd.DataFrame({"hour": hours}))
    assert frame["hour"].tolist() == ["5", "7"]


def test_whole_numbers_with_a_null_are_categories_too():
    features = FLIGHTS.model.features.model_copy(update={"numeric": (), "categorical": ("hour",)})
    frame = feature_frame(contract(features=features), pd.DataFrame({"hour": [5.0, np.nan]}))
    assert frame["hour"].tolist() == ["5", None]


def test_numbers_of_any_type_become_floats():
    frame = pd.concat([one_row(), one_row(hour=None)], ignore_index=True)
    frame["hour"] = frame["hour"].astype("Int64")
    hours = feature_frame(FLIGHTS, frame)["hour"]
    assert hours.dtype == np.float64
    np.testing.assert_array_equal(hours, [12.0, np.nan])


# -- the threshold ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "function"),
    [
        ("f1", f1_score),
        ("accuracy", accuracy_score),
        ("balanced_accuracy", balanced_accuracy_score),
        ("roc_auc", f1_score),
        ("precision", f1_score),
    ],
)
def test_the_best_threshold_is_the_one_an_exhaustive_search_finds(metric, function):
    rng = np.random.default_rng(5)
    label = (rng.random(300) < 0.3).astype(np.int64)
    scores = np.round(0.3 * label + rng.random(300) * 0.7, 2)  # with ties
    searched = max(np.unique(scores), key=lambda threshold: (function(label, scores >= threshold), threshold))
    assert best_threshold(metric, label, scores) == searched


def test_a_fixed_threshold_is_kept():
    assert train(contract(decision_threshold=0.25), labelled_rows()).threshold == 0.25


def test_the_threshold_is_chosen_on_entities_the_scoring_model_has_not_seen():
    # One nearest neighbour remembers every aircraft's label, which is chance and the same each day: on
    # rows of known aircraft 1.0 is the best threshold, on others nothing beats calling all late.
    rng = np.random.default_rng(1)
    rows = labelled_rows(aircraft=200, days=5)
    rows["distance"] = np.tile(rng.uniform(100, 4000, 200), 5)
    rows["late"] = np.tile((rng.random(200) < 0.3).astype("int32"), 5)
    features = FLIGHTS.model.features.model_copy(update={"numeric": ("distance",), "categorical": ()})
    product = contract("sklearn.neighbors.KNeighborsClassifier", {"n_neighbors": 1}, features=features)
    model = train(product, rows)
    assert f1_score(rows["late"], probabilities(model.pipeline, product, rows) >= 0.5) == 1
    assert model.threshold == 0


def test_a_single_entity_still_gets_a_threshold():
    model = train(FLIGHTS, labelled_rows(aircraft=1, days=200))
    assert 0 < model.threshold < 1


# -- too little to learn from ----------------------------------------------------------------------


def test_too_few_rows_are_counted():
    rows = labelled_rows(aircraft=10, days=6).assign(late=[0, 1] * 30)
    with pytest.raises(TrainingError) as error:
        train(FLIGHTS, rows)
    assert str(error.value) == (
        "too little to learn from: found 60 labelled rows (on 6 labelled days), 30 positive and 30 negative; "
        "needed are 100 rows (model.minimum_rows) with 10 of either class (model.minimum_positives)"
    )


@pytest.mark.parametrize(("label", "found"), [(0, "0 positive and 1,200 negative"), (1, "1,200 positive")])
def test_one_class_only_is_refused(label, found):
    with pytest.raises(TrainingError, match=found):
        train(FLIGHTS, labelled_rows().assign(late=label))


def test_too_few_positives_are_counted():
    rows = labelled_rows().assign(late=0)
    rows.loc[:8, "late"] = 1
    with pytest.raises(TrainingError, match=r"9 positive and 1,191 negative.* 10 of either class"):
        train(FLIGHTS, rows)


def test_no_labelled_days_are_named():
    with pytest.raises(TrainingError, match=r"0 labelled rows \(no labelled days\)"):
        train(FLIGHTS, labelled_rows().head(0))


# -- the module ------------------------------------------------------------------------------------


def test_the_pipeline_holds_the_contracts_estimator_and_a_seed():
    estimator = build_pipeline(contract(params={"C": 0.5})).named_steps["estimator"]
    assert (estimator.C, estimator.random_state) == (0.5, 0)


def test_importing_training_and_registry_is_cheap():
    code = (
        "import sys; from ml_platform.machine_learning import registry, training; "
        "print({'sklearn', 'mlflow', 'matplotlib', 'skops', 'dagster', 'pyspark'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
