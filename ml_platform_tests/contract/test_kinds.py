"""Kinds of label in the contract: what follows from the label's type, and which keys go together."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ml_platform.contract.assets import CATALOGUE, MODEL_PERFORMANCE, PREDICTIONS
from ml_platform.contract.loading import ContractError, parse_product
from ml_platform.contract.tasks import METRICS
from ml_platform_tests.small_platform import SHOP, shop

RIDGE = {"class": "sklearn.linear_model.Ridge", "params": {"random_state": 1}}
NUMBER: dict[str, Any] = {
    "source__label": "paid",
    "source__columns__paid": {"type": "double", "nullable": True},
    "source__columns__bought": {"type": "integer", "nullable": True},
    "mrds__aggregate": {"spend": "sum", "pages": "max", "channel": "last", "visit": "count", "paid": "last"},
    "model__estimator": RIDGE,
    "evaluation": {"metric": "rmse", "threshold": 20.0, "window_days": 10, "minimum_rows": 50},
}


def refused(**changes: Any) -> str:
    with pytest.raises(ContractError) as caught:
        shop(**changes)
    return str(caught.value)


def test_the_kind_follows_from_the_labels_type_and_a_whole_number_is_two_classes() -> None:
    assert shop().task.name == "binary"
    assert shop(**NUMBER).task.name == "regression"
    whole = NUMBER | {"source__columns__paid": {"type": "long", "nullable": True}}
    assert "evaluation.metric: 'rmse' can't be measured, since model.task is binary" in refused(**whole)
    assert shop(**whole, model__task="regression").task.name == "regression"


def test_a_label_that_is_0_or_1_may_have_no_other_value_and_a_number_any() -> None:
    without = {"source__columns__bought": {"type": "integer", "nullable": True}}
    assert shop(**without).allowed_in("bought") == (0, 1)
    assert shop(**NUMBER).allowed_in("paid") is None
    assert shop(**NUMBER).allowed_in("bought") is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"evaluation__metric": "rmse"},
            ["evaluation.metric: 'rmse'", "model.task is binary", "f1, precision"],
        ),
        (
            NUMBER | {"evaluation__metric": "f1", "evaluation__threshold": 0.5},
            ["'f1'", "model.task is regression"],
        ),
        (
            NUMBER | {"model__decision_threshold": 0.5},
            ["model.decision_threshold", "model.task is regression"],
        ),
        (NUMBER | {"model__minimum_positives": 3}, ["model.minimum_positives", "model.task is regression"]),
        (
            NUMBER | {"evaluation__minimum_positives": 3},
            ["evaluation.minimum_positives", "model.task is regression"],
        ),
        (
            {"model__estimator": RIDGE},
            ["model.estimator.class", "model.task is binary", "no classifier with fit and predict_proba"],
        ),
        (
            NUMBER | {"model__estimator": SHOP["model"]["estimator"]},
            ["model.estimator.class", "model.task is regression", "no regressor"],
        ),
        (
            NUMBER | {"model__estimator": {"class": "sklearn.cluster.KMeans"}},
            ["model.estimator", "no classifier"],
        ),
        *(
            (
                {"model__estimator": {"class": f"sklearn.{name}", "params": params}},
                ["model.estimator.params", "no predict_proba", "model.task", why],
            )
            for name, params, why in (
                ("svm.SVC", {}, "probability=False"),
                ("linear_model.SGDClassifier", {}, "loss='hinge'"),
                ("semi_supervised.SelfTrainingClassifier", {}, "predict_proba"),
            )
        ),
        (
            NUMBER | {"model__estimator": {"class": "sklearn.linear_model.MultiTaskLasso"}},
            ["model.estimator.class", "several numbers at once", "model.task"],
        ),
        (
            NUMBER | {"model__estimator": {"class": "sklearn.isotonic.IsotonicRegression"}},
            ["model.estimator.class", "learns from one column", "model.features has 3"],
        ),
        ({"model__transform": "log1p"}, ["model.transform", "model.task is binary"]),
        ({"model__interval": 0.9}, ["model.interval", "model.task is binary"]),
        ({"model__task": "regression"}, ["source.label", "'bought'", "evaluation.metric"]),
        (
            NUMBER | {"model__task": "binary"},
            ["source.label", "must be an integer, 0 or 1", "model.task is binary"],
        ),
        ({"source__columns__bought__allowed": [0, 1, 2]}, ["source.label", "must be an integer, 0 or 1"]),
        ({"mrds__aggregate__bought": "mean"}, ["mrds.aggregate.bought", "must stay 0 or 1"]),
        (
            NUMBER | {"mrds__aggregate__paid": "count"},
            ["mrds.aggregate.paid", "min, max, first, last, sum, mean"],
        ),
        (
            {"model__decision_highest": 9, "model__decision_threshold": 0.5},
            ["model", "decision_highest and decision_threshold"],
        ),
        (
            {"model__decision_highest": 9, "model__decision_threshold": "tuned"},
            ["model", "decision_highest and decision_threshold"],
        ),
        ({"model__decision_highest": 0}, ["model.decision_highest"]),
        ({"model__decision_highest": 1_000_001}, ["model.decision_highest"]),
        (
            NUMBER | {"model__decision_highest": 9},
            ["model.decision_highest", "model.task is regression"],
        ),
        (
            {"evaluation__metric": "precision_at_k"},
            ["evaluation.k and evaluation.metric", "decision_highest"],
        ),
        ({"evaluation__metric": "recall_at_k", "evaluation__k": 0}, ["evaluation.k"]),
        ({"evaluation__k": 9}, ["evaluation", "k and metric", "not with f1"]),
        ({"evaluation__k": 9, "model__decision_highest": 9}, ["evaluation", "k and metric", "not with f1"]),
        (
            {"evaluation__metric": "lift_at_k", "evaluation__k": 9, "evaluation__threshold": -0.1},
            ["evaluation: threshold", "less than any lift_at_k"],
        ),
        (
            {"evaluation__metric": "recall_at_k", "evaluation__k": 9, "evaluation__threshold": 1.1},
            ["evaluation: threshold", "greater than any recall_at_k"],
        ),
        (
            NUMBER | {"evaluation__metric": "lift_at_k", "evaluation__k": 9},
            ["evaluation.metric: 'lift_at_k'", "model.task is regression"],
        ),
        (
            {"model__decision_highest": 9, "mrds__entity": ["customer", "rank"]}
            | {"source__columns__rank": {"type": "string"}},
            ["mrds: the name 'rank'", "model.decision_highest"],
        ),
        (NUMBER | {"evaluation__metric": "mape"}, ["evaluation.metric", "validation.ranges.paid", "mae"]),
        (NUMBER | {"evaluation__metric": "pinball"}, ["evaluation", "quantile", "metric"]),
        (NUMBER | {"evaluation__quantile": 0.9}, ["evaluation", "quantile", "metric"]),
        ({"evaluation__threshold": 1.5}, ["evaluation: threshold", "greater than any f1"]),
        (NUMBER | {"evaluation__threshold": -1.0}, ["evaluation: threshold", "less than any rmse"]),
        (NUMBER | {"evaluation__threshold": float("nan")}, ["evaluation.threshold"]),
        (
            {"promotion": {"rule": "non_inferior", "margin": 2.0}},
            ["promotion.margin", "more than any f1 can differ"],
        ),
    ],
)
def test_what_does_not_go_together_is_an_error_that_names_both_keys(
    changes: dict[str, Any], expected: list[str]
) -> None:
    if changes == {"model__task": "regression"}:
        expected = ["evaluation.metric: 'f1'", "model.task is regression"]
    message = refused(**changes)
    for part in expected:
        assert part in message


def test_parameters_decide_whether_a_class_has_probabilities() -> None:
    estimator = {"class": "sklearn.linear_model.SGDClassifier", "params": {"loss": "log_loss"}}
    assert shop(model__estimator=estimator).model.one.class_ == estimator["class"]
    searched = {
        "class": "sklearn.linear_model.SGDClassifier",
        "search": {"params": {"loss": {"choices": ["log_loss", "hinge"]}}},
    }
    assert "model.estimator.search.params: " in refused(model__estimator=searched)


def test_a_line_that_only_rises_learns_from_one_column() -> None:
    rising = {"class": "sklearn.isotonic.IsotonicRegression", "params": {"out_of_bounds": "clip"}}
    alone = NUMBER | {"model__estimator": rising}
    assert shop(**alone, model__features={"numeric": ["spend"]}).model.features.all == ("spend",)


def test_k_is_that_of_the_decision_unless_the_contract_says_otherwise() -> None:
    decided = {
        "model__decision_highest": 500,
        "evaluation__metric": "lift_at_k",
        "evaluation__threshold": 2.5,
    }
    product = shop(**decided)
    assert (product.highest, product.deepest_rank) == (500, 500)
    assert "lift_at_k (k = 500) over 10 days, at least 2.5" in CATALOGUE[MODEL_PERFORMANCE].in_words(product)
    assert "the 500 highest rows of each day" in CATALOGUE[PREDICTIONS].in_words(product)
    deeper, alone = (
        shop(**decided, evaluation__k=900),
        shop(evaluation__metric="recall_at_k", evaluation__k=7),
    )
    assert (deeper.highest, deeper.deepest_rank, alone.deepest_rank) == (900, 900, 7)
    names = [output.name for output in alone.task.outputs(alone)]
    assert names == ["probability", "decision", "threshold", "rank"]


def test_without_highest_rows_a_contract_asks_for_no_ranks_and_has_the_hashes_of_old() -> None:
    product = shop()
    assert (product.highest, product.deepest_rank) == (None, None)
    assert [output.name for output in product.task.outputs(product)] == [
        "probability",
        "decision",
        "threshold",
    ]
    assert "decision_highest" not in product.content_of("model")["model"]
    assert "k" not in product.content_of("evaluation")["evaluation"]


def test_mape_is_accepted_where_no_label_can_be_0() -> None:
    for limits in ({"minimum": 0.5}, {"maximum": -1}):
        ranges = {"validation__ranges": {"paid": limits}}
        assert shop(**NUMBER | {"evaluation__metric": "mape"} | ranges).evaluation.metric == "mape"
    ranges = {"validation__ranges": {"paid": {"minimum": 0}}}
    assert "validation.ranges.paid" in refused(**NUMBER | {"evaluation__metric": "mape"} | ranges)


@pytest.mark.parametrize(
    ("rule", "values", "accepted"),
    [
        ("last", [-1, 1], True),
        ("sum", [-1, 1], False),
        ("mean", [-1, 1], False),
        ("sum", [1, 2], True),
        ("last", [0, 1], False),
    ],
)
def test_labels_that_add_up_to_0_have_no_mape(rule: str, values: list[int], accepted: bool) -> None:
    changes = NUMBER | {
        "evaluation__metric": "mape",
        "source__columns__paid": {"type": "long", "nullable": True, "allowed": values},
        "model__task": "regression",
        "mrds__aggregate": NUMBER["mrds__aggregate"] | {"paid": rule},
    }
    if accepted:
        assert shop(**changes).evaluation.metric == "mape"
    else:
        assert "validation.ranges.paid" in refused(**changes)


def test_a_class_is_none_of_the_texts_that_stand_for_no_value() -> None:
    label = {"type": "string", "nullable": True, "allowed": ["", "b", "c"]}
    changes = {
        "source__columns__bought": label,
        "model__task": "multiclass",
        "evaluation": {"metric": "macro_f1", "threshold": 0.5},
    }
    message = refused(**changes)
    assert "source.columns.bought.allowed and source.null_values: ''" in message
    assert shop(**changes, source__null_values=["-"]).allowed_in("bought") == ("", "b", "c")


@pytest.mark.parametrize(
    ("metric", "side"), [("rmse", "at most 0.5; above it"), ("r2", "at least 0.5; below it")]
)
def test_check_says_on_which_side_of_a_threshold_a_metric_is_good_enough(metric: str, side: str) -> None:
    product = shop(**NUMBER | {"evaluation__metric": metric, "evaluation__threshold": 0.5})
    assert f"{metric} over 10 days, {side}" in CATALOGUE[MODEL_PERFORMANCE].in_words(product)
    rule = METRICS[product.evaluation.metric]
    assert rule.is_enough(0.5, 0.5)
    assert rule.is_enough(0.4, 0.5) == (metric == "rmse")


def test_the_columns_of_the_predictions_are_those_of_the_kind() -> None:
    def names(product: Any) -> list[str]:
        columns = CATALOGUE[PREDICTIONS].columns
        assert columns is not None
        return [column.name for column in columns(product)]

    of_models = ["model_name", "model_version", "model_as_of", "model_fingerprint"]
    assert names(shop()) == ["customer", "event_day", "probability", "decision", "threshold", *of_models]
    assert names(shop(**NUMBER)) == ["customer", "event_day", "prediction", *of_models]
    with_interval = names(shop(**NUMBER, model__interval=0.9))
    assert with_interval == ["customer", "event_day", "prediction", "lower", "upper", *of_models]


def test_the_hash_of_a_contract_is_that_of_before_there_were_kinds() -> None:
    """What these sections hashed to when a label could only be 0 or 1."""
    said = copy.deepcopy(SHOP)
    said["model"] |= {"task": None, "transform": None, "interval": None}
    said["evaluation"] |= {"quantile": None}
    product = parse_product(said, "shop.yaml")
    for section in ("source", "mrds", "model", "evaluation"):
        assert product.hash_of(section) == shop().hash_of(section)
        assert set(product.content_of(section)[section]) <= set(said[section]) - {
            "task",
            "quantile",
            "interval",
        }


@pytest.mark.parametrize(
    ("changes", "called"),
    [
        ({}, "f1"),
        ({"evaluation__metric": "precision_at_k", "evaluation__k": 100}, "precision_at_k (k = 100)"),
        ({"evaluation__metric": "lift_at_k", "model__decision_highest": 2_500}, "lift_at_k (k = 2,500)"),
        (NUMBER | {"evaluation__metric": "mae"}, "mae"),
        (
            NUMBER | {"evaluation__metric": "pinball", "evaluation__quantile": 0.9},
            "pinball (quantile = 0.9)",
        ),
        (
            {
                "source__columns__bought": {"type": "integer", "allowed": [0, 1, 2], "nullable": True},
                "model__task": "multiclass",
                "evaluation": {"metric": "top_k_accuracy", "k": 2, "threshold": 0.5},
            },
            "top_k_accuracy (k = 2)",
        ),
    ],
)
def test_a_metric_is_called_with_what_it_is_of(changes: dict[str, Any], called: str) -> None:
    assert shop(**changes).metric_in_words == called
