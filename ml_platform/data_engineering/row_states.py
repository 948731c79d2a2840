"""States of rows, each with the mornings between which it stood: what all tables of such states share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_platform.contract.product import Product
from ml_platform.contract.source import LABEL_KNOWN_ON

KNOWN_FROM, KNOWN_TO = "known_from", "known_to"

Integers = NDArray[np.int64]

INTERVAL = (pa.field(KNOWN_FROM, pa.date32()), pa.field(KNOWN_TO, pa.date32()))
_NO_LABEL = -1


@dataclass(frozen=True)
class Runs:
    """States of rows that stand from one moment to another, each from the first row of it to the last.

    Attributes:
        groups: the number of the row's key or entity, ascending.
        moments: all of them, ascending.
        starts, ends: the places among these of each run's first and last row.
        last: where each run's last row stands.
    """

    moments: Sequence[date]
    groups: Integers
    starts: Integers
    ends: Integers
    last: Integers

    @classmethod
    def of(
        cls,
        product: Product,
        rows: pa.Table,
        groups: Integers,
        moments: Sequence[date],
        at: Integers,
        content: Integers,
    ) -> Runs:
        """The runs of rows with the same group and content at successive moments.

        A label that comes ends no run if it is known since then or later, as whoever reads the run then sees
        it in time. One that a correction brings although it has been known for longer ends a run, as one does
        that changes, goes, or is known since another day.

        Args:
            at: the place of each row's moment among ``moments``.
        """
        label = np.full(len(rows), _NO_LABEL, dtype=np.int64)
        if product.source.label is not None:
            label = numbered([rows[product.source.label], rows[LABEL_KNOWN_ON]], len(rows))
            label[rows[product.source.label].is_null().to_numpy()] = _NO_LABEL
        ordinals = np.array([moment.toordinal() for moment in moments], dtype=np.int64)
        was_known = ordinals_of(rows[LABEL_KNOWN_ON]) < ordinals[at]
        order = np.lexsort((at, groups))
        label, was_known = label[order], was_known[order]
        ends = (np.diff(label) != 0) & ((label[:-1] != _NO_LABEL) | was_known[1:])
        return cls._of(order, groups, moments, at, content, ends)

    @classmethod
    def of_content(cls, groups: Integers, moments: Sequence[date], at: Integers, content: Integers) -> Runs:
        """The same of rows without a label."""
        order = np.lexsort((at, groups))
        return cls._of(order, groups, moments, at, content, np.zeros(max(len(order) - 1, 0), dtype=bool))

    @classmethod
    def _of(
        cls,
        order: Integers,
        groups: Integers,
        moments: Sequence[date],
        at: Integers,
        content: Integers,
        ends: NDArray[np.bool_],
    ) -> Runs:
        """The runs of rows in an order, with what else ends them, between each two neighbours."""
        groups, at, content = groups[order], at[order], content[order]
        begins = np.r_[True, (np.diff(groups) != 0) | (np.diff(at) != 1) | (np.diff(content) != 0) | ends]
        (first,) = np.nonzero(begins)
        last = np.r_[first[1:], len(order)] - 1
        return cls(moments, groups[first], at[first], at[last], order[last])

    def states(self, rows: pa.Table) -> pa.Table:
        """The last row of each run, from which moment it stands, and at which it no longer does, if ever."""
        days = pa.array([*self.moments, None], pa.date32())
        found = rows.take(pa.array(self.last))
        for column, places in zip(INTERVAL, (self.starts, self.ends + 1), strict=True):
            found = found.append_column(column, days.take(pa.array(places)))
        return found


def valid_on(rows: pa.Table, morning: date) -> pa.Table:
    """The states that stood on a morning; of rows of ``mrds_served``, what a model as of then learns from."""
    at = pa.scalar(morning, pa.date32())
    ended = pc.fill_null(pc.less_equal(rows[KNOWN_TO], at), False)
    return rows.filter(pc.and_(pc.less_equal(rows[KNOWN_FROM], at), pc.invert(ended)))


def shared(rows: pa.Table, others: pa.Table, keys: Sequence[str]) -> NDArray[np.bool_]:
    """Of each row, whether the other table has one of the same key."""
    together = [pa.chunked_array([*rows[key].chunks, *others[key].chunks], rows[key].type) for key in keys]
    number = numbered(together, len(rows) + len(others))
    return np.isin(number[: len(rows)], number[len(rows) :])


def numbered(columns: Sequence[Any], rows: int) -> Integers:
    """A number from 0 on for each row, alike exactly where all columns are; null is a value."""
    found = np.zeros(rows, dtype=np.int64)
    for column in columns:
        values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        codes = values.dictionary_encode(null_encoding="encode").indices.to_numpy().astype(np.int64)
        if len(codes):
            _, found = np.unique(found * (codes.max() + 1) + codes, return_inverse=True)
    return found.astype(np.int64)


def ordinals_of(days: pa.ChunkedArray) -> Integers:
    """Days as ordinals; beyond all days where there is none."""
    numbers = pc.fill_null(days.cast(pa.int32()), (date.max - date(1970, 1, 1)).days).to_numpy()
    found: Integers = numbers.astype(np.int64) + date(1970, 1, 1).toordinal()
    return found
