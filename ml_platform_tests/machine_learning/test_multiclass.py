"""One of many classes as the label: metrics against scikit-learn's, learning, storing, baselines."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ml_platform.contract.loading import ContractError
from ml_platform.contract.product import Product
from ml_platform.contract.tasks import MULTICLASS, Metric
from ml_platform.machine_learning import bootstrap, multiclass_metrics, predicted_rows, promotion
from ml_platform.machine_learning.kind import LAST_LABEL
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.multiclass import PROBABILITY_DECIMALS
from ml_platform.machine_learning.multiclass_metrics import interval, paired_difference, score
from ml_platform.machine_learning.pipeline import TrainingError
from ml_platform.machine_learning.training import train
from ml_platform_tests.contract.test_kinds import RIDGE
from ml_platform_tests.small_platform import D, shop

CLASSES = ["cash", "card", "later", "never seen"]
CLASS: dict[str, Any] = {
    "source__label": "paid",
    "source__columns__paid": {"type": "string", "nullable": True, "allowed": CLASSES},
    "source__columns__bought": {"type": "integer", "nullable": True},
    "mrds__aggregate": {"spend": "sum", "pages": "max", "channel": "last", "visit": "count", "paid": "last"},
    "evaluation": {"metric": "macro_f1", "threshold": 0.5, "window_days": 10, "minimum_rows": 50},
}
K = 2


def by_scikit_learn(metric: Metric, label: Any, predicted: Any, probability: Any) -> float:
    every = np.arange(probability.shape[1])
    match metric:
        case "accuracy":
            return float(sk.accuracy_score(label, predicted))
        case "balanced_accuracy":
            found = sk.recall_score(
                label, predicted, labels=np.unique(label), average="macro", zero_division=0
            )
            return float(found)
        case "macro_f1" | "weighted_f1":
            average = metric.removesuffix("_f1")
            return float(sk.f1_score(label, predicted, average=average, zero_division=0))
        case "log_loss":
            # Six decimals are stored: what they can't tell from 0 counts as half of the last one.
            stored = np.clip(probability, 0.5 * 10.0**-PROBABILITY_DECIMALS, 1)
            return float(sk.log_loss(label, stored, labels=every))
        case _:
            return float(sk.top_k_accuracy_score(label, probability, k=K, labels=every))


@st.composite
def predictions(draw: Any) -> tuple[Any, Any, Any]:
    classes, rows = draw(st.integers(3, 5)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    # Few different weights: many ties, and zeros.
    weight = rng.integers(0, 4, (rows, classes)).astype(float) + 1e-12
    probability = weight / weight.sum(axis=1, keepdims=True)
    return rng.integers(0, classes, rows), np.argmax(probability, axis=1), probability


@pytest.mark.parametrize("metric", MULTICLASS.metrics)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(given=predictions())
def test_a_metric_is_that_of_scikit_learn(metric: Metric, given: tuple[Any, Any, Any]) -> None:
    assert score(metric, *given, k=K) == pytest.approx(by_scikit_learn(metric, *given), rel=1e-9)


def test_a_class_whose_probability_is_stored_as_0_costs_what_six_decimals_can_tell() -> None:
    found = score("log_loss", np.array([0, 1]), np.array([0, 0]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert found == pytest.approx(-np.log(5e-7) / 2)


def clustered(rng: Any, entities: int, rows: int, noise: float = 1.0) -> tuple[Any, Any, Any, Any]:
    """Labels of three classes with an effect of their entity, classes predicted, probabilities, entities."""
    entity = np.repeat(np.arange(entities), rows)
    signal = rng.normal(0, 1, (len(entity), 3)) + np.array([0.5, 0, -0.5])
    label = np.argmax(signal + rng.normal(0, 1, (entities, 3))[entity], axis=1)
    seen = np.exp(signal + rng.normal(0, noise, signal.shape))
    probability = seen / seen.sum(axis=1, keepdims=True)
    return label, np.argmax(probability, axis=1), probability, entity


@pytest.mark.parametrize("metric", MULTICLASS.metrics)
def test_a_replicate_is_what_scikit_learn_gives_of_the_rows_drawn(metric: Metric) -> None:
    label, predicted, probability, entity = clustered(np.random.default_rng(5), 20, 3)
    checked = multiclass_metrics._checked(label, predicted, probability)
    codes, clusters = bootstrap.coded(entity, len(label))
    drawn = bootstrap.weights(clusters, 20, 1)
    found = multiclass_metrics._resampled(metric, checked, codes, drawn, K)
    for value, weight in zip(found, drawn, strict=True):
        rows = np.repeat(np.arange(len(label)), weight[codes].astype(int))
        expected = by_scikit_learn(metric, label[rows], predicted[rows], probability[rows])
        assert value == pytest.approx(expected)


@pytest.mark.parametrize("metric", MULTICLASS.metrics)
def test_a_better_challenger_differs_upwards_whatever_the_metrics_direction(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    label, d, p, entity = clustered(rng, 300, 5, noise=3.0)
    sure = 0.1 * p + 0.9 * np.eye(3)[label]
    found = paired_difference(metric, label, (label, sure), (d, p), entity, k=K)
    assert found.lower is not None
    assert found.lower > 0
    assert paired_difference(metric, label, (d, p), (d, p), entity, k=K).upper == 0


def test_what_no_metric_can_be_made_of_is_undefined_or_an_error() -> None:
    nothing = np.zeros((0, 3))
    assert score("macro_f1", [], [], nothing) is None
    assert interval("accuracy", [0] * 9, [0] * 9, [[1.0, 0.0]] * 9, range(9)) is None
    with pytest.raises(ValueError, match="1 of 2 rows have a label that is none of the 2 classes"):
        score("accuracy", [0, np.nan], [0, 0], [[1.0, 0.0]] * 2)
    with pytest.raises(ValueError, match="1 of 1 rows have a predicted class"):
        score("accuracy", [0], [2], [[1.0, 0.0]])
    with pytest.raises(ValueError, match="1 of 1 rows have probabilities that don't add up to 1"):
        score("accuracy", [0], [0], [[0.5, 0.2]])
    with pytest.raises(ValueError, match="differ in length: 1, 2, 1"):
        score("accuracy", [0], [0, 0], [[1.0, 0.0]])
    with pytest.raises(ValueError, match="rmse is no metric of many classes"):
        score("rmse", [0], [0], [[1.0, 0.0]])


@pytest.mark.slow
@pytest.mark.parametrize("metric", MULTICLASS.metrics)
def test_an_interval_covers_the_truth_as_often_as_it_says(metric: Metric) -> None:
    rng = np.random.default_rng(11)
    truth = score(metric, *clustered(rng, 200_000, 5)[:3], k=K)
    assert truth is not None
    covered = 0
    for _ in range(1000):
        bounds = interval(metric, *clustered(rng, 400, 5), k=K)
        assert bounds is not None
        covered += bounds[0] <= truth <= bounds[1]
    assert 930 <= covered <= 970


@pytest.mark.slow
def test_of_500_as_good_challengers_at_most_5_percent_are_better_and_of_200_worse_ones_none() -> None:
    rng = np.random.default_rng(7)

    def is_promoted(noise: float) -> bool:
        label, _, p, entity = clustered(rng, 300, 5)
        other = np.log(p) + rng.normal(0, noise, p.shape)
        same = np.log(p) + rng.normal(0, 0.5, p.shape)
        both = [(np.argmax(values, axis=1), p) for values in (other, same)]
        found = paired_difference("macro_f1", label, both[0], both[1], entity)
        return found.lower is not None and found.lower > 0

    assert sum(is_promoted(0.5) for _ in range(500)) <= 25
    assert sum(is_promoted(3.0) for _ in range(200)) == 0


# -- the kind ----------------------------------------------------------------------------------------


def rows(count: int = 3_000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    spend = rng.gamma(2, 10, count)
    place = np.clip((spend + rng.normal(0, 5, count)) // 15, 0, 2).astype(int)
    return pd.DataFrame(
        {
            "customer": [f"c{number}" for number in rng.integers(0, 300, count)],
            "event_day": [D("2024-01-01") + timedelta(days=int(n)) for n in rng.integers(0, 60, count)],
            "spend": spend,
            "pages": rng.integers(1, 9, count),
            "channel": rng.choice(["web", "app", "other"], count),
            "visit": 1,
            "paid": np.array(CLASSES, dtype=object)[place],
        }
    )


def whole_numbers() -> Product:
    column = {"type": "long", "nullable": True, "allowed": [10, 20, 30]}
    return shop(**CLASS | {"source__columns__paid": column}, model__task="multiclass")


def test_a_class_without_training_rows_is_reported_and_never_predicted() -> None:
    product = shop(**CLASS)
    kind, model = kind_of(product), train(product, rows())
    assert kind.remark(model.pipeline) == "no training rows of never seen"
    place, probability = kind.decided(kind.predict(model.pipeline, rows(seed=1)), model.threshold)
    assert (probability[:, 3] == 0).all()
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert set(place) == {0, 1, 2}
    assert kind.score(kind.labels(rows(seed=1)["paid"]), (place, probability)) is not None


@pytest.mark.parametrize("product", [shop(**CLASS), whole_numbers()], ids=["texts", "whole numbers"])
def test_what_is_stored_is_read_back_as_what_the_pipeline_says(product: Product) -> None:
    kind = kind_of(product)
    names = dict(zip(CLASSES, (10, 20, 30, 30), strict=True))
    learned = rows()
    if product.source.columns["paid"].type == "long":
        learned = learned.assign(paid=learned["paid"].map(names))
    model = train(product, learned)
    day = D("2024-03-01")
    new = rows(500, seed=2).drop_duplicates("customer").assign(event_day=day).drop(columns="paid")
    given = pa.Table.from_pandas(new, preserve_index=False)
    served = predicted_rows.ServingModel(model.pipeline, model.threshold, "shop", "1", day, "f")

    table = predicted_rows.predictions(product, day, given, served)

    assert table.schema == predicted_rows.schema(product)
    frame = table.to_pandas()
    own = model.pipeline.predict_proba(new[["spend", "pages", "channel"]].astype({"pages": float}))
    expected = model.pipeline.classes_[np.argmax(own.round(6), axis=1)]
    assert list(frame["prediction"]) == list(expected)
    np.testing.assert_allclose(frame["probability"], own.max(axis=1), atol=1e-6)
    for text, said in zip(frame["probabilities"], own, strict=True):
        named = json.loads(text)
        assert list(named) == [str(name) for name in kind.classes]  # type: ignore[attr-defined]
        for name, probability in zip(model.pipeline.classes_, said, strict=True):
            assert named[str(name)] == pytest.approx(probability, abs=1e-6)
    place, probability = kind.of_table(frame)
    label = place.astype(float)
    assert kind.score(label, (place, probability)) == pytest.approx(1)


def test_too_few_classes_are_nothing_to_learn_from() -> None:
    product = shop(**CLASS)
    with pytest.raises(TrainingError, match=r"3,000 labelled rows .* of the classes cash; needed are 50"):
        train(product, rows().assign(paid="cash"))


def test_a_first_model_must_beat_the_majority_class_and_the_last_class() -> None:
    product = shop(**CLASS)
    kind, learned, new = kind_of(product), rows(), rows(seed=1)
    pipeline = train(product, learned).pipeline
    label, clusters = kind.labels(new["paid"]), pd.factorize(new["customer"])[0]

    def compared(frame: pd.DataFrame) -> promotion.Comparison:
        made = kind.decided(kind.predict(pipeline, frame), None)
        baselines = kind.baselines(pipeline, frame)
        return promotion.compare(product, label, made, None, clusters, baselines=baselines)

    found = compared(new.assign(**{LAST_LABEL: None}))
    assert found.verdict
    majority = learned["paid"].mode()[0]
    expected = sk.f1_score(new["paid"], [majority] * len(new), average="macro")
    assert found.baselines["majority_class"] == pytest.approx(expected)
    assert found.baselines["last_known_class"] == pytest.approx(expected)

    knows = compared(new.assign(**{LAST_LABEL: new["paid"]}))
    assert not knows.verdict
    assert knows.against == "last_known_class"
    assert knows.baselines["last_known_class"] == 1


def test_classes_of_a_sensitive_label_are_shown_by_their_places_alone() -> None:
    product = shop(**CLASS, source__columns__paid__sensitive=True)
    assert kind_of(product).remark(train(product, rows()).pipeline) == "no training rows of class 4"
    with pytest.raises(TrainingError, match="of the classes class 1; needed") as caught:
        train(product, rows().assign(paid="cash"))
    assert "cash" not in str(caught.value)


def test_a_number_that_a_double_does_not_hold_names_no_class() -> None:
    column = {"type": "long", "nullable": True, "allowed": [1, 2**53 + 1]}
    with pytest.raises(ContractError, match="at most 9007199254740992"):
        shop(**CLASS | {"source__columns__paid": column}, model__task="multiclass")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"source__columns__paid": {"type": "string", "nullable": True}},
            ["paid.allowed: 0 classes", "2 to 100"],
        ),
        ({"source__columns__paid__allowed": ["a", "b", "a"]}, ["paid.allowed", "named once each"]),
        ({"evaluation__metric": "roc_auc"}, ["evaluation.metric: 'roc_auc'", "model.task is multiclass"]),
        ({"evaluation__metric": "top_k_accuracy"}, ["evaluation", "k and metric"]),
        ({"evaluation__k": 3}, ["evaluation", "k and metric"]),
        ({"model__estimator": RIDGE}, ["model.estimator.class", "model.task is multiclass", "predict_proba"]),
        ({"model__transform": "log1p"}, ["model.transform", "model.task is multiclass"]),
        ({"model__decision_threshold": 0.5}, ["model.decision_threshold", "model.task is multiclass"]),
        ({"model__decision_highest": 9}, ["model.decision_highest", "model.task is multiclass"]),
        ({"evaluation__metric": "lift_at_k", "evaluation__k": 9}, ["evaluation.metric: 'lift_at_k'"]),
        ({"evaluation__metric": "top_k_accuracy", "evaluation__k": 101}, ["k and metric", "100 classes"]),
        (
            {"evaluation__metric": "top_k_accuracy", "evaluation__k": len(CLASSES)},
            ["evaluation.k and source.columns.paid.allowed", f"at most {len(CLASSES) - 1}"],
        ),
        ({"mrds__aggregate__paid": "sum"}, ["mrds.aggregate.paid"]),
    ],
)
def test_what_does_not_go_with_classes_is_an_error_that_names_both_keys(
    changes: dict[str, Any], expected: list[str]
) -> None:
    with pytest.raises(ContractError) as caught:
        shop(**CLASS | changes)
    for part in expected:
        assert part in str(caught.value)
