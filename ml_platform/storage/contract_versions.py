"""The versions of a product's contract that its days were made under, as far as they decide what rows are.

The ledger names a version by its hash; this table says what it was. So a step can tell whether days of an
earlier version hold what it would make today, in the columns that it reads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from functools import cached_property
from typing import Any

import pyarrow as pa

from ml_platform.contract.product import Product
from ml_platform.storage.small_tables import ControlTable
from ml_platform.storage.tables import Tables

CONTRACTS = "contracts"

#: The sections that the ARDS is made by, and those of the MRDS; as the steps hash them.
ARDS_SECTIONS = ("source",)
MRDS_SECTIONS = ("source", "mrds")

#: The kind of label of versions that were recorded when there was only one.
_TASK_OF_OLD = "binary"
_WHOLE = frozenset({"integer", "long"})

#: Keys that decide which files can be read, and not what their values are.
_ACCEPTANCE = ("header_match", "extra_columns", "aliases")

_SCHEMA = pa.schema(
    [
        ("ards", pa.string()),
        ("mrds", pa.string()),
        ("content", pa.string()),
        ("recorded_at", pa.int64()),
        ("task", pa.string()),
    ]
)


class ContractVersions:
    """The table ``contracts`` of one product."""

    def __init__(self, tables: Tables, product: Product) -> None:
        self._product = product
        self._table = ControlTable(tables, product.name, CONTRACTS, _SCHEMA)

    def remember(self) -> None:
        """Keep the present version, before anything is made under it. Cheap when it is known."""
        product = self._product
        present = product.hash_of(*MRDS_SECTIONS)
        if self._knows(present):
            return
        with self._table.lock():
            if self._knows(present):
                return
            row = {
                "ards": product.hash_of(*ARDS_SECTIONS),
                "mrds": present,
                "content": json.dumps(product.content_of(*MRDS_SECTIONS), sort_keys=True),
                "recorded_at": time.time_ns(),
                "task": product.task.name,
            }
            self._table.append([row])

    def change_of_label(self) -> str | None:
        """How the present contract's label is of another kind than that of the version before, in words.

        None if it isn't. Whole numbers of another width are no change.
        """
        rows = sorted(self._table.read(), key=lambda row: row["recorded_at"])
        if not rows:
            return None
        product, before = self._product, json.loads(rows[-1]["content"]).get("source", {})
        label, task = before.get("label"), rows[-1]["task"] or _TASK_OF_OLD
        if task != product.task.name:
            return f"model.task was {task}, and is {product.task.name} now"
        was = before.get("columns", {}).get(label, {}).get("type")
        now = product.source.columns[label].type if label and label == product.source.label else was
        if was != now and not {was, now} <= _WHOLE:
            return f"source.columns.{label}.type, that of the label, was {was}, and is {now} now"
        return None

    def _knows(self, version: str) -> bool:
        """Whether the newest version is this one, with the present kind of label."""
        newest = max(self._table.read(), key=lambda row: row["recorded_at"], default=None)
        task = self._product.task.name
        return newest is not None and (newest["mrds"], newest["task"] or _TASK_OF_OLD) == (version, task)

    def ards_like_now(self) -> frozenset[str]:
        """The versions whose ARDS is what today's contract would make, in the columns of the MRDS."""
        mrds = self._product.mrds
        names = (*mrds.features, *mrds.ahead, *mrds.aggregate)
        of_features = self._product.made_of(names) & {*self._product.columns}
        columns = (*mrds.entity, *mrds.order_by, *mrds.aggregate, *sorted(of_features))
        return self._like_now("ards", columns, ())

    def mrds_like_now(self, columns: Collection[str]) -> frozenset[str]:
        """The versions whose MRDS is what today's contract would make, in the label and these columns."""
        mrds = self._product.mrds
        read = self._product.made_of([*columns, *mrds.ahead])
        aggregated = {self._product.label, *read} & {*mrds.aggregate}
        named = (*mrds.entity, *mrds.order_by, *sorted(read))
        trailing = read & {*mrds.features}
        return self._like_now("mrds", named, aggregated, trailing)

    @cached_property
    def _known(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The versions, each with its content; what is remembered meanwhile is like now in any case."""
        return [(row, json.loads(row["content"])) for row in self._table.read()]

    def _like_now(
        self,
        name: str,
        columns: Collection[str],
        aggregated: Collection[str],
        trailing: Collection[str] = (),
    ) -> frozenset[str]:
        product = self._product
        sections = ARDS_SECTIONS if name == "ards" else MRDS_SECTIONS
        of_mrds = name == "mrds"
        wanted = _view(product.content_of(*MRDS_SECTIONS), columns, aggregated, trailing, of_mrds=of_mrds)
        alike = {
            row[name]
            for row, content in self._known
            if _view(content, columns, aggregated, trailing, of_mrds=of_mrds) == wanted
        }
        return frozenset({product.hash_of(*sections), *alike})


def _view(
    content: dict[str, Any],
    columns: Collection[str],
    aggregated: Collection[str],
    trailing: Collection[str],
    *,
    of_mrds: bool,
) -> Any:
    """What decides the values of some columns: how files are read, and how these columns are defined.

    Args:
        aggregated: the columns of the MRDS that count.
        trailing: those of them that are features of the contract.
        of_mrds: whether they are columns of the MRDS, or of the ARDS alone.
    """
    source, mrds = content.get("source") or {}, content.get("mrds") or {}
    declared = source.get("columns", {})
    roles = (*source.get("key", ()), source.get("event_day"), source.get("label"))
    reading = {key: value for key, value in source.items() if key not in ("columns", *_ACCEPTANCE)}
    defined = {name: _without(declared.get(name), _ACCEPTANCE) for name in {*roles, *columns}}
    if not of_mrds:
        return reading, defined
    rules = {name: mrds.get("aggregate", {}).get(name) for name in aggregated}
    windows = {name: mrds.get("features", {}).get(name) for name in trailing}
    who = (mrds.get("entity"), mrds.get("order_by"), mrds.get("population"))
    return reading, defined, who, rules, windows, mrds.get("label")


def _without(definition: dict[str, Any] | None, keys: Collection[str]) -> dict[str, Any] | None:
    if definition is None:
        return None
    return {key: value for key, value in definition.items() if key not in keys}
