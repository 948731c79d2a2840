"""Labels that are 0 or 1: the probability of 1, and a decision, by a threshold or for a day's highest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.contract.tasks import AT_K, RANK, Metric
from ml_platform.machine_learning import highest, metrics, model_plots
from ml_platform.machine_learning.arrays import Floats, Integers
from ml_platform.machine_learning.bootstrap import Difference
from ml_platform.machine_learning.highest import Highest
from ml_platform.machine_learning.kind import ROWS_OF_DAY, Figures, Fitted, Kind, Predictions
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


#: Places of rows without a rank lie beyond all ranks.
_BEYOND = 2.0**40

_RANKING: frozenset[Metric] = frozenset({"roc_auc", "average_precision"})


class Binary(Kind):
    """A label that is 0 or 1. Outputs are probabilities, predictions these with decisions.

    Where the contract looks at the highest rows of each day, outputs in days have each row's day and how many
    rows that has, and predictions the day, the place in it, and how much of the row is among the highest.
    """

    predict_method = "predict_proba"
    too_thin = "too few positives or negatives"

    def __init__(self, product: Product) -> None:
        super().__init__(product)
        self.uses_rows_of_day = product.deepest_rank is not None
        self.read = ("probability", "decision", *((RANK,) if self.uses_rows_of_day else ()))
        self.figures = ("k", *sorted(AT_K)) if product.evaluation.metric in AT_K else ()

    @property
    def counted(self) -> str:
        return "decision"

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
        if product.model.decision_highest is not None:
            return Fitted(pipeline)
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

    def in_days(self, outputs: Predictions, frame: pd.DataFrame) -> Predictions:
        if not self.uses_rows_of_day:
            return outputs
        if frame.empty:
            nothing = np.zeros(0, dtype=np.int64)
            return *outputs, nothing, np.zeros(0), nothing
        import pandas as pd

        rows = frame[ROWS_OF_DAY].to_numpy(dtype=np.float64)
        tie = pd.util.hash_pandas_object(frame[self.product.identity], index=False)
        return *outputs, ordinals(frame[EVENT_DAY]), rows, tie.to_numpy().view(np.int64)

    def decided(self, outputs: Predictions, threshold: float | None) -> Predictions:
        probability, *days = outputs
        decision = (probability >= threshold).astype(np.int64) if threshold is not None else None
        if not days:
            assert decision is not None, "without days there is a threshold"
            return probability, decision
        day, rows, tie = days
        place, k, decided = -probability, self.product.highest, self.product.model.decision_highest
        assert k is not None, "rows are ranked for somebody"
        if decided is not None:
            decision = highest.in_whole_rows(day, place, tie, np.minimum(1.0, decided / rows))
        assert decision is not None, "there is a threshold"
        return probability, decision, day, place, highest.chosen(day, place, np.minimum(1.0, k / rows))

    def stored(self, outputs: Predictions, threshold: float | None) -> Mapping[str, Any]:
        (probability,) = self.rounded(outputs)
        if self.product.model.decision_highest is not None:
            threshold = None  # of a model that was trained when there was one
        alike = np.full(len(probability), np.nan if threshold is None else threshold, dtype=np.float64)
        decision = np.zeros(len(probability)) if threshold is None else probability >= threshold
        nothing = np.full(len(probability), threshold is None)
        return {
            "probability": probability,
            "decision": decision.astype("int32"),
            "threshold": pa.array(alike, mask=nothing),
        }

    def of_table(self, frame: pd.DataFrame) -> Predictions:
        probability = frame["probability"].to_numpy(dtype=float)
        decision = frame["decision"].to_numpy(dtype=np.int64)
        if not self.uses_rows_of_day:
            return probability, decision
        rank = frame[RANK].to_numpy(dtype=np.float64, na_value=np.nan)
        # Rows that came late are ranked after those that were there; without a rank, the probability tells.
        place = np.where(np.isnan(rank), _BEYOND * (2 - probability), rank)
        chosen = rank <= self.product.highest if self._is_at_k else decision
        return probability, decision, ordinals(frame[EVENT_DAY]), place, chosen.astype(np.float64)

    @property
    def _metric(self) -> Metric:
        return self.product.evaluation.metric

    @property
    def _is_at_k(self) -> bool:
        return self._metric in AT_K

    @property
    def _is_of_highest(self) -> bool:
        """Whether the metric is one of the highest rows of each day."""
        decides = self.product.model.decision_highest is not None
        return self._is_at_k or (decides and self._metric not in _RANKING)

    def score(self, label: Floats, predictions: Predictions) -> float | None:
        if self._is_of_highest:
            return highest.score(self._metric, label, _highest(predictions))
        return metrics.score(self._metric, label, *predictions[:2])

    def summary(self, label: Floats, predictions: Predictions) -> Figures:
        figures = metrics.summary(label, *predictions[:2])
        if not self._is_at_k:
            return figures
        rows = _highest(predictions)
        at_k = {name: highest.score(name, label, rows) for name in sorted(AT_K)}
        return figures | at_k | {"k": self.product.highest}

    def interval(
        self, label: Floats, predictions: Predictions, cluster: NDArray[Any]
    ) -> tuple[float, float] | None:
        if self._is_of_highest:
            return highest.interval(self._metric, label, _highest(predictions), cluster)
        probability, decision, *_ = predictions
        return metrics.interval(self._metric, label, probability, decision, cluster)

    def difference(
        self, label: Floats, challenger: Predictions, champion: Predictions, cluster: NDArray[Any]
    ) -> Difference:
        if self._is_of_highest:
            rows = _highest(challenger), _highest(champion)
            return highest.paired_difference(self._metric, label, *rows, cluster)
        (p1, d1, *_), (p2, d2, *_) = challenger, champion
        return metrics.paired_difference(self._metric, label, p1, d1, p2, d2, cluster)

    def baselines(self, pipeline: Any, frame: pd.DataFrame) -> Mapping[str, Predictions]:
        found = {name: _constant(value, len(frame)) for name, value in BASELINES.items()}
        if not self.uses_rows_of_day:
            return found
        return {
            name: self._alike(decided, self.decided(self.in_days(decided[:1], frame), 0.5))
            for name, decided in found.items()
        }

    def constant(self, label: Floats, predictions: Predictions) -> Predictions:
        return self._alike(_constant(1, len(label)), predictions)

    def _alike(self, constant: Predictions, predictions: Predictions) -> Predictions:
        """A constant beside predictions of the same rows: any row may be among as many highest ones."""
        if not self.uses_rows_of_day:
            return constant
        if not predictions:
            nothing = np.zeros(len(constant[0]), dtype=np.int64)
            return *constant, nothing, np.zeros(len(nothing)), np.ones(len(nothing))
        _, _, day, _, chosen = predictions
        share = chosen
        if len(day):
            _, codes = np.unique(day, return_inverse=True)
            share = (np.bincount(codes, weights=chosen) / np.bincount(codes))[codes]
        if not self._is_at_k:  # a constant decides alike for all of them
            share = constant[1].astype(np.float64)
        return *constant, day, np.zeros(len(day)), share

    def plots(self, label: Floats, predictions: Predictions, threshold: float | None) -> Mapping[str, Any]:
        probability, decision, *_ = predictions
        decided = self.product.model.decision_highest
        at = f"at {threshold:.3f}" if decided is None else f"as the {decided:,} highest of a day are"
        return model_plots.of_decisions(at, label.astype(np.int64), probability, decision)

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


def ordinals(days: pd.Series[Any]) -> Integers:
    """Days as proleptic Gregorian ordinals."""
    import pandas as pd

    codes, values = pd.factorize(days)
    numbers = np.array([pd.Timestamp(value).toordinal() for value in values], dtype=np.int64)
    return numbers[codes] if len(numbers) else np.zeros(len(days), dtype=np.int64)


def _highest(predictions: Predictions) -> Highest:
    _, _, day, place, chosen = predictions
    return Highest(day, place, chosen)


def _constant(value: int, rows: int) -> Predictions:
    return np.full(rows, float(value)), np.full(rows, value)
