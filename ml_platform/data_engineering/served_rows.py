"""Rows of the MRDS as models learn from them and as they are scored: as when their days were served.

Of days whose rows have changed since they are in the table ``mrds_served``; of all others they are the MRDS.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
from pyspark.sql import SparkSession

from ml_platform.contract.assets import MRDS_SERVED
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering.day_rows import DayRows, Kernel, day_rows
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO, valid_on
from ml_platform.data_engineering.served_states import served_schema
from ml_platform.storage.tables import Tables, column


def corrected_days(
    session: Callable[[], SparkSession], product: Product, tables: Tables, days: Collection[date]
) -> frozenset[date]:
    """Those of some days whose rows have changed since they were first served."""
    if not days or not tables.has_days(product.name, MRDS_SERVED, days):
        return frozenset()
    files = tables.day_files(product.name, MRDS_SERVED)
    if files is not None:
        held = files.sizes(tables.version(product.name, MRDS_SERVED))
        return frozenset(day for day in days if held[day])
    rows = tables.read_days(session(), product.name, MRDS_SERVED, days)
    return frozenset(row[EVENT_DAY] for row in rows.select(column(EVENT_DAY)).distinct().collect())


def learned(
    session: Callable[[], SparkSession],
    product: Product,
    tables: Tables,
    days: Sequence[date],
    as_of: date,
    schema: pa.Schema,
) -> DayRows:
    """The rows of some days that a model as of a date learns from, by the contract's ``learns_from``.

    Args:
        session: gives the Spark session if one is needed.
        schema: of the columns to read.
    """
    corrected: frozenset[date] = frozenset()
    if product.model.learns_from == "served":
        corrected = corrected_days(session, product, tables, days)
    as_they_are = day_rows(
        session, tables, product.name, MRDS, [day for day in days if day not in corrected], schema
    )
    if not corrected:
        return as_they_are
    kept = [*schema, *(served_schema(product).field(name) for name in (KNOWN_FROM, KNOWN_TO))]
    as_served = day_rows(session, tables, product.name, MRDS_SERVED, sorted(corrected), pa.schema(kept))
    return _Together(as_they_are, _AsOf(as_served, as_of, schema))


@dataclass(frozen=True)
class _AsOf:
    """Rows of ``mrds_served`` that a model as of a date learns from; ``count`` is of all of them."""

    rows: DayRows
    as_of: date
    schema: pa.Schema

    @property
    def count(self) -> int | None:
        return self.rows.count

    def map(self, kernel: Kernel, schema: pa.Schema) -> pa.Table:
        as_of, names = self.as_of, self.schema.names

        def of_learned(rows: pa.Table) -> pa.Table:
            return kernel(valid_on(rows, as_of).select(names))

        return self.rows.map(of_learned, schema)


@dataclass(frozen=True)
class _Together:
    """Rows of two tables."""

    first: DayRows
    second: DayRows

    @property
    def count(self) -> int | None:
        counts = (self.first.count, self.second.count)
        return None if None in counts else sum(count or 0 for count in counts)

    def map(self, kernel: Kernel, schema: pa.Schema) -> pa.Table:
        return pa.concat_tables([rows.map(kernel, schema) for rows in (self.first, self.second)])
