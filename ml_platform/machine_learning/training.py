"""From labelled rows to a fitted model.

Everything here is a pure function of a product and a pandas frame; the same rows in any order give the
same model. How a kind of label is learned is said in :mod:`.kinds`, which rows a model may learn from in
:mod:`.training_data`; :mod:`.registry` keeps it. Spark and MLflow do not belong here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from ml_platform.contract.learning import Estimator, Holdout
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.machine_learning import selection
from ml_platform.machine_learning.kind import Fitted
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.pipeline import TrainingError, feature_frame
from ml_platform.machine_learning.selection import NothingFitsError, Selection


@dataclass(frozen=True)
class TrainedModel:
    """A fitted pipeline with its decision threshold, and what it has learnt from.

    ``threshold`` is None where the kind of label has no decisions, ``positives`` 0 where it has none.
    ``days`` counts the event days that had rows, from ``first_day`` to ``last_day``; ``example`` holds a
    few rows as the pipeline takes them. ``estimator`` is what was fitted, ``selection`` why, if the contract
    leaves a choice. ``outputs`` is a hash of what it predicts for the first thousand rows.
    """

    pipeline: Any
    threshold: float | None
    rows: int
    positives: int
    days: int
    first_day: date
    last_day: date
    example: pd.DataFrame
    estimator: Estimator
    selection: Selection | None = None
    outputs: str = ""


@dataclass(frozen=True)
class Choosing:
    """How an estimator is chosen, where the contract leaves a choice.

    Attributes:
        holdout: how models are compared, which the folds follow.
        seed: of the searches.
        known: what was chosen when this model was trained first: it is trained again, and not searched again.
        trials: how many trials each search makes, whatever the clock says.
        keep: is given what was chosen, once it has been fitted.
        passes: whether an error may be gone when the same is tried again, so that no estimator is to blame.
        say: is told how far it is.
    """

    holdout: Holdout = "entities"
    seed: int = 0
    known: Selection | None = None
    trials: Sequence[int | None] = ()
    keep: Callable[[Selection], None] = lambda _: None
    passes: Callable[[BaseException], bool] = lambda _: False
    say: Callable[[str], None] = lambda _: None


#: Cells (rows by features) up to which a fit takes one thread of OpenMP: threads that wait for each other at
#: every node of a tree cost more than they share, and many times more where processors are busy.
SMALL_CELLS = 100_000


def train(product: Product, frame: pd.DataFrame, choosing: Choosing | None = None) -> TrainedModel:
    """Fit the contract's pipeline and, where there are decisions, choose their threshold on the same rows.

    Of several estimators, and of parameters that are searched, the best on folds of the rows are taken.

    Args:
        frame: entity, event day, features and label; all labelled, none of a held-out entity.

    Raises:
        TrainingError: too few rows, or rows that this kind of label can't be learned from, or all of several
            estimators have failed.
    """
    import sklearn.pipeline  # noqa: F401  # only libraries that are loaded can be limited
    from threadpoolctl import threadpool_limits

    kind = kind_of(product)
    kind.check_evidence(frame)
    rows = frame.sort_values(list(dict.fromkeys((EVENT_DAY, *product.entity))), ignore_index=True)
    features = feature_frame(product, rows)
    # How BLAS splits a sum among threads changes its last digits, and with them the model.
    one_thread = ("blas", "openmp") if features.size <= SMALL_CELLS else ("blas",)
    with threadpool_limits(limits=dict.fromkeys(one_thread, 1)):
        if product.model.selects:
            fitted, chosen, estimator = _fit_best(product, rows, features, choosing or Choosing())
        else:
            fitted, chosen, estimator = kind.fit(rows, features), None, product.model.one
    return TrainedModel(
        pipeline=fitted.pipeline,
        threshold=fitted.threshold,
        rows=len(rows),
        positives=kind.positives(kind.labels(rows[product.label])),
        days=rows[EVENT_DAY].nunique(),
        first_day=pd.Timestamp(rows[EVENT_DAY].iloc[0]).date(),
        last_day=pd.Timestamp(rows[EVENT_DAY].iloc[-1]).date(),
        example=features.head(5),
        estimator=estimator,
        selection=chosen,
        outputs=_outputs(product.with_estimator(estimator), fitted, rows.head(COMPARED_ROWS)),
    )


#: Rows by which a model that is trained again is compared with what it was before.
COMPARED_ROWS = 1_000


def _outputs(product: Product, fitted: Fitted, rows: pd.DataFrame) -> str:
    """A hash of what a model says of some rows, with the digits that are stored."""
    kind = kind_of(product)
    said = kind.rounded(kind.predict(fitted.pipeline, rows))
    digest = hashlib.sha256(repr(fitted.threshold).encode())
    for values in said:
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:32]


def _fit_best(
    product: Product, rows: pd.DataFrame, features: pd.DataFrame, choosing: Choosing
) -> tuple[Fitted, Selection, Estimator]:
    """Fit the estimator that is chosen; if that fails, which it didn't on the folds, the next best one.

    What was chosen before is fitted, or nothing is.
    """
    try:
        chosen = choosing.known or selection.choose(
            product,
            rows,
            features,
            choosing.holdout,
            seed=choosing.seed,
            trials=choosing.trials,
            passes=choosing.passes,
            say=choosing.say,
        )
        while True:
            estimator = chosen.estimator(product)
            try:
                fitted = kind_of(product.with_estimator(estimator)).fit(rows, features)
                break
            except Exception as error:
                why = selection.failure_of(product, error, choosing.passes)
                if choosing.known is not None:  # another estimator would be another model
                    raise TrainingError(f"the estimator that was chosen can't be trained: {why}") from error
                chosen = selection.decide(product, selection.failed(chosen, chosen.chosen, why))
    except NothingFitsError as error:
        raise TrainingError(str(error)) from error
    if choosing.known is None:
        choosing.keep(chosen)
    return fitted, chosen, estimator
