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
from ml_platform.data_engineering.served_states import IS_SCORED, served_schema
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


def with_states(product: Product, schema: pa.Schema) -> pa.Schema:
    """Columns of the MRDS with those that say between which mornings a state of a row stood."""
    fields = [served_schema(product).field(name) for name in (KNOWN_FROM, KNOWN_TO, IS_SCORED)]
    return pa.schema([*schema, *fields])


def as_states(product: Product, rows: pa.Table) -> pa.Table:
    """Rows of either table as states; those of the MRDS have always stood."""
    if KNOWN_FROM in rows.column_names:
        return rows
    for name, value in {KNOWN_FROM: None, KNOWN_TO: None, IS_SCORED: True}.items():
        field = served_schema(product).field(name)
        rows = rows.append_column(field, pa.repeat(pa.scalar(value, field.type), len(rows)))
    return rows


def states(
    session: Callable[[], SparkSession],
    product: Product,
    tables: Tables,
    days: Sequence[date],
    schema: pa.Schema,
) -> DayRows:
    """The rows of some days as they were served, with all states that corrections have made of them.

    Args:
        session: gives the Spark session if one is needed.
        schema: of the columns to read; those of :func:`with_states` come beside them.
    """
    corrected = corrected_days(session, product, tables, days)
    same = [day for day in days if day not in corrected]
    as_they_are = _AsStates(day_rows(session, tables, product.name, MRDS, same, schema), product)
    if not corrected:
        return as_they_are
    kept = with_states(product, schema)
    as_served = day_rows(session, tables, product.name, MRDS_SERVED, sorted(corrected), kept)
    return _Together(as_they_are, as_served)


@dataclass(frozen=True)
class _AsStates:
    """Rows of the MRDS, each as the one state it has ever had."""

    rows: DayRows
    product: Product

    @property
    def count(self) -> int | None:
        return self.rows.count

    def map(self, kernel: Kernel, schema: pa.Schema) -> pa.Table:
        product = self.product

        def of_states(rows: pa.Table) -> pa.Table:
            return kernel(as_states(product, rows))

        return self.rows.map(of_states, schema)


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
