"""Estimators of scikit-learn learn made-up rows when a contract is read: what can't is refused there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_platform.contract.loading import ContractError
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.model_files import read_pipeline, skops_io
from ml_platform.machine_learning.training import train
from ml_platform_tests.contract.test_kinds import NUMBER
from ml_platform_tests.machine_learning.test_boosting import rows
from ml_platform_tests.machine_learning.test_multiclass import CLASS
from ml_platform_tests.small_platform import shop

LOGISTIC = "sklearn.linear_model.LogisticRegression"
KINDS: dict[str, dict[str, Any]] = {"binary": {}, "regression": NUMBER, "multiclass": CLASS}
#: What a class learns from, where not from all features of the small product.
ONE_COLUMN = {"sklearn.isotonic.IsotonicRegression": {"model__features": {"numeric": ["spend"]}}}


@pytest.mark.parametrize(
    ("kind", "estimator", "expected"),
    [
        ("binary", {"class": LOGISTIC, "params": {"C": -1}}, "model.estimator.params: .*'C' parameter"),
        ("binary", {"class": LOGISTIC, "params": {"solver": "none"}}, "'solver' parameter"),
        ("binary", {"class": LOGISTIC, "params": {"penalty": "l1", "solver": "lbfgs"}}, "can't learn"),
        ("binary", {"class": LOGISTIC, "params": {"class_weight": {7: 2}}}, "not in class_weight"),
        ("binary", {"class": "sklearn.naive_bayes.MultinomialNB"}, "Negative values"),
        ("binary", {"class": "sklearn.mixture.GaussianMixture"}, "classes_"),
        ("binary", {"class": "sklearn.neighbors.RadiusNeighborsClassifier"}, "No neighbors found"),
        ("regression", {"class": "sklearn.neighbors.RadiusNeighborsRegressor"}, "what is no number"),
        ("regression", {"class": "sklearn.isotonic.IsotonicRegression"}, "for rows far from those"),
        ("regression", {"class": "sklearn.cross_decomposition.CCA"}, "n_components"),
        ("multiclass", {"class": "sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis"}, "rank"),
        (
            "binary",
            {"class": "sklearn.calibration.CalibratedClassifierCV", "params": {"estimator": {"C": 1}}},
            "can't learn with them: .*__sklearn_tags__",
        ),
        (
            "binary",
            {
                "class": "sklearn.ensemble.HistGradientBoostingClassifier",
                "params": {"monotonic_cst": [1, 0, 0]},
            },
            "monotonic_cst and categorical: it tells columns by their places",
        ),
        (
            "binary",
            {
                "class": "sklearn.ensemble.HistGradientBoostingClassifier",
                "params": {"monotonic_cst": {"spend": 1}},
                "categorical": "native",
            },
            "Pass monotonic_cst as an integer array",
        ),
        (
            "binary",
            {"class": LOGISTIC, "params": {"class_weight": {1: 2, "0": 3}}},
            "1 is a number and '0' a",
        ),
        (
            "binary",
            {
                "class": "sklearn.naive_bayes.MultinomialNB",
                "search": {"params": {"alpha": {"low": 0.1, "high": 1.0}}},
            },
            "model.estimator.search.params: .*Negative values",
        ),
    ],
)
def test_what_no_model_could_learn_with_is_an_error_of_the_contract(
    kind: str, estimator: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ContractError, match=expected):
        shop(**{**KINDS[kind], "model__estimator": estimator, **ONE_COLUMN.get(estimator["class"], {})})


@pytest.mark.parametrize(
    ("kind", "estimator"),
    [
        ("binary", {"class": "sklearn.neighbors.KNeighborsClassifier", "params": {"n_neighbors": 400}}),
        ("binary", {"class": "sklearn.neighbors.RadiusNeighborsClassifier", "params": {"outlier_label": 0}}),
        ("binary", {"class": LOGISTIC, "params": {"class_weight": {1: 2.5}, "max_iter": 3}}),
        ("binary", {"class": "sklearn.linear_model.LogisticRegressionCV", "params": {"cv": 20, "Cs": 2}}),
        ("multiclass", {"class": LOGISTIC, "params": {"class_weight": {"cash": 2.5}}}),
        (
            "regression",
            {"class": "sklearn.linear_model.RANSACRegressor", "params": {"residual_threshold": 2}},
        ),
        ("regression", {"class": "sklearn.linear_model.GammaRegressor"}),
        (
            "regression",
            {
                "class": "sklearn.ensemble.HistGradientBoostingRegressor",
                "params": {"monotonic_cst": [1, 0, 0], "max_iter": 20},
                "categorical": "native",
            },
        ),
        # Names no column.
        (
            "binary",
            {
                "class": "sklearn.ensemble.HistGradientBoostingClassifier",
                "params": {"interaction_cst": "no_interactions", "monotonic_cst": None, "max_iter": 5},
            },
        ),
        (
            "binary",
            {
                "class": "sklearn.ensemble.HistGradientBoostingClassifier",
                "params": {"max_bins": 5, "max_iter": 5},
                "categorical": "native",
            },
        ),
        # Columns that only the categories of real rows give.
        ("regression", {"class": "sklearn.cross_decomposition.PLSRegression", "params": {"n_components": 5}}),
        (  # Of these values two don't go together, and are a trial that fails.
            "binary",
            {
                "class": LOGISTIC,
                "search": {
                    "params": {
                        "solver": {"choices": ["lbfgs", "liblinear"]},
                        "penalty": {"choices": ["l1", "l2"]},
                    },
                    "trials": 3,
                },
            },
        ),
    ],
)
def test_what_is_accepted_learns(kind: str, estimator: dict[str, Any]) -> None:
    product = shop(**{**KINDS[kind], "model__estimator": estimator, "model__minimum_rows": 100})
    frame = rows(kind, 900)
    if kind == "regression":
        frame["paid"] = frame["paid"].clip(lower=0.1)
    assert train(product, frame).rows == 900


@pytest.mark.parametrize(
    ("kind", "estimator"),
    [
        # They keep the rows that they have learned from.
        ("binary", {"class": "sklearn.neighbors.KNeighborsClassifier"}),
        ("binary", {"class": "sklearn.svm.SVC", "params": {"probability": True}}),
        ("regression", {"class": "sklearn.svm.SVR"}),
        # They take a sparse matrix with other parameters.
        ("regression", {"class": "sklearn.linear_model.Ridge", "params": {"solver": "saga"}}),
        ("binary", {"class": "sklearn.neighbors.KNeighborsClassifier", "params": {"metric": "chebyshev"}}),
    ],
)
def test_categories_of_many_values_are_learned_stored_and_read_back(
    kind: str, estimator: dict[str, Any], tmp_path: Path
) -> None:
    product = shop(**{**KINDS[kind], "model__estimator": estimator, "model__minimum_rows": 100})
    frame = rows(kind, 900)
    frame["channel"] = [f"v{number % 25}" for number in range(900)]
    pipeline = train(product, frame).pipeline
    skops_io().dump(pipeline, tmp_path / "model.skops")
    again = read_pipeline(tmp_path / "model.skops", "the model")
    kind_of_label = kind_of(product)
    np.testing.assert_array_equal(
        np.column_stack(kind_of_label.predict(again, frame)),
        np.column_stack(kind_of_label.predict(pipeline, frame)),
    )


def test_a_trial_ends_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for estimator in (
        {
            "class": "sklearn.svm.SVC",
            "params": {"probability": True, "kernel": "linear", "C": 1e6, "verbose": True},
        },
        {"class": LOGISTIC, "params": {"solver": "liblinear", "verbose": 1}},
        {"class": "sklearn.ensemble.RandomForestClassifier", "params": {"verbose": 2, "n_jobs": 2}},
    ):
        assert shop(model__estimator=estimator).model.one.params == estimator["params"]
    assert capfd.readouterr() == ("", "")


def test_places_of_columns_do_not_go_with_a_target_of_many_classes() -> None:
    estimator = {
        "class": "lightgbm.LGBMClassifier",
        "params": {"monotone_constraints": [0, 0, 1]},
        "categorical": "target",
    }
    assert shop(model__estimator=estimator).model.one.encoding == "target"
    with pytest.raises(ContractError, match=r"monotone_constraints and categorical: .* as many columns as"):
        shop(**CLASS, model__estimator=estimator)


def test_only_the_rows_can_tell_whether_they_are_enough() -> None:
    estimator = {"class": "sklearn.neighbors.KNeighborsClassifier", "params": {"n_neighbors": 10**6}}
    product = shop(model__estimator=estimator, model__minimum_rows=100)
    with pytest.raises(ValueError, match="Expected n_neighbors <= n_samples_fit"):
        train(product, rows("binary"))


def test_a_label_of_one_value_is_refused_by_its_own_key() -> None:
    label = {"type": "integer", "nullable": True, "allowed": [0]}
    with pytest.raises(
        ContractError, match=r"source\.columns\.bought\.allowed: .* so that both must be allowed"
    ):
        shop(source__columns__bought=label)


def test_keys_that_only_python_tells_apart_are_looked_at_apart() -> None:
    as_numbers, as_texts = ({"class_weight": {key: 2}} for key in (1, "1"))
    shop(model__estimator={"class": LOGISTIC, "params": as_numbers})
    with pytest.raises(ContractError, match="not in class_weight"):
        shop(model__estimator={"class": LOGISTIC, "params": as_texts})
