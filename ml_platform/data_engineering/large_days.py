"""Days that no task could hold in memory: their records are brought together by key, with shuffles.

What a day adds up to is the same as :mod:`.small_days` finds within a task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.parsing import DeliveryFile, locate, parsed_schema
from ml_platform.data_engineering.replacements import USED, records_of
from ml_platform.data_engineering.resolution import (
    ORPHAN,
    REFUSALS,
    Account,
    Refusal,
    Resolution,
    ards_columns,
    quarantine_schema,
)
from ml_platform.spark.tasks import spare_next_task
from ml_platform.storage.tables import column

_LABELS = frozenset({"label", "earlier_label"})


def resolve(spark: SparkSession, product: Product, deliveries: Sequence[Delivery]) -> Resolution:
    """What becomes of these days; holds their records in Spark's memory, or on disk, until released."""
    parsed = _parse(spark, product, [file for delivery in deliveries for file in delivery.files]).persist()
    records: dict[date, dict[str, int]] = {delivery.day: {} for delivery in deliveries}
    refusals: dict[date, Refusal] = {}
    for row in (
        parsed.groupBy("_day", "_kind").agg(F.count(F.lit(1)).alias("n"), F.min("_reason").alias("why"))
    ).collect():
        records[row["_day"]][row["_kind"]] = row["n"]
        if row["_kind"] in REFUSALS:
            refusals[row["_day"]] = Refusal.of(row["_kind"], row["why"])
    days = sorted(day for day in records if day not in refusals)
    usable = parsed.where(F.col("_day").isin(days)) if refusals else parsed

    labels = _labels(product, usable) if any(_LABELS.intersection(records[day]) for day in days) else None
    applied = _count_labels(labels) if labels is not None else {}
    has_orphans = any(orphans for _, orphans in applied.values())
    files = {(file.day, file.number): file for delivery in deliveries for file in delivery.files}
    accounts = {}
    for day in days:
        label_keys, orphans = applied.get(day, (0, 0))
        kinds = records[day]
        accounts[day] = Account(
            delivered=sum(kinds.values()),
            labels_applied=label_keys,
            quarantined=kinds.get("bad", 0) + orphans,
            labels_not_yet=kinds.get("pending", 0),
        )
    return Resolution(
        rows=_resolve(product, usable),
        quarantine=_quarantine(product, usable, labels if has_orphans else None, files),
        accounts=accounts,
        refusals=refusals,
        release=lambda: parsed.unpersist(),
    )


def _parse(spark: SparkSession, product: Product, files: list[DeliveryFile]) -> DataFrame:
    """Every record of the files, in :func:`~.parsing.parsed_schema`."""

    def parse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column("number").to_pylist():
                yield from records_of(files[number], product)
        spare_next_task()

    numbers = spark.range(0, len(files), 1, numPartitions=min(len(files), 32)).withColumnRenamed(
        "id", "number"
    )
    return numbers.mapInArrow(parse, from_arrow_schema(parsed_schema(product)))


def _resolve(product: Product, parsed: DataFrame) -> DataFrame:
    """One row per key: the latest row, with the latest label that any file brought.

    A label counts as known since the first file that brought the label's present value, so that a
    label file delivered again changes nothing.
    """
    label = product.label
    order = [F.col("_file_number"), F.col("_record")]
    entries = parsed.where(F.col("_kind").isin(*USED))
    others = [name for name in product.source.columns if name not in product.ards_key and name != label]
    known = F.struct(column(label).alias("value"), F.col(LABEL_KNOWN_ON).alias("known_on"))
    grouped = entries.groupBy("_day", *[column(name) for name in product.ards_key]).agg(
        F.max(F.when(F.col("_kind") == "row", F.struct(*order, *[column(name) for name in others]))).alias(
            "_row"
        ),
        F.max(F.when(column(label).isNotNull(), F.struct(*order, column(label).alias("value")))).alias(
            "_label"
        ),
        F.collect_list(F.when(column(label).isNotNull(), known)).alias("_labels"),
    )
    same_value = F.filter("_labels", lambda entry: entry["value"] == F.col("_label")["value"])
    resolved = grouped.where(F.col("_row").isNotNull()).select(
        *[column(name) for name in product.ards_key if name != EVENT_DAY],
        *[F.col("_row").getField(name).alias(name) for name in others],
        F.col("_label").getField("value").alias(label),
        F.col("_day").alias(EVENT_DAY),
        F.array_min(F.transform(same_value, lambda entry: entry["known_on"])).alias(LABEL_KNOWN_ON),
    )
    return resolved.select(*[column(name) for name in ards_columns(product)])


def _labels(product: Product, parsed: DataFrame) -> DataFrame:
    """The records of label files by key, with whether the key has a row (``_known``)."""
    keys = [column(name) for name in product.ards_key]
    # A label whose key has gone with the rows that were replaced is superseded like these: no orphan.
    counts = (F.col("_kind") == "label").alias("_counts")
    references = F.when(F.col("_kind").isin(*_LABELS), F.struct("_file_number", "_record", counts))
    return (
        parsed.where(F.col("_kind").isin(*USED))
        .groupBy("_day", *keys)
        .agg(
            F.max((F.col("_kind") == "row").cast("int")).alias("_known"),
            F.collect_list(references).alias("_references"),
        )
        .where(F.size("_references") > 0)
        .select("_day", "_known", "_references")
    )


def _orphans() -> Column:
    """The references that stand for a label without a row, where the key has none."""
    return F.filter("_references", lambda reference: reference["_counts"])


def _count_labels(labels: DataFrame) -> dict[date, tuple[int, int]]:
    """By day: keys that got a label from a label file, and label records without a row."""
    counted = labels.groupBy("_day").agg(
        F.sum("_known").alias("keys"),
        F.sum(F.when(F.col("_known") == 0, F.size(_orphans())).otherwise(0)).alias("orphans"),
    )
    return {row["_day"]: (row["keys"], row["orphans"]) for row in counted.collect()}


def _quarantine(
    product: Product,
    parsed: DataFrame,
    labels: DataFrame | None,
    files: Mapping[tuple[date, int], DeliveryFile],
) -> DataFrame:
    """The records that could not be used: bad ones, and labels without a row."""
    bad = parsed.where(F.col("_kind") == "bad").select(
        F.lit(product.name).alias("product"),
        F.col("_day").alias(EVENT_DAY),
        F.col("_file").alias("file"),
        F.col("_line").alias("line"),
        F.col("_raw").alias("raw"),
        F.col("_reason").alias("reason"),
    )
    if labels is None:
        return bad

    def locate_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for place in batch.to_pylist():
                file = files[(place["_day"], place["_file_number"])]
                found = [
                    {
                        "product": product.name,
                        EVENT_DAY: file.day,
                        "file": file.name,
                        "line": line,
                        "raw": raw,
                        "reason": ORPHAN,
                    }
                    for _, line, raw in locate(file, product, set(place["records"]))
                ]
                yield from pa.Table.from_pylist(found, schema=quarantine_schema()).to_batches()

    orphans = (
        labels.where(F.col("_known") == 0)
        .select("_day", F.explode(_orphans()).alias("_place"))
        .groupBy("_day", F.col("_place._file_number").alias("_file_number"))
        .agg(F.collect_list("_place._record").alias("records"))
    )
    return bad.unionByName(orphans.mapInArrow(locate_all, from_arrow_schema(quarantine_schema())))
