"""The kinds of label that a product may have, and the metrics of each: what is known of them without data.

Whatever differs between a label of two classes, of many, and a number is said here once, and what is computed
of it in :mod:`ml_platform.machine_learning.kinds`; everything else asks these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ml_platform.contract.column_types import ColumnType

if TYPE_CHECKING:
    from ml_platform.contract.product import Product

TaskName = Literal["binary", "regression", "multiclass"]
#: Classes of a label at most: of each the rows of each resample are counted, and each is drawn in a plot.
MAXIMUM_CLASSES = 100
#: The greatest number that names a class: beyond, a label beside one that hasn't come, a double, isn't exact.
LARGEST_CLASS = 2**53

Metric = Literal[
    "f1",
    "precision",
    "recall",
    "accuracy",
    "balanced_accuracy",
    "roc_auc",
    "average_precision",
    "precision_at_k",
    "recall_at_k",
    "lift_at_k",
    "rmse",
    "mae",
    "median_absolute_error",
    "mape",
    "r2",
    "pinball",
    "macro_f1",
    "weighted_f1",
    "log_loss",
    "top_k_accuracy",
]

#: The column of the predictions that holds a row's rank in its day.
RANK = "rank"
#: The metrics of the k highest of each day.
AT_K: frozenset[Metric] = frozenset({"precision_at_k", "recall_at_k", "lift_at_k"})
#: Rows of a day that may be the highest at most: the keys of so many are held of each part of a large day.
MOST_HIGHEST = 1_000_000

#: Errors from here on are shown without decimals.
_LARGE = 1000


@dataclass(frozen=True)
class MetricRule:
    """What is better of a metric's values, and which it can have at all.

    Attributes:
        greater_is_better: False for an error, of which a threshold is the greatest value that is accepted.
        least: the least value that a threshold may be; None if there is no bound.
        greatest: the greatest one.
    """

    greater_is_better: bool = True
    least: float | None = 0.0
    greatest: float | None = 1.0

    @property
    def sign(self) -> int:
        """By what a difference of values is multiplied to be positive where the first one is better."""
        return 1 if self.greater_is_better else -1

    @property
    def bound(self) -> str:
        """What a threshold is, in words."""
        return "at least" if self.greater_is_better else "at most"

    @property
    def beyond(self) -> str:
        """On which side of the threshold a value fails, in words."""
        return "below" if self.greater_is_better else "above"

    def is_enough(self, value: float, threshold: float) -> bool:
        """Whether a value is good enough."""
        return value >= threshold if self.greater_is_better else value <= threshold

    def shown(self, value: float) -> str:
        """A value, for people: of a share three decimals, of an error as many digits as tell something."""
        if self.greater_is_better:
            return f"{value:.3f}"
        return f"{value:,.0f}" if abs(value) >= _LARGE else f"{value:.4g}"


_SHARE = MetricRule()
_ERROR = MetricRule(greater_is_better=False, greatest=None)
METRICS: Mapping[Metric, MetricRule] = {
    "f1": _SHARE,
    "precision": _SHARE,
    "recall": _SHARE,
    "accuracy": _SHARE,
    "balanced_accuracy": _SHARE,
    "roc_auc": _SHARE,
    "average_precision": _SHARE,
    "precision_at_k": _SHARE,
    "recall_at_k": _SHARE,
    "lift_at_k": MetricRule(greatest=None),
    "rmse": _ERROR,
    "mae": _ERROR,
    "median_absolute_error": _ERROR,
    "mape": _ERROR,
    # It is below 0 where predicting the mean would do better.
    "r2": MetricRule(least=None),
    "pinball": _ERROR,
    "macro_f1": _SHARE,
    "weighted_f1": _SHARE,
    "log_loss": _ERROR,
    "top_k_accuracy": _SHARE,
}


@dataclass(frozen=True)
class OutputColumn:
    """A column of the predictions that holds what the model says of a row."""

    name: str
    type: ColumnType
    nullable: bool
    description: str
    is_of_features: bool = True


@dataclass(frozen=True)
class Task:
    """A kind of label.

    Attributes:
        label_types: the types that the label may have in the deliveries.
        allowed: its values, where the contract names none; None if it may have any.
        aggregations: how the labels of an entity's rows of a day may become one.
        label_in_words: what a label must be, after "must be".
        needs: the method that an estimator of this kind has, beside ``fit``.
        has_positives: whether one class is the one that is looked for, and rows of it are counted.
        is_number: whether a label is a number, and no class.
        names_classes: whether the contract has to name the label's values.
        outputs: the columns of the predictions that hold what the model says.
        outputs_in_words: the same in a sentence.
        measured: the one of them whose drift is measured, and what it is called.
        label_varies: how the drift of the label is measured: by category, or of a number in bins that hold
            equally many values of the reference.
        prediction_varies: the same of the predictions; ``numeric`` is in bins of equal widths.
    """

    name: TaskName
    metrics: tuple[Metric, ...]
    label_types: tuple[ColumnType, ...]
    allowed: tuple[str | int | float | bool, ...] | None
    aggregations: tuple[str, ...]
    label_in_words: str
    needs: Literal["predict_proba", "predict"]
    has_positives: bool
    is_number: bool
    names_classes: bool
    outputs: Callable[[Product], tuple[OutputColumn, ...]]
    outputs_in_words: str
    measured: tuple[str, str]
    label_varies: Literal["quantiles", "categorical"]
    prediction_varies: Literal["numeric", "quantiles", "categorical"]


def _of_two_classes(product: Product) -> tuple[OutputColumn, ...]:
    highest, deepest = product.model.decision_highest, product.deepest_rank
    decision, threshold = "1 from the threshold on", "of the model"
    if highest is not None:
        decision = f"1 for the {highest:,} highest ranks of the day"
        threshold = "null where the day's highest were decided to be 1"
    columns = (
        OutputColumn("probability", "double", False, f"that {product.label} is 1"),
        OutputColumn("decision", "integer", False, decision),
        OutputColumn("threshold", "double", highest is not None, threshold, is_of_features=False),
    )
    if deepest is None:
        return columns
    rank = f"among the day's rows by probability, from 1; null beyond {deepest:,}"
    return (*columns, OutputColumn(RANK, "long", True, rank))


def _of_numbers(product: Product) -> tuple[OutputColumn, ...]:
    value = OutputColumn("prediction", "double", False, f"the expected {product.label}, in its own unit")
    share = product.model.interval
    if share is None:
        return (value,)
    within = f"end of the interval that holds {share:.0%} of the values of {product.label}"
    unknown = "; null if the model was trained without one"
    return (
        value,
        OutputColumn("lower", "double", True, f"lower {within}{unknown}"),
        OutputColumn("upper", "double", True, f"upper {within}{unknown}"),
    )


def _of_many_classes(product: Product) -> tuple[OutputColumn, ...]:
    type_ = product.source.columns[product.label].type
    return (
        OutputColumn("prediction", type_, False, f"the most probable {product.label}"),
        OutputColumn("probability", "double", False, "of that class"),
        OutputColumn("probabilities", "string", False, "of all classes, as JSON"),
    )


_KEEP_A_CLASS = ("min", "max", "first", "last")
BINARY = Task(
    name="binary",
    metrics=(
        "f1",
        "precision",
        "recall",
        "accuracy",
        "balanced_accuracy",
        "roc_auc",
        "average_precision",
        "precision_at_k",
        "recall_at_k",
        "lift_at_k",
    ),
    label_types=("integer", "long"),
    allowed=(0, 1),
    aggregations=_KEEP_A_CLASS,
    label_in_words="an integer, 0 or 1; allowed is [0, 1]",
    needs="predict_proba",
    has_positives=True,
    is_number=False,
    names_classes=False,
    outputs=_of_two_classes,
    outputs_in_words="the probability, the decision",
    measured=("probability", "predicted probability"),
    label_varies="categorical",
    prediction_varies="numeric",
)
REGRESSION = Task(
    name="regression",
    metrics=("rmse", "mae", "median_absolute_error", "mape", "r2", "pinball"),
    label_types=("double", "long", "integer"),
    allowed=None,
    aggregations=(*_KEEP_A_CLASS, "sum", "mean"),
    label_in_words="a number: a double, long or integer",
    needs="predict",
    has_positives=False,
    is_number=True,
    names_classes=False,
    outputs=_of_numbers,
    outputs_in_words="the value",
    measured=("prediction", "prediction"),
    label_varies="quantiles",
    prediction_varies="quantiles",
)
MULTICLASS = Task(
    name="multiclass",
    metrics=("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "log_loss", "top_k_accuracy"),
    label_types=("string", "integer", "long"),
    allowed=None,
    aggregations=_KEEP_A_CLASS,
    label_in_words="one of the classes that its key allowed names: a string, an integer or a long",
    needs="predict_proba",
    has_positives=False,
    is_number=False,
    names_classes=True,
    outputs=_of_many_classes,
    outputs_in_words="the class, its probability, those of all classes",
    measured=("prediction", "predicted class"),
    label_varies="categorical",
    prediction_varies="categorical",
)
TASKS: Mapping[TaskName, Task] = {task.name: task for task in (BINARY, REGRESSION, MULTICLASS)}

#: What a label of a type is where the contract doesn't say; whole numbers are two classes, 0 and 1.
BY_TYPE: Mapping[ColumnType, TaskName] = {"double": "regression", "string": "multiclass"}
