"""The syntax tree of an expression as typed nodes; whatever isn't known here is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ml_platform.contract.column_types import INTEGER_BOUNDS, ColumnType
from ml_platform.contract.fields import listed
from ml_platform.contract.scalar_calls import Calls
from ml_platform.contract.scalar_functions import CASTS, CLOCKS, REFUSED, castable
from ml_platform.contract.scalar_syntax import Place, bare, is_text, kind, shortened, unquoted
from ml_platform.contract.scalar_tree import Call, Column, Node, Value, call, depth
from ml_platform.contract.scalar_typing import Part, as_type, there_are
from ml_platform.contract.scalar_values import FORMS, value_of

if TYPE_CHECKING:
    from sqlglot import exp


class Translation(Calls):
    """The syntax tree of one text as nodes."""

    def __init__(self, text: str, types: Mapping[str, ColumnType]) -> None:
        super().__init__(Place(text))
        self._types = types

    def of(self, part: exp.Expr) -> Part:
        """A part as a node.

        Operators are many in a row rather than deep, so it goes down along the first operands in a loop.
        """
        above: list[exp.Expr] = []
        while self._continues(part):
            above.append(part)
            part = part.this.this if kind(part) == "Escape" else part.this
        made = self._first(part)
        for operator in reversed(above):
            made = self.checked(operator, self._operation(operator, made))
        return made

    def _continues(self, part: exp.Expr) -> bool:
        name = kind(part)
        if name in ("Cast", "TryCast"):
            inner = bare(part.this)
            return kind(inner) != "AtTimeZone" and not is_text(inner)
        if name == "Escape":
            return kind(part.this) == "Like"
        if name == "Neg":
            return kind(part.this) != "Literal"
        return name in _OPERATORS or name in ("Paren", "Not", "Is", "In", "Between", "Like")

    def _first(self, part: exp.Expr) -> Part:
        """A part without a first operand before it."""
        match kind(part):
            case "Column":
                return self._column(part)
            case "Literal":
                return self._literal(part)
            case "Null":
                return None
            case "Boolean":
                return Value(bool(part.this), "boolean")
            case "Neg":
                return self._literal(part.this, "-")
            case "Cast" | "TryCast":
                return self.checked(part, self._cast_of_zone_or_text(part))
            case "Case":
                return self.checked(part, self.case(part))
            case "Extract":
                self.only(part, "this", "expression")
                return self.checked(part, self.part_of(part, part.this, part.expression))
            case "Substring":
                self.only(part, "this", "start", "length")
                arguments = [part.this, part.args.get("start"), part.args.get("length")]
                return self.function(part, "substring", [argument for argument in arguments if argument])
            case "StrPosition":
                self.only(part, "this", "substr")
                return self.function(part, "strpos", [part.this, part.args["substr"]])
            case "Anonymous":
                return self.named(part)
            case "AtTimeZone":
                raise self.error(
                    part,
                    "a time at a time zone is accepted within extract, date_part, functions of parts like "
                    "hour, and a cast to date, as in extract(hour from t at time zone 'Europe/Paris')",
                )
            case "Window":
                raise self.error(part, "a window function; an expression is of the columns of one row")
            case "Tuple":
                raise self.error(part, "a list of values is accepted after in alone; write one value")
        raise self.error(part, "this isn't accepted; see the list of operators and functions")

    def _column(self, part: exp.Expr) -> Node:
        self.only(part, "this")
        identifier = part.this
        if kind(identifier) != "Identifier":
            raise self.error(part, "this isn't accepted as a column")
        name = self.place.written(identifier)
        if name.startswith('"'):
            name = name[1:-1].replace('""', '"')
        if name in self._types:
            return Column(name, self._types[name])
        folded = [known for known in self._types if known.casefold() == name.casefold()]
        if folded:
            raise self.error(
                part, f"no column is called {name!r}; capitals count, and there is {listed(folded)}"
            )
        if name.lower() in CLOCKS:
            raise self.error(part, f"{name} isn't accepted: it {REFUSED[name.lower()]}")
        raise self.error(part, f"no column is called {name!r}; {there_are(name, self._types)}")

    def _literal(self, part: exp.Expr, sign: str = "") -> Value:
        written = self.place.written(part)
        if part.is_string:
            if sign:
                raise self.error(part, f"{sign} takes a number, and this is a text")
            return Value(unquoted(written), "string")
        if written.isdigit():
            number = int(sign + written)
            least, greatest = INTEGER_BOUNDS["long"]
            if not least <= number <= greatest:
                raise self.error(
                    part, f"{shortened(sign + written)} is beyond 64 bits; with .0 behind it, it is a double"
                )
            return Value(number, "long")
        decimal = float(sign + written)
        if not math.isfinite(decimal):
            raise self.error(part, f"{shortened(written)} is beyond the numbers of a double")
        return Value(decimal, "double")

    def _operation(self, part: exp.Expr, first: Part) -> Part:
        """An operator whose first operand has been read."""
        name = kind(part)
        match name:
            case "Paren":
                self.only(part, "this")
                return first
            case "Not" | "Neg":
                self.only(part, "this")
                return self.apply(part, "not" if name == "Not" else "unary -", [part.this], [first])
            case "Is":
                self.only(part, "this", "expression")
                if kind(part.expression) == "Null":
                    return Call("is null", (first,), "boolean", 1 + depth(first)) if first else _TRUE
                if kind(part.expression) != "Boolean":
                    raise self.error(part, "is takes null, true, false or distinct from")
                return self._binary(part, "is not distinct from", first)
            case "In":
                self.only(part, "this", "expressions")
                if not part.expressions:
                    raise self.error(part, "in takes a list of values, as in channel in ('web', 'shop')")
                return self.alike(part, "in", [part.this, *part.expressions], first, "boolean")
            case "Between":
                self.only(part, "this", "low", "high")
                bounds = [part.args["low"], part.args["high"]]
                return self.alike(part, "between", [part.this, *bounds], first, "boolean")
            case "Like":
                return self._like(part, part, first, "")
            case "Escape":
                self.only(part, "this", "expression")
                escape = part.expression
                sign = unquoted(self.place.written(escape)) if is_text(escape) else ""
                if len(sign) != 1:
                    raise self.error(escape, "escape takes one sign in quotes, as in like '10!%' escape '!'")
                return self._like(part, part.this, first, sign)
            case "Cast" | "TryCast":
                return self._cast(part, first)
        self.only(part, "this", "expression", "typed", "safe")
        if name in _COMPARISONS and kind(part.this) in _COMPARISONS:
            raise self.error(part.expression, "a comparison of a comparison; write and between the two")
        return self._binary(part, _OPERATORS[name], first)

    def _binary(self, part: exp.Expr, operator: str, first: Part) -> Node:
        return self.apply(part, operator, [part.this, part.expression], [first, self.of(part.expression)])

    def _like(self, part: exp.Expr, like: exp.Expr, first: Part, escape: str) -> Node:
        self.only(like, "this", "expression", "negate")
        pattern = self.of(like.expression)
        if not isinstance(pattern, Value) or not isinstance(pattern.value, str):
            raise self.error(like.expression, "like takes a pattern in quotes, as in name like 'A%'")
        if first is not None and first.type != "string":
            raise self.error(like.this, f"like takes a string, and this is a {first.type}")
        if escape and _ends_escaped(pattern.value, escape):
            raise self.error(like.expression, f"nothing follows the last {escape} in the pattern")
        arguments = (as_type(first, "string"), pattern, Value(escape, "string"))
        found = call("like", arguments, "boolean")
        return call("not", (found,), "boolean") if like.args.get("negate") else found

    def _cast(self, part: exp.Expr, first: Part) -> Node:
        type_ = self._cast_type(part)
        if first is None:
            return Value(None, type_)
        if not castable(first.type, type_):
            raise self.error(
                part,
                f"a {first.type} can't be cast to {type_}, but to {listed(CASTS[first.type])}"
                + (
                    "; round it and cast it to long first"
                    if (first.type, type_) == ("double", "string")
                    else ""
                ),
            )
        return as_type(first, type_) if first.type != type_ else first

    def _cast_type(self, part: exp.Expr) -> ColumnType:
        self.only(part, "this", "to", "safe")
        to = part.args["to"]
        name = getattr(to.this, "name", "")
        if name not in _SQL_TYPES or to.expressions or to.args.get("nested"):
            raise self.error(
                part,
                "this type isn't accepted; accepted are string, integer, long, double, boolean, date and "
                "timestamp, and varchar, text, int, bigint, float8 and bool for them",
            )
        return _SQL_TYPES[name]

    def _cast_of_zone_or_text(self, part: exp.Expr) -> Node:
        type_, inner = self._cast_type(part), bare(part.this)
        if kind(inner) == "AtTimeZone":
            if type_ != "date":
                raise self.error(part, f"a time at a time zone can be cast to date, not to {type_}")
            return call("cast", self.local(inner), "date")
        text = unquoted(self.place.written(inner))
        value = value_of(text, type_)
        if value is None and kind(part) == "Cast":
            raise self.error(inner, f"{shortened(text)!r} is no {type_}; accepted is {FORMS[type_]}")
        return Value(value, type_)


_TRUE = Value(True, "boolean")

_OPERATORS = {
    "Add": "+",
    "Sub": "-",
    "Mul": "*",
    "Div": "/",
    "Mod": "%",
    "DPipe": "||",
    "And": "and",
    "Or": "or",
    "EQ": "=",
    "NEQ": "<>",
    "LT": "<",
    "LTE": "<=",
    "GT": ">",
    "GTE": ">=",
    "NullSafeEQ": "is not distinct from",
    "NullSafeNEQ": "is distinct from",
}

_COMPARISONS = frozenset({"EQ", "NEQ", "LT", "LTE", "GT", "GTE", "NullSafeEQ", "NullSafeNEQ"})

_SQL_TYPES: Mapping[str, ColumnType] = {
    "TEXT": "string",
    "VARCHAR": "string",
    "INT": "integer",
    "BIGINT": "long",
    "DOUBLE": "double",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "TIMESTAMPNTZ": "timestamp",
    "TIMESTAMPTZ": "timestamp",
}


def _ends_escaped(pattern: str, escape: str) -> bool:
    signs = len(pattern) - len(pattern.rstrip(escape))
    return signs % 2 == 1
