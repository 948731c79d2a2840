"""The online features: each entity's newest row of the MRDS, in a SQL table for look-ups.

Decides which rows go there, and when a publication is tried again; how a database stores them is
:mod:`ml_platform.storage.online`'s business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import tenacity
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ml_platform.data_engineering.mrds import MRDS, feature_columns
from ml_platform.product import EVENT_DAY, Product
from ml_platform.storage.online import Merged, OnlineStore, OnlineStoreError, Publication
from ml_platform.storage.tables import Tables, column
from ml_platform.tasks import leave_imports_uncollected

if TYPE_CHECKING:
    import pyarrow as pa

CODE_VERSION = "1"
#: The driver holds one partition of rows at a time.
ROWS_OF_A_PARTITION = 250_000
ATTEMPTS = 5
WAIT = tenacity.wait_exponential_jitter(initial=1, max=30)


@dataclass(frozen=True)
class Published:
    """What a publication did; ``compared`` sampled rows were read back and are as they were published."""

    merged: Merged
    compared: int
    rows_per_second: float


def publish(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    store: OnlineStore,
    days: Sequence[date],
    usable_days: Sequence[date],
    *,
    rows: int,
    log: Callable[[str], None] = lambda _: None,
    wait: tenacity.wait.WaitBaseT = WAIT,
) -> Published:
    """Bring the store up to date with ``days`` of the MRDS, and read back that it is.

    An entity whose stored row is of one of ``days`` but no longer in the MRDS falls back to its newest
    earlier row among ``usable_days``, or goes. A failure that may pass is tried again, from the start: a
    publication that fails has changed nothing.

    Args:
        rows: about how many rows the days have.

    Raises:
        OnlineStoreError: the store can't take the features, or reads back something else.
    """

    def again(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log(f"online_features: attempt {state.attempt_number} of {ATTEMPTS} failed: {error}")

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda e: isinstance(e, OnlineStoreError) and e.temporary),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=wait,
        before_sleep=again,
        reraise=True,
    )
    return retrying(_publish, spark, product, tables, store, days, usable_days, rows)


def _publish(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    store: OnlineStore,
    days: Sequence[date],
    usable_days: Sequence[date],
    rows: int,
) -> Published:
    began = time.monotonic()
    version = tables.version(product.name, MRDS)

    def read(chosen: Sequence[date]) -> DataFrame:
        known = [column(name).isNotNull() for name in product.entity]
        found = tables.read_days(spark, product.name, MRDS, chosen, version=version)
        for condition in known:
            found = found.where(condition)
        return found

    earlier = [day for day in usable_days if day < max(days) and day not in set(days)]
    with store.publication(product, version=version, days=days) as publication:
        newest = _newest(product, read(days), days=len(days), partitions=1 + rows // ROWS_OF_A_PARTITION)
        staged = publication.stage(arrow_batches(newest))
        _fall_back(spark, product, publication, read(earlier))
        merged = publication.merge()
    compared = store.read_back(product, merged)
    return Published(merged, compared, staged / max(time.monotonic() - began, 1e-9))


def _fall_back(spark: SparkSession, product: Product, publication: Publication, earlier: DataFrame) -> None:
    """Stage the newest earlier rows of entities that the days no longer have."""
    before = "_before"
    names = list(dict.fromkeys((*product.entity, EVENT_DAY)))
    for rows in publication.withdrawn():
        gone = spark.createDataFrame(rows, earlier.select(*[column(name) for name in names]).schema)
        gone = gone.withColumnRenamed(EVENT_DAY, before)
        rest = earlier.join(gone, list(product.entity)).where(F.col(EVENT_DAY) < F.col(before))
        partitions = 1 + len(rows) // ROWS_OF_A_PARTITION
        publication.stage_earlier(arrow_batches(_newest(product, rest, days=2, partitions=partitions)))


def _newest(product: Product, rows: DataFrame, *, days: int, partitions: int) -> DataFrame:
    """Each entity's newest row of ``rows``, which are of so many days, in so many partitions."""
    names = list(dict.fromkeys(feature_columns(product)))
    entity = [column(name) for name in product.entity]
    rows = rows.select(*[column(name) for name in names])
    if partitions > 1 or days > 1:
        rows = rows.repartition(partitions, *entity)
    if days == 1:
        return rows
    values = F.struct(F.col(EVENT_DAY), *[column(name) for name in names if name != EVENT_DAY])
    newest = rows.groupBy(*entity).agg(F.max(values).alias("_newest"))
    return newest.select(*[F.col("_newest").getField(name).alias(name) for name in names])


def arrow_batches(rows: DataFrame) -> Iterator[pa.RecordBatch]:
    """The rows as Arrow batches, a partition at a time; works without a Spark context of one's own."""
    import pyarrow as pa

    def pack(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        for batch in batches:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            yield pa.RecordBatch.from_arrays([pa.array([sink.getvalue().to_pybytes()])], names=["batch"])
        leave_imports_uncollected()

    for row in rows.mapInArrow(pack, "batch binary").toLocalIterator(prefetchPartitions=True):
        with pa.ipc.open_stream(row["batch"]) as reader:
            yield from reader
