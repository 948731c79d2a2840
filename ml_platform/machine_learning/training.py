"""From labelled rows to a fitted model: the pipeline, the decision threshold, and the probabilities it gives.

Everything here is a pure function of a product and a pandas frame; the same rows in any order give the
same model. Which rows a model may learn from is decided in :mod:`.training_data`; :mod:`.registry` keeps it.
Spark and MLflow do not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml_platform.contract.learning import Features, Metric
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY

THRESHOLD_DECIMALS = 6
MISSING = "(missing)"
"""The category that stands for a missing one."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class TrainingError(Exception):
    """The labelled rows can't make a model; the message says what was found and what is needed."""


@dataclass(frozen=True)
class TrainedModel:
    """A fitted pipeline with its decision threshold, and what it has learnt from.

    ``days`` counts the event days that had rows, from ``first_day`` to ``last_day``; ``example`` holds a
    few rows as the pipeline takes them.
    """

    pipeline: Any
    threshold: float
    rows: int
    positives: int
    days: int
    first_day: date
    last_day: date
    example: pd.DataFrame


def train(product: Product, frame: pd.DataFrame) -> TrainedModel:
    """Fit the contract's pipeline, and choose the decision threshold on the same rows.

    Args:
        frame: entity, event day, features and label; all labelled, none of a held-out entity.

    Raises:
        TrainingError: too few rows, or too few of either class.
    """
    from threadpoolctl import threadpool_limits

    _check_evidence(product, frame)
    rows = frame.sort_values(list(dict.fromkeys((EVENT_DAY, *product.entity))), ignore_index=True)
    features = feature_frame(product, rows)
    label = rows[product.label].to_numpy(dtype=np.int64)
    # How BLAS splits a sum among threads changes its last digits, and with them the model.
    with threadpool_limits(limits=1, user_api="blas"):
        pipeline = build_pipeline(product).fit(features, label)
        threshold = product.model.decision_threshold
        if threshold == "tuned":
            scores = _out_of_fold(product, rows, features, label)
            if scores is None:
                scores = _positive(pipeline, features)
            threshold = best_threshold(product.evaluation.metric, label, scores)
    return TrainedModel(
        pipeline=pipeline,
        threshold=round(threshold, THRESHOLD_DECIMALS),
        rows=len(rows),
        positives=int(label.sum()),
        days=rows[EVENT_DAY].nunique(),
        first_day=pd.Timestamp(rows[EVENT_DAY].iloc[0]).date(),
        last_day=pd.Timestamp(rows[EVENT_DAY].iloc[-1]).date(),
        example=features.head(5),
    )


def probabilities(pipeline: Any, product: Product, frame: pd.DataFrame) -> Floats:
    """P(label = 1) of each row of ``frame``, which holds at least the pipeline's features, read by Arrow."""
    if frame.empty:
        return np.zeros(0)
    return _positive(pipeline, feature_frame(product, frame, features_of(pipeline)))


def features_of(pipeline: Any) -> Features:
    """The columns that a fitted pipeline takes, by kind; the contract may name others by now."""
    columns = {name: tuple(columns) for name, _, columns in pipeline.named_steps["features"].transformers_}
    return Features(numeric=columns.get("numeric", ()), categorical=columns.get("categorical", ()))


def build_pipeline(product: Product) -> Any:
    """The unfitted scikit-learn pipeline: feature extraction and the contract's estimator.

    It takes a :func:`feature_frame`. Missing numbers become the median, missing categories one of their
    own, and a category that training didn't see counts as none. An estimator without a seed gets one.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    features, estimator = product.model.features, product.model.estimator.build()
    if estimator.get_params().get("random_state", 0) is None:
        estimator.set_params(random_state=0)
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    constant = SimpleImputer(
        missing_values=None, strategy="constant", fill_value=MISSING, keep_empty_features=True
    )
    numeric = Pipeline([("impute", median), ("scale", StandardScaler())])
    categorical = Pipeline([("impute", constant), ("encode", OneHotEncoder(handle_unknown="ignore"))])
    kinds = [
        ("numeric", numeric, list(features.numeric)),
        ("categorical", categorical, list(features.categorical)),
    ]
    extraction = ColumnTransformer(
        [kind for kind in kinds if kind[2]],
        sparse_threshold=0.3 if _takes_sparse(estimator) else 0,
    )
    return Pipeline([("features", extraction), ("estimator", estimator)])


def feature_frame(product: Product, frame: pd.DataFrame, features: Features | None = None) -> pd.DataFrame:
    """The model's features as the pipeline takes them, whatever types Arrow chose for this batch.

    Numbers are float64, NaN where missing or infinite; categories are strings, None where missing.

    Args:
        features: those of a model that was trained under another contract; the contract's without.
    """
    features = features or product.model.features
    columns: dict[str, Any] = {name: _numbers(frame[name]) for name in features.numeric}
    columns |= {name: _categories(frame[name], product.mrds_type(name)) for name in features.categorical}
    return pd.DataFrame(columns, index=frame.index)


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


def _check_evidence(product: Product, frame: pd.DataFrame) -> None:
    rows = len(frame)
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


def _out_of_fold(
    product: Product, rows: pd.DataFrame, features: pd.DataFrame, label: Integers
) -> Floats | None:
    """Each half of the entities scored by a model of the other half; None if a half lacks a class."""
    entities = pd.util.hash_pandas_object(rows[list(product.entity)], index=False)
    second = entities.to_numpy() % 2 == 1
    scores = np.empty(len(label))
    for scored in (second, ~second):
        if len(np.unique(label[~scored])) < 2 or not scored.any():
            return None
        pipeline = build_pipeline(product).fit(features[~scored], label[~scored])
        scores[scored] = _positive(pipeline, features[scored])
    return scores


def _positive(pipeline: Any, features: pd.DataFrame) -> Floats:
    column = list(pipeline.classes_).index(1)
    found: Floats = pipeline.predict_proba(features)[:, column]
    return found


def _takes_sparse(estimator: Any) -> bool:
    """Whether the estimator accepts sparse input; histogram gradient boosting, for one, does not."""
    from sklearn.utils import get_tags

    return bool(get_tags(estimator).input_tags.sparse)


def _numbers(values: pd.Series[Any]) -> Floats:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _categories(values: pd.Series[Any], type_: str) -> pd.Series[Any]:
    # Arrow makes integers with a null floats, in just the batches that have one: 1 must not become "1.0".
    if type_ in ("integer", "long"):
        values = values.astype("Int64")
    elif type_ == "boolean":
        values = values.astype("boolean")
    elif type_ == "timestamp" and isinstance(values.dtype, pd.DatetimeTZDtype):
        # Arrow's instants bear their time zone, Spark's are those of UTC and don't.
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)
    known = values.notna().to_numpy()
    texts = np.full(len(values), None, dtype=object)
    texts[known] = values[known] if type_ == "string" else [str(value) for value in values[known]]
    return pd.Series(texts, index=values.index, dtype=object)
