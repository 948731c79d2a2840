"""Metrics of numbers against scikit-learn's, and their bootstrap against what it draws, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from ml_platform.contract.tasks import METRICS, REGRESSION, Metric
from ml_platform.machine_learning import bootstrap, regression_metrics
from ml_platform.machine_learning.regression_metrics import interval, paired_difference, score, summary

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False, width=32)
QUANTILE = 0.9


def by_scikit_learn(metric: Metric, label: Any, predicted: Any) -> float:
    match metric:
        case "rmse":
            return float(sk.root_mean_squared_error(label, predicted))
        case "mae":
            return float(sk.mean_absolute_error(label, predicted))
        case "median_absolute_error":
            return float(sk.median_absolute_error(label, predicted))
        case "mape":
            return float(sk.mean_absolute_percentage_error(label, predicted))
        case "r2":
            return float(sk.r2_score(label, predicted))
        case _:
            return float(sk.mean_pinball_loss(label, predicted, alpha=QUANTILE))


@pytest.mark.parametrize("metric", REGRESSION.metrics)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(pairs=arrays(np.float64, st.tuples(st.integers(1, 40), st.just(2)), elements=NUMBERS))
def test_a_metric_is_that_of_scikit_learn(metric: Metric, pairs: Any) -> None:
    label, predicted = pairs.T
    found = score(metric, label, predicted, quantile=QUANTILE)

    undefined = {"mape": bool(np.any(label == 0)), "r2": len(set(label.tolist())) < 2}
    if undefined.get(metric):
        assert found is None
    elif metric == "mape" and np.abs(label).min() < 1e-12:
        pass  # scikit-learn divides by no less than 2e-16
    elif metric == "r2" and np.ptp(label) < 1e-6 * np.abs(label).max():
        pass  # what is left of the labels around their mean is rounding
    else:
        assert found == pytest.approx(by_scikit_learn(metric, label, predicted), rel=1e-9, abs=1e-9)


def clustered(rng: Any, entities: int, rows: int, shift: float = 0.0) -> tuple[Any, Any, Any]:
    """Labels with an effect of their entity, values that miss it, and the entities."""
    entity = np.repeat(np.arange(entities), rows)
    effect = rng.normal(0, 2, entities)[entity]
    signal = rng.gamma(3, 4, len(entity)) + 1
    label = np.maximum(signal + effect + rng.normal(0, 1, len(entity)), 0.5)
    return label, signal + shift, entity


@pytest.mark.parametrize("metric", REGRESSION.metrics)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_replicate_is_what_scikit_learn_gives_of_the_rows_drawn(metric: Metric, rows: int) -> None:
    rng = np.random.default_rng(5)
    label, predicted, entity = clustered(rng, entities=30, rows=rows)
    predicted = predicted.round()  # errors that are equal
    codes, clusters = bootstrap.coded(entity, len(label))
    drawn = bootstrap.weights(clusters, 20, 1)

    found = regression_metrics._resampled(metric, label, predicted, codes, drawn, QUANTILE)

    for value, weight in zip(found, drawn, strict=True):
        chosen = np.repeat(np.arange(len(label)), weight[codes].astype(int))
        assert value == pytest.approx(by_scikit_learn(metric, label[chosen], predicted[chosen]))


@pytest.mark.parametrize("together", [1, 2, 7, 10_000])
def test_a_median_does_not_depend_on_how_errors_are_counted(
    monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(regression_metrics, "_ERRORS_TOGETHER", together)
    rng = np.random.default_rng(2)
    errors, codes = rng.integers(0, 20, 300).astype(float), rng.integers(0, 12, 300)
    drawn = bootstrap.weights(12, 50, 3)
    expected = [np.median(np.repeat(errors, weight[codes].astype(int))) for weight in drawn]
    np.testing.assert_array_equal(regression_metrics._medians(errors, codes, drawn), expected)


@pytest.mark.parametrize("metric", REGRESSION.metrics)
def test_a_better_challenger_differs_upwards_whatever_the_metrics_direction(metric: Metric) -> None:
    label, good, entity = clustered(np.random.default_rng(1), 200, 5)
    better = label + 0.2 * (good - label)  # it misses a fifth of what the other misses
    found = paired_difference(metric, label, better, good, entity, quantile=QUANTILE)
    back = paired_difference(metric, label, good, better, entity, quantile=QUANTILE)

    assert found.challenger == score(metric, label, better, quantile=QUANTILE)
    assert found.lower is not None
    assert found.lower > 0
    assert back.upper is not None
    assert back.upper < 0
    assert (found.challenger > (found.champion or 0)) == METRICS[metric].greater_is_better


def test_what_no_metric_can_be_made_of_is_undefined_or_an_error() -> None:
    assert score("rmse", [], []) is None
    assert score("mape", [1.0, 0.0], [1.0, 1.0]) is None
    assert score("r2", [3.0, 3.0], [1.0, 2.0]) is None
    assert score("rmse", [1e200, 0.0], [0.0, 0.0]) is None  # its square is no double
    assert summary([], [])["rmse"] is None
    assert interval("rmse", [1.0] * 9, [2.0] * 9, range(9)) is None  # too few clusters
    with pytest.raises(ValueError, match="1 of 2 rows have a label that is not finite"):
        score("rmse", [1.0, np.nan], [1.0, 1.0])
    with pytest.raises(ValueError, match="1 of 2 rows have a predicted value that is not finite"):
        score("mae", [1.0, 2.0], [1.0, np.inf])
    with pytest.raises(ValueError, match="differ in length: 2, 1"):
        score("mae", [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="f1 is no metric of numbers"):
        score("f1", [1.0], [1.0])


@pytest.mark.parametrize("metric", REGRESSION.metrics)
def test_an_interval_of_many_rows_holds_the_metric(metric: Metric) -> None:
    label, predicted, entity = clustered(np.random.default_rng(3), 1000, 200)
    bounds = interval(metric, label, predicted, entity, quantile=QUANTILE)
    assert bounds is not None
    value = score(metric, label, predicted, quantile=QUANTILE)
    assert value is not None
    assert bounds[0] < value < bounds[1]


@pytest.mark.slow
@pytest.mark.parametrize("metric", REGRESSION.metrics)
def test_an_interval_covers_the_truth_as_often_as_it_says(metric: Metric) -> None:
    """In 93 to 97 % of 1,000 simulations; the truth is that of two million rows."""
    rng = np.random.default_rng(11)
    truth = score(metric, *clustered(rng, 400_000, 5)[:2], quantile=QUANTILE)
    assert truth is not None
    covered = 0
    for _ in range(1000):
        bounds = interval(metric, *clustered(rng, 400, 5), quantile=QUANTILE)
        assert bounds is not None
        covered += bounds[0] <= truth <= bounds[1]
    assert 930 <= covered <= 970


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "rows"), [("rmse", 4), ("mae", 4), ("median_absolute_error", 4)])
def test_of_500_as_good_challengers_at_most_5_percent_are_better_and_of_200_worse_ones_none(
    metric: Metric, rows: int
) -> None:
    rng = np.random.default_rng(7)

    def is_promoted(noise: float) -> bool:
        label, signal, entity = clustered(rng, 300, rows)
        champion, challenger = (signal + rng.normal(0, size, len(label)) for size in (1.0, noise))
        found = paired_difference(metric, label, challenger, champion, entity)
        return found.lower is not None and found.lower > 0

    assert sum(is_promoted(1.0) for _ in range(500)) <= 25
    assert sum(is_promoted(2.0) for _ in range(200)) == 0
    assert sum(is_promoted(0.2) for _ in range(50)) >= 25  # a better one is seen, less often by a median
