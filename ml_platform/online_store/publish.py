"""The online features: each entity's newest row of the MRDS, in a SQL table for look-ups.

Decides which rows go there, and when a publication is tried again; how a database stores them is
:mod:`ml_platform.online_store.store`'s business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tenacity
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering import aggregation, buckets
from ml_platform.data_engineering.day_rows import Kernel, RowsInFolder, subschema
from ml_platform.data_engineering.mrds import MRDS, feature_columns
from ml_platform.online_store.store import Merged, OnlineStore, OnlineStoreError, Publication
from ml_platform.spark.tasks import arrow_batches, spare_next_task
from ml_platform.storage.tables import Tables, column

#: Rows that are handed to the store at once.
ROWS_AT_ONCE = 250_000
_BUCKET = "_bucket"
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
    files = tables.day_files(product.name, MRDS)
    schema, count = _schema(product), buckets.number_of(buckets.csv_bytes(rows, len(_schema(product))))
    with store.publication(product, version=version, days=days) as publication:
        if files is not None and count == 1:
            found = RowsInFolder(files, version, days, schema).map(_having_entity(product), schema)
            batches = iter(newest(product, found).to_batches(max_chunksize=ROWS_AT_ONCE))
        else:
            batches = arrow_batches(_by_spark(product, read(days), count))
        staged = publication.stage(batches)
        _fall_back(session, product, publication, lambda: read(earlier), len(earlier))
        merged = publication.merge()
    compared = store.read_back(product, merged)
    return Published(merged, compared, staged / max(time.monotonic() - began, 1e-9))


def newest(product: Product, rows: pa.Table) -> pa.Table:
    """Each entity's row of the newest day, of entities whose rows are all among these.

    Args:
        rows: in the columns of :func:`_schema`, at most one an entity and day; none without an entity.
    """
    if pc.count_distinct(rows[EVENT_DAY]).as_py() <= 1:
        return rows
    rows = rows.sort_by(EVENT_DAY)
    # Spark takes 0.0 for -0.0, and a database too.
    keys = {
        name: pc.add(rows[name], 0.0) if pa.types.is_floating(rows[name].type) else rows[name]
        for name in product.entity
    }
    places = pa.table({**keys, "_place": pa.array(np.arange(len(rows)))})
    return rows.take(places.group_by(list(product.entity)).aggregate([("_place", "max")])["_place_max"])


def _schema(product: Product) -> pa.Schema:
    return subschema(aggregation.schema(product), feature_columns(product))


def _having_entity(product: Product) -> Kernel:
    """The rows that say of which entity they are."""

    def choose(rows: pa.Table) -> pa.Table:
        for name in product.entity:
            rows = rows.filter(rows[name].is_valid())
        return rows

    return choose


def _fall_back(
    session: Callable[[], SparkSession],
    product: Product,
    publication: Publication,
    read_earlier: Callable[[], DataFrame],
    days: int,
) -> None:
    """Stage the newest earlier rows of entities that the days no longer have.

    Args:
        days: how many days these rows are of; an entity has at most one on each.
    """
    before = "_before"
    names = product.identity
    for rows in publication.withdrawn():
        earlier = read_earlier()
        gone = session().createDataFrame(rows, earlier.select(*[column(name) for name in names]).schema)
        gone = gone.withColumnRenamed(EVENT_DAY, before)
        rest = earlier.join(gone, list(product.entity)).where(F.col(EVENT_DAY) < F.col(before))
        most = buckets.csv_bytes(len(rows) * days, len(_schema(product)))
        publication.stage_earlier(arrow_batches(_by_spark(product, rest, buckets.number_of(most))))


def _by_spark(product: Product, rows: DataFrame, count: int) -> DataFrame:
    """Each entity's newest row of ``rows``, in so many buckets of entities that Spark brings together."""
    schema = _schema(product)

    def newest_of_bucket(bucket: pa.Table) -> pa.Table:
        found = newest(product, bucket.drop_columns(_BUCKET).cast(schema))
        spare_next_task()
        return found

    rows = rows.select(*[column(name) for name in schema.names])
    bucketed = rows.withColumn(_BUCKET, buckets.in_spark(list(product.entity), count)).groupBy(_BUCKET)
    return bucketed.applyInArrow(newest_of_bucket, from_arrow_schema(schema))
