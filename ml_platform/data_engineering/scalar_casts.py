"""Casts of expressions from one type to another; what can't be cast is null.

A text has the one form of its type, and spaces around it don't matter. A double becomes the nearest whole
number, and the even one of two that are as near. A number is true if it isn't 0, and true is 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.column_types import INTEGER_BOUNDS, ColumnType
from ml_platform.contract.scalar_tree import Call, Value
from ml_platform.contract.scalar_values import value_of
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.data_engineering.scalar_numbers import array, numbers
from ml_platform.data_engineering.scalar_times import date_at, date_of, midnight_of


def cast(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    """The values of the first operand as ones of the call's type; a second one is a time zone."""
    values, from_, to = operands[0], call.arguments[0].type, call.type
    arrow = ARROW_TYPES[to]
    if len(operands) == 2:
        zone = call.arguments[1]
        assert isinstance(zone, Value)
        return date_at(values, str(zone.value))
    match from_, to:
        case "string", _:
            return _read(values, to)
        case (("double" | "long"), ("integer" | "long")):
            return _whole(values, to)
        case (("integer" | "long"), "boolean"):
            return pc.not_equal(values, 0)
        case "date", "timestamp":
            return midnight_of(values)
        case "timestamp", "date":
            return date_of(values)
        case _:
            return values.cast(arrow, safe=False)


def _read(values: pa.Array, to: ColumnType) -> pa.Array:
    """Texts as what they stand for; each distinct one is read once."""
    distinct = values.dictionary_encode()
    read = [value_of(text, to) for text in distinct.dictionary.to_pylist()]
    plain = pa.array(read, pa.timestamp("us") if to == "timestamp" else ARROW_TYPES[to])
    return plain.cast(ARROW_TYPES[to]).take(distinct.indices)


def _whole(values: pa.Array, to: ColumnType) -> pa.Array:
    found, valid = numbers(values)
    least, greatest = INTEGER_BOUNDS[to]
    if found.dtype.kind == "f":
        found = np.rint(found)
        valid = valid & (found >= float(least)) & (found < float(greatest + 1))
    else:
        valid = valid & (found >= least) & (found <= greatest)
    return array(np.where(valid, found, 0).astype("int64"), valid).cast(ARROW_TYPES[to])
