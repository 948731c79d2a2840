"""The ARDS of some days as it was known on earlier mornings, where its rows have changed since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import reduce

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ml_platform.contract.assets import ARDS, ARDS_VERSIONS
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering import aggregation, buckets, resolution, row_versions
from ml_platform.data_engineering.aggregation import TooLargeError
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.tables import Tables, column

_MORNING = "_morning"


@dataclass(frozen=True)
class Reader:
    """What reads whole days where tasks may read the tables' files. It travels to them.

    ``versions`` is None if no rows have changed yet: days may have been rejected, or windows have changed.
    """

    product: Product
    mornings: Mapping[date, date]
    rows: DayFiles
    rows_version: int
    versions: DayFiles | None
    versions_version: int

    def read(self, _: int, days: Sequence[date], columns: Sequence[str]) -> Iterator[tuple[date, pa.Table]]:
        """Each day with its rows as they were known; a day without rows is left out."""
        of_versions, of_rows = row_versions.ards_schema(self.product), resolution.rows_schema(self.product)
        for day in days:
            # A day that has lost all its rows had some before.
            rows = self._day(self.rows, self.rows_version, day, of_rows)
            versions = self._day(self.versions, self.versions_version, day, of_versions)
            known = row_versions.as_known(self.product, rows, versions, self.mornings[day])
            if len(known):
                # Whoever reads batches finds none without rows.
                yield day, known.select(list(columns)).combine_chunks()

    @staticmethod
    def _day(files: DayFiles | None, version: int, day: date, schema: pa.Schema) -> pa.Table:
        if files is None:
            return schema.empty_table()
        return next((rows for _, rows in files.read(version, [day], schema.names)), schema.empty_table())


@dataclass(frozen=True)
class RowsAsKnown:
    """Some days, each as it was known on a morning.

    Args:
        mornings: by day.
    """

    product: Product
    tables: Tables
    mornings: Mapping[date, date]

    def reader(self) -> Reader | None:
        """What reads the days from files; None where only Spark can."""
        name, tables = self.product.name, self.tables
        rows = tables.day_files(name, ARDS)
        if rows is None:
            return None
        there = tables.exists(name, ARDS_VERSIONS)
        versions = tables.day_files(name, ARDS_VERSIONS) if there else None
        versions_version = tables.version(name, ARDS_VERSIONS) if there else -1
        version = tables.version(name, ARDS)
        return Reader(self.product, dict(self.mornings), rows, version, versions, versions_version)

    def frame(self, spark: SparkSession) -> DataFrame:
        """The days' rows, for Spark."""
        product, days = self.product, list(self.mornings)
        rows = self.tables.read_days(spark, product.name, ARDS, days)
        versions = self.tables.read_days(spark, product.name, ARDS_VERSIONS, days)
        keys = [*resolution.keys(product), EVENT_DAY]
        changed = versions.select(*[column(key).alias(f"_{key}") for key in keys]).distinct()
        same = reduce(
            lambda left, right: left & right,
            [column(key).eqNullSafe(column(f"_{key}")) for key in keys],
        )
        unchanged = rows.join(changed, same, "left_anti")
        at = spark.createDataFrame(
            [(day, morning) for day, morning in self.mornings.items()], f"_day date, {_MORNING} date"
        )
        dated = versions.join(F.broadcast(at), column(EVENT_DAY) == F.col("_day"))
        stood = (column(KNOWN_FROM) <= F.col(_MORNING)) & (
            column(KNOWN_TO).isNull() | (column(KNOWN_TO) > F.col(_MORNING))
        )
        valid = dated.where(stood).select(*[column(name) for name in rows.columns], F.col(_MORNING))
        still = unchanged.join(F.broadcast(at), column(EVENT_DAY) == F.col("_day")).drop("_day")
        known = still.unionByName(valid)
        is_known = column(LABEL_KNOWN_ON) <= F.col(_MORNING)
        of_label = resolution.label_columns(product)
        for name in of_label:
            known = known.withColumn(f"_known {name}", F.when(is_known, column(name)))
        shown = [
            column(f"_known {name}").alias(name) if name in of_label else column(name)
            for name in rows.columns
        ]
        return known.select(*shown)


@dataclass(frozen=True)
class EntitiesAsKnown:
    """The MRDS of some days as it would have been on earlier mornings. It travels to the tasks."""

    rows: Reader

    @classmethod
    def of(cls, known: RowsAsKnown) -> EntitiesAsKnown | None:
        """That of the days that a task can hold; None where no task can read files."""
        reader = known.reader()
        if reader is None:
            return None
        held, width = reader.rows.sizes(reader.rows_version), len(aggregation.columns(known.product))
        small = {
            day: morning
            for day, morning in known.mornings.items()
            if buckets.number_of(buckets.csv_bytes(held[day], width)) == 1
        }
        return cls(replace(reader, mornings=small))

    def sizes(self) -> dict[date, int | None]:
        """How many entities each day had; None of a day with a sum that its column can't hold."""
        product, days = self.rows.product, list(self.rows.mornings)
        found: dict[date, int | None] = {}
        for day, rows in self.rows.read(-1, days, aggregation.columns(product)):
            try:
                found[day] = len(aggregation.aggregate(product, day, rows))
            except TooLargeError:
                found[day] = None
        return found

    def read(self, _: int, days: Sequence[date], columns: Sequence[str]) -> Iterator[tuple[date, pa.Table]]:
        """Each day with its entities; a day without any is left out."""
        product = self.rows.product
        for day, rows in self.rows.read(-1, days, aggregation.columns(product)):
            yield day, aggregation.aggregate(product, day, rows).select(list(columns))
