"""The plots of a model in MLflow: what it looks at, and how it does on rows that it has not seen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_platform.machine_learning.arrays import Floats, Integers
from ml_platform.machine_learning.pipeline import contracts_estimator

if TYPE_CHECKING:
    import pandas as pd

#: The features that a plot shows: those with the most weight. More could not be read.
SHOWN_FEATURES = 20
#: Rows that are scored again with a shuffled column, five times a column: a second for most estimators.
SHUFFLED_ROWS = 2_000
CALIBRATION_BINS = 10
#: Rows of a scatter plot; more make it no clearer, and its file larger.
SCATTERED_ROWS = 2_000


def of_trials(scores: Sequence[float | None], metric: str, sign: int) -> Any | None:
    """The scores of a search's trials in their order, and the best so far; None of fewer than two.

    Args:
        scores: None for a trial that has failed.
        sign: -1 where less is better.
    """
    if len(scores) < 2:
        return None
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    values = np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    numbers = np.arange(1, len(values) + 1)
    best = sign * np.maximum.accumulate(np.where(np.isnan(values), -np.inf, sign * values))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(numbers, values, "o", color="C0", markersize=4, label="trial")
    axes.step(numbers, np.where(np.isinf(best), np.nan, best), where="post", color="C1", label="best so far")
    axes.set(xlabel="trial", ylabel=f"{metric}, mean of the folds", title="Search of parameters")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def of_weights(pipeline: Any, sensitive: Collection[str] = ()) -> dict[str, Any]:
    """Coefficients or importances that the estimator holds itself; nothing if it has neither.

    Args:
        pipeline: fitted, of :func:`.pipeline.build_pipeline`.
        sensitive: columns whose values must not be shown: their categories count as one.
    """
    estimator = contracts_estimator(pipeline)
    columns = _columns(pipeline)
    for name, label, weights in (
        ("coefficients", "coefficient, of scaled features", getattr(estimator, "coef_", None)),
        ("importances", "importance", getattr(estimator, "feature_importances_", None)),
    ):
        if weights is None:
            continue
        found = weights.toarray() if hasattr(weights, "toarray") else weights
        found = np.atleast_2d(np.asarray(found, dtype=np.float64))
        if len(found) > 1:  # one row a class
            found, label = np.abs(found).mean(axis=0, keepdims=True), f"mean absolute {label}"
        if found.shape[1] != len(columns):  # an estimator that makes features of its own
            continue
        by_name = _by_name(columns, found[0], sensitive)
        return {name: _bars(by_name, label, f"{type(estimator).__name__}: {name}")}
    return {}


def of_shuffling(pipeline: Any, features: pd.DataFrame, label: Any) -> dict[str, Any]:
    """How much worse the model becomes when a column's values are dealt out anew (permutation importance).

    Breiman, "Random Forests", Machine Learning 45 (2001), as in scikit-learn; the measure is the log loss of
    a classifier and the root mean squared error of a regressor. Nothing where it isn't defined.

    Args:
        features: held-out rows as the pipeline takes them, of which the first 2,000 are used.
    """
    from sklearn.base import is_classifier
    from sklearn.inspection import permutation_importance

    rows, truth = features.head(SHUFFLED_ROWS), np.asarray(label)[:SHUFFLED_ROWS]
    classify = is_classifier(pipeline)
    if not len(rows) or (classify and set(np.unique(truth)) != set(pipeline.classes_)):
        return {}
    scoring = "neg_log_loss" if classify else "neg_root_mean_squared_error"
    found = permutation_importance(pipeline, rows, truth, scoring=scoring, n_repeats=5, random_state=0)
    measure = "log loss" if classify else "root mean squared error"
    by_name = dict(zip(rows.columns, found.importances_mean, strict=True))
    title = f"Permutation importance, {len(rows):,} held-out rows"
    return {"permutation_importance": _bars(by_name, f"increase of the {measure}", title)}


def of_decisions(at: str, label: Integers, probability: Floats, decision: Integers) -> dict[str, Any]:
    """The confusion matrix, the calibration, and the precision-recall curve of held-out rows.

    Args:
        at: how they were decided, in words that follow "decided".
    """
    from sklearn.calibration import CalibrationDisplay
    from sklearn.metrics import (
        ConfusionMatrixDisplay,
        PrecisionRecallDisplay,
        precision_score,
        recall_score,
    )

    figures = {}
    figures["confusion_matrix"], axes = _figure(f"Held-out rows, decided {at}")
    ConfusionMatrixDisplay.from_predictions(
        label, decision, labels=[0, 1], cmap="Blues", colorbar=False, values_format=",", ax=axes
    )
    axes.set(xlabel="predicted", ylabel="actual")

    if not label.any():
        return figures  # neither a precision nor a share of positives
    figures["calibration"], axes = _figure("Calibration on held-out rows")
    CalibrationDisplay.from_predictions(
        label, probability, n_bins=CALIBRATION_BINS, strategy="quantile", name="model", pos_label=1, ax=axes
    )
    axes.set(xlabel="mean probability", ylabel="share of positives")

    figures["precision_recall"], axes = _figure("Precision and recall on held-out rows")
    PrecisionRecallDisplay.from_predictions(
        label, probability, pos_label=1, name="model", plot_chance_level=True, ax=axes
    )
    axes.plot(
        recall_score(label, decision, zero_division=0),
        precision_score(label, decision, zero_division=0),
        "o",
        color="black",
        label=f"decided {at}",
    )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="best", fontsize="small")
    return figures


def of_classes(label: Integers, predicted: Integers, names: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix of held-out rows, of each class the share that is predicted to be each."""
    from sklearn.metrics import ConfusionMatrixDisplay

    side = max(4.5, 1.5 + 0.45 * len(names))
    figure, axes = _figure("Held-out rows: share of each class", size=(side, side))
    ConfusionMatrixDisplay.from_predictions(
        label,
        predicted,
        labels=list(range(len(names))),
        display_labels=[_plain(name) for name in names],
        normalize="true",
        cmap="Blues",
        colorbar=False,
        values_format=".2f",
        include_values=len(names) <= SHOWN_FEATURES,
        xticks_rotation="vertical",
        ax=axes,
    )
    axes.set(xlabel="predicted", ylabel="actual")
    return {"confusion_matrix": figure}


def of_numbers(label: Floats, value: Floats) -> dict[str, Any]:
    """Predicted against actual values, and residuals against predicted values, of held-out rows."""
    from sklearn.metrics import PredictionErrorDisplay

    figures = {}
    for name, kind, title in (
        ("predicted_against_actual", "actual_vs_predicted", "Held-out rows"),
        ("residuals", "residual_vs_predicted", "Residuals of held-out rows"),
    ):
        figures[name], axes = _figure(title)
        PredictionErrorDisplay.from_predictions(
            label,
            value,
            kind=kind,
            subsample=min(SCATTERED_ROWS, len(label)),
            random_state=0,
            scatter_kwargs={"alpha": 0.3, "s": 6},
            ax=axes,
        )
    return figures


def _columns(pipeline: Any) -> list[tuple[str, str]]:
    """What the estimator takes: of each column the feature it comes from, and its name."""
    extraction = pipeline.named_steps["features"]
    columns = []
    for kind, transformer, features in extraction.transformers_:
        if kind == "categorical":
            encoder = transformer.named_steps.get("encode")
            values: Any = None
            if hasattr(encoder, "drop_idx_"):  # one-hot: a column for each category
                values = encoder.categories_
            elif getattr(encoder, "target_type_", None) == "multiclass":  # a column for each class
                values = [encoder.classes_] * len(features)
            if values is None:
                columns += [(feature, feature) for feature in features]
            else:
                columns += [
                    (feature, f"{feature} = {value}")
                    for feature, found in zip(features, values, strict=True)
                    for value in found
                ]
        elif kind == "numeric":
            columns += [(feature, feature) for feature in features]
    return columns


def _by_name(columns: list[tuple[str, str]], weights: Floats, sensitive: Collection[str]) -> dict[str, float]:
    """The weight of each column; of the categories of a sensitive feature the greatest, without its sign."""
    found: dict[str, float] = {}
    for (feature, name), weight in zip(columns, weights, strict=True):
        if feature != name and feature in sensitive:
            named = f"{feature} (the most of its values)"
            found[named] = max(found.get(named, 0.0), abs(float(weight)))
        else:
            found[name] = float(weight)
    return found


def _bars(weights: dict[str, float], label: str, title: str) -> Any:
    """Horizontal bars, the heaviest first."""
    order = sorted(weights, key=lambda name: -abs(weights[name]))
    shown = order[:SHOWN_FEATURES]
    if len(order) > len(shown):
        title = f"{title}, {len(shown)} of {len(order):,}"
    figure, axes = _figure(title, size=(6.5, 1.4 + 0.24 * len(shown)))
    values = [weights[name] for name in shown]
    axes.barh(range(len(shown)), values, color=["C0" if value >= 0 else "C3" for value in values])
    names = [_plain(name) for name in shown]
    axes.set(xlabel=label, yticks=range(len(shown)), yticklabels=names)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    return figure


def _plain(name: str) -> str:
    """A name as matplotlib prints it: no mathematics between dollars, and no longer than can be read."""
    short = name if len(name) <= 40 else f"{name[:39]}…"
    return short.replace("$", r"\$")


def _figure(title: str, size: tuple[float, float] = (4.5, 4)) -> tuple[Any, Any]:
    """A figure that pyplot knows nothing of: it keeps all that it made."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=90, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize="medium")
    return figure, axes
