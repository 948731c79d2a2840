"""How rows of the ARDS become rows of the MRDS: one row per entity, by the contract's rules.

Every aggregate is independent of the order of the rows: ``first`` and ``last`` are decided by the declared
order and then the key, and doubles are added in the order of their values. Null is the least value, and NaN
the greatest. It works on all rows of any entities of a day: the whole day, or a bucket of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.monitoring import MASK
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering.conversion import ARROW_TYPES

_LARGEST = 2**63 - 1
#: Arrow takes the place of nulls with each key from 25 on, and warns of the one for all that runtimes have.
_NULLS_BY_KEY = int(pa.__version__.partition(".")[0]) >= 25
#: Integers are added in two halves of so many bits where their sum might not fit, so that none is lost.
HALF_BITS = 32


class TooLargeError(Exception):
    """A group's sum or mean is beyond its type, or a group is too large; the message says which entity's.

    ``place`` is that of the column among the aggregated ones: where several are, the first one is said.
    """

    def __init__(self, message: str, place: int = -1) -> None:
        super().__init__(message)
        self.place = place


def too_large(product: Product, name: str, entity: Sequence[Any], total: int | float) -> TooLargeError:
    """The error of a total that its column can't hold.

    Args:
        name: of a column of the MRDS, or of one that it is made from.
        entity: the values of the product's entity, in its order.
        total: what the values add up to; a whole number is exact.
    """
    of_mrds = list(product.mrds.columns)
    type_ = "double" if isinstance(total, float) else "long"
    value = MASK if name in product.sensitive else f"{total:,}"
    most = f"{_LARGEST:,}" if type_ == "long" else f"{np.finfo('float64').max:.4g}"
    section = "aggregate" if product.mrds.aggregate.get(name) in ("sum", "mean") else "features"
    if name in product.mrds.ahead or not product.mrds.windowed:
        section = "label" if section == "features" else section
    return TooLargeError(
        f"{name}: the values of {_shown(product, entity)} add up to {value}, and a {type_} holds at most "
        f"{most}; correct these rows, or choose another rule in mrds.{section}",
        of_mrds.index(name) if name in of_mrds else len(of_mrds),
    )


def too_many_rows(product: Product, entity: Sequence[Any], count: int) -> TooLargeError:
    """The error of an entity with rows that no task can hold together, of which ``count`` were seen."""
    return TooLargeError(
        f"{', '.join(product.entity)}: at least {count:,} rows of this day have {_shown(product, entity)}, "
        "more than a task can hold at once; if that stands for no entity, as a default value does, leave "
        "such rows out of the delivery, or else add a column to mrds.entity that tells them apart"
    )


def largest(product: Product, day: date, rows: pa.Table) -> tuple[list[Any], int]:
    """The entity that most of some rows are of, and how many are."""
    names = product.entity_of_day
    sizes = pa.TableGroupBy(rows, names, use_threads=False).aggregate([([], "count_all")])
    (found,) = sizes.sort_by([("count_all", "descending")]).slice(0, 1).to_pylist()
    return [day if name == EVENT_DAY else found[name] for name in product.entity], found["count_all"]


def _shown(product: Product, entity: Sequence[Any]) -> str:
    hidden = product.sensitive
    return ", ".join(
        f"{key} = {MASK if key in hidden else value}"
        for key, value in zip(product.entity, entity, strict=True)
    )


def schema(product: Product, *, with_ahead: bool = True) -> pa.Schema:
    """The schema of the MRDS; without a label that looks ahead, if there is one, unless ``with_ahead``."""
    left_out = () if with_ahead else product.mrds.ahead
    return _schema(product, tuple(name for name in product.mrds.columns if name not in left_out))


def own_schema(product: Product) -> pa.Schema:
    """The same without what is made of other days."""
    return _schema(product, tuple(product.mrds.aggregate))


def _schema(product: Product, columns: Sequence[str]) -> pa.Schema:
    names = [*product.entity, *columns]
    types = {name: ARROW_TYPES[product.mrds_type(name)] for name in names}
    types |= {EVENT_DAY: pa.date32(), LABEL_KNOWN_ON: pa.date32()}
    ordered = dict.fromkeys([*product.entity, EVENT_DAY, *columns, LABEL_KNOWN_ON])
    return pa.schema([(name, types[name]) for name in ordered])


def columns(product: Product) -> list[str]:
    """The columns of the ARDS that the MRDS is made from."""
    names = [*product.entity, *_order(product), *product.mrds.aggregate, LABEL_KNOWN_ON]
    return [name for name in dict.fromkeys(names) if name != EVENT_DAY]


def _order(product: Product) -> tuple[str, ...]:
    return (*product.mrds.order_by, *product.ards_key)


def aggregate(product: Product, day: date, rows: pa.Table) -> pa.Table:
    """One row per entity of some of a day's rows, in :func:`own_schema`.

    Args:
        rows: with the :func:`columns`; of an entity all of the day, or none.

    Raises:
        TooLargeError: a sum or a mean is beyond its type.
    """
    if not len(rows):
        return own_schema(product).empty_table()
    return Grouped(product, day, rows).table()


class Grouped:
    """A day's rows in the order of their entities, and within one in the order of the contract."""

    def __init__(self, product: Product, day: date, rows: pa.Table) -> None:
        self._product = product
        self._day = day
        entity = product.entity_of_day
        order = [name for name in dict.fromkeys((*entity, *_order(product))) if name != EVENT_DAY]
        self._rows = rows.take(_sorted(rows, [(name, "ascending") for name in order]))
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
        found = self.entities()
        delivered = product.source.label
        found |= {name: self.aggregate(name, rule) for name, rule in rules.items() if name != delivered}
        found[EVENT_DAY] = pa.repeat(pa.scalar(self._day, pa.date32()), len(self._starts))
        found[LABEL_KNOWN_ON] = pa.nulls(len(self._starts), pa.date32())
        if delivered is not None:
            label, known_on = self._label(delivered, rules[delivered])
            found[delivered] = label
            found[LABEL_KNOWN_ON] = pc.if_else(label.is_valid(), known_on, pa.scalar(None, pa.date32()))
        ordered = own_schema(product)
        return pa.table([found[field.name].cast(field.type) for field in ordered], schema=ordered)

    @property
    def groups(self) -> int:
        """How many entities there are."""
        return len(self._starts)

    def entities(self) -> dict[str, Any]:
        """The entities' columns, a value each."""
        return {name: self._rows[name].take(self._starts) for name in self._entity}

    def distinct(self, name: str) -> tuple[np.ndarray[Any, Any], pa.Array]:
        """The number of its group and the value, of each row that has one."""
        values = self._rows[name].combine_chunks()
        return self._group[values.is_valid().to_numpy(zero_copy_only=False)], values.drop_null()

    def _label(self, name: str, rule: str) -> tuple[Any, Any]:
        """The label, and the day it is known since if there is one."""
        label = self.aggregate(name, rule)
        if rule in ("first", "last"):
            return label, self.aggregate(LABEL_KNOWN_ON, rule)
        # A label over several rows is known when all of its rows' labels are.
        complete = self._count(name) == self.sizes
        label = pc.if_else(pa.array(complete), label, pa.scalar(None, label.type))
        return label, self._extreme(LABEL_KNOWN_ON, "descending")

    def aggregate(self, name: str, rule: str) -> Any:
        """A column by one of the rules of a contract, a value an entity."""
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
    def sizes(self) -> np.ndarray[Any, Any]:
        """How many rows each entity has."""
        return self._ends - self._starts + 1

    def _count(self, name: str) -> np.ndarray[Any, Any]:
        valid = self._rows[name].is_valid().to_numpy()
        return np.bincount(self._group[valid], minlength=len(self._starts))

    def _extreme(self, name: str, order: str) -> Any:
        """The value that comes first in each group; nulls come last."""
        values = pa.table({"group": self._group, "value": self._rows[name]})
        return self._rows[name].take(
            _sorted(values, [("group", "ascending"), ("value", order)], nulls="at_end").take(self._starts)
        )

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


def _sorted(rows: pa.Table, by: Sequence[tuple[str, str]], nulls: str = "at_start") -> Any:
    """The places of the rows in an order in which NaN is the greatest number."""
    keys = []
    for name, order in by:
        values = rows[name]
        if pa.types.is_floating(values.type) and pc.any(is_nan := pc.is_nan(values)).as_py():
            # Arrow puts NaN beside the nulls, wherever these are.
            rows = rows.append_column(f"{name} is NaN", is_nan)
            keys.append((f"{name} is NaN", order))
        keys.append((name, order))
    if _NULLS_BY_KEY:
        return pc.sort_indices(rows, sort_keys=[(*key, nulls) for key in keys])
    return pc.sort_indices(rows, sort_keys=keys, null_placement=nulls)
