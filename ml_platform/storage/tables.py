"""Delta tables by name: paths, locks, and the one way a table's days are replaced.

What the tables hold is the services' business. Tables that grow with the data are written by Spark
(:meth:`Tables.replace_days`); the small ones that steer the platform are in :mod:`.control`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from ml_platform.product import EVENT_DAY

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


class Tables:
    """The Delta tables of all products under one root folder: ``<root>/<product>/<table>``."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, product: str, table: str) -> str:
        return os.path.join(self.root, product, table)  # noqa: PTH118 - the root may be a URI

    def exists(self, product: str, table: str) -> bool:
        from deltalake import DeltaTable

        return bool(DeltaTable.is_deltatable(self.path(product, table)))

    def version(self, product: str, table: str) -> int:
        """The newest version of a table that exists."""
        from deltalake import DeltaTable

        return int(DeltaTable(self.path(product, table), without_files=True).version())

    def has_days(self, product: str, table: str, days: Iterable[date]) -> bool:
        """Whether the table has a file of any of ``days``. Needs no Spark."""
        from deltalake import DeltaTable

        if not self.exists(product, table):
            return False
        partitions = DeltaTable(self.path(product, table)).partitions()
        present = {partition[EVENT_DAY] for partition in partitions}
        return any(day.isoformat() in present or day in present for day in days)

    def read(self, spark: SparkSession, product: str, table: str, *, version: int | None = None) -> DataFrame:
        """The whole table, at one of its versions or the newest; filter it by ``event_day`` before use."""
        reader = spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self.path(product, table))

    def read_days(
        self,
        spark: SparkSession,
        product: str,
        table: str,
        days: Iterable[date],
        *,
        version: int | None = None,
    ) -> DataFrame:
        """The rows of exactly ``days``."""
        return self.read(spark, product, table, version=version).where(on_days(days))

    def replace_days(
        self,
        spark: SparkSession,
        product: str,
        table: str,
        rows: DataFrame,
        days: Sequence[date],
        *,
        run_id: str,
    ) -> int:
        """Replace exactly ``days`` of a table with ``rows``, in one commit that carries the run's id.

        Args:
            rows: every row's ``event_day`` is among ``days`` (Delta refuses the commit otherwise);
                days without rows end up empty.

        Returns:
            The version the commit made.
        """
        quoted = ", ".join(f"DATE'{day}'" for day in sorted(days))
        with self.lock(product, table):
            (
                rows.write.format("delta")
                .mode("overwrite")
                .partitionBy(EVENT_DAY)
                .option("replaceWhere", f"`{EVENT_DAY}` IN ({quoted})")
                .option("mergeSchema", "true")
                .option("userMetadata", json.dumps({"run_id": run_id, "product": product, "table": table}))
                .save(self.path(product, table))
            )
            return self.version(product, table)

    @contextlib.contextmanager
    def lock(self, product: str, table: str) -> Iterator[None]:
        """Hold a table for one commit.

        A local folder has no atomic put-if-absent that every writer uses, and two JVMs that commit at
        once can lose a commit. Object stores protect their commits themselves.
        """
        if "://" in self.root:
            yield
            return
        folder = Path(self.root) / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f"{product}.{table}.lock"):
            yield


def on_days(days: Iterable[date]) -> Column:
    """The condition that a row's ``event_day`` is among ``days``; prunes partitions."""
    from pyspark.sql import functions as F

    ordered = sorted(set(days))
    if not ordered:
        return F.lit(False)
    if (ordered[-1] - ordered[0]).days + 1 == len(ordered):
        return F.col(EVENT_DAY).between(F.lit(ordered[0]), F.lit(ordered[-1]))
    return F.col(EVENT_DAY).isin(ordered)


def column(name: str) -> Column:
    """A column by its exact name, whatever characters it has."""
    from pyspark.sql import functions as F

    return F.col("`" + name.replace("`", "``") + "`")


def content_hash(columns: Sequence[str]) -> Column:
    """An aggregate over rows: a hash of their content that ignores order, files and duplicates of layout.

    It is the count and two sums of 64-bit hashes with different seeds. The null flags are hashed too,
    since Spark's hash skips nulls and could not tell ``(null, 1)`` from ``(1, null)``.
    """
    from pyspark.sql import functions as F

    names = sorted(columns)
    values = [column(name) for name in names]
    flags = [value.isNull() for value in values]

    def total(seed: str) -> Column:
        # In two halves, which can't overflow below two thousand million rows: decimals are slow to add.
        hashed = F.xxhash64(F.lit(seed), *values, *flags)
        high, low = F.sum(F.shiftright(hashed, 32)), F.sum(hashed.bitwiseAND(F.lit(0xFFFFFFFF)))
        return (high.cast("decimal(38,0)") * F.lit(1 << 32) + low).cast("string")

    parts = [F.lit(",".join(names)), F.count(F.lit(1)).cast("string"), total("a"), total("b")]
    return F.substring(F.sha2(F.concat_ws("|", *parts), 256), 1, 32)
