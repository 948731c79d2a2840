"""Tables of a catalog, by their SQL names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from ml_platform.contract.column_types import sql_type
from ml_platform.contract.source import EVENT_DAY
from ml_platform.spark.tasks import arrow_batches
from ml_platform.storage.table_location import METADATA, LocationError, TableLocation, on_days, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, DataFrameWriter, SparkSession


class CatalogLocation(TableLocation):
    """A schema of Unity Catalog, or of any catalog that Spark knows: all by SQL names, on a session.

    Only SQL and the DataFrame API are used, so that it works over Spark Connect as well.
    """

    def __init__(self, catalog: str, schema: str, session: Callable[[], SparkSession] | None = None) -> None:
        self.catalog = catalog
        self.schema = schema
        self._session = session

    def address(self, product: str, table: str) -> str:
        return ".".join((quoted(self.catalog), quoted(self.schema), quoted(f"{product}_{table}")))

    def exists(self, product: str, table: str) -> bool:
        return bool(self._spark(product, table).catalog.tableExists(self.address(product, table)))

    def version(self, product: str, table: str) -> int:
        spark = self._spark(product, table)
        newest = spark.sql(f"DESCRIBE HISTORY {self.address(product, table)} LIMIT 1").first()
        assert newest is not None, "a table that exists has a first commit"
        return int(newest["version"])

    def column_types(self, product: str, table: str) -> dict[str, str]:
        schema = self._spark(product, table).table(self.address(product, table)).schema
        return {field.name: field.dataType.typeName() for field in schema.fields}

    def add_columns(self, product: str, table: str, columns: Mapping[str, str]) -> None:
        # Spark's catalogs want the partition column behind all others.
        before = next(
            (name for name in reversed(self.column_types(product, table)) if name != EVENT_DAY), None
        )
        added = []
        for name, type_ in columns.items():
            place = f"AFTER {quoted(before)}" if before else "FIRST"
            added.append(f"{quoted(name)} {sql_type(type_)} {place}")
            before = name
        place = self.address(product, table)
        self._spark(product, table).sql(f"ALTER TABLE {place} ADD COLUMNS ({', '.join(added)})")

    def commits_after(self, product: str, table: str, version: int) -> dict[int, str | None]:
        spark = self._spark(product, table)
        history = spark.sql(f"DESCRIBE HISTORY {self.address(product, table)}").select("version", METADATA)
        return {row["version"]: row[METADATA] for row in history.where(f"version > {version}").collect()}

    def has_days(self, product: str, table: str, days: Sequence[date]) -> bool:
        rows = self._spark(product, table).table(self.address(product, table)).where(on_days(days))
        return rows.first() is not None

    def batches(
        self, product: str, table: str, columns: Sequence[str], days: Sequence[date]
    ) -> Iterator[pa.RecordBatch]:
        rows = self._spark(product, table).table(self.address(product, table)).where(on_days(days))
        yield from arrow_batches(rows.select(*columns))

    def load(self, spark: SparkSession, product: str, table: str, version: int | None) -> DataFrame:
        reader = spark.read
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.table(self.address(product, table))

    def replace(self, rows: DataFrame, product: str, table: str, days: Sequence[date], metadata: str) -> None:
        from pyspark.sql import functions as F

        place = self.address(product, table)
        if not self.exists(product, table) and self._create(rows, place, metadata):
            return
        known = self.column_types(product, table)
        types = {field.name: field.dataType.typeName() for field in rows.schema.fields}
        if new := {name: type_ for name, type_ in types.items() if name not in known}:
            self.add_columns(product, table, new)
            known = self.column_types(product, table)
        values = [
            F.col(quoted(name)) if name in types else F.lit(None).cast(sql_type(type_)).alias(name)
            for name, type_ in known.items()
        ]
        # Spark's older way, saveAsTable, corrupts a table's metadata where the partition column isn't last.
        rows.select(*values).writeTo(place).option(METADATA, metadata).overwrite(on_days(days))

    def _create(self, rows: DataFrame, place: str, metadata: str) -> bool:
        """Create a table with its first rows; False if another process has just done so."""
        from pyspark.errors import AnalysisException

        try:
            _partitioned(rows).option(METADATA, metadata).saveAsTable(place)
        except AnalysisException as error:
            if error.getCondition() != "TABLE_OR_VIEW_ALREADY_EXISTS":
                raise
            return False
        return True

    def rewrite(self, rows: DataFrame, product: str, table: str) -> None:
        writer = _partitioned(rows).mode("overwrite").option("overwriteSchema", "true")
        writer.saveAsTable(self.address(product, table))

    def _spark(self, product: str, table: str) -> SparkSession:
        if self._session is None:
            raise LocationError(
                f"{self.address(product, table)} is a table of a catalog, which is opened on Spark only; "
                "ask from within a step"
            )
        return self._session()


def _partitioned(rows: DataFrame) -> DataFrameWriter:
    """A writer of a table, whose partition column Spark's catalogs want behind all others."""
    others = [quoted(name) for name in rows.columns if name != EVENT_DAY]
    return rows.select(*others, EVENT_DAY).write.format("delta").partitionBy(EVENT_DAY)
