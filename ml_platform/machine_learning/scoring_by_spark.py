"""Days scored where only Spark reads and writes tables; the same functions make the rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.assets import MRDS_SERVED
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.contract.tasks import RANK
from ml_platform.data_engineering import aggregation, buckets
from ml_platform.data_engineering.day_rows import mapped, subschema
from ml_platform.data_engineering.mrds import MRDS, feature_columns
from ml_platform.data_engineering.served_states import IS_SCORED
from ml_platform.machine_learning.predicted_rows import (
    PREDICTIONS,
    ServingModel,
    new_rows,
    predictions,
    schema,
)
from ml_platform.machine_learning.ranks import ties
from ml_platform.spark.tasks import spare_next_task
from ml_platform.storage.tables import Tables, column

_BUCKET = "_bucket"
_TIE, _TAKEN, _PLACE = "_tie", "_taken", "_place"


def write(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    serving: Mapping[date, ServingModel],
    kept: Collection[date],
    corrected: Collection[date],
    run_id: str,
) -> int:
    """Score and write days in one commit; returns the version it made."""
    models, made = dict(serving), schema(product)
    given = subschema(aggregation.schema(product), feature_columns(product))
    days, new = sorted(serving), [day for day in serving if day not in kept]

    def rows_of(table: str, chosen: Sequence[date], columns: pa.Schema) -> DataFrame:
        rows = tables.read_days(spark, product.name, table, chosen)
        return rows.select(*[column(name) for name in columns.names])

    def to_score(chosen: Sequence[date]) -> DataFrame:
        rows = rows_of(MRDS, [day for day in chosen if day not in corrected], given)
        if not (served := [day for day in chosen if day in corrected]):
            return rows
        first = rows_of(MRDS_SERVED, served, given.append(pa.field(IS_SCORED, pa.bool_())))
        return rows.unionByName(first.where(column(IS_SCORED)).drop(IS_SCORED))

    ranked = product.deepest_rank is not None
    given_back = made.append(pa.field(_TIE, pa.int64())) if ranked else made

    def tied(scored: pa.Table, new: int) -> pa.Table:
        """Predictions, the last ``new`` of which are to be ranked, with what breaks ties among these."""
        if not ranked:
            return scored
        is_new = np.arange(len(scored)) >= len(scored) - new
        return scored.append_column(_TIE, pa.array(ties(product, scored), pa.int64(), mask=~is_new))

    def score_piece(piece: pa.Table) -> pa.Table:
        parts = [given_back.empty_table()]
        for day in pc.unique(piece[EVENT_DAY]).to_pylist():
            of_day = piece.filter(pc.equal(piece[EVENT_DAY], pa.scalar(day, pa.date32())))
            scored = predictions(product, day, of_day, models[day])
            parts.append(tied(scored, len(scored)))
        return pa.concat_tables(parts)

    def score_rest(rows: pa.Table, present: pa.Table) -> pa.Table:
        rows, present = rows.drop_columns(_BUCKET).cast(given), present.drop_columns(_BUCKET).cast(made)
        day = (rows if len(rows) else present)[EVENT_DAY][0].as_py()
        new = predictions(product, day, new_rows(product, rows, present), models[day])
        spare_next_task()
        return tied(pa.concat_tables([present, new]), len(new))

    scored = mapped(to_score(new), score_piece, given, given_back)
    if kept:
        rest = to_score(sorted(kept))
        largest = max((row["count"] for row in rest.groupBy(EVENT_DAY).count().collect()), default=0)
        keys = product.entity_of_day
        bucket = buckets.in_spark(keys, buckets.number_of(buckets.csv_bytes(largest, len(given))))
        both = [rest, rows_of(PREDICTIONS, sorted(kept), made)]
        by_rows, by_present = (rows.withColumn(_BUCKET, bucket).groupBy(EVENT_DAY, _BUCKET) for rows in both)
        scored = scored.unionByName(
            by_rows.cogroup(by_present).applyInArrow(score_rest, from_arrow_schema(given_back))
        )
    if ranked:
        stays = rows_of(PREDICTIONS, sorted(kept), made) if kept else None
        scored = _ranked(product, scored, stays)
    if len(days) > 1:
        scored = scored.repartition(EVENT_DAY)
    return tables.replace_days(spark, product.name, PREDICTIONS, scored, days, run_id=run_id)


def _ranked(product: Product, scored: DataFrame, present: DataFrame | None) -> DataFrame:
    """Predictions with the ranks of those that have a tie breaker: what :class:`.ranks.Ranks` does.

    Each day's rows are sorted by one task, which writes what it can't hold to disk.

    Args:
        present: the predictions that stay.
    """
    is_new, place = F.col(_TIE).isNotNull(), F.col(_PLACE)
    order = Window.partitionBy(EVENT_DAY, is_new).orderBy(F.col("probability").desc(), F.col(_TIE))
    taken = F.lit(0).cast("long")
    if present is not None:
        counts = present.groupBy(EVENT_DAY).agg(F.count(F.lit(1)).alias(_TAKEN))
        scored = scored.join(F.broadcast(counts), EVENT_DAY, "left")
        taken = F.coalesce(F.col(_TAKEN), taken)
    scored = scored.withColumn(_PLACE, taken + F.row_number().over(order))
    rank = F.when(place <= product.deepest_rank, place)
    scored = scored.withColumn(RANK, F.when(is_new, rank).otherwise(F.col(RANK)))
    decided = product.model.decision_highest
    if decided is not None:
        decision = (place <= decided).cast("int")
        scored = scored.withColumn("decision", F.when(is_new, decision).otherwise(F.col("decision")))
    return scored.select(*[column(name) for name in schema(product).names])
