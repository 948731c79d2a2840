"""Labels that are one of many classes: the most probable class, and the probabilities of all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_platform.contract.faults import in_words
from ml_platform.contract.source import EVENT_DAY
from ml_platform.contract.tasks import Metric
from ml_platform.machine_learning import model_plots, multiclass_metrics
from ml_platform.machine_learning.arrays import Floats
from ml_platform.machine_learning.bootstrap import Difference
from ml_platform.machine_learning.kind import LAST_LABEL, Figures, Fitted, Kind, Predictions
from ml_platform.machine_learning.pipeline import TrainingError, feature_frame, features_of, fit_pipeline

if TYPE_CHECKING:
    import pandas as pd

#: Matrix products may differ in the last bit with the size of a batch; stored probabilities don't.
PROBABILITY_DECIMALS = 6

#: Rows of a class below which an estimator that can't learn may want more: its own folds are ten at most.
FEW_ROWS = 10
#: Whole numbers up to which a float of 32 bits holds each.
_EXACT_IN_FLOATS = 1 << 24
#: Where a fitted pipeline keeps the share of each class among the labels that it has learned from.
_SHARES = "label_shares_"


class Multiclass(Kind):
    """A label that is one of the classes that the contract allows.

    Outputs are probabilities, a column a class in the order of the contract; predictions are classes by their
    places in that order, with the probabilities.
    """

    read = ("prediction", "probabilities")
    uses_last_label = True
    predict_method = "predict_proba"
    figures = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "log_loss", "top_k_accuracy")

    @property
    def counted(self) -> str:
        return "prediction"

    @property
    def classes(self) -> tuple[Any, ...]:
        """The classes, in the order of the contract."""
        return tuple(self.product.allowed_in(self.product.label) or ())

    # -- labels and learning -----------------------------------------------------------------------

    def labels(self, values: pd.Series[Any]) -> Floats:
        places = {name: place for place, name in enumerate(self.classes)}
        import pandas as pd

        return pd.Series(values).map(places).to_numpy(dtype=np.float64, na_value=np.nan)

    def as_learned(self, label: Floats) -> NDArray[Any]:
        learned: NDArray[Any] = np.array(self.classes)[label.astype(np.int64)]
        return learned

    def check_evidence(self, frame: pd.DataFrame) -> None:
        rows, needed = len(frame), self.product.model.minimum_rows
        days = f"on {frame[EVENT_DAY].nunique():,} labelled days" if rows else "no labelled days"
        label = self.labels(frame[self.product.label]) if rows else np.zeros(0)
        there = np.unique(label)
        if rows >= needed and len(there) > 1:
            return
        names = self._named([int(place) for place in there])
        raise TrainingError(
            f"too little to learn from: found {rows:,} labelled rows ({days}) of the classes {names}; needed "
            f"are {needed:,} rows (model.minimum_rows) of two classes"
        )

    def fit(self, rows: pd.DataFrame, features: pd.DataFrame) -> Fitted:
        label = self.labels(rows[self.product.label]).astype(np.int64)
        # An array of texts or of numbers, as estimators and the model's file take them.
        names = np.array(self.classes)
        if names.dtype.kind == "i" and np.abs(names).max() > _EXACT_IN_FLOATS:
            names = names.astype(str)  # CatBoost keeps classes that are numbers as floats of 32 bits
        counts = np.bincount(label, minlength=len(names))
        try:
            pipeline = fit_pipeline(self.product, features, names[label], names[counts > 0].tolist())
        except ValueError as error:
            few = [place for place in np.argsort(counts, kind="stable") if 0 < counts[place] < FEW_ROWS]
            rare = (
                f"; of {self._named(few)} there are few rows, and some estimators need several" if few else ""
            )
            said = in_words(error, quoting=not self.product.sensitive)
            raise TrainingError(f"the estimator can't learn {len(label):,} rows: {said}{rare}") from error
        unknown = {str(name) for name in pipeline.classes_} - {str(name) for name in names}
        if unknown:
            raise TrainingError(
                f"the estimator takes classes for others than they are: {', '.join(sorted(unknown))}"
            )
        shares = {str(name): float(count / len(label)) for name, count in zip(names, counts, strict=True)}
        setattr(pipeline, _SHARES, shares)
        return Fitted(pipeline)

    def facts(self, pipeline: Any) -> Mapping[str, Any]:
        found: Mapping[str, float] = getattr(pipeline, _SHARES, {})
        return found

    def remark(self, pipeline: Any) -> str:
        shares = self.facts(pipeline)
        missing = [place for place, name in enumerate(self.classes) if not shares.get(str(name))]
        return f"no training rows of {self._named(missing)}" if missing else ""

    def _named(self, places: Sequence[int]) -> str:
        """Classes in a sentence; of a sensitive label by their places in the contract."""
        if self.product.label in self.product.sensitive:
            return ", ".join(f"class {place + 1}" for place in places) or "none"
        return ", ".join(str(self.classes[place]) for place in places) or "none"

    def evidence(self, label: Floats) -> str:
        return f"{len(label):,} rows of {len(np.unique(label)):,} classes"

    # -- predicting --------------------------------------------------------------------------------

    def predict(self, pipeline: Any, frame: pd.DataFrame) -> Predictions:
        classes = self.classes
        found = np.zeros((len(frame), len(classes)))
        if frame.empty:
            return (found,)
        known = pipeline.predict_proba(feature_frame(self.product, frame, features_of(pipeline)))
        places = {str(name): place for place, name in enumerate(classes)}
        for column, name in enumerate(pipeline.classes_):
            if str(name) in places:
                found[:, places[str(name)]] = known[:, column]
        total = found.sum(axis=1, keepdims=True)
        # A class that the contract no longer has takes its probability with it.
        return (np.divide(found, total, out=np.full_like(found, 1 / len(classes)), where=total > 0),)

    def rounded(self, outputs: Predictions) -> Predictions:
        return (outputs[0].round(PROBABILITY_DECIMALS),)

    def decided(self, outputs: Predictions, threshold: float | None) -> Predictions:
        (probability,) = outputs
        return np.argmax(probability, axis=1).astype(np.int64), probability

    def stored(self, outputs: Predictions, threshold: float | None) -> Mapping[str, Any]:
        place, probability = self.decided(self.rounded(outputs), threshold)
        names = [str(name) for name in self.classes]
        return {
            "prediction": [self.classes[number] for number in place],
            "probability": probability[np.arange(len(place)), place],
            "probabilities": [
                json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)
                for row in probability.tolist()
            ],
        }

    def of_table(self, frame: pd.DataFrame) -> Predictions:
        names = [str(name) for name in self.classes]
        rows = [json.loads(text) for text in frame["probabilities"]]
        probability = np.array([[row.get(name, 0.0) for name in names] for row in rows])
        probability = probability.reshape(len(frame), len(names))
        place, total = self.labels(frame["prediction"]), probability.sum(axis=1, keepdims=True)
        # The contract may have had a class more when they were stored: it takes its probability with it.
        probability = np.divide(
            probability, total, out=np.full_like(probability, 1 / len(names)), where=total > 0
        )
        return np.where(np.isnan(place), np.argmax(probability, axis=1), place), probability

    def measured(self, outputs: Predictions) -> Any:
        place, _ = self.decided(outputs, None)
        return [self.classes[number] for number in place]

    # -- measuring ---------------------------------------------------------------------------------

    @property
    def _metric(self) -> Metric:
        return self.product.evaluation.metric

    @property
    def _k(self) -> int | None:
        return self.product.evaluation.k

    def score(self, label: Floats, predictions: Predictions) -> float | None:
        return multiclass_metrics.score(self._metric, label, *predictions, k=self._k)

    def summary(self, label: Floats, predictions: Predictions) -> Figures:
        figures = multiclass_metrics.summary(label, *predictions)
        return figures | {self._metric: self.score(label, predictions)}

    def interval(
        self, label: Floats, predictions: Predictions, cluster: NDArray[Any]
    ) -> tuple[float, float] | None:
        place, probability = predictions
        return multiclass_metrics.interval(self._metric, label, place, probability, cluster, k=self._k)

    def difference(
        self, label: Floats, challenger: Predictions, champion: Predictions, cluster: NDArray[Any]
    ) -> Difference:
        (d1, p1), (d2, p2) = challenger, champion
        return multiclass_metrics.paired_difference(
            self._metric, label, (d1, p1), (d2, p2), cluster, k=self._k
        )

    def baselines(self, pipeline: Any, frame: pd.DataFrame) -> Mapping[str, Predictions]:
        shares = self.facts(pipeline)
        if not shares and not frame.empty:
            raise ValueError("the model doesn't know the classes of the labels it has learned from")
        of_training = np.array([shares.get(str(name), 0.0) for name in self.classes])
        majority = self._alike(of_training, len(frame))
        found = {"majority_class": majority}
        if LAST_LABEL in frame:
            last = self.labels(frame[LAST_LABEL])
            known = ~np.isnan(last)
            place, probability = (values.copy() for values in majority)
            place[known] = last[known].astype(np.int64)
            probability[known] = np.eye(len(self.classes))[place[known]]
            found["last_known_class"] = (place, probability)
        return found

    def constant(self, label: Floats, predictions: Predictions) -> Predictions:
        """The most frequent class in hindsight, with the shares of all classes as probabilities."""
        counts = np.bincount(label.astype(np.int64), minlength=len(self.classes))
        return self._alike(counts / max(len(label), 1), len(label))

    def _alike(self, shares: Floats, rows: int) -> Predictions:
        return np.full(rows, int(np.argmax(shares))), np.tile(shares, (rows, 1))

    # -- showing -----------------------------------------------------------------------------------

    def plots(self, label: Floats, predictions: Predictions, threshold: float | None) -> Mapping[str, Any]:
        names = [self._named([place]) for place in range(len(self.classes))]
        place, _ = predictions
        return model_plots.of_classes(label.astype(np.int64), place.astype(np.int64), names)

    def output_spec(self) -> Any:
        from mlflow.types.schema import TensorSpec

        # One column per class that had training rows.
        return TensorSpec(np.dtype("float64"), (-1, -1))
