"""What was known on the morning of a day: the MRDS as of a date.

Everything that learns or compares reads the MRDS through here. Rows of event days before the as-of date as
they were when they were served, labels only if they were known by then; entities are split by a hash into
those a model may learn from and the tenth it is judged on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering import aggregation, served_rows
from ml_platform.data_engineering.day_rows import DayRows, day_rows, subschema
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.storage.fingerprints import ContentSums, hashes_of
from ml_platform.storage.tables import Tables

HELD_OUT = 10  # one entity in ten
CLUSTERS = 1000
#: Days before those compared on in which an entity's last label is looked for; one that is rarer has none.
LAST_LABEL_DAYS = 31
#: A sample takes so many millionths of the entities.
SAMPLE_STEPS = 1_000_000
#: A row takes a hundred bytes and more on the way.
_HASHED_AT_ONCE = 1 << 16
_HELD_OUT, _CLUSTER = "held out", "cluster"
_CLUSTER_COLUMN = pa.field("_cluster", pa.int32())
_SUMS = pa.schema([("rows", pa.int64()), ("totals", pa.list_(pa.string()))])


@dataclass(frozen=True)
class Slice:
    """Labelled rows as of a date: how many there are, how many are taken, and a hash of their content.

    ``collect`` gives the rows that were taken, at most the bound the slice was made with, by day and entity.
    """

    available: int
    taken: int
    fingerprint: str
    collect: Callable[[], pd.DataFrame]


def entity_hashes(product: Product, rows: pa.Table, purpose: str, parts: int) -> NDArray[np.int64]:
    """A number from 0 to ``parts`` - 1 for each row, which depends on its entity and the purpose alone.

    It is what Spark's ``pmod(xxhash64(purpose, *cast(entity as string)), parts)`` gives.

    Args:
        rows: with the columns of the entity.
    """
    numbers = np.empty(len(rows), dtype="int64")
    for start in range(0, len(rows), _HASHED_AT_ONCE):
        part = rows.slice(start, _HASHED_AT_ONCE)
        entity = [_text(part[name].combine_chunks()) for name in product.entity]
        (hashes,) = hashes_of([f"{product.name}/{purpose}"], entity)
        numbers[start : start + len(part)] = np.mod(hashes, parts)
    return numbers


def is_held_out(product: Product, rows: pa.Table) -> NDArray[np.bool_]:
    """Whether each row's entity is among the tenth that no model learns from."""
    held_out: NDArray[np.bool_] = entity_hashes(product, rows, _HELD_OUT, HELD_OUT) == 0
    return held_out


def clusters(product: Product, rows: pa.Table) -> NDArray[np.int32]:
    """The cluster of each row's entity, 0 to 999: what a bootstrap draws."""
    return entity_hashes(product, rows, _CLUSTER, CLUSTERS).astype("int32")


def sampled(product: Product, rows: pa.Table, purpose: str, share: int) -> pa.Table:
    """The rows of so many millionths of the entities, the same ones on every run."""
    if share >= SAMPLE_STEPS:
        return rows
    return rows.filter(pa.array(sample_steps(product, rows, purpose) < share))


def sample_steps(product: Product, rows: pa.Table, purpose: str) -> NDArray[np.int64]:
    """The millionth that each row's entity belongs to: a sample is of those below its share."""
    return entity_hashes(product, rows, purpose, SAMPLE_STEPS)


def share_of(maximum: int, rows: int | float) -> int:
    """The millionths of the entities that have about ``maximum`` of so many rows."""
    return int(SAMPLE_STEPS * maximum / rows) if rows > maximum else SAMPLE_STEPS


@dataclass(frozen=True)
class Known:
    """Of rows of the MRDS those with a label that was known as of a date.

    Args:
        held_out: those of the entities held out, of the others, or, with None, of all.
    """

    product: Product
    as_of: date
    held_out: bool | None

    def __call__(self, rows: pa.Table) -> pa.Table:
        known = pc.and_(
            rows[self.product.label].is_valid(),
            pc.fill_null(pc.less_equal(rows[LABEL_KNOWN_ON], pa.scalar(self.as_of, pa.date32())), False),
        )
        rows = rows.filter(known)
        if self.held_out is None:
            return rows
        return rows.filter(pa.array(is_held_out(self.product, rows) == self.held_out))


def labelled(
    session: Callable[[], SparkSession],
    product: Product,
    tables: Tables,
    days: Sequence[date],
    as_of: date,
    *,
    held_out: bool | None,
    maximum_rows: int,
    names: Sequence[str] = (),
) -> Slice:
    """The labelled rows of ``days`` as of a date, of the entities held out, of the others, or of all.

    Above ``maximum_rows``, a sample by hash of the entity: the same rows on every run.

    Args:
        session: gives the Spark session if there are too many rows for this process to read.
        held_out: None for all entities.
        names: the columns that are read and that the slice's fingerprint is of; by default :func:`columns`.
    """
    names = list(names or columns(product))
    given = subschema(aggregation.schema(product), [*names, LABEL_KNOWN_ON])
    made = subschema(given, names).append(_CLUSTER_COLUMN)
    chosen = [day for day in days if day < as_of]
    rows = served_rows.learned(session, product, tables, chosen, as_of, given)
    known = Known(product, as_of, held_out)

    def taken(share: int) -> pa.Table:
        def take(piece: pa.Table) -> pa.Table:
            part = sampled(product, known(piece), "sample", share)
            return part.select(names).append_column(_CLUSTER_COLUMN, pa.array(clusters(product, part)))

        return rows.map(take, made)

    if rows.count is not None and rows.count <= maximum_rows:
        whole = taken(SAMPLE_STEPS)
        content = ContentSums.of(whole, names)
        return Slice(
            content.rows, content.rows, content.fingerprint(names), lambda: _in_order(product, whole)
        )
    content = _sums(rows, known, names)
    share, number = share_of(maximum_rows, content.rows), content.rows
    if share < SAMPLE_STEPS:
        number = _sums(rows, lambda piece: sampled(product, known(piece), "sample", share), ()).rows
    return Slice(content.rows, number, content.fingerprint(names), lambda: _in_order(product, taken(share)))


def _in_order(product: Product, rows: pa.Table) -> pd.DataFrame:
    """The rows by day and entity: sums of doubles depend on their order, and files have any."""
    keys = dict.fromkeys((EVENT_DAY, *product.entity))
    frame: pd.DataFrame = rows.sort_by([(name, "ascending") for name in keys]).to_pandas()
    return frame


def with_last_labels(product: Product, frame: pd.DataFrame, first: date, name: str) -> pd.DataFrame:
    """The rows from a day on, each with its entity's last label that could be known when it was scored.

    Args:
        frame: labelled rows, also of days before ``first``; rows of the MRDS with :func:`columns`.
        name: of the new column; null where the entity has no such label among the rows.
    """
    entity = [column for column in product.entity if column != EVENT_DAY]
    day = np.array([pd.Timestamp(value).toordinal() for value in frame[EVENT_DAY]], dtype=np.int64)
    is_asked = day >= first.toordinal()
    chosen = frame[is_asked]
    if not entity or chosen.empty:
        return chosen.assign(**{name: None})
    # A day is scored on the morning after it, and its own label is what is asked for.
    known_to = day - max(product.label_takes, 1)
    code = frame.groupby(entity, dropna=False, sort=False).ngroup().to_numpy()
    label = frame[product.label].to_numpy()
    order = np.lexsort([day, code])
    # Of each entity a stretch of the sorted rows, in which days rise: one number finds both.
    span = day.max() - known_to.min() + 1
    sorted_at = (code * span + (day - known_to.min()))[order]
    asked = (code * span + (known_to - known_to.min()))[is_asked]
    position = np.searchsorted(sorted_at, asked, side="right") - 1
    found = order[np.maximum(position, 0)]
    is_there = (position >= 0) & (code[found] == code[is_asked])
    values = pd.Series(label[found], index=chosen.index, dtype=object).where(is_there, None)
    return chosen.assign(**{name: values})


def _sums(rows: DayRows, chosen: Callable[[pa.Table], pa.Table], names: Sequence[str]) -> ContentSums:
    """The number of the chosen rows, and the sums of their content in some columns."""

    def add(piece: pa.Table) -> pa.Table:
        sums = ContentSums.of(chosen(piece), names) if names else ContentSums(len(chosen(piece)))
        return pa.table({"rows": [sums.rows], "totals": [[str(total) for total in sums.totals]]}, _SUMS)

    parts = rows.map(add, _SUMS).to_pylist()
    return sum((ContentSums(part["rows"], tuple(map(int, part["totals"]))) for part in parts), ContentSums())


def count_entities(
    session: Callable[[], SparkSession], product: Product, tables: Tables, days: Sequence[date], at_most: int
) -> int:
    """How many entities have rows on ``days``; above ``at_most`` that number stands for all of them."""
    names = product.entity_of_day
    if not names:  # each day is an entity
        return min(len(days), at_most)
    schema = subschema(aggregation.schema(product), names)

    def different(rows: pa.Table) -> pa.Table:
        return rows.group_by(names).aggregate([]).slice(0, at_most)

    rows = day_rows(session, tables, product.name, MRDS, days, schema)
    return min(len(different(rows.map(different, schema))), at_most)


def columns(product: Product) -> list[str]:
    """What a model is made and judged from, but for when a label was known."""
    return list(dict.fromkeys((*product.entity, EVENT_DAY, *product.features, product.label)))


# -- what Spark writes for a value ------------------------------------------------------------------------


def _text(values: pa.Array) -> pa.Array:
    """Values as Spark casts them to strings: hashes of entities are those of its texts."""
    if pa.types.is_floating(values.type):
        different = values.dictionary_encode()
        texts = [_text_of_double(value) for value in different.dictionary.to_pylist()]
        return pa.array(texts, pa.string()).take(different.indices)
    if pa.types.is_timestamp(values.type):
        texts = pc.strftime(values.cast(pa.timestamp("us")), format="%Y-%m-%d %H:%M:%S")
        return pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), ".")
    return values.cast(pa.string())


def _text_of_double(value: float) -> str:
    """A double as Java writes it: its shortest digits, plain from 0.001 to below 10 million."""
    if value != value or value in (float("inf"), float("-inf")):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    sign, numbers, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    minus, digits = "-" * sign, "".join(map(str, numbers))
    if value == 0:
        return f"{minus}0.0"
    point = len(digits) + exponent
    if not -3 < point <= 7:
        return f"{minus}{digits[0]}.{digits[1:] or 0}E{point - 1}"
    whole = digits[:point].ljust(max(point, 0), "0") if point > 0 else "0"
    rest = digits[point:] if point > 0 else "0" * -point + digits
    return f"{minus}{whole}.{rest or 0}"
