"""SQL scalar expressions of a contract: read, typed and checked without any data.

An expression makes one value of the columns of one row, as ``price * quantity`` does; its value depends on
nothing else, so that it is the same wherever and whenever it is computed. A part that has no value, as a
quotient by zero has none, is null, and nothing that a row may hold is an error. Here stands what is an
expression and which type it has; the operators and functions are in :mod:`.scalar_functions`, what they give
in :mod:`ml_platform.data_engineering.expression_values`.

- An integer counts as a long wherever it isn't the whole expression, or cast to an integer.
- A long is taken for a double where the other operands are doubles; nothing else is converted without a cast.
- NULL has the type of the operands beside it.
- The names of columns are matched exactly; a name that isn't a plain word is written in double quotes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ml_platform.contract.column_types import ColumnType
from ml_platform.contract.scalar_syntax import Place, syntax_tree
from ml_platform.contract.scalar_translation import Translation
from ml_platform.contract.scalar_tree import Call, Column, Node


@dataclass(frozen=True)
class Expression:
    """An expression that has been read.

    Attributes:
        text: as it was written.
        type: of its value.
        tree: what it computes.
    """

    text: str
    type: ColumnType
    tree: Node

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it is made of, in the order of the text, each once."""
        found: dict[str, None] = {}
        waiting = [self.tree]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Column):
                found[node.name] = None
            elif isinstance(node, Call):
                waiting.extend(reversed(node.arguments))
        return tuple(found)


def parse(text: str, types: Mapping[str, ColumnType]) -> Expression:
    """Read an expression of columns of some types.

    Raises:
        ValueError: it is none, with the place in the text, what is wrong there, and what is accepted.
    """
    tree = Translation(text, types).of(syntax_tree(text))
    if tree is None:
        raise Place(text).error(None, "null alone has no type; write cast(null as double), for one")
    return Expression(text, tree.type, tree)


def parse_condition(text: str, types: Mapping[str, ColumnType]) -> Expression:
    """Read an expression that is true or false of a row.

    Raises:
        ValueError: it is none, or has another type.
    """
    read = parse(text, types)
    if read.type != "boolean":
        raise Place(text).error(None, f"a condition is true or false, as price > 0 is; this is a {read.type}")
    return read
