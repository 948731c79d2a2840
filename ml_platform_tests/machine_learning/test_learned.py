"""What two fitted pipelines hold: equal of two fits of the same rows, and named where it isn't."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from lightgbm import LGBMRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ml_platform.machine_learning import learned
from ml_platform.machine_learning.model_files import read_pipeline, skops_io

MODELS: dict[str, tuple[Any, str]] = {
    "a line": (lambda: LogisticRegression(), "coef_"),
    "a pipeline": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), "steps[1][1].coef_"),
    "a tree": (lambda: DecisionTreeClassifier(random_state=0), "tree_.nodes"),
    "a forest": (lambda: RandomForestClassifier(5, random_state=0), "estimators_[0].tree_.nodes"),
    "histograms": (
        lambda: HistGradientBoostingClassifier(max_iter=5, random_state=0),
        "_predictors[0][0].nodes",
    ),
    "LightGBM": (lambda: LGBMRegressor(n_estimators=5, n_jobs=1, verbose=-1), "_Booster._handle"),
}


def rows(flipped: int) -> tuple[Any, Any]:
    values = np.random.default_rng(3).normal(size=(200, 4))
    labels = (values[:, 0] + values[:, 1] > 0).astype(int)
    labels[:flipped] = 1 - labels[:flipped]
    return values, labels


@pytest.mark.parametrize("name", MODELS)
def test_two_fits_of_the_same_rows_hold_the_same_and_of_others_they_dont(name: str) -> None:
    make, path = MODELS[name]
    one, again, other = (make().fit(*rows(flipped)) for flipped in (0, 0, 3))
    assert learned.differences(one, again) == []
    others = [found.lstrip(".") for found in learned.differences(one, other)]
    assert any(found.startswith(path) for found in others), others


def test_the_smallest_change_of_a_coefficient_is_one() -> None:
    one, other = (LogisticRegression().fit(*rows(0)) for _ in range(2))
    other.coef_[0, 2] = np.nextafter(other.coef_[0, 2], 1)
    assert learned.differences(one, other) == [".coef_"]


def test_so_is_a_parameter_and_another_class() -> None:
    one = LogisticRegression(C=1.0).fit(*rows(0))
    other = LogisticRegression(C=1.0).fit(*rows(0))
    other.C = 2.0
    assert learned.differences(one, other) == [".C"]
    assert ".__class__" in learned.differences(one, DecisionTreeClassifier().fit(*rows(0)))


def test_that_one_of_them_was_stored_makes_no_difference(tmp_path: Any) -> None:
    """Names that a fitted model holds in several places are one object, and several in one that was read."""
    one = make_pipeline(StandardScaler(), RandomForestClassifier(3, random_state=0)).fit(*rows(0))
    skops_io().dump(one, tmp_path / "model.skops")
    assert learned.differences(one, read_pipeline(str(tmp_path / "model.skops"), "the file")) == []


def test_what_lies_between_the_fields_of_an_array_does_not_count() -> None:
    aligned = np.dtype([("feature", np.int8), ("value", np.float64)], align=True)
    one, other = (np.frombuffer(bytes([fill]) * 32, dtype=np.uint8).copy().view(aligned) for fill in (0, 255))
    for values in (one, other):
        values["feature"], values["value"] = [1, 2], [0.5, np.nan]

    def hashed(values: Any) -> str:
        file = io.BytesIO()
        np.save(file, values)
        return learned._of_file(file.getvalue(), "1.npy")

    assert one.tobytes() != other.tobytes()
    assert hashed(one) == hashed(other)
    other["feature"][1] = 3
    assert hashed(one) != hashed(other)
