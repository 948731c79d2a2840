"""Labels that are 0 or 1: the probability of 1, and the decision from a threshold on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.contract.tasks import Metric
from ml_platform.machine_learning import metrics, model_plots
from ml_platform.machine_learning.arrays import Floats, Integers
from ml_platform.machine_learning.bootstrap import Difference
from ml_platform.machine_learning.kind import Figures, Fitted, Kind, Predictions
from ml_platform.machine_learning.pipeline import (
    TrainingError,
    feature_frame,
    features_of,
    fit_pipeline,
    halves,
)

if TYPE_CHECKING:
    import pandas as pd

THRESHOLD_DECIMALS = 6
#: Matrix products may differ in the last bit with the size of a batch; stored probabilities don't.
PROBABILITY_DECIMALS = 6

BASELINES: Mapping[str, int] = {"all_positive": 1, "all_negative": 0}
"""The two models that need no data, and what they predict for every row."""


class Binary(Kind):
    """A label that is 0 or 1. Outputs are probabilities, predictions these with decisions."""

    read = ("probability", "decision")
    predict_method = "predict_proba"
    too_thin = "too few positives or negatives"

    def check_evidence(self, frame: pd.DataFrame) -> None:
        product, rows = self.product, len(frame)
        positives = int(frame[product.label].sum()) if rows else 0
        needed_rows, needed = product.model.minimum_rows, product.model.minimum_positives
        if rows >= needed_rows and min(positives, rows - positives) >= needed:
            return
        days = f"on {frame[EVENT_DAY].nunique():,} labelled days" if rows else "no labelled days"
        raise TrainingError(
            f"too little to learn from: found {rows:,} labelled rows ({days}), {positives:,} positive and "
            f"{rows - positives:,} negative; needed are {needed_rows:,} rows (model.minimum_rows) with "
            f"{needed:,} of either class (model.minimum_positives)"
        )

    def fit(self, rows: pd.DataFrame, features: pd.DataFrame) -> Fitted:
        product = self.product
        label = rows[product.label].to_numpy(dtype=np.int64)
        pipeline = fit_pipeline(product, features, label)
        threshold = product.model.decision_threshold
        if threshold == "tuned":
            scores = _out_of_fold(product, rows, features, label)
            if scores is None:
                scores = _positive(pipeline, features)
            threshold = best_threshold(product.evaluation.metric, label, scores)
        return Fitted(pipeline, round(threshold, THRESHOLD_DECIMALS))

    def positives(self, label: Floats) -> int:
        return int(np.sum(label))

    def evidence(self, label: Floats) -> str:
        return f"{self.positives(label):,} positives of {len(label):,}"

    def predict(self, pipeline: Any, frame: pd.DataFrame) -> Predictions:
        return (probabilities(pipeline, self.product, frame),)

    def rounded(self, outputs: Predictions) -> Predictions:
        return (outputs[0].round(PROBABILITY_DECIMALS),)

    def decided(self, outputs: Predictions, threshold: float | None) -> Predictions:
        (probability,) = outputs
        return probability, (probability >= threshold).astype(np.int64)

    def stored(self, outputs: Predictions, threshold: float | None) -> Mapping[str, Any]:
        probability, decision = self.decided(self.rounded(outputs), threshold)
        alike = np.full(len(probability), threshold, dtype=np.float64)
        return {"probability": probability, "decision": decision.astype("int32"), "threshold": alike}

    def of_table(self, frame: pd.DataFrame) -> Predictions:
        return frame["probability"].to_numpy(dtype=float), frame["decision"].to_numpy(dtype=np.int64)

    @property
    def _metric(self) -> Metric:
        return self.product.evaluation.metric

    def score(self, label: Floats, predictions: Predictions) -> float | None:
        return metrics.score(self._metric, label, *predictions)

    def summary(self, label: Floats, predictions: Predictions) -> Figures:
        return metrics.summary(label, *predictions)

    def interval(
        self, label: Floats, predictions: Predictions, cluster: NDArray[Any]
    ) -> tuple[float, float] | None:
        probability, decision = predictions
        return metrics.interval(self._metric, label, probability, decision, cluster)

    def difference(
        self, label: Floats, challenger: Predictions, champion: Predictions, cluster: NDArray[Any]
    ) -> Difference:
        (p1, d1), (p2, d2) = challenger, champion
        return metrics.paired_difference(self._metric, label, p1, d1, p2, d2, cluster)

    def baselines(self, pipeline: Any, frame: pd.DataFrame) -> Mapping[str, Predictions]:
        return {name: _constant(value, len(frame)) for name, value in BASELINES.items()}

    def constant(self, label: Floats) -> Predictions:
        return _constant(1, len(label))

    def plots(self, label: Floats, predictions: Predictions, threshold: float | None) -> Mapping[str, Any]:
        assert threshold is not None, "decisions have a threshold"
        return model_plots.of_decisions(threshold, label.astype(np.int64), predictions[0])

    def output_spec(self) -> Any:
        from mlflow.types.schema import TensorSpec

        # One column per class; the second is the probability of 1.
        return TensorSpec(np.dtype("float64"), (-1, 2))


def probabilities(pipeline: Any, product: Product, frame: pd.DataFrame) -> Floats:
    """P(label = 1) of each row of ``frame``, which holds at least the pipeline's features, read by Arrow."""
    if frame.empty:
        return np.zeros(0)
    return _positive(pipeline, feature_frame(product, frame, features_of(pipeline)))


def best_threshold(metric: Metric, label: Integers, scores: Floats) -> float:
    """The score from which on to decide 1, so that ``metric`` is greatest; of equals the highest.

    Metrics without a useful optimum of their own (precision and recall have theirs at the ends, ranking
    metrics none) give way to F1. Both classes must be present.
    """
    rounded = np.round(scores, THRESHOLD_DECIMALS)
    order = np.argsort(-rounded, kind="stable")
    candidates, positive = rounded[order], label[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(candidates)), len(candidates) - 1)
    tp = np.cumsum(positive)[last_of_tie]
    fp = last_of_tie + 1 - tp
    positives, negatives = int(label.sum()), int(len(label) - label.sum())
    match metric:
        case "accuracy":
            value = (tp - fp) / len(label)
        case "balanced_accuracy":
            value = tp / positives - fp / negatives
        case _:
            value = 2 * tp / (tp + fp + positives)
    return float(candidates[last_of_tie][np.argmax(value)])


def _out_of_fold(
    product: Product, rows: pd.DataFrame, features: pd.DataFrame, label: Integers
) -> Floats | None:
    """Each half of the entities scored by a model of the other half; None if a half lacks a class."""
    second = halves(product, rows)
    scores = np.empty(len(label))
    for scored in (second, ~second):
        if len(np.unique(label[~scored])) < 2 or not scored.any():
            return None
        pipeline = fit_pipeline(product, features[~scored], label[~scored])
        scores[scored] = _positive(pipeline, features[scored])
    return scores


def _positive(pipeline: Any, features: pd.DataFrame) -> Floats:
    column = list(pipeline.classes_).index(1)
    found: Floats = pipeline.predict_proba(features)[:, column]
    return found


def _constant(value: int, rows: int) -> Predictions:
    return np.full(rows, float(value)), np.full(rows, value)
