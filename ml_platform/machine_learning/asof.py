"""What was known on the morning of a day: the MRDS as of a date.

Everything that learns or compares reads the MRDS through here. Rows of event days before the as-of
date, labels only if they were known by then; entities are split by a hash into those a model may learn
from and the tenth it is judged on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from ml_platform.data_engineering.mrds import MRDS
from ml_platform.product import EVENT_DAY, LABEL_KNOWN_ON, Product
from ml_platform.storage.tables import Tables, column, content_hash

HELD_OUT = 10  # one entity in ten
CLUSTERS = 1000
_SAMPLE_STEPS = 1_000_000


@dataclass(frozen=True)
class Slice:
    """Labelled rows as of a date: how many there are, how many are taken, and a hash of their content."""

    rows: DataFrame
    available: int
    taken: int
    fingerprint: str

    def collect(self) -> pd.DataFrame:
        """The rows that were taken, through Arrow; at most the bound the slice was made with."""
        frame: pd.DataFrame = self.rows.toPandas()
        return frame


def entity_hash(product: Product, purpose: str, parts: int) -> Column:
    """A number from 0 to ``parts`` - 1 that depends on the entity and the purpose alone."""
    entity = [column(name).cast("string") for name in product.entity]
    return F.pmod(F.xxhash64(F.lit(f"{product.name}/{purpose}"), *entity), F.lit(parts))


def is_held_out(product: Product) -> Column:
    """Whether the row's entity is among the tenth that no model learns from."""
    return entity_hash(product, "held out", HELD_OUT) == 0


def cluster(product: Product) -> Column:
    """The cluster of the row's entity, 0 to 999: what a bootstrap draws."""
    return entity_hash(product, "cluster", CLUSTERS).cast("int")


def labelled(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    days: Sequence[date],
    as_of: date,
    *,
    held_out: bool,
    maximum_rows: int,
) -> Slice:
    """The labelled rows of ``days`` as of a date, of the entities held out or of the others.

    Above ``maximum_rows``, a sample by hash of the entity: the same rows on every run.
    """
    known = tables.read_days(spark, product.name, MRDS, [day for day in days if day < as_of]).where(
        column(product.label).isNotNull() & (F.col(LABEL_KNOWN_ON) <= F.lit(as_of))
    )
    rows = known.where(is_held_out(product) if held_out else ~is_held_out(product)).select(
        *[
            column(name)
            for name in dict.fromkeys((*product.entity, EVENT_DAY, *product.features, product.label))
        ],
        cluster(product).alias("_cluster"),
    )
    names = [name for name in rows.columns if name != "_cluster"]
    facts = _first(rows.agg(F.count(F.lit(1)).alias("n"), content_hash(names).alias("fingerprint")))
    available = taken = int(facts["n"])
    if available > maximum_rows:
        share = int(_SAMPLE_STEPS * maximum_rows / available)
        rows = rows.where(entity_hash(product, "sample", _SAMPLE_STEPS) < share)
        taken = int(_first(rows.agg(F.count(F.lit(1)).alias("n")))["n"])
    return Slice(rows, available, taken, facts["fingerprint"] or "empty")


def _first(frame: DataFrame) -> Any:
    row = frame.first()
    assert row is not None, "an aggregate without keys has one row"
    return row
