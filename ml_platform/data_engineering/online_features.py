"""The online features: each entity's newest row of the MRDS, in a SQL table for look-ups.

Decides which rows go there; how a database stores them is :mod:`ml_platform.storage.online`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ml_platform.data_engineering.mrds import MRDS, feature_columns
from ml_platform.product import EVENT_DAY, Product
from ml_platform.storage.online import OnlineStore
from ml_platform.storage.tables import Tables, column

CODE_VERSION = "1"


@dataclass(frozen=True)
class Published:
    """What a publication did: entities brought up to date, those that had newer rows, those gone."""

    published: int
    older: int
    withdrawn: int
    entities: int
    newest_day: date | None


def publish(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    store: OnlineStore,
    days: Sequence[date],
    usable_days: Sequence[date],
) -> Published:
    """Bring the store up to date with ``days`` of the MRDS.

    An entity whose stored row is of one of ``days`` but no longer in the MRDS falls back to its newest
    earlier row among ``usable_days``, or goes.
    """
    version = tables.version(product.name, MRDS)
    newest = _newest(product, tables.read_days(spark, product.name, MRDS, days))
    with store.publication(product) as publication:
        staged = publication.stage(_rows(newest), version)
        withdrawn = publication.withdraw(days)
        if withdrawn:
            gone = spark.createDataFrame(withdrawn, _entity_schema(product, newest))
            rest = tables.read_days(spark, product.name, MRDS, [d for d in usable_days if d not in set(days)])
            fallen_back = _newest(product, rest.join(gone, list(product.entity), "left_semi"))
            publication.stage(_rows(fallen_back), version)
        published = publication.merge()
    return Published(
        published, max(staged - published, 0), len(withdrawn), store.count(product), store.newest_day(product)
    )


def _newest(product: Product, rows: DataFrame) -> DataFrame:
    """Each entity's newest row."""
    names = feature_columns(product)
    values = F.struct(F.col(EVENT_DAY), *[column(name) for name in names if name != EVENT_DAY])
    newest = rows.groupBy(*[column(name) for name in product.entity]).agg(F.max(values).alias("_newest"))
    return newest.select(*[F.col("_newest").getField(name).alias(name) for name in names])


def _rows(rows: DataFrame) -> Iterator[dict[str, Any]]:
    """The rows, streamed a partition at a time."""
    for row in rows.toLocalIterator(prefetchPartitions=True):
        yield row.asDict()


def _entity_schema(product: Product, rows: DataFrame) -> Any:
    return rows.select(*[column(name) for name in product.entity]).schema
