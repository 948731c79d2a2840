"""What a kind of label has to answer: how it is learned, predicted, stored, measured and shown.

Training, scoring, evaluating, comparing, the registry and the drift report ask these questions and know no
kind themselves; which one a product has is said by :func:`.kinds.kind_of`. What is known without data is in
:mod:`ml_platform.contract.tasks`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_platform.contract.product import Product
from ml_platform.machine_learning.arrays import Floats
from ml_platform.machine_learning.bootstrap import Difference

if TYPE_CHECKING:
    import pandas as pd

Predictions = tuple[NDArray[Any], ...]
"""What is said of some rows: arrays of their length, which ones is a matter of the kind."""

Figures = Mapping[str, float | int | None]

#: The column of rows to compare on that holds the entity's last label that was known before, if it has one.
LAST_LABEL = "_last_label"
#: The column of rows to compare on that says how many rows their whole day has.
ROWS_OF_DAY = "_rows_of_day"


@dataclass(frozen=True)
class Fitted:
    """A fitted pipeline and, where the kind has decisions, the threshold from which on they are 1."""

    pipeline: Any
    threshold: float | None = None


class Kind(ABC):
    """A kind of label, of a product.

    ``outputs`` in the methods' arguments is what :meth:`predict` gives, before anything is decided of it;
    ``predictions`` is what a metric takes, whether made from outputs or read from the table.

    Attributes:
        read: the columns of the predictions that :meth:`of_table` takes. Rows are sorted by the first.
        uses_last_label: whether a baseline is the entity's last label.
        uses_rows_of_day: whether decisions or the metric depend on how many rows a day has.
        figures: of the :meth:`summary`, what an evaluation keeps beside its own fields.
        too_thin: what to say of rows whose resamples mostly leave the metric undefined.
    """

    read: tuple[str, ...]
    uses_last_label = False
    uses_rows_of_day = False
    too_thin = "labels that differ too little"
    figures: tuple[str, ...] = ()

    def __init__(self, product: Product) -> None:
        self.product = product

    @property
    def counted(self) -> str:
        """The column of the predictions of which rows are counted."""
        return self.read[-1]

    # -- labels and learning -----------------------------------------------------------------------

    def labels(self, values: pd.Series[Any]) -> Floats:
        """A column of labels as metrics take them; NaN where there is none."""
        return values.to_numpy(dtype=np.float64, na_value=np.nan)

    def as_learned(self, label: Floats) -> NDArray[Any]:
        """Labels as metrics take them, as the estimator has learned them."""
        return label

    @abstractmethod
    def check_evidence(self, frame: pd.DataFrame) -> None:
        """See that labelled rows are enough to learn from.

        Raises:
            TrainingError: they aren't.
        """

    @abstractmethod
    def fit(self, rows: pd.DataFrame, features: pd.DataFrame) -> Fitted:
        """Learn from labelled rows in a fixed order, with the features that the pipeline takes of them."""

    def positives(self, label: Floats) -> int:
        """How many labels are positive; 0 where labels aren't."""
        return 0

    @abstractmethod
    def evidence(self, label: Floats) -> str:
        """How much there is to tell from, in words."""

    # -- predicting --------------------------------------------------------------------------------

    @abstractmethod
    def predict(self, pipeline: Any, frame: pd.DataFrame) -> Predictions:
        """The outputs for rows of the MRDS, which hold at least the pipeline's features."""

    @abstractmethod
    def rounded(self, outputs: Predictions) -> Predictions:
        """Outputs as they are stored: a batch's size may change the last bits, and not these."""

    @abstractmethod
    def decided(self, outputs: Predictions, threshold: float | None) -> Predictions:
        """Predictions made from outputs."""

    @abstractmethod
    def stored(self, outputs: Predictions, threshold: float | None) -> Mapping[str, Any]:
        """The columns of the predictions that hold what the model says, by name, rounded."""

    @abstractmethod
    def of_table(self, frame: pd.DataFrame) -> Predictions:
        """The predictions that stored rows hold, with the columns of :attr:`read`."""

    def in_days(self, outputs: Predictions, frame: pd.DataFrame) -> Predictions:
        """Outputs of some of their days' rows, with what :meth:`decided` asks of the days.

        Args:
            frame: the rows, with :data:`ROWS_OF_DAY` if the kind uses it.
        """
        return outputs

    def together(self, parts: Sequence[Predictions]) -> Predictions:
        """The outputs for several parts of some rows."""
        import pandas as pd

        nothing = self.predict(None, pd.DataFrame())
        return tuple(np.concatenate(arrays) for arrays in zip(nothing, *parts, strict=True))

    # -- measuring ---------------------------------------------------------------------------------

    @abstractmethod
    def score(self, label: Floats, predictions: Predictions) -> float | None:
        """The contract's metric; None where it is undefined."""

    def is_defined(self, label: Floats) -> bool:
        """Whether labels let the metric be told, whatever is predicted."""
        return self.score(label, self.constant(label, ())) is not None

    @abstractmethod
    def summary(self, label: Floats, predictions: Predictions) -> Figures:
        """Every figure that is reported; None for what is undefined."""

    @abstractmethod
    def interval(
        self, label: Floats, predictions: Predictions, cluster: NDArray[Any]
    ) -> tuple[float, float] | None:
        """The 95 % interval of the contract's metric, by a bootstrap of clusters."""

    @abstractmethod
    def difference(
        self, label: Floats, challenger: Predictions, champion: Predictions, cluster: NDArray[Any]
    ) -> Difference:
        """How much better a challenger is than a champion."""

    @abstractmethod
    def baselines(self, pipeline: Any, frame: pd.DataFrame) -> Mapping[str, Predictions]:
        """What a first model has to beat: predictions that need no model, for rows to compare on.

        Args:
            pipeline: the fitted one of the model that is compared, which knows what labels it learned from.
        """

    @abstractmethod
    def constant(self, label: Floats, predictions: Predictions) -> Predictions:
        """What the evaluation shows beside a metric: the predictions of a constant.

        Args:
            predictions: the model's for the same rows, or nothing if these don't matter.
        """

    # -- showing -----------------------------------------------------------------------------------

    @abstractmethod
    def plots(self, label: Floats, predictions: Predictions, threshold: float | None) -> Mapping[str, Any]:
        """Matplotlib figures of held-out rows, by name."""

    @abstractmethod
    def output_spec(self) -> Any:
        """What the registered model gives for some rows, as MLflow describes tensors."""

    @property
    @abstractmethod
    def predict_method(self) -> str:
        """The method that the registered model is called by."""

    def measured(self, outputs: Predictions) -> Any:
        """What of the outputs is measured for drift, as the column of the predictions holds it."""
        return outputs[0]

    def remark(self, pipeline: Any) -> str:
        """What people should know of what a fitted pipeline has learned from; empty if there is nothing."""
        return ""

    def facts(self, pipeline: Any) -> Mapping[str, Any]:
        """What a fitted pipeline keeps of its labels, for baselines and people."""
        return {}
