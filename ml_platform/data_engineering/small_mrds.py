"""The MRDS of days that fit in the memory of one task: a task reads a day of the ARDS and writes one file.

Its rows are bit for bit those of :func:`ml_platform.data_engineering.mrds.aggregate`, which also does the
days that this leaves out: large ones, and those with values that Arrow orders or adds otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession

from ml_platform.contract.monitoring import MASK
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.data_engineering.day_statistics import Counted, Counting
from ml_platform.spark.tasks import in_tasks
from ml_platform.storage.day_files import DayFile, DayFiles

#: Rows of a day up to which a task holds it in memory.
SMALL_ROWS = 1_000_000

_LARGEST = 2**63 - 1
#: Integers are added in two halves of so many bits where their sum might not fit, so that none is lost.
HALF_BITS = 32


class TooLargeError(Exception):
    """A group's sum or mean is beyond its type; the message says of which column and entity."""


def too_large(product: Product, name: str, entity: Sequence[Any], total: int | float) -> TooLargeError:
    """The error of a total that its column can't hold.

    Args:
        entity: the values of the product's entity, in its order.
        total: what the values add up to; a whole number is exact.
    """
    type_ = product.mrds_type(name)
    hidden = product.sensitive
    group = ", ".join(
        f"{key} = {MASK if key in hidden else value}"
        for key, value in zip(product.entity, entity, strict=True)
    )
    value = MASK if name in hidden else f"{total:,}"
    most = f"{_LARGEST:,}" if type_ == "long" else f"{np.finfo('float64').max:.4g}"
    return TooLargeError(
        f"{name}: the values of {group} add up to {value}, and a {type_} holds at most {most}; correct these "
        "rows, or choose another rule in mrds.aggregate"
    )


@dataclass(frozen=True)
class AggregatedDay:
    """The files of a day and what they hold, why it is refused, or that Spark has to do it."""

    for_spark: bool = False
    refusal: str | None = None
    counted: Counted = field(default_factory=Counted)
    files: list[DayFile] = field(default_factory=list)


def schema(product: Product) -> pa.Schema:
    """The schema of the MRDS."""
    names = [*product.entity, *product.mrds.aggregate]
    types = {name: ARROW_TYPES[product.mrds_type(name)] for name in names}
    types |= {EVENT_DAY: pa.date32(), LABEL_KNOWN_ON: pa.date32()}
    ordered = dict.fromkeys([*product.entity, EVENT_DAY, *product.mrds.aggregate, LABEL_KNOWN_ON])
    return pa.schema([(name, types[name]) for name in ordered])


def write(
    spark: SparkSession,
    product: Product,
    days: Sequence[date],
    ards: DayFiles,
    version: int,
    mrds: DayFiles,
    counting: Counting,
) -> dict[date, AggregatedDay]:
    """Aggregate these days of the ARDS, each in one task that writes its file; nothing is committed yet.

    Returns:
        One result a day with rows.
    """
    columns = _columns(product)

    def write_all(chosen: Sequence[date]) -> Iterator[tuple[date, AggregatedDay]]:
        for day, rows in ards.read(version, chosen, columns):
            try:
                done = aggregate_day(product, day, rows)
            except TooLargeError as error:
                yield day, AggregatedDay(refusal=str(error))
                continue
            yield (
                day,
                AggregatedDay(for_spark=True)
                if done is None
                else AggregatedDay(counted=counting.of_rows(done), files=mrds.write(day, done)),
            )

    return in_tasks(spark, days, write_all, AggregatedDay)


def _columns(product: Product) -> list[str]:
    """The columns of the ARDS that the MRDS is made from."""
    names = [*product.entity, *_order(product), *product.mrds.aggregate, LABEL_KNOWN_ON]
    return [name for name in dict.fromkeys(names) if name != EVENT_DAY]


def _order(product: Product) -> tuple[str, ...]:
    return (*product.mrds.order_by, *product.ards_key)


def aggregate_day(product: Product, day: date, rows: pa.Table) -> pa.Table | None:
    """One row per entity of a day's rows, in the columns of the MRDS; None if Spark has to do it.

    Spark takes NaN for the greatest number.

    Raises:
        TooLargeError: a sum or a mean is beyond its type.
    """
    for name in _columns(product):
        if pa.types.is_floating(rows.schema.field(name).type) and pc.any(pc.is_nan(rows[name])).as_py():
            return None
    return _Grouped(product, day, rows).table()


class _Grouped:
    """A day's rows in the order of their entities, and within one in the order of the contract."""

    def __init__(self, product: Product, day: date, rows: pa.Table) -> None:
        self._product = product
        self._day = day
        entity = [name for name in product.entity if name != EVENT_DAY]
        order = [name for name in dict.fromkeys((*entity, *_order(product))) if name != EVENT_DAY]
        # Spark takes null for the least.
        by = [(name, "ascending", "at_start") for name in order]
        self._rows = rows.take(pc.sort_indices(rows, sort_keys=by))
        begins = np.zeros(len(rows), dtype=bool)
        begins[0] = True
        for name in entity:
            codes = self._rows[name].combine_chunks().dictionary_encode(null_encoding="encode").indices
            begins[1:] |= np.diff(codes.to_numpy()) != 0
        self._starts = np.flatnonzero(begins)
        self._ends = np.append(self._starts[1:], len(rows)) - 1
        self._group = np.cumsum(begins) - 1
        self._entity = entity

    def table(self) -> pa.Table:
        """The rows of the MRDS.

        Raises:
            TooLargeError: a sum or a mean is beyond its type.
        """
        product, rules = self._product, self._product.mrds.aggregate
        found: dict[str, Any] = {name: self._rows[name].take(self._starts) for name in self._entity}
        found |= {name: self._aggregate(name, rule) for name, rule in rules.items() if name != product.label}
        label, known_on = self._label(rules[product.label])
        found |= {
            product.label: label,
            EVENT_DAY: pa.repeat(pa.scalar(self._day, pa.date32()), len(self._starts)),
        }
        found[LABEL_KNOWN_ON] = pc.if_else(label.is_valid(), known_on, pa.scalar(None, pa.date32()))
        ordered = schema(product)
        return pa.table([found[one.name].cast(one.type) for one in ordered], schema=ordered)

    def _label(self, rule: str) -> tuple[Any, Any]:
        """The label, and the day it is known since if there is one."""
        product = self._product
        label = self._aggregate(product.label, rule)
        if rule in ("first", "last"):
            return label, self._aggregate(LABEL_KNOWN_ON, rule)
        if rule in ("min", "max"):
            # A label over several rows is known when all of its rows' labels are.
            complete = self._count(product.label) == self._sizes
            label = pc.if_else(pa.array(complete), label, pa.scalar(None, label.type))
        return label, self._extreme(LABEL_KNOWN_ON, "descending")

    def _aggregate(self, name: str, rule: str) -> Any:
        match rule:
            case "first":
                return self._rows[name].take(self._starts)
            case "last":
                return self._rows[name].take(self._ends)
            case "min":
                return self._extreme(name, "ascending")
            case "max":
                return self._extreme(name, "descending")
            case "count":
                return pa.array(self._count(name))
            case "sum":
                return pa.array(self._sum(name), mask=self._count(name) == 0)
            case "mean":
                counts = self._count(name)
                return pa.array(self._double_sum(name) / np.maximum(counts, 1), mask=counts == 0)
            case _:
                raise AssertionError(f"{rule} is no rule of a contract")

    @cached_property
    def _sizes(self) -> np.ndarray[Any, Any]:
        return self._ends - self._starts + 1

    def _count(self, name: str) -> np.ndarray[Any, Any]:
        valid = self._rows[name].is_valid().to_numpy()
        return np.bincount(self._group[valid], minlength=len(self._starts))

    def _extreme(self, name: str, order: str) -> Any:
        """The value that comes first in each group; nulls come last."""
        values = pa.table({"group": self._group, "value": self._rows[name]})
        by = [("group", "ascending", "at_end"), ("value", order, "at_end")]
        return self._rows[name].take(pc.sort_indices(values, sort_keys=by).take(self._starts))

    def _sum(self, name: str) -> np.ndarray[Any, Any]:
        """The sums of each group, in the column's own kind of numbers."""
        if not pa.types.is_integer(self._rows.schema.field(name).type):
            return self._double_sum(name)
        group, numbers = self._numbers(name)
        if len(numbers) and int(np.abs(numbers.astype("float64")).max()) * len(numbers) > _LARGEST:
            high, low = self._halves(group, numbers)
            (beyond,) = np.nonzero((high < -(1 << 31)) | (high >= 1 << 31))
            if len(beyond):
                self._refuse(name, beyond[0], (int(high[beyond[0]]) << HALF_BITS) + int(low[beyond[0]]))
            exact: np.ndarray[Any, Any] = (high << HALF_BITS) + low
            return exact
        sums = np.zeros(len(self._starts), dtype="int64")
        np.add.at(sums, group, numbers)
        return sums

    def _double_sum(self, name: str) -> np.ndarray[Any, Any]:
        """The sums of each group as doubles, which are added in ascending order, one by one, from zero."""
        group, numbers = self._numbers(name)
        if numbers.dtype.kind != "f":
            high, low = self._halves(group, numbers)
            whole: np.ndarray[Any, Any] = high * float(1 << HALF_BITS) + low
            return whole
        order = np.lexsort((numbers, group))
        sums: np.ndarray[Any, Any] = np.bincount(
            group[order], weights=numbers[order], minlength=len(self._starts)
        )
        if not np.isfinite(sums).all():
            infinite = np.bincount(group[~np.isfinite(numbers)], minlength=len(self._starts)) > 0
            (beyond,) = np.nonzero(~np.isfinite(sums) & ~infinite)
            if len(beyond):
                self._refuse(name, beyond[0], float(sums[beyond[0]]))
        return sums

    def _numbers(self, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The numbers of the group and the values of a column's rows that have one."""
        values = self._rows[name].combine_chunks()
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        numbers = values.drop_null().to_numpy()
        return self._group[valid], numbers if numbers.dtype.kind == "f" else numbers.astype("int64")

    def _halves(
        self, group: np.ndarray[Any, Any], numbers: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Exact sums: the number of whole 2**32 in each, and the rest."""
        high, low = np.zeros(len(self._starts), dtype="int64"), np.zeros(len(self._starts), dtype="int64")
        np.add.at(high, group, numbers >> HALF_BITS)
        np.add.at(low, group, numbers & ((1 << HALF_BITS) - 1))
        return high + (low >> HALF_BITS), low & ((1 << HALF_BITS) - 1)

    def _refuse(self, name: str, group: int, total: int | float) -> None:
        entity = [
            self._day if key == EVENT_DAY else self._rows[key][int(self._starts[group])].as_py()
            for key in self._product.entity
        ]
        raise too_large(self._product, name, entity, total)
