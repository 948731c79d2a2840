"""Labels that are numbers: the value, and an interval around it where the contract asks for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_platform.contract.source import EVENT_DAY
from ml_platform.contract.tasks import Metric
from ml_platform.machine_learning import model_plots, regression_metrics
from ml_platform.machine_learning.arrays import Floats
from ml_platform.machine_learning.bootstrap import Difference
from ml_platform.machine_learning.kind import LAST_LABEL, Figures, Fitted, Kind, Predictions
from ml_platform.machine_learning.pipeline import (
    TRANSFORMS,
    TrainingError,
    feature_frame,
    features_of,
    fit_pipeline,
    halves,
)

if TYPE_CHECKING:
    import pandas as pd

#: Significant digits of stored values: matrix products may differ in the last bits with a batch's size.
DIGITS = 9
#: What is predicted lies within these bounds: undoing a transform can give infinity, and the squares of
#: errors must add up within a double's 1e308.
LARGEST = 1e100
#: Of these many rows at least an interval's width is found; with fewer there is none.
LEAST_ROWS_OF_INTERVAL = 20

#: Where a fitted pipeline keeps what it knows of its labels.
_FACTS = "label_facts_"
#: Metrics that the mean of the labels is the best constant of; of the others it is the median.
_BEST_IS_MEAN: frozenset[Metric] = frozenset({"rmse", "r2"})


class Regression(Kind):
    """A label that is a number. Outputs and predictions are values, and the ends of their intervals."""

    uses_last_label = True
    predict_method = "predict"
    figures = (
        "rmse",
        "mae",
        "median_absolute_error",
        "mape",
        "r2",
        "mean_error",
        "mean_label",
        "interval_coverage",
        "interval_width",
    )

    @property
    def _has_interval(self) -> bool:
        return self.product.model.interval is not None

    @property
    def _is_sensitive(self) -> bool:
        return self.product.label in self.product.sensitive

    @property
    def read(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("prediction", "lower", "upper") if self._has_interval else ("prediction",)

    @property
    def counted(self) -> str:
        return "prediction"

    # -- labels and learning -----------------------------------------------------------------------

    def check_evidence(self, frame: pd.DataFrame) -> None:
        product, rows = self.product, len(frame)
        needed = product.model.minimum_rows
        if rows < needed:
            days = f"on {frame[EVENT_DAY].nunique():,} labelled days" if rows else "no labelled days"
            raise TrainingError(
                f"too little to learn from: found {rows:,} labelled rows ({days}); needed are {needed:,} "
                "rows (model.minimum_rows)"
            )
        label = self.labels(frame[product.label])
        if product.model.transform is not None:
            impossible = int(np.sum(label <= -1))
            if impossible:
                raise TrainingError(
                    f"model.transform: {product.model.transform} has no value for labels of -1 and below, "
                    f"and {impossible:,} of {rows:,} rows have one; leave the transform out, or have such "
                    f"days blocked by validation.ranges.{product.label}"
                )
        if np.all(label == label[0]):
            raise TrainingError(f"nothing to learn from: all {rows:,} labelled rows have the same label")

    def fit(self, rows: pd.DataFrame, features: pd.DataFrame) -> Fitted:
        label = self.labels(rows[self.product.label])
        pipeline = fit_pipeline(self.product, features, label)
        facts: dict[str, Any] = {"mean": float(np.mean(label)), "median": float(np.median(label))}
        if self._has_interval:
            transform = self.product.model.transform
            facts |= {"half_width": self._half_width(rows, features, label), "transform": transform}
        # It travels within the model's file, so that a model that is loaded anywhere knows its intervals.
        setattr(pipeline, _FACTS, facts)
        return Fitted(pipeline)

    def _half_width(self, rows: pd.DataFrame, features: pd.DataFrame, label: Floats) -> float | None:
        """How far labels lie from what a model of the other half of the entities says, by split conformal.

        It is the quantile of these distances that holds for one more row with the contract's share. With a
        transform they are those of the transformed values, so that an interval grows with its value.
        """
        second, share = halves(self.product, rows), self.product.model.interval or 0.0
        transform = self.product.model.transform
        distances = []
        for scored in (second, ~second):
            if scored.sum() < LEAST_ROWS_OF_INTERVAL or (~scored).sum() < LEAST_ROWS_OF_INTERVAL:
                return None
            pipeline = fit_pipeline(self.product, features[~scored], label[~scored])
            predicted = self._within(pipeline.predict(features[scored]))
            distances.append(np.abs(_forward(label[scored], transform) - _forward(predicted, transform)))
        every = np.sort(np.concatenate(distances))
        position = int(np.ceil((len(every) + 1) * share)) - 1
        return float(every[min(position, len(every) - 1)])

    def evidence(self, label: Floats) -> str:
        return f"{len(label):,} rows"

    # -- predicting --------------------------------------------------------------------------------

    def predict(self, pipeline: Any, frame: pd.DataFrame) -> Predictions:
        if frame.empty:
            return tuple(np.zeros(0) for _ in self.read)
        features = feature_frame(self.product, frame, features_of(pipeline))
        with np.errstate(over="ignore"):  # of what is undone
            value = self._within(np.asarray(pipeline.predict(features), dtype=np.float64).ravel())
        if not self._has_interval:
            return (value,)
        facts = self.facts(pipeline)
        width, transform = facts.get("half_width"), facts.get("transform")
        if width is None:
            nothing = np.full(len(value), np.nan)
            return value, nothing, nothing
        middle = _forward(value, transform)
        lower, upper = (_back(end, transform) for end in (middle - width, middle + width))
        return value, self._within(lower), self._within(upper)

    def _within(self, values: Floats) -> Floats:
        unknown = int(np.sum(np.isnan(values)))
        if unknown:
            raise ValueError(f"the model predicts no number for {unknown:,} of {len(values):,} rows")
        return np.clip(values, -LARGEST, LARGEST)

    def rounded(self, outputs: Predictions) -> Predictions:
        return tuple(_significant(values) for values in outputs)

    def decided(self, outputs: Predictions, threshold: float | None) -> Predictions:
        return outputs

    def stored(self, outputs: Predictions, threshold: float | None) -> Mapping[str, Any]:
        import pyarrow as pa

        return {
            name: pa.array(values, pa.float64(), from_pandas=True)
            for name, values in zip(self.read, self.rounded(outputs), strict=True)
        }

    def of_table(self, frame: pd.DataFrame) -> Predictions:
        return tuple(frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in self.read)

    # -- measuring ---------------------------------------------------------------------------------

    @property
    def _metric(self) -> Metric:
        return self.product.evaluation.metric

    @property
    def _quantile(self) -> float | None:
        return self.product.evaluation.quantile

    def score(self, label: Floats, predictions: Predictions) -> float | None:
        return regression_metrics.score(self._metric, label, predictions[0], quantile=self._quantile)

    def summary(self, label: Floats, predictions: Predictions) -> Figures:
        figures = regression_metrics.summary(label, predictions[0])
        if self._is_sensitive:
            del figures["mean_label"]
        if self._has_interval:
            lower, upper = predictions[1:]
            known = ~np.isnan(lower)
            inside = (label >= lower) & (label <= upper)
            figures["interval_coverage"] = float(inside[known].mean()) if known.any() else None
            figures["interval_width"] = float(np.mean((upper - lower)[known])) if known.any() else None
        return figures

    def interval(
        self, label: Floats, predictions: Predictions, cluster: NDArray[Any]
    ) -> tuple[float, float] | None:
        return regression_metrics.interval(
            self._metric, label, predictions[0], cluster, quantile=self._quantile
        )

    def difference(
        self, label: Floats, challenger: Predictions, champion: Predictions, cluster: NDArray[Any]
    ) -> Difference:
        return regression_metrics.paired_difference(
            self._metric, label, challenger[0], champion[0], cluster, quantile=self._quantile
        )

    def baselines(self, pipeline: Any, frame: pd.DataFrame) -> Mapping[str, Predictions]:
        facts = self.facts(pipeline)
        mean, median = facts.get("mean"), facts.get("median")
        if frame.empty:  # without rows there is nothing to know
            mean = median = 0.0
        if mean is None or median is None:
            raise ValueError(
                "the model doesn't know the mean and the median of the labels it has learned from"
            )
        found = {
            "training_mean": self._of_values(np.full(len(frame), mean)),
            "training_median": self._of_values(np.full(len(frame), median)),
        }
        if LAST_LABEL in frame:
            last = self.labels(frame[LAST_LABEL])
            found["last_known_value"] = self._of_values(np.where(np.isnan(last), median, last))
        return found

    def constant(self, label: Floats, predictions: Predictions) -> Predictions:
        """The best constant in hindsight: the mean, the median or the quantile of the labels themselves."""
        if not len(label):
            best = 0.0
        elif self._metric in _BEST_IS_MEAN:
            best = float(np.mean(label))
        else:
            best = float(np.quantile(label, self._quantile or regression_metrics.MEDIAN))
        return self._of_values(np.full(len(label), best))

    def _of_values(self, values: Floats) -> Predictions:
        nothing = np.full(len(values), np.nan)
        return (values, nothing, nothing) if self._has_interval else (values,)

    # -- showing -----------------------------------------------------------------------------------

    def plots(self, label: Floats, predictions: Predictions, threshold: float | None) -> Mapping[str, Any]:
        # Each point is a value of the label.
        return {} if self._is_sensitive else model_plots.of_numbers(label, predictions[0])

    def output_spec(self) -> Any:
        from mlflow.types.schema import TensorSpec

        return TensorSpec(np.dtype("float64"), (-1,))

    def facts(self, pipeline: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = getattr(pipeline, _FACTS, {})
        return found


def _forward(values: Floats, transform: str | None) -> Floats:
    """Values as a model learned them."""
    if transform is None:
        return values
    # What is undone reaches -1 by rounding alone.
    return np.asarray(TRANSFORMS[transform][0](np.maximum(values, np.nextafter(-1, 0))), dtype=np.float64)


def _back(values: Floats, transform: str | None) -> Floats:
    """The inverse of :func:`_forward`."""
    if transform is None:
        return values
    with np.errstate(over="ignore"):
        return np.asarray(TRANSFORMS[transform][1](values), dtype=np.float64)


def _significant(values: Floats) -> Floats:
    """Values with :data:`DIGITS` significant digits."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exponent = np.floor(np.log10(np.abs(values)))
        exponent = np.where(np.isfinite(exponent), exponent, 0.0)
        scale = 10.0 ** (DIGITS - 1 - exponent)
        rounded: Floats = np.round(values * scale) / scale
    return np.where(np.isfinite(rounded), rounded, values)
