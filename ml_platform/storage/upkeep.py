"""The upkeep of tables that grow with the data: small files joined, old ones deleted, no row changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ml_platform.storage.conflicts import committed
from ml_platform.storage.tables import Tables

if TYPE_CHECKING:
    from pyspark.sql import Row, SparkSession

_RETENTION = "delta.deletedFileRetentionDuration"


@dataclass(frozen=True)
class Maintained:
    """What maintenance has done with a table: files joined and deleted (None: not known), and what it is now.

    ``size`` is in bytes.
    """

    joined: int
    deleted: int | None
    files: int
    size: int

    def __str__(self) -> str:
        deleted = "" if self.deleted is None else f", {self.deleted:,} old ones deleted"
        size = f"{self.files:,} files of {self.size / 1e6:,.1f} MB"
        return f"{size}; {self.joined:,} joined with others{deleted}"


def maintain(tables: Tables, spark: SparkSession, product: str, table: str, keep: timedelta) -> Maintained:
    """Join the small files of each day, and delete those that no version of the last ``keep`` needs.

    A day is one file as a rule, so there is little to join; what daily corrections and backfills leave
    behind is whole files that were replaced.
    """
    name = tables.location.sql_name(product, table)
    age = f"interval {keep.days} days"
    with tables.lock(product, table):
        joined: list[Row] = []
        committed(lambda: joined.extend(spark.sql(f"OPTIMIZE {name}").collect()))
        # Delta reads the age from the table alone, and takes none from the statement.
        detail = spark.sql(f"DESCRIBE DETAIL {name}").collect()[0]
        if detail["properties"].get(_RETENTION) != age:
            spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ('{_RETENTION}' = '{age}')")
        spark.sql(f"VACUUM {name}")
        if (files := tables.day_files(product, table)) is not None:
            files.sweep(keep)
    return Maintained(
        joined=joined[-1]["metrics"]["numFilesRemoved"],
        deleted=_deleted_by_vacuum(spark, name),
        files=detail["numFiles"],
        size=detail["sizeInBytes"],
    )


def _deleted_by_vacuum(spark: SparkSession, name: str) -> int | None:
    """What the table's history says of the newest VACUUM; Delta doesn't write of it everywhere."""
    newest = spark.sql(f"DESCRIBE HISTORY {name} LIMIT 1").collect()[0]
    deleted = (newest["operationMetrics"] or {}).get("numDeletedFiles")
    return None if deleted is None or newest["operation"] != "VACUUM END" else int(deleted)
