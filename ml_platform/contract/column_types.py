"""The seven types that a column of a contract may have."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Literal

INTEGER_BOUNDS: Mapping[str, tuple[int, int]] = {
    "integer": (-(2**31), 2**31 - 1),
    "long": (-(2**63), 2**63 - 1),
}


ColumnType = Literal["string", "integer", "long", "double", "boolean", "date", "timestamp"]


NUMERIC_TYPES: frozenset[str] = frozenset({"integer", "long", "double"})


def fits(value: object, type_: ColumnType) -> bool:
    """Whether a value of a contract can stand in a column of a type."""
    match type_:
        case "string":
            return isinstance(value, str)
        case "integer" | "long":
            least, greatest = INTEGER_BOUNDS[type_]
            return isinstance(value, int) and not isinstance(value, bool) and least <= value <= greatest
        case "double":
            return (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and abs(value) <= sys.float_info.max
            )
        case "boolean":
            return isinstance(value, bool)
        case _:
            return False
