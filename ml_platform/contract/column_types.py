"""The seven types that a column of a contract may have, and what each is called elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

ColumnType = Literal["string", "integer", "long", "double", "boolean", "date", "timestamp"]

NUMERIC_TYPES: frozenset[str] = frozenset({"integer", "long", "double"})
INTEGER_BOUNDS: Mapping[str, tuple[int, int]] = {
    "integer": (-(2**31), 2**31 - 1),
    "long": (-(2**63), 2**63 - 1),
}


@dataclass(frozen=True)
class TypeNames:
    """One type as others call it.

    Attributes:
        arrow: the function of pyarrow that makes it, with its arguments.
        sql: in Spark's SQL.
        spark: the class of Spark's type, which is what Great Expectations compares.
        sqlalchemy: the class of SQLAlchemy's type.
        python: the class of a value.
        example: some value, in UTC without a zone if it is a time.
        form: how a person writes a value, in words.
    """

    arrow: tuple[str, ...]
    sql: str
    spark: str
    sqlalchemy: str
    python: type
    example: Any
    form: str

    @property
    def arrow_type(self) -> pa.DataType:
        import pyarrow

        function, *arguments = self.arrow
        return getattr(pyarrow, function)(*arguments)


COLUMN_TYPES: Mapping[ColumnType, TypeNames] = {
    "string": TypeNames(("string",), "string", "StringType", "String", str, "", "text"),
    "integer": TypeNames(("int32",), "int", "IntegerType", "Integer", int, 0, "a whole number of 32 bits"),
    "long": TypeNames(("int64",), "bigint", "LongType", "BigInteger", int, 0, "a whole number of 64 bits"),
    "double": TypeNames(("float64",), "double", "DoubleType", "Double", float, 0.0, "a number"),
    "boolean": TypeNames(("bool_",), "boolean", "BooleanType", "Boolean", bool, False, "true or false"),
    "date": TypeNames(("date32",), "date", "DateType", "Date", date, date(1970, 1, 1), "a date, yyyy-mm-dd"),
    "timestamp": TypeNames(
        ("timestamp", "us", "UTC"),
        "timestamp",
        "TimestampType",
        "DateTime",
        datetime,
        datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None),
        "a time in ISO 8601, taken for UTC without an offset",
    ),
}


def sql_type(type_: str) -> str:
    """A type's name in Spark's SQL; one that no contract knows is called so already."""
    return COLUMN_TYPES[type_].sql if type_ in COLUMN_TYPES else type_  # type: ignore[index]


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
