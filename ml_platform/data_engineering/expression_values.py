"""What an expression of a contract gives for the rows of a table.

There is one implementation, whichever engine the rows come from, so the values are the same everywhere. Rows
are computed some at a time, each by itself. Nothing that a row may hold raises an error: what has no value is
null.

- A double that isn't finite is null, in a column as well; so is a day or a time beyond the years 1 to 9999.
- ``+``, ``-``, ``*`` and the like of longs are null beyond 64 bits; a remainder has the sign of the dividend.
- ``/`` divides doubles; by zero it is null, as a remainder is.
- A long beside a double is compared as one; texts are compared by code point, and false is less than true.
- ``and``, ``or``, ``not`` and ``in`` are SQL's logic of three values; a condition that is null doesn't hold.
- ``greatest``, ``least`` and ``concat`` skip nulls.

Numbers, texts, times and casts have their rules in modules of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.column_types import ColumnType
from ml_platform.contract.scalar_sql import Expression
from ml_platform.contract.scalar_tree import Call, Column, Node, Value
from ml_platform.data_engineering import scalar_casts, scalar_numbers, scalar_texts, scalar_times
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.storage.fingerprints import one_chunk

#: Rows that are computed at a time.
ROWS_AT_A_TIME = 65_536

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def evaluate(expression: Expression, rows: pa.Table) -> pa.Array:
    """The expression's value for each of the rows, in the Arrow type of its own.

    Args:
        rows: with the expression's columns; others aren't looked at.
    """
    type_ = ARROW_TYPES[expression.type]
    parts = [
        _of(expression.tree, rows.slice(begin, ROWS_AT_A_TIME)).cast(type_)
        for begin in range(0, len(rows), ROWS_AT_A_TIME)
    ]
    return pa.concat_arrays(parts) if parts else pa.array([], type_)


def holds(condition: Expression, rows: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether a condition is true of each of the rows; null is not."""
    values = pc.fill_null(evaluate(condition, rows), False).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=bool)


def _of(node: Node, rows: pa.Table) -> pa.Array:
    match node:
        case Column(name, type_):
            return _column(rows[name], type_)
        case Value(value, type_):
            return pa.repeat(_scalar(value, type_), len(rows))
        case Call(name, nodes):
            return _OPERATIONS[name](node, [_of(argument, rows) for argument in nodes])


def _column(values: pa.ChunkedArray, type_: ColumnType) -> pa.Array:
    whole = one_chunk(values.cast(ARROW_TYPES[type_], safe=type_ != "timestamp"))
    match type_:
        case "double":
            return scalar_numbers.finite(whole)
        case "date" | "timestamp":
            return scalar_times.within_calendar(whole)
        case _:
            return whole


def _scalar(value: Any, type_: ColumnType) -> pa.Scalar:
    if isinstance(value, datetime):
        since = value.replace(tzinfo=UTC) - _EPOCH
        value = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    elif isinstance(value, date):
        value = (value - _EPOCH.date()).days
    return pa.scalar(value, ARROW_TYPES[type_])


def _compared(compare: Callable[[pa.Array, pa.Array], pa.Array]) -> scalar_numbers.Operation:
    return lambda call, operands: compare(*operands)


def _folded(combine: Callable[[pa.Array, pa.Array], pa.Array]) -> scalar_numbers.Operation:
    return lambda call, operands: reduce(combine, operands)


def _not_distinct(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    first, second = operands
    both_null = pc.and_(pc.is_null(first), pc.is_null(second))
    return pc.or_(pc.fill_null(pc.equal(first, second), False), both_null)


def _between(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    value, low, high = operands
    return pc.and_kleene(pc.greater_equal(value, low), pc.less_equal(value, high))


def _in(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    """Whether the first operand equals any of the others; its equals among plain values are looked up."""
    value, *others = operands
    plain = [node.value for node in call.arguments[1:] if isinstance(node, Value) and node.value is not None]
    if len(plain) < _FEW or call.arguments[0].type != "string":
        return reduce(pc.or_kleene, (pc.equal(value, other) for other in others))
    known = pc.is_in(value, value_set=pa.array(plain, value.type))
    found = pc.if_else(pc.is_valid(value), known, pa.scalar(None, pa.bool_()))
    rest = [
        pc.equal(value, other)
        for node, other in zip(call.arguments[1:], others, strict=True)
        if not isinstance(node, Value) or node.value is None
    ]
    return reduce(pc.or_kleene, rest, found)


#: Texts that are compared one after another.
_FEW = 5


def _case(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    *pairs, result = operands
    for condition, value in reversed(list(zip(pairs[::2], pairs[1::2], strict=True))):
        result = pc.if_else(pc.fill_null(condition, False), value, result)
    return result


def _case_of(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    value, *others = operands
    conditions = [
        pc.equal(value, one) if number % 2 == 0 and number + 1 < len(others) else one
        for number, one in enumerate(others)
    ]
    return _case(call, conditions)


def _nullif(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    value, other = operands
    compared = value if value.type == other.type else value.cast(other.type, safe=False)
    return pc.if_else(pc.fill_null(pc.equal(compared, other), False), pa.scalar(None, value.type), value)


def _extreme(exceeds: Callable[[pa.Array, pa.Array], pa.Array]) -> scalar_numbers.Operation:
    def further(best: pa.Array, other: pa.Array) -> pa.Array:
        return pc.if_else(pc.fill_null(exceeds(other, best), pc.is_null(best)), other, best)

    return _folded(further)


_OPERATIONS: Mapping[str, scalar_numbers.Operation] = {
    "=": _compared(pc.equal),
    "<>": _compared(pc.not_equal),
    "<": _compared(pc.less),
    "<=": _compared(pc.less_equal),
    ">": _compared(pc.greater),
    ">=": _compared(pc.greater_equal),
    "is not distinct from": _not_distinct,
    "is distinct from": lambda call, operands: pc.invert(_not_distinct(call, operands)),
    "is null": lambda call, operands: pc.is_null(operands[0]),
    "and": _folded(pc.and_kleene),
    "or": _folded(pc.or_kleene),
    "not": lambda call, operands: pc.invert(operands[0]),
    "between": _between,
    "in": _in,
    "case": _case,
    "case of": _case_of,
    "coalesce": lambda call, operands: pc.coalesce(*operands),
    "nullif": _nullif,
    "greatest": _extreme(pc.greater),
    "least": _extreme(pc.less),
    "cast": scalar_casts.cast,
    **scalar_numbers.OPERATIONS,
    **scalar_texts.OPERATIONS,
    **scalar_times.OPERATIONS,
}
