"""Records as they are read to typed records, and why each that can't be used can't.

Whatever has read a file gives its values to :func:`convert`, so that a value is accepted by all or by none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.product import Product
from ml_platform.contract.source import LABEL_KNOWN_ON, Column, Source
from ml_platform.data_engineering import conversion
from ml_platform.data_engineering.cells import Cells, Texts
from ml_platform.data_engineering.conversion import ARROW_TYPES, positions
from ml_platform.data_engineering.delivery_file import DeliveryFile, parsed_schema
from ml_platform.data_engineering.files import UnreadableFile

#: Different texts of a column and block for which a key is looked for that would accept them; it takes time.
HINTED_TEXTS = 1000
_SHOWN = 100


@dataclass(frozen=True)
class Place:
    """Where a record begins in its file, and its text."""

    line: int
    raw: str


@dataclass(frozen=True)
class Records:
    """Some records as columns, of strings or of whatever else their file holds.

    ``problems`` are those of records that aren't in the columns, by position. ``places`` finds ascending
    record numbers in the file; without it, only the exact tokenizer could.
    """

    first: int
    count: int
    columns: Mapping[str, pa.Array | Cells]
    problems: dict[int, str] = field(default_factory=dict)
    places: Callable[[Sequence[int]], list[Place]] | None = None


def convert(file: DeliveryFile, product: Product, records: Records) -> pa.RecordBatch | None:
    """The typed records; None if one can't be used and it isn't known where it stands in the file."""
    reasons: dict[int, list[str]] = {n: [problem] for n, problem in records.problems.items()}

    def blame(positions: Sequence[int], reason: Callable[[int], str]) -> None:
        for n in positions:
            if n not in records.problems:
                reasons.setdefault(n, []).append(reason(n))

    found_values: dict[str, pa.Array] = {}
    for name, column in records.columns.items():
        cells = Texts(column) if isinstance(column, pa.Array) else column
        found_values[name] = _column(file, product, name, cells, blame)
    if not file.labels_only:
        found_values |= _missing_columns(product, records)
    if reasons and records.places is None:
        return None

    count = records.count
    label = found_values.get(product.source.label or "")
    kind: Any = pa.repeat("label" if file.labels_only else "row", count)
    if label is not None and file.labels_only:
        kind = pc.if_else(label.is_valid(), kind, "pending")
    bookkeeping = {
        "_day": pa.repeat(pa.scalar(file.day, pa.date32()), count),
        "_file": pa.repeat(file.name, count),
        "_file_number": pa.repeat(pa.scalar(file.number, pa.int32()), count),
        "_record": pa.array(np.arange(records.first, records.first + count, dtype="int64")),
        "_kind": kind,
    }
    if label is not None:
        known_on = pa.repeat(pa.scalar(file.known_on, pa.date32()), count)
        bookkeeping[LABEL_KNOWN_ON] = pc.if_else(label.is_valid(), known_on, pa.scalar(None, pa.date32()))
    if reasons and records.places is not None:
        blamed = sorted(reasons)
        places = records.places([records.first + n for n in blamed])
        bad = np.zeros(count, dtype=bool)
        bad[blamed] = True
        bookkeeping["_kind"] = pc.if_else(pa.array(bad), "bad", kind)
        rank = pa.array(np.cumsum(bad) - 1, mask=~bad)
        bookkeeping["_line"] = pa.array([place.line for place in places], pa.int64()).take(rank)
        bookkeeping["_raw"] = pa.array([place.raw for place in places], pa.string()).take(rank)
        bookkeeping["_reason"] = pa.array(["; ".join(reasons[n]) for n in blamed], pa.string()).take(rank)
    schema = parsed_schema(product)
    found = found_values | bookkeeping
    arrays = [found[field.name] if field.name in found else pa.nulls(count, field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _missing_columns(product: Product, records: Records) -> dict[str, pa.Array]:
    """The columns with a value for whatever is null, of those that rows come without."""
    return {
        name: pa.repeat(pa.scalar(declared.fill_null, ARROW_TYPES[declared.type]), records.count)
        for name, declared in product.source.columns.items()
        if declared.fill_null is not None and name not in records.columns
    }


def _column(
    file: DeliveryFile,
    product: Product,
    name: str,
    cells: Cells,
    blame: Callable[[Sequence[int], Callable[[int], str]], None],
) -> pa.Array:
    """A column's values; whatever can't be used is blamed on its record."""
    source = product.source
    declared = source.columns[name]
    value, unparseable = cells.cast(declared, source)
    blame(unparseable, _Unparseable(name, declared, source, cells))
    if declared.fill_null is not None:
        value = value.fill_null(pa.scalar(declared.fill_null, value.type))
    if (accepted := product.allowed_in(name)) is not None:
        allowed = pa.array(accepted, value.type)
        others = pc.and_(value.is_valid(), pc.invert(pc.is_in(value, value_set=allowed)))
        blame(positions(others), lambda n: f"value not allowed in {name}: {_shown(cells.text(n))}")
    if value.null_count and _is_required(file, source, name, declared):
        identifies = name in source.key or name == source.event_day
        reason = f"missing required value in {name} (`nullable: true` or `fill_null` would accept it)"
        reason = f"key missing: {name}" if identifies else reason
        missing = pc.and_(value.is_null(), cells.is_null())
        blame(positions(missing), lambda _: reason)
    if name == source.event_day:
        outside = pc.fill_null(pc.not_equal(value, pa.scalar(file.day, pa.date32())), False)
        blame(positions(outside), lambda n: f"date outside the delivery's day: {value[n].as_py()}")
    return value


def _is_required(file: DeliveryFile, source: Source, name: str, declared: Column) -> bool:
    """Whether a record without this value is of no use; a label may come later."""
    return name != source.label and declared.must_have_value(file.day)


class _Unparseable:
    """Why a text is no value of its column, and which key would make it one."""

    def __init__(self, name: str, declared: Column, source: Source, cells: Cells) -> None:
        self._name, self._declared, self._source, self._cells = name, declared, source, cells
        self._hints: dict[str, str] = {}

    def __call__(self, position: int) -> str:
        text = self._cells.text(position)
        if text not in self._hints and len(self._hints) < HINTED_TEXTS:
            self._hints[text] = conversion.hint(
                text, *self._cells.dialect(position, self._declared, self._source)
            )
        hint = self._hints.get(text)
        type_ = f"{'an' if self._declared.type == 'integer' else 'a'} {self._declared.type}"
        reason = f"unparseable value in {self._name}: {_shown(text)} is not {type_}"
        return f"{reason} ({hint})" if hint else reason


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


def unreadable(file: DeliveryFile, product: Product, error: UnreadableFile) -> pa.RecordBatch:
    """The one record of a file that can't be read to its end."""
    schema = parsed_schema(product)
    facts = {
        "_day": file.day,
        "_file": file.name,
        "_file_number": file.number,
        "_record": -1,
        "_kind": error.kind,
        "_reason": f"{file.name}: {error}",
    }
    arrays = [pa.array([facts.get(field.name)], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
