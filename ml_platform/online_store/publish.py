"""The online features: each entity's newest row of the MRDS, in a SQL table for look-ups.

Decides which rows go there, and when a publication is tried again; how a database stores them is
:mod:`ml_platform.online_store.store`'s business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import tenacity
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering.mrds import MRDS, feature_columns
from ml_platform.online_store.store import Merged, OnlineStore, OnlineStoreError, Publication
from ml_platform.spark.tasks import arrow_batches
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.tables import Tables, column

if TYPE_CHECKING:
    import pyarrow as pa

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
    session: Callable[[], SparkSession],
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
        session: gives the Spark session if there are too many rows for this process, or some to look up.
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
    return retrying(_publish, session, product, tables, store, days, usable_days, rows)


def _publish(
    session: Callable[[], SparkSession],
    product: Product,
    tables: Tables,
    store: OnlineStore,
    days: Sequence[date],
    usable_days: Sequence[date],
    rows: int,
) -> Published:
    began = time.monotonic()
    stored = store.published_versions(product)
    version = tables.version(product.name, MRDS)
    if stored and max(stored.values()) > version:
        # The table was made anew: its versions begin again, and the store took them for old.
        store.restart_versions(product)

    def read(chosen: Sequence[date]) -> DataFrame:
        found = tables.read_days(session(), product.name, MRDS, chosen, version=version)
        for name in product.entity:
            found = found.where(column(name).isNotNull())
        return found

    earlier = [day for day in usable_days if day < max(days) and day not in set(days)]
    files = tables.day_files(product.name, MRDS) if _fits_in_memory(product, rows) else None
    with store.publication(product, version=version, days=days) as publication:
        if files is not None:
            batches = _newest_in_memory(product, files, version, days)
        else:
            partitions = 1 + rows // ROWS_OF_A_PARTITION
            batches = arrow_batches(_newest(product, read(days), days=len(days), partitions=partitions))
        staged = publication.stage(batches)
        _fall_back(session, product, publication, lambda: read(earlier))
        merged = publication.merge()
    compared = store.read_back(product, merged)
    return Published(merged, compared, staged / max(time.monotonic() - began, 1e-9))


def _fits_in_memory(product: Product, rows: int) -> bool:
    """Whether the rows are few, and Arrow tells entities apart as Spark does, which takes 0.0 for -0.0."""
    types = {product.mrds_type(name) for name in product.entity}
    return rows <= ROWS_OF_A_PARTITION and "double" not in types


def _newest_in_memory(
    product: Product, files: DayFiles, version: int, days: Sequence[date]
) -> Iterator[pa.RecordBatch]:
    """What :func:`_newest` gives, of rows that this process reads."""
    import numpy as np
    import pyarrow as pa

    entity = list(product.entity)
    rows = files.read_all(version, days, list(dict.fromkeys(feature_columns(product))))
    for name in entity:
        rows = rows.filter(rows[name].is_valid())
    if len(days) > 1:
        rows = rows.sort_by(EVENT_DAY)
        places = pa.table({**{name: rows[name] for name in entity}, "_place": pa.array(np.arange(len(rows)))})
        newest = places.group_by(entity).aggregate([("_place", "max")])["_place_max"]
        rows = rows.take(newest)
    return iter(rows.to_batches(max_chunksize=ROWS_OF_A_PARTITION))


def _fall_back(
    session: Callable[[], SparkSession],
    product: Product,
    publication: Publication,
    read_earlier: Callable[[], DataFrame],
) -> None:
    """Stage the newest earlier rows of entities that the days no longer have."""
    before = "_before"
    names = product.identity
    for rows in publication.withdrawn():
        earlier = read_earlier()
        gone = session().createDataFrame(rows, earlier.select(*[column(name) for name in names]).schema)
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
