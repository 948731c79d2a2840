"""What an expression of a contract is once it has been read: a tree of columns, values and calls, each typed.

Nothing of the parser is left in it, so it can be hashed, compared, pickled and sent to other processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime

from ml_platform.contract.column_types import ColumnType

PlainValue = str | int | float | bool | date | datetime | None


@dataclass(frozen=True)
class Column:
    """A column of the rows, by its exact name."""

    name: str
    type: ColumnType


@dataclass(frozen=True)
class Value:
    """The same value for every row; a timestamp is in UTC without a zone."""

    value: PlainValue
    type: ColumnType


@dataclass(frozen=True)
class Call:
    """An operation on other nodes.

    Attributes:
        name: of the operation, which is what evaluates it; not always what the text says.
        depth: how many calls lie within each other.
    """

    name: str
    arguments: tuple[Node, ...]
    type: ColumnType
    depth: int = field(default=1, compare=False, repr=False)


Node = Column | Value | Call


def call(name: str, arguments: tuple[Node, ...], type_: ColumnType) -> Call:
    """A call that knows its depth; a sum of a sum and more is one sum, and so are others of a kind."""
    first = arguments[0]
    if name in _CHAINED and isinstance(first, Call) and (first.name, first.type) == (name, type_):
        arguments = (*first.arguments, *arguments[1:])
    return Call(name, arguments, type_, 1 + max(depth(argument) for argument in arguments))


#: Operations of many arguments that are done from left to right.
_CHAINED = frozenset({"+", "-", "*", "||", "and", "or"})


def depth(node: Node) -> int:
    """How many calls lie within each other."""
    return node.depth if isinstance(node, Call) else 0
