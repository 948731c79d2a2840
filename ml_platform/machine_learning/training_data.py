"""What was known on the morning of a day: the MRDS as of a date.

Everything that learns or compares reads the MRDS through here. Rows of event days before the as-of
date, labels only if they were known by then; entities are split by a hash into those a model may learn
from and the tenth it is judged on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.fingerprints import content_hash_of, hashes_of, sums_of
from ml_platform.storage.tables import Tables, column

HELD_OUT = 10  # one entity in ten
CLUSTERS = 1000
_SAMPLE_STEPS = 1_000_000
#: A row takes a hundred bytes and more on the way.
_HASHED_AT_ONCE = 1 << 16
#: Where entities are many, a few days of them are enough to see it.
_DAYS_COUNTED_AT_ONCE = 7
_HELD_OUT, CLUSTER = "held out", "cluster"


@dataclass(frozen=True)
class Slice:
    """Labelled rows as of a date: how many there are, how many are taken, and a hash of their content.

    ``collect`` gives the rows that were taken, at most the bound the slice was made with.
    """

    available: int
    taken: int
    fingerprint: str
    collect: Callable[[], pd.DataFrame]


def entity_hash(product: Product, purpose: str, parts: int) -> Column:
    """A number from 0 to ``parts`` - 1 that depends on the entity and the purpose alone."""
    entity = [column(name).cast("string") for name in product.entity]
    return F.pmod(F.xxhash64(F.lit(f"{product.name}/{purpose}"), *entity), F.lit(parts))


def is_held_out(product: Product) -> Column:
    """Whether the row's entity is among the tenth that no model learns from."""
    return entity_hash(product, _HELD_OUT, HELD_OUT) == 0


def cluster(product: Product) -> Column:
    """The cluster of the row's entity, 0 to 999: what a bootstrap draws."""
    return entity_hash(product, CLUSTER, CLUSTERS).cast("int")


#: The types of an entity that are the same text to Arrow and to Spark.
_PLAIN_TEXT = ("string", "integer", "long", "date", "boolean")


def can_hash_in_memory(product: Product) -> bool:
    """Whether :func:`entity_hashes_of` works for the product's entity."""
    return all(product.mrds_type(name) in _PLAIN_TEXT for name in product.entity)


def entity_hashes_of(product: Product, rows: pa.Table, purpose: str, parts: int) -> NDArray[np.int64]:
    """What :func:`entity_hash` gives for rows that are held in memory."""
    numbers = np.empty(len(rows), dtype="int64")
    for start in range(0, len(rows), _HASHED_AT_ONCE):
        part = rows.slice(start, _HASHED_AT_ONCE)
        entity = [part[name].cast(pa.string()) for name in product.entity]
        (hashes,) = hashes_of([f"{product.name}/{purpose}"], entity)
        numbers[start : start + len(part)] = np.mod(hashes, parts)
    return numbers


def is_held_out_of(product: Product, rows: pa.Table) -> NDArray[np.bool_]:
    """What :func:`is_held_out` gives for rows that are held in memory."""
    held_out: NDArray[np.bool_] = entity_hashes_of(product, rows, _HELD_OUT, HELD_OUT) == 0
    return held_out


def labelled(
    session: Callable[[], SparkSession],
    product: Product,
    tables: Tables,
    days: Sequence[date],
    as_of: date,
    *,
    held_out: bool | None,
    maximum_rows: int,
) -> Slice:
    """The labelled rows of ``days`` as of a date, of the entities held out, of the others, or of all.

    Above ``maximum_rows``, a sample by hash of the entity: the same rows on every run. Below, and where
    the tables lie in a folder, they are read in this process, without Spark.

    Args:
        session: gives the Spark session if one is needed.
        held_out: None for all entities.
    """
    chosen = [day for day in days if day < as_of]
    files = tables.day_files(product.name, MRDS) if can_hash_in_memory(product) else None
    if files is not None:
        version = tables.version(product.name, MRDS)
        sizes = files.sizes(version)
        if sum(sizes[day] for day in chosen) <= maximum_rows:
            return _in_memory(product, files, version, chosen, as_of, held_out=held_out)
    mrds = tables.read_days(session(), product.name, MRDS, chosen)
    return _in_spark(product, mrds, as_of, held_out=held_out, maximum_rows=maximum_rows)


def _in_memory(
    product: Product,
    files: DayFiles,
    version: int,
    days: Sequence[date],
    as_of: date,
    *,
    held_out: bool | None,
) -> Slice:
    names = _columns(product)
    known = pc.field(product.label).is_valid() & (pc.field(LABEL_KNOWN_ON) <= pa.scalar(as_of, pa.date32()))
    rows = files.read_all(version, days, names, known)
    if held_out is not None:
        rows = rows.filter(pa.array(is_held_out_of(product, rows) == held_out))
    clusters = entity_hashes_of(product, rows, CLUSTER, CLUSTERS).astype("int32")
    return Slice(
        available=len(rows),
        taken=len(rows),
        fingerprint=content_hash_of(rows, names),
        collect=lambda: rows.append_column("_cluster", pa.array(clusters)).to_pandas(),
    )


def _in_spark(
    product: Product, mrds: DataFrame, as_of: date, *, held_out: bool | None, maximum_rows: int
) -> Slice:
    names = _columns(product)
    known = mrds.where(column(product.label).isNotNull() & (F.col(LABEL_KNOWN_ON) <= F.lit(as_of)))
    if held_out is not None:
        known = known.where(is_held_out(product) == F.lit(held_out))
    rows = known.select(*[column(name) for name in names], cluster(product).alias("_cluster"))
    content = sums_of(rows, names)
    available = taken = content.rows
    if available > maximum_rows:
        share = int(_SAMPLE_STEPS * maximum_rows / available)
        rows = rows.where(entity_hash(product, "sample", _SAMPLE_STEPS) < share)
        taken = int(_first(rows.agg(F.count(F.lit(1)).alias("n")))["n"])
    return Slice(available, taken, content.fingerprint(names), lambda: rows.toArrow().to_pandas())


def count_entities(
    session: Callable[[], SparkSession], product: Product, tables: Tables, days: Sequence[date], at_most: int
) -> int:
    """How many entities have rows on ``days``; above ``at_most`` that number stands for all of them."""
    names = [name for name in product.entity if name != EVENT_DAY]
    if not names:  # each day is an entity
        return min(len(days), at_most)
    files = tables.day_files(product.name, MRDS)
    if files is None:
        mrds = tables.read_days(session(), product.name, MRDS, days)
        return int(mrds.select(*[column(name) for name in names]).distinct().limit(at_most).count())
    version, known = tables.version(product.name, MRDS), pa.table({})
    for start in range(0, len(days), _DAYS_COUNTED_AT_ONCE):
        rows = files.read_all(version, days[start : start + _DAYS_COUNTED_AT_ONCE], names)
        known = pa.concat_tables([known, rows] if len(known) else [rows]).group_by(names).aggregate([])
        if len(known) >= at_most:
            return at_most
    return len(known)


def _columns(product: Product) -> list[str]:
    return list(dict.fromkeys((*product.entity, EVENT_DAY, *product.features, product.label)))


def _first(frame: DataFrame) -> Any:
    row = frame.first()
    assert row is not None, "an aggregate without keys has one row"
    return row
