"""The analytics-ready data set: the typed, de-duplicated rows of the deliveries, and the quarantine.

A day's rows come from that day's delivery alone, so a range of days is resolved in one pass: parse
every file once, bring each day's records together, keep the latest row of each key and the latest
label. What can't be used goes to the quarantine; nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.parsing import DeliveryFile, locate, parse_file, parsed_schema
from ml_platform.product import EVENT_DAY, LABEL_KNOWN_ON, Product
from ml_platform.storage.tables import Tables, column, content_hash

CODE_VERSION = "1"
ARDS = "ards"
QUARANTINE = "quarantine"

#: Above this many days a day's records meet in one task; below it, a day is spread over tasks.
_DAYS_WORTH_A_TASK_EACH = 4

_SPARK_TYPES = {
    "string": "string",
    "integer": "int",
    "long": "bigint",
    "double": "double",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamp",
}

_QUARANTINE_SCHEMA = pa.schema(
    [
        ("product", pa.string()),
        (EVENT_DAY, pa.date32()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("raw", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class ArdsDay:
    """What became of one day's delivery.

    ``delivered`` = ``rows`` + ``superseded`` + ``labels_applied`` + ``quarantined``, always.
    """

    refusal: str | None = None
    rows: int = 0
    delivered: int = 0
    superseded: int = 0
    labels_applied: int = 0
    quarantined: int = 0
    labelled: int = 0
    fingerprint: str = ""
    delta_version: int | None = None
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        return {
            "delivered": self.delivered,
            "rows": self.rows,
            "superseded": self.superseded,
            "labels_applied": self.labels_applied,
            "quarantined": self.quarantined,
            "labelled": self.labelled,
        }


def columns(product: Product) -> list[str]:
    """The columns of the ARDS, in order."""
    own = list(product.source.columns)
    return [*own, *([] if EVENT_DAY in own else [EVENT_DAY]), LABEL_KNOWN_ON]


def spark_type(product: Product, name: str) -> str:
    """The Spark SQL type of a column of the ARDS."""
    if name in (EVENT_DAY, LABEL_KNOWN_ON):
        return "date"
    return _SPARK_TYPES[product.source.columns[name].type]


def write(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    deliveries: Sequence[Delivery],
    *,
    run_id: str,
    statistics: Mapping[str, Column] | None = None,
) -> dict[date, ArdsDay]:
    """Write the ARDS and the quarantine of some days, each table in one commit.

    Args:
        deliveries: readable ones, of different days; these days are replaced, and no others.
        statistics: aggregates over a day's rows, computed in the pass that counts what was written.

    Returns:
        One result a day. A day with a file that can't be read to its end comes back with a
        ``refusal``, and what the tables held of it stays.
    """
    parsed = _parse(spark, product, [file for delivery in deliveries for file in delivery.files]).persist()
    try:
        records: dict[date, dict[str, int]] = {delivery.day: {} for delivery in deliveries}
        refusals: dict[date, str] = {}
        for row in (
            parsed.groupBy("_day", "_kind").agg(F.count(F.lit(1)).alias("n"), F.min("_reason").alias("why"))
        ).collect():
            records[row["_day"]][row["_kind"]] = row["n"]
            if row["_kind"] == "unreadable":
                refusals[row["_day"]] = row["why"]
        days = sorted(day for day in records if day not in refusals)
        if not days:
            return {day: ArdsDay(refusal=why) for day, why in refusals.items()}
        usable = parsed.where(F.col("_day").isin(days)) if refusals else parsed

        labels = _labels(product, usable) if any("label" in records[day] for day in days) else None
        files = {(file.day, file.number): file for delivery in deliveries for file in delivery.files}
        applied = _count_labels(labels) if labels is not None else {}
        has_orphans = any(orphans for _, orphans in applied.values())
        unfit = has_orphans or any("bad" in records[day] for day in days)
        if unfit or tables.has_days(product.name, QUARANTINE, days):
            quarantine = _quarantine(product, usable, labels if has_orphans else None, files)
            tables.replace_days(spark, product.name, QUARANTINE, quarantine, days, run_id=run_id)
        version = tables.replace_days(
            spark, product.name, ARDS, _resolve(product, usable, len(days)), days, run_id=run_id
        )

        written = _count(spark, product, tables, days, statistics or {})
        result = {day: ArdsDay(refusal=why) for day, why in refusals.items()}
        for day in days:
            kinds, now = records[day], written.get(day, {})
            label_keys, orphans = applied.get(day, (0, 0))
            rows = now.get("_rows", 0)
            result[day] = ArdsDay(
                rows=rows,
                delivered=sum(kinds.values()),
                superseded=kinds.get("row", 0) - rows + kinds.get("label", 0) - label_keys - orphans,
                labels_applied=label_keys,
                quarantined=kinds.get("bad", 0) + orphans,
                labelled=now.get("_labelled", 0),
                fingerprint=now.get("_fingerprint", "empty"),
                delta_version=version,
                statistics={name: now.get(name) for name in statistics or {}},
            )
        return result
    finally:
        parsed.unpersist()


def _parse(spark: SparkSession, product: Product, files: list[DeliveryFile]) -> DataFrame:
    """Every record of the files, in :func:`~.parsing.parsed_schema`."""

    def parse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column("number").to_pylist():
                yield from parse_file(files[number], product)

    numbers = spark.range(0, len(files), 1, numPartitions=min(len(files), 32)).withColumnRenamed(
        "id", "number"
    )
    return numbers.mapInArrow(parse, from_arrow_schema(parsed_schema(product)))


def _resolve(product: Product, parsed: DataFrame, days: int) -> DataFrame:
    """One row per key: the latest row, with the latest label that any file brought.

    A label counts as known since the first file that brought the label's present value, so that a
    label file delivered again changes nothing.
    """
    label = product.label
    order = [F.col("_file_number"), F.col("_record")]
    entries = parsed.where(F.col("_kind").isin("row", "label"))
    if days > _DAYS_WORTH_A_TASK_EACH:
        entries = entries.repartition("_day")
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
    return resolved.select(*[column(name) for name in columns(product)])


def _labels(product: Product, parsed: DataFrame) -> DataFrame:
    """The records of label files by key, with whether the key has a row (``_known``)."""
    keys = [column(name) for name in product.ards_key]
    references = F.when(F.col("_kind") == "label", F.struct("_file_number", "_record"))
    return (
        parsed.where(F.col("_kind").isin("row", "label"))
        .groupBy("_day", *keys)
        .agg(
            F.max((F.col("_kind") == "row").cast("int")).alias("_known"),
            F.collect_list(references).alias("_references"),
        )
        .where(F.size("_references") > 0)
        .select("_day", "_known", "_references")
    )


def _count_labels(labels: DataFrame) -> dict[date, tuple[int, int]]:
    """By day: keys that got a label from a label file, and label records without a row."""
    counted = labels.groupBy("_day").agg(
        F.sum("_known").alias("keys"),
        F.sum(F.when(F.col("_known") == 0, F.size("_references")).otherwise(0)).alias("orphans"),
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
                        "reason": "label without a row",
                    }
                    for _, line, raw in locate(file, product, set(place["records"]))
                ]
                yield from pa.Table.from_pylist(found, schema=_QUARANTINE_SCHEMA).to_batches()

    orphans = (
        labels.where(F.col("_known") == 0)
        .select("_day", F.explode("_references").alias("_place"))
        .groupBy("_day", F.col("_place._file_number").alias("_file_number"))
        .agg(F.collect_list("_place._record").alias("records"))
    )
    return bad.unionByName(orphans.mapInArrow(locate_all, from_arrow_schema(_QUARANTINE_SCHEMA)))


def _count(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    days: Sequence[date],
    statistics: Mapping[str, Column],
) -> dict[date, dict[str, Any]]:
    """Counts and fingerprint of each day, read back from the table."""
    rows = tables.read_days(spark, product.name, ARDS, days)
    counted = rows.groupBy(EVENT_DAY).agg(
        F.count(F.lit(1)).alias("_rows"),
        F.count(column(product.label)).alias("_labelled"),
        content_hash(columns(product)).alias("_fingerprint"),
        *[aggregate.alias(name) for name, aggregate in statistics.items()],
    )
    return {row[EVENT_DAY]: row.asDict() for row in counted.collect()}
