"""What the plots of a model show, read from their bars and lines, beside scikit-learn's own figures."""

import io

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_curve, precision_score, recall_score

from ml_platform.machine_learning import model_plots
from ml_platform.machine_learning.binary import probabilities
from ml_platform.machine_learning.pipeline import feature_frame
from ml_platform.machine_learning.training import train
from ml_platform_tests.machine_learning.test_training import FLIGHTS, contract, labelled_rows

ROWS = labelled_rows(aircraft=30, days=10)
UNSEEN = labelled_rows(aircraft=30, days=10, seed=9)


@pytest.fixture(scope="module")
def trained():
    return train(FLIGHTS, ROWS)


def bars(figure):
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    return dict(zip(names, (patch.get_width() for patch in axes.patches), strict=True))


def drawn(figures):
    """That matplotlib can draw them; text with odd characters fails only then."""
    for figure in figures.values():
        figure.savefig(io.BytesIO(), format="png")
    return figures


def test_coefficients_are_those_of_the_estimator(trained):
    shown = bars(drawn(model_plots.of_weights(trained.pipeline))["coefficients"])
    fitted = trained.pipeline.named_steps["estimator"].coef_[0]
    names = trained.pipeline[:-1].get_feature_names_out()
    known = {
        name.removeprefix("numeric__").removeprefix("categorical__").replace("carrier_", "carrier = "): weight
        for name, weight in zip(names, fitted, strict=True)
    }
    known = {name.replace("origin_", "origin = "): weight for name, weight in known.items()}
    assert shown == pytest.approx(known)
    assert list(shown) == sorted(shown, key=lambda name: -abs(shown[name]))


def test_the_values_of_a_sensitive_column_are_not_shown(trained):
    shown = bars(model_plots.of_weights(trained.pipeline, {"carrier", "hour"})["coefficients"])
    assert not [name for name in shown if name.startswith("carrier =")]
    every = bars(model_plots.of_weights(trained.pipeline)["coefficients"])
    most = max(abs(weight) for name, weight in every.items() if name.startswith("carrier ="))
    assert shown["carrier (the most of its values)"] == pytest.approx(most)
    assert shown["hour"] == every["hour"]  # a coefficient tells no value


def test_trees_show_their_importances():
    product = contract("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 5})
    trained = train(product, ROWS)
    shown = bars(model_plots.of_weights(trained.pipeline)["importances"])
    assert sum(shown.values()) == pytest.approx(1)


def test_an_estimator_that_shows_nothing_of_itself_is_asked_by_shuffling():
    product = contract("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 20})
    trained = train(product, ROWS)
    assert model_plots.of_weights(trained.pipeline) == {}
    features, label = feature_frame(product, UNSEEN), UNSEEN["late"].to_numpy()
    shown = bars(drawn(model_plots.of_shuffling(trained.pipeline, features, label))["permutation_importance"])
    assert shown.keys() == set(features.columns)
    most = max(shown, key=lambda name: shown[name])
    shuffled = UNSEEN.assign(**{most: np.random.default_rng(1).permutation(UNSEEN[most])})
    increase = log_loss(label, probabilities(trained.pipeline, product, shuffled)) - log_loss(
        label, probabilities(trained.pipeline, product, UNSEEN)
    )
    assert shown[most] == pytest.approx(increase, rel=0.5)
    assert increase > 0


@pytest.mark.parametrize("rows", [0, 5])
def test_nothing_is_shuffled_where_a_class_is_absent(trained, rows):
    features = feature_frame(FLIGHTS, UNSEEN.head(rows))
    assert model_plots.of_shuffling(trained.pipeline, features, np.zeros(rows, dtype=int)) == {}


def test_more_features_than_can_be_read_are_said_to_be_more():
    weights = {f"feature {n}": float(n) for n in range(500)}
    figure = model_plots._bars(weights, "coefficient", "Title")
    shown = bars(figure)
    assert list(shown) == [f"feature {n}" for n in range(499, 499 - model_plots.SHOWN_FEATURES, -1)]
    assert figure.axes[0].get_title() == "Title, 20 of 500"


def test_names_are_printed_as_they_are():
    names = ["$x_1$", r"a\b", "price $", "größe = <br>", "é" * 300]
    drawn({"one": model_plots._bars(dict.fromkeys(names, 1.0), "coefficient", "Title")})


def test_the_curves_are_scikit_learns(trained):
    label = UNSEEN["late"].to_numpy()
    probability = probabilities(trained.pipeline, FLIGHTS, UNSEEN)
    decision = (probability >= trained.threshold).astype(int)
    figures = drawn(model_plots.of_decisions("at 0.5", label, probability, decision))

    (axes,) = figures["precision_recall"].axes
    precision, recall, _ = precision_recall_curve(label, probability)
    lines = [line.get_xydata() for line in axes.get_lines()]
    assert any(
        len(line) == len(recall) and np.allclose(line, np.column_stack([recall, precision])) for line in lines
    )
    at = [recall_score(label, decision), precision_score(label, decision)]
    assert any(np.allclose(line, [at]) for line in lines)

    texts = [text.get_text() for text in figures["confusion_matrix"].axes[0].texts]
    assert texts == [f"{count:,}" for count in confusion_matrix(label, decision).ravel()]


@pytest.mark.parametrize("value", [0, 1])
def test_rows_of_one_class_have_the_plots_that_exist(trained, value):
    label = np.full(len(UNSEEN), value)
    probability = probabilities(trained.pipeline, FLIGHTS, UNSEEN)
    decision = (probability >= trained.threshold).astype(int)
    figures = drawn(model_plots.of_decisions("at 0.5", label, probability, decision))
    assert "confusion_matrix" in figures
    assert ("precision_recall" in figures) == bool(value)
