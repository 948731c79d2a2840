"""What all of an expression's parts have in common as they get their types: which values go together."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ml_platform.contract.column_types import ColumnType
from ml_platform.contract.fields import listed
from ml_platform.contract.scalar_functions import (
    COMPARABLE,
    FUNCTIONS,
    OPERATORS,
    Signature,
    chosen,
    common,
    converts,
)
from ml_platform.contract.scalar_syntax import Place
from ml_platform.contract.scalar_tree import Node, Value, call, depth

if TYPE_CHECKING:
    from sqlglot import exp

#: A part of an expression; None for NULL, which gets its type from what stands beside it.
Part = Node | None

#: How many operations may lie within each other.
DEEPEST_TREE = 100
#: Digits that a number may be rounded to, before and after the point.
MOST_DIGITS = 300


class Typing(ABC):
    """Operations on parts that have been read, or the errors of those that don't go together."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @abstractmethod
    def of(self, part: exp.Expr) -> Part:
        """A part of the syntax tree as a node."""

    def apply(
        self, part: exp.Expr, name: str, written: Sequence[exp.Expr], arguments: Sequence[Part]
    ) -> Node:
        """An operator or a function that takes arguments of certain types."""
        ways = OPERATORS[name] if name in OPERATORS else FUNCTIONS[name]
        types = [argument.type if argument else None for argument in arguments]
        way = chosen(ways, types)
        if way is None:
            raise self._wrong_types(part, name, ways, written, types)
        if name == "round" and len(arguments) == 2:
            self._check_digits(written[1], arguments[1])
        operands = [
            as_type(argument, type_) for argument, type_ in zip(arguments, way.parameters, strict=True)
        ]
        return call(way.operation, tuple(operands), way.result)

    def _check_digits(self, written: exp.Expr, digits: Part) -> None:
        if not (
            isinstance(digits, Value) and isinstance(digits.value, int) and abs(digits.value) <= MOST_DIGITS
        ):
            raise self.error(
                written, f"round takes a whole number of digits from {-MOST_DIGITS} to {MOST_DIGITS}"
            )

    def _wrong_types(
        self,
        part: exp.Expr,
        name: str,
        ways: Sequence[Signature],
        written: Sequence[exp.Expr],
        types: Sequence[ColumnType | None],
    ) -> ValueError:
        fitting = [way for way in ways if len(way.parameters) == len(types)]
        accepted = " or ".join(f"({listed(way.parameters)})" for way in fitting or ways)
        if len(ways) >= len(COMPARABLE):
            accepted = "two values of one type"
        if not fitting:
            return self.error(part, f"{name} takes {accepted}, and here are {len(types)} arguments")
        blamed = part if name in FUNCTIONS else written[0]
        for number, type_ in enumerate(types):
            if not any(converts(type_, way.parameters[number]) for way in fitting):
                blamed = written[number]
                break
        found = ", ".join(type_ or "null" for type_ in types)
        return self.error(blamed, f"{name} takes {accepted}, and this is ({found}){_hint(fitting, types)}")

    def alike(
        self, part: exp.Expr, name: str, written: Sequence[exp.Expr], first: Part, result: ColumnType | None
    ) -> Node:
        """An operation on any number of arguments of one type; ``first`` has been read."""
        arguments = [first, *(self.of(argument) for argument in written[1:])]
        type_ = self.common(part, name, written, arguments)
        return call(name, tuple(as_type(argument, type_) for argument in arguments), result or type_)

    def common(
        self, part: exp.Expr, name: str, written: Sequence[exp.Expr], arguments: Sequence[Part]
    ) -> ColumnType:
        types = [argument.type if argument else None for argument in arguments]
        type_ = common(types)
        if type_ is not None:
            return type_
        if not any(types):
            raise self.error(part, f"{name} has nothing but NULL, which has no type; cast one of them")
        number = next(number for number in range(len(types)) if not _some_type(types[: number + 1]))
        before = common(types[:number])
        raise self.error(
            written[number],
            f"{name} takes values of one type, and this is a {types[number]} after a {before}; cast one to "
            "the type of the other",
        )

    def checked(self, part: exp.Expr, made: Part) -> Part:
        if made is not None and depth(made) > DEEPEST_TREE:
            raise self.error(part, f"more than {DEEPEST_TREE} operations lie within each other here")
        return made

    def only(self, part: exp.Expr, *known: str) -> None:
        """See that the parser found nothing in a part that wouldn't be heeded."""
        others = [name for name, value in part.args.items() if value and name not in known]
        if others:
            raise self.error(part, f"this isn't accepted with {listed(others)}")

    def error(self, part: exp.Expr, message: str) -> ValueError:
        return self.place.error(self.place.of(part), message)


def as_type(node: Part, type_: ColumnType) -> Node:
    """A node as one of another type."""
    if node is None:
        return Value(None, type_)
    if node.type == type_:
        return node
    if (
        isinstance(node, Value)
        and isinstance(node.value, int)
        and node.type != "boolean"
        and type_ == "double"
    ):
        return Value(float(node.value), "double")
    return call("cast", (node,), type_)


def _hint(ways: Sequence[Signature], types: Sequence[ColumnType | None]) -> str:
    """What may help where a function doesn't take arguments of some types."""
    if not any(types):
        return "; give NULL a type with a cast"
    if "string" in types and {"date", "timestamp"} & set(types):
        return "; a date is written DATE '2024-01-31', a time TIMESTAMP '2024-01-31 10:00:00'"
    if {"date", "timestamp"} <= set(types):
        return "; cast one to the type of the other"
    if "string" in types and any({"long", "double"} & set(way.parameters) for way in ways):
        return "; cast(a as double) makes a number of a text"
    return ""


def _some_type(types: Sequence[ColumnType | None]) -> bool:
    return not any(types) or common(types) is not None


def there_are(name: str, known: Iterable[str]) -> str:
    """What there is instead of something unknown, with what is most alike first."""
    ordered = list(known)
    near = difflib.get_close_matches(name.lower(), [one.lower() for one in ordered], n=3, cutoff=0.6)
    alike = [one for word in near for one in ordered if one.lower() == word]
    names = list(dict.fromkeys([*alike, *ordered]))
    shown = [*names[:_MOST_SHOWN], *(["..."] if len(names) > _MOST_SHOWN else [])]
    return f"there are {listed(shown)}" if names else "there are none"


#: Names in a message.
_MOST_SHOWN = 80
