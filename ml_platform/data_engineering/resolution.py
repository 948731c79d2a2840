"""How records of a delivery become rows of the ARDS: the latest row of each key, with the latest label.

A label counts as known since the first file that brought the label's present value, so that a label file
delivered again changes nothing. All records of a key must be there: of a whole day, or a bucket of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.data_engineering.delivery_file import EARLIER_ROW, parsed_schema
from ml_platform.data_engineering.expression_values import evaluate

ORPHAN = "label without a row"

#: The kinds of parsed records that say why a file can't be used, and whether another try may find otherwise.
REFUSALS = {"unreadable": False, "unreachable": True}

#: Records are brought down to those that count where they have no more keys than this share of their number.
_REPEATED = 0.5
_ONLY_KEY = "_key"


@dataclass(frozen=True)
class Refusal:
    """Why a day's delivery can't be read; ``may_pass`` if its files need not be changed for that to end."""

    reason: str
    may_pass: bool

    @classmethod
    def of(cls, kind: str, reason: str) -> Refusal:
        """That of a parsed record of one of the kinds in ``REFUSALS``."""
        return cls(reason, REFUSALS[kind])


@dataclass(frozen=True)
class Account:
    """How many records of a day came, gave a row its label, could not be used, and had no label yet.

    Those of the parts of a day add up. ``replaced_bad`` are records of replaced files that could not be used,
    ``replaced_unreadable`` tells of such files that could not be read to their end.
    """

    delivered: int = 0
    labels_applied: int = 0
    quarantined: int = 0
    labels_not_yet: int = 0
    replaced_bad: int = 0
    replaced_unreadable: int = 0

    def __add__(self, other: Account) -> Account:
        return Account(
            self.delivered + other.delivered,
            self.labels_applied + other.labels_applied,
            self.quarantined + other.quarantined,
            self.labels_not_yet + other.labels_not_yet,
            self.replaced_bad + other.replaced_bad,
            self.replaced_unreadable + other.replaced_unreadable,
        )


def accounts_together(parts: Iterable[Mapping[int, Account]]) -> dict[int, Account]:
    """The accounts of files, by number, of which each part has some."""
    found: dict[int, Account] = {}
    for part in parts:
        for number, account in part.items():
            found[number] = found.get(number, Account()) + account
    return found


@dataclass(frozen=True)
class Resolved:
    """What some records become.

    ``rows`` are in :func:`rows_schema`, ``labels_applied`` the keys with a row that got a label from a label
    file, and ``orphans`` the places (``_file_number``, ``_record``) of labels whose key has no row.
    """

    rows: pa.Table
    labels_applied: int
    orphans: pa.Table


def ards_columns(product: Product) -> list[str]:
    """The columns of the ARDS, in order."""
    own = list(product.columns)
    return [*own, *([] if EVENT_DAY in own else [EVENT_DAY]), LABEL_KNOWN_ON]


def label_columns(product: Product) -> tuple[str, ...]:
    """The columns of the ARDS that come with a label: it, if any is delivered, and since when it is known."""
    return (LABEL_KNOWN_ON,) if product.source.label is None else (product.source.label, LABEL_KNOWN_ON)


def delivered_labels(product: Product, rows: pa.Table) -> Any:
    """The label of some records or rows of the ARDS; null of all if none is delivered."""
    if product.source.label is None:
        return pa.chunked_array([pa.nulls(len(rows), pa.int32())])
    return rows[product.source.label]


def rows_schema(product: Product) -> pa.Schema:
    """The schema of the ARDS."""
    types = {name: ARROW_TYPES[column.type] for name, column in product.columns.items()}
    types |= {EVENT_DAY: pa.date32(), LABEL_KNOWN_ON: pa.date32()}
    return pa.schema([(name, types[name]) for name in ards_columns(product)])


def quarantine_schema() -> pa.Schema:
    """A record that can't be used, where it stands, and why."""
    return pa.schema(
        [
            ("product", pa.string()),
            (EVENT_DAY, pa.date32()),
            ("file", pa.string()),
            ("line", pa.int64()),
            ("raw", pa.string()),
            ("reason", pa.string()),
        ]
    )


def entry_schema(product: Product) -> pa.Schema:
    """The schema of the records that are brought together by key: each one's place, kind and values."""
    parsed = parsed_schema(product)
    names = ["_file_number", "_record", "_kind", *product.source.columns, LABEL_KNOWN_ON]
    return pa.schema([parsed.field(name) for name in names])


def keys(product: Product) -> list[str]:
    """The columns that tell a day's keys apart: every record has the delivery's event day."""
    return [name for name in product.ards_key if name not in (product.source.event_day, EVENT_DAY)]


def resolve(product: Product, day: date, entries: pa.Table) -> Resolved:
    """What records of a day become, of keys whose records are all among them.

    Args:
        entries: in :func:`entry_schema` and the order in which they were delivered: the later one wins.
    """
    found = _Entries(product, without_earlier(entries).combine_chunks())
    columns = {**found.rows(), EVENT_DAY: day}
    schema = rows_schema(product)
    rows = table(pa.schema([field for field in schema if field.name not in product.derived]), columns)
    for name, expression in product.derived.items():
        rows = rows.append_column(name, evaluate(expression, rows))
    return Resolved(rows.select(schema.names), found.labels_applied, found.orphans())


def without_earlier(entries: pa.Table) -> pa.Table:
    """Records of a day but for the rows of files that were replaced."""
    is_earlier = pc.equal(entries["_kind"], EARLIER_ROW)
    return entries.filter(pc.invert(is_earlier)) if pc.any(is_earlier).as_py() else entries


def needed(product: Product, entries: pa.Table, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Which of some records still count, whatever others come before or after them; None for all.

    It is looked for only where most repeat the key of others, so that a key with a million of records takes
    no more room than any other.

    Args:
        numbers: of the records, alike where their keys are.
    """
    ordered = np.sort(numbers)
    if np.count_nonzero(np.diff(ordered)) + 1 > _REPEATED * len(numbers):
        return None
    # A piece is of one file, whose rows are all replaced or none.
    renamed = pc.if_else(pc.equal(entries["_kind"], EARLIER_ROW), "row", entries["_kind"])
    place = entries.schema.get_field_index("_kind")
    return _Entries(product, entries.set_column(place, "_kind", renamed).combine_chunks()).needed()


def table(schema: pa.Schema, columns: dict[str, Any]) -> pa.Table:
    """Columns and values that hold for every row, as a table; what isn't given is null."""
    count = next(len(values) for values in columns.values() if isinstance(values, pa.Array | pa.ChunkedArray))

    def array(field: pa.Field) -> Any:
        values = columns.get(field.name)
        if isinstance(values, pa.Array | pa.ChunkedArray):
            return values
        return pa.repeat(pa.scalar(values, field.type), count)

    return pa.Table.from_arrays([array(field) for field in schema], schema=schema)


class _Entries:
    """The usable records of some keys, in the order in which they were delivered."""

    def __init__(self, product: Product, entries: pa.Table) -> None:
        self._product = product
        self._entries = entries
        position = pa.array(np.arange(len(entries), dtype="int64"))
        nothing = pa.scalar(None, pa.int64())
        is_row = pc.equal(entries["_kind"], "row")
        self._keys = keys(product) or [_ONLY_KEY]
        placed = (
            entries.select(keys(product))
            if keys(product)
            else pa.table({_ONLY_KEY: pa.repeat(0, len(entries))})
        )
        labels = delivered_labels(product, entries)
        self._placed = (
            placed.append_column("_row", pc.if_else(is_row, position, nothing))
            .append_column("_of_label_file", pc.if_else(is_row, nothing, position))
            .append_column("_label", pc.if_else(labels.is_valid(), position, nothing))
        )
        self._by_key = self._group(
            self._placed,
            self._keys,
            [("_row", "max"), ("_label", "max"), ("_of_label_file", "count"), ("_of_label_file", "max")],
        )
        self._found = self._by_key["_row_max"].is_valid()

    @property
    def labels_applied(self) -> int:
        """Keys with a row that got a label from a label file."""
        labelled = pc.greater(self._by_key["_of_label_file_count"], 0)
        return pc.sum(pc.and_(labelled, self._found)).as_py() or 0

    def rows(self) -> dict[str, Any]:
        """One row per key: the latest row, with the latest label that any file brought."""
        product, entries = self._product, self._entries
        chosen = self._by_key.filter(self._found)
        label_at = chosen["_label_max"]
        latest = entries.take(chosen["_row_max"])
        columns = {name: latest[name] for name in product.source.columns}
        if product.source.label is not None:
            columns[product.source.label] = entries[product.source.label].take(label_at)
        columns[LABEL_KNOWN_ON] = self._known_on().take(label_at)
        return columns

    def orphans(self) -> pa.Table:
        """File and record number of the records of label files whose key has no row."""
        orphans = self._entries.select(["_file_number", "_record", "_kind"]).take(self._without_row())
        # A label whose key has gone with the rows that were replaced is superseded like these.
        return orphans.filter(pc.equal(orphans["_kind"], "label")).drop_columns(["_kind"])

    def needed(self) -> np.ndarray[Any, Any]:
        """The places of the records that the others make no difference to: ascending.

        Of each key the latest row, the latest record of a label file, of each label and day of its arrival
        the latest record that brought it, and every record that has no row yet.
        """
        labelled = self._labelled()
        by_arrival = self._group(labelled, [*self._keys, "_value", "_known_on"], [("_label", "max")])
        places = [
            self._by_key["_row_max"],
            self._by_key["_of_label_file_max"],
            by_arrival["_label_max"],
            self._without_row(),
        ]
        found: np.ndarray[Any, Any] = np.unique(
            np.concatenate([place.drop_null().to_numpy() for place in places])
        )
        return found

    def _without_row(self) -> pa.ChunkedArray:
        """The places of the records of label files whose key has no row."""
        if pc.all(self._found).as_py() is not False:
            return pa.chunked_array([], pa.int64())
        by_key = self._group(self._placed, self._keys, [("_row", "count"), ("_of_label_file", "list")])
        lists = by_key.filter(pc.equal(by_key["_row_count"], 0))["_of_label_file_list"]
        return pc.list_flatten(lists).drop_null()

    def _labelled(self) -> pa.Table:
        """The keys and places of the records with a label, that, and since when it is known."""
        labelled = self._placed.select([*self._keys, "_label"])
        labelled = labelled.append_column("_value", delivered_labels(self._product, self._entries))
        labelled = labelled.append_column("_known_on", self._entries[LABEL_KNOWN_ON])
        return labelled.filter(labelled["_label"].is_valid())

    def _known_on(self) -> Any:
        """By position of a key's latest label: the first day on which a file brought that value."""
        entries = self._entries
        if pc.count(self._placed["_label"]).as_py() == pc.count(self._by_key["_label_max"]).as_py():
            return entries[LABEL_KNOWN_ON]
        values = self._group(
            self._labelled(), [*self._keys, "_value"], [("_label", "max"), ("_known_on", "min")]
        )
        known_on = np.zeros(len(entries), dtype="int32")
        known_on[values["_label_max"].to_numpy()] = values["_known_on_min"].cast(pa.int32()).to_numpy()
        return pa.array(known_on).cast(pa.date32())

    @staticmethod
    def _group(table: pa.Table, by: Sequence[str], aggregates: list[tuple[str, str]]) -> pa.Table:
        # Tasks are the parallelism there is; each one's threads would compete with the other's.
        return pa.TableGroupBy(table, list(by), use_threads=False).aggregate(aggregates)
