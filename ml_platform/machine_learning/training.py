"""From labelled rows to a fitted model.

Everything here is a pure function of a product and a pandas frame; the same rows in any order give the
same model. How a kind of label is learned is said in :mod:`.kinds`, which rows a model may learn from in
:mod:`.training_data`; :mod:`.registry` keeps it. Spark and MLflow do not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.pipeline import feature_frame


@dataclass(frozen=True)
class TrainedModel:
    """A fitted pipeline with its decision threshold, and what it has learnt from.

    ``threshold`` is None where the kind of label has no decisions, ``positives`` 0 where it has none.
    ``days`` counts the event days that had rows, from ``first_day`` to ``last_day``; ``example`` holds a
    few rows as the pipeline takes them.
    """

    pipeline: Any
    threshold: float | None
    rows: int
    positives: int
    days: int
    first_day: date
    last_day: date
    example: pd.DataFrame


def train(product: Product, frame: pd.DataFrame) -> TrainedModel:
    """Fit the contract's pipeline and, where there are decisions, choose their threshold on the same rows.

    Args:
        frame: entity, event day, features and label; all labelled, none of a held-out entity.

    Raises:
        TrainingError: too few rows, or rows that this kind of label can't be learned from.
    """
    from threadpoolctl import threadpool_limits

    kind = kind_of(product)
    kind.check_evidence(frame)
    rows = frame.sort_values(list(dict.fromkeys((EVENT_DAY, *product.entity))), ignore_index=True)
    features = feature_frame(product, rows)
    # How BLAS splits a sum among threads changes its last digits, and with them the model.
    with threadpool_limits(limits=1, user_api="blas"):
        fitted = kind.fit(rows, features)
    return TrainedModel(
        pipeline=fitted.pipeline,
        threshold=fitted.threshold,
        rows=len(rows),
        positives=kind.positives(kind.labels(rows[product.label])),
        days=rows[EVENT_DAY].nunique(),
        first_day=pd.Timestamp(rows[EVENT_DAY].iloc[0]).date(),
        last_day=pd.Timestamp(rows[EVENT_DAY].iloc[-1]).date(),
        example=features.head(5),
    )
