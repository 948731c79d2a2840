"""Predictions: each row of the MRDS scored with the model that served its day.

Scoring is distributed; the rows never pass through the driver. Which model serves which day is decided
in :mod:`.promotion` and comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, cast

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from ml_platform.data_engineering.mrds import MRDS, feature_columns
from ml_platform.machine_learning.training import probabilities
from ml_platform.product import EVENT_DAY, Product
from ml_platform.storage.tables import Tables, column, content_hash
from ml_platform.tasks import leave_imports_uncollected

CODE_VERSION = "1"
PREDICTIONS = "predictions"

#: Matrix products may differ in the last bit with the size of a batch; stored probabilities don't.
PROBABILITY_DECIMALS = 6


@dataclass(frozen=True)
class ServingModel:
    """A model that serves some days: the fitted pipeline and what its predictions carry along."""

    pipeline: Any
    threshold: float
    name: str
    version: str
    as_of: date
    fingerprint: str


@dataclass(frozen=True)
class ScoredDay:
    """One day of predictions."""

    rows: int = 0
    positives: int = 0
    fingerprint: str = "empty"
    delta_version: int | None = None

    @property
    def counts(self) -> dict[str, int]:
        return {"rows": self.rows, "positives": self.positives}


def columns(product: Product) -> list[str]:
    """The columns of the predictions, in order."""
    return [
        *[name for name in product.entity if name != EVENT_DAY],
        EVENT_DAY,
        "probability",
        "decision",
        "threshold",
        "model_name",
        "model_version",
        "model_as_of",
        "model_fingerprint",
    ]


def write(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    serving: Mapping[date, ServingModel],
    *,
    run_id: str,
    keep: Sequence[date] = (),
) -> dict[date, ScoredDay]:
    """Score and write the days of ``serving``, each with its model, in one commit.

    Args:
        serving: the model of each day.
        keep: days among these whose present predictions stay; only rows that have none are scored.
    """
    days = sorted(serving)
    scored = score(product, tables.read_days(spark, product.name, MRDS, days), serving)
    if keep:
        present = tables.read_days(spark, product.name, PREDICTIONS, keep)
        identity = list(dict.fromkeys((*product.entity, EVENT_DAY)))
        scored = present.select(*[column(name) for name in columns(product)]).unionByName(
            scored.join(present.select(*[column(name) for name in identity]), identity, "left_anti")
        )
    if len(days) > 1:
        scored = scored.repartition(EVENT_DAY)
    version = tables.replace_days(spark, product.name, PREDICTIONS, scored, days, run_id=run_id)
    # A version number is a label: the same model may be registered under another one elsewhere.
    content = [name for name in columns(product) if name != "model_version"]
    counted = (
        tables.read_days(spark, product.name, PREDICTIONS, days)
        .groupBy(EVENT_DAY)
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.sum("decision").alias("positives"),
            content_hash(content).alias("fingerprint"),
        )
    )
    found = {row[EVENT_DAY]: row for row in counted.collect()}
    return {
        day: ScoredDay(
            rows=found[day]["rows"],
            positives=found[day]["positives"],
            fingerprint=found[day]["fingerprint"],
            delta_version=version,
        )
        if day in found
        else ScoredDay(delta_version=version)
        for day in days
    }


def score(product: Product, mrds: DataFrame, serving: Mapping[date, ServingModel]) -> DataFrame:
    """Predictions for rows of the MRDS, in :func:`columns`."""
    models = dict(serving)

    def predict(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            for day, rows in frame.groupby(EVENT_DAY, sort=False):
                model = models[cast("date", day)]
                probability = probabilities(model.pipeline, product, rows).round(PROBABILITY_DECIMALS)
                yield rows[[name for name in columns(product) if name in rows]].assign(
                    probability=probability,
                    decision=(probability >= model.threshold).astype("int32"),
                    threshold=model.threshold,
                    model_name=model.name,
                    model_version=model.version,
                    model_as_of=model.as_of,
                    model_fingerprint=model.fingerprint,
                )
        leave_imports_uncollected()

    rows = mrds.select(*[column(name) for name in dict.fromkeys(feature_columns(product))])
    kept = StructType([rows.schema[name] for name in columns(product) if name in rows.columns])
    schema = (
        kept.add("probability", "double")
        .add("decision", "integer")
        .add("threshold", "double")
        .add("model_name", "string")
        .add("model_version", "string")
        .add("model_as_of", "date")
        .add("model_fingerprint", "string")
    )
    return rows.mapInPandas(predict, schema)
