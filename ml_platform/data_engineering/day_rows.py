"""A function of some days' rows, carried out where the rows are.

What is computed of rows is a function over an Arrow table of some of them, whose results can be put one
after another: it filters, samples, or adds up. Few rows are read by this process, where their table lies
in a folder; all others by Spark's tasks. Both call the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.data_engineering import buckets
from ml_platform.spark.tasks import spare_next_task
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.tables import Tables, column

Kernel = Callable[[pa.Table], pa.Table]


class DayRows(Protocol):
    """Some days' rows of a data set, in the columns that were asked for."""

    @property
    def count(self) -> int | None:
        """How many rows there are, if that is known without reading them."""

    def map(self, kernel: Kernel, schema: pa.Schema) -> pa.Table:
        """What ``kernel`` makes of the rows, some at a time and in no order, together in ``schema``.

        Args:
            kernel: travels to the tasks. What it makes of all pieces has to fit this process.
        """


@dataclass(frozen=True)
class RowsInFolder:
    """Rows that this process reads."""

    files: DayFiles
    version: int
    days: Sequence[date]
    schema: pa.Schema
    count: int | None = None

    def map(self, kernel: Kernel, schema: pa.Schema) -> pa.Table:
        pieces = self.files.read_in_batches(self.version, self.days, self.schema.names) if self.days else ()
        return pa.concat_tables([schema.empty_table(), *applied(kernel, pieces, self.schema, schema)])


@dataclass(frozen=True)
class RowsInSpark:
    """Rows that Spark's tasks read."""

    rows: DataFrame
    schema: pa.Schema
    count: int | None = None

    def map(self, kernel: Kernel, schema: pa.Schema) -> pa.Table:
        chosen = self.rows.select(*[column(name) for name in self.schema.names])
        return mapped(chosen, kernel, self.schema, schema).toArrow().cast(schema)


def day_rows(
    session: Callable[[], SparkSession],
    tables: Tables,
    product: str,
    table: str,
    days: Sequence[date],
    schema: pa.Schema,
) -> DayRows:
    """Some days' rows of a table at its present version.

    Args:
        session: gives the Spark session if one is needed.
        schema: of the columns to read.
    """
    files = tables.day_files(product, table)
    if files is not None:
        version = tables.version(product, table)
        sizes = files.sizes(version) if days else {}
        count = sum(sizes[day] for day in days)
        if buckets.fits_process(count, schema):
            return RowsInFolder(files, version, days, schema, count)
    return RowsInSpark(tables.read_days(session(), product, table, days), schema)


def mapped(rows: DataFrame, kernel: Kernel, given: pa.Schema, made: pa.Schema) -> DataFrame:
    """What ``kernel`` makes of rows in the columns of ``given``, which Spark's tasks read, in ``made``."""

    def in_a_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for part in applied(kernel, batches, given, made):
            yield from part.to_batches()
        spare_next_task()

    return rows.mapInArrow(in_a_task, from_arrow_schema(made))


def applied(
    kernel: Kernel, batches: Iterable[pa.RecordBatch], given: pa.Schema, made: pa.Schema
) -> Iterator[pa.Table]:
    """What ``kernel`` makes of each piece of the rows in ``batches``, cast to ``given``, cast to ``made``."""
    for piece in buckets.pieces(batches, buckets.PIECE_BYTES):
        yield kernel(piece.cast(given)).cast(made)


def subschema(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """The fields of some columns, in their order, each once."""
    return pa.schema([schema.field(name) for name in dict.fromkeys(names)])
