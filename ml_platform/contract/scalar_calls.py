"""The functions of an expression, and its cases, from the syntax tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from ml_platform.contract.fields import listed
from ml_platform.contract.scalar_functions import (
    ACCEPTED,
    ALIASES,
    FUNCTIONS,
    OF_MANY,
    PART_FUNCTIONS,
    PARTS,
    PARTS_OF_TIMES,
    REFUSED,
    TRUNCATED_TO,
)
from ml_platform.contract.scalar_syntax import bare, is_text, kind, unquoted
from ml_platform.contract.scalar_tree import Node, Value, call
from ml_platform.contract.scalar_typing import Typing, as_type, there_are

if TYPE_CHECKING:
    from sqlglot import exp


class Calls(Typing):
    """What is called by a name, with its arguments in parentheses, and what ``case`` begins."""

    def named(self, part: exp.Expr) -> Node:
        """A function that is called by its name, with its arguments in parentheses."""
        self.only(part, "this", "expressions")
        if not isinstance(part.this, str):
            raise self.error(part, "the name of a function has no quotes")
        name, written = part.this.lower(), part.expressions
        name = ALIASES.get(name, name)
        if name in FUNCTIONS:
            return self.function(part, name, written)
        if name in OF_MANY:
            if len(written) < OF_MANY[name]:
                raise self.error(part, f"{name} takes one value or more")
            return self._of_many(part, name, written)
        match name, len(written):
            case "if", 3:
                condition = self.condition(written[0])
                made: Node = self.cases(part, "case", (), [condition], written[1:2], written[2])
            case ("date_part", 2):
                made = self.part_of(part, written[0], written[1])
            case ("date_trunc", 2) | ("date_diff", 3):
                made = self._by_unit(part, name, written)
            case (_, 1) if name in PART_FUNCTIONS:
                made = self.part_of(part, part.this, written[0])
            case (("if" | "date_part" | "date_trunc" | "date_diff"), _):
                raise self.error(part, f"write {_EXAMPLES[name]}")
            case _:
                if name in PART_FUNCTIONS:
                    raise self.error(part, f"{name} takes one date or timestamp")
                raise self._unknown(part, name)
        self.checked(part, made)
        return made

    def _unknown(self, part: exp.Expr, name: str) -> ValueError:
        if name in REFUSED:
            return self.error(part, f"{name} isn't accepted: it {REFUSED[name]}")
        return self.error(part, f"no function is called {name!r}; {there_are(name, ACCEPTED)}")

    def function(self, part: exp.Expr, name: str, written: Sequence[exp.Expr]) -> Node:
        made = self.apply(part, name, written, [self.of(argument) for argument in written])
        self.checked(part, made)
        return made

    def _of_many(self, part: exp.Expr, name: str, written: Sequence[exp.Expr]) -> Node:
        first = self.of(written[0])
        if name == "concat":
            arguments = [first, *(self.of(argument) for argument in written[1:])]
            for argument, read in zip(written, arguments, strict=True):
                if read is not None and read.type != "string":
                    raise self.error(
                        argument, f"concat takes strings, and this is a {read.type}; cast it to string"
                    )
            made = call(name, tuple(as_type(argument, "string") for argument in arguments), "string")
        else:
            made = self.alike(part, name, written, first, None)  # type: ignore[assignment]
        self.checked(part, made)
        return made

    def part_of(self, part: exp.Expr, wanted: exp.Expr | str, of: exp.Expr) -> Node:
        """A part of a date or a timestamp, which may be seen at a time zone."""
        name = (wanted if isinstance(wanted, str) else wanted.name).lower()
        if name not in PARTS or (not isinstance(wanted, str) and kind(wanted) not in ("Var", "Literal")):
            raise self.error(part, f"no part is called {name!r}; accepted are {listed(PARTS)}")
        inner = bare(of)
        operands: tuple[Node, ...]
        if kind(inner) == "AtTimeZone":
            if name == "epoch":
                raise self.error(
                    part, "the epoch of a time is the same at every time zone; leave the zone out"
                )
            operands = self.local(inner)
        else:
            time = self.of(of)
            type_ = time.type if time else "timestamp"
            if type_ not in ("date", "timestamp"):
                raise self.error(of, f"{name} is a part of a date or a timestamp, and this is a {type_}")
            if type_ == "date" and name in PARTS_OF_TIMES:
                raise self.error(of, f"{name} is a part of a timestamp, and this is a date")
            operands = (as_type(time, type_),)
        return call("part", (Value(name, "string"), *operands), "double" if name == "epoch" else "long")

    def _by_unit(self, part: exp.Expr, name: str, written: Sequence[exp.Expr]) -> Node:
        units = TRUNCATED_TO if name == "date_trunc" else ("day",)
        unit = written[0].name.lower() if is_text(written[0]) else None
        if unit not in units:
            raise self.error(written[0], f"{name} takes one of {listed(units)} in quotes first")
        arguments = [self.of(argument) for argument in written[1:]]
        type_ = self.common(part, name, written[1:], arguments)
        if type_ not in ("date", "timestamp"):
            raise self.error(written[1], f"{name} takes dates or timestamps, and this is a {type_}")
        if name == "date_diff":
            begin, end = (as_type(argument, type_) for argument in arguments)
            return call("days", (end, begin), "long")
        if type_ == "date" and unit in PARTS_OF_TIMES:
            raise self.error(written[0], f"a date has no {unit}")
        return call("date_trunc", (Value(unit, "string"), as_type(arguments[0], type_)), type_)

    def local(self, part: exp.Expr) -> tuple[Node, Node]:
        """A timestamp, and the name of the zone that it is seen in."""
        self.only(part, "this", "zone")
        time, zone = self.of(part.this), part.args["zone"]
        if time is not None and time.type != "timestamp":
            raise self.error(part, f"at time zone takes a timestamp, and this is a {time.type}")
        if not is_text(zone):
            raise self.error(zone, "a time zone is written in quotes, as in at time zone 'Europe/Paris'")
        name = unquoted(self.place.written(zone))
        try:
            if not name[:1].isupper():  # "localtime" is another zone on every machine
                raise ValueError(name)
            ZoneInfo(name)
        except (LookupError, ValueError, OSError) as error:  # a folder of zones is a path, too
            raise self.error(
                zone, f"{name!r} is not a time zone; accepted are names like Europe/Paris"
            ) from error
        return as_type(time, "timestamp"), Value(name, "string")

    def case(self, part: exp.Expr) -> Node:
        self.only(part, "this", "ifs", "default")
        branches = part.args["ifs"]
        for branch in branches:
            self.only(branch, "this", "true")
        results = [branch.args["true"] for branch in branches]
        default = part.args.get("default")
        if part.this is None:
            conditions = [self.condition(branch.this) for branch in branches]
            return self.cases(part, "case", (), conditions, results, default)
        written = [part.this, *(branch.this for branch in branches)]
        compared = [self.of(one) for one in written]
        type_ = self.common(part, "case", written, compared)
        operand, *values = (as_type(one, type_) for one in compared)
        return self.cases(part, "case of", (operand,), values, results, default)

    def cases(
        self,
        part: exp.Expr,
        name: str,
        operand: tuple[Node, ...],
        whens: Sequence[Node],
        results: Sequence[exp.Expr],
        default: exp.Expr | None,
    ) -> Node:
        written = [*results, *([default] if default else [])]
        values = [self.of(one) for one in written]
        type_ = self.common(part, "case", written, values)
        typed = [as_type(value, type_) for value in values] + ([] if default else [Value(None, type_)])
        pairs = (node for pair in zip(whens, typed, strict=False) for node in pair)
        return call(name, (*operand, *pairs, typed[-1]), type_)

    def condition(self, part: exp.Expr) -> Node:
        condition = self.of(part)
        if condition is not None and condition.type != "boolean":
            raise self.error(part, f"a condition is a boolean, and this is a {condition.type}")
        return as_type(condition, "boolean")


_EXAMPLES = {
    "if": "if(condition, value, other value)",
    "date_part": "date_part('month', a)",
    "date_trunc": "date_trunc('month', a)",
    "date_diff": "date_diff('day', a, b)",
}
