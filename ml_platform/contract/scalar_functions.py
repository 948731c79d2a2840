"""The operators and functions of expressions: which types each takes, and what type comes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ml_platform.contract.column_types import ColumnType

#: Types as operators see them: an integer counts as a long.
COMPARABLE: tuple[ColumnType, ...] = ("long", "double", "string", "boolean", "date", "timestamp")


@dataclass(frozen=True)
class Signature:
    """One way of calling a function.

    Attributes:
        operation: what evaluates it.
    """

    parameters: tuple[ColumnType, ...]
    result: ColumnType
    operation: str


def _signatures(operation: str, *ways: str) -> tuple[Signature, ...]:
    """Signatures written as ``long, long -> long``, with an operation of its own after a colon."""
    made = []
    for way in ways:
        signature, _, own = way.partition(": ")
        parameters, result = signature.split(" -> ")
        made.append(Signature(tuple(parameters.split(", ")), result, own or operation))  # type: ignore[arg-type]
    return tuple(made)


def _alike(operation: str, result: ColumnType | None = None) -> tuple[Signature, ...]:
    """Two arguments of one type, of whichever."""
    return tuple(Signature((type_, type_), result or type_, operation) for type_ in COMPARABLE)


_ON_NUMBERS = ("long, long -> long", "double, double -> double")

OPERATORS: Mapping[str, tuple[Signature, ...]] = {
    "+": _signatures("+", *_ON_NUMBERS, "date, long -> date: date +", "long, date -> date: date +"),
    "-": _signatures("-", *_ON_NUMBERS, "date, long -> date: date -", "date, date -> long: days"),
    "*": _signatures("*", *_ON_NUMBERS),
    "/": _signatures("/", "double, double -> double"),
    "%": _signatures("%", *_ON_NUMBERS),
    "||": _signatures("||", "string, string -> string"),
    "unary -": _signatures("negative", "long -> long", "double -> double"),
    "not": _signatures("not", "boolean -> boolean"),
    "and": _signatures("and", "boolean, boolean -> boolean"),
    "or": _signatures("or", "boolean, boolean -> boolean"),
    **{sign: _alike(sign, "boolean") for sign in ("=", "<>", "<", "<=", ">", ">=")},
    "is distinct from": _alike("is distinct from", "boolean"),
    "is not distinct from": _alike("is not distinct from", "boolean"),
}

FUNCTIONS: Mapping[str, tuple[Signature, ...]] = {
    "abs": _signatures("abs", "long -> long", "double -> double"),
    "ceil": _signatures("ceil", "double -> double"),
    "contains": _signatures("contains", "string, string -> boolean"),
    "ends_with": _signatures("ends_with", "string, string -> boolean"),
    "exp": _signatures("exp", "double -> double"),
    "floor": _signatures("floor", "double -> double"),
    "left": _signatures("left", "string, long -> string"),
    "length": _signatures("length", "string -> long"),
    "ln": _signatures("ln", "double -> double"),
    "log10": _signatures("log10", "double -> double"),
    "lower": _signatures("lower", "string -> string"),
    "ltrim": _signatures("ltrim", "string -> string"),
    "mod": OPERATORS["%"],
    "nullif": (*_alike("nullif"), Signature(("long", "double"), "long", "nullif")),
    "power": _signatures("power", "double, double -> double"),
    "replace": _signatures("replace", "string, string, string -> string"),
    "right": _signatures("right", "string, long -> string"),
    "round": _signatures(
        "round", "long -> long", "double -> double", "long, long -> long", "double, long -> double"
    ),
    "rtrim": _signatures("rtrim", "string -> string"),
    "sign": _signatures("sign", "long -> long", "double -> long"),
    "sqrt": _signatures("sqrt", "double -> double"),
    "starts_with": _signatures("starts_with", "string, string -> boolean"),
    "strpos": _signatures("strpos", "string, string -> long"),
    "substring": _signatures("substring", "string, long -> string", "string, long, long -> string"),
    "trim": _signatures("trim", "string -> string"),
    "upper": _signatures("upper", "string -> string"),
}

#: Other names of functions.
ALIASES: Mapping[str, str] = {
    "ceiling": "ceil",
    "pow": "power",
    "substr": "substring",
    "datediff": "date_diff",
}

#: Functions of any number of arguments of one type, and what the fewest are.
OF_MANY: Mapping[str, int] = {"coalesce": 1, "greatest": 1, "least": 1, "concat": 1}

#: Parts of a date or a timestamp.
PARTS = (
    "year",
    "quarter",
    "month",
    "week",
    "day",
    "doy",
    "dow",
    "isodow",
    "hour",
    "minute",
    "second",
    "epoch",
)
#: Parts that only a timestamp has.
PARTS_OF_TIMES = frozenset({"hour", "minute", "second"})
#: Parts that are functions as well.
PART_FUNCTIONS = ("year", "quarter", "month", "week", "day", "hour", "minute", "second")
TRUNCATED_TO = ("year", "quarter", "month", "week", "day", "hour", "minute", "second")

#: All that can be called with parentheses.
ACCEPTED: tuple[str, ...] = tuple(
    sorted(
        {
            *FUNCTIONS,
            *ALIASES,
            *OF_MANY,
            *PART_FUNCTIONS,
            *("cast", "try_cast", "extract", "date_part", "date_diff", "date_trunc", "if", "position"),
        }
    )
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


AGGREGATES = _words(
    "any_value arg_max arg_min array_agg avg bool_and bool_or count count_if first group_concat last list "
    "listagg max mean median min mode quantile stddev string_agg sum variance"
)
WINDOWS = _words(
    "cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number"
)
CLOCKS = _words(
    "age current_date current_time current_timestamp curdate getdate localtime localtimestamp now today "
    "transaction_timestamp unix_timestamp"
)
#: Why some functions aren't there.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(AGGREGATES, "is an aggregate over rows; an expression is of the columns of one row"),
    **dict.fromkeys(WINDOWS, "is a window function; an expression is of the columns of one row"),
    **dict.fromkeys(CLOCKS, "reads the clock; a result may not depend on when it is computed"),
    **dict.fromkeys(("random", "rand", "uuid"), "differs with each call; a result must always be the same"),
    "log": "is to the base e in some databases and 10 in others; write ln or log10",
    "div": "isn't the same in all databases; write floor(a / b) and cast it",
    "ifnull": "is called coalesce here",
    "nvl": "is called coalesce here",
}


def chosen(ways: Sequence[Signature], types: Sequence[ColumnType | None]) -> Signature | None:
    """The signature that takes arguments of some types with the least conversions; None stands for NULL.

    Returns:
        None if there is none, or if all are NULL and more than one would do.
    """
    fitting = [way for way in ways if accepts(way, types)]
    if not fitting or (len(fitting) > 1 and not any(types)):
        return None
    return min(fitting, key=lambda way: _conversions(way, types))


def accepts(way: Signature, types: Sequence[ColumnType | None]) -> bool:
    """Whether a signature takes arguments of some types."""
    return len(way.parameters) == len(types) and all(
        converts(type_, parameter) for type_, parameter in zip(types, way.parameters, strict=True)
    )


def converts(type_: ColumnType | None, to: ColumnType) -> bool:
    """Whether a value is taken for one of another type without a cast."""
    return type_ in (None, to) or (type_, to) in _CONVERSIONS


def common(types: Iterable[ColumnType | None]) -> ColumnType | None:
    """The type that values of several types have in common; None without any, or if they are all NULL."""
    found = {"long" if type_ == "integer" else type_ for type_ in types if type_ is not None}
    if found == {"long", "double"}:
        return "double"
    return found.pop() if len(found) == 1 else None


_CONVERSIONS = {("integer", "long"): 0, ("integer", "double"): 1, ("long", "double"): 1}


def _conversions(way: Signature, types: Sequence[ColumnType | None]) -> int:
    pairs = zip(types, way.parameters, strict=True)
    return sum(_CONVERSIONS.get((type_, parameter), 0) for type_, parameter in pairs if type_)


def castable(from_: ColumnType, to: ColumnType) -> bool:
    """Whether a value of a type can be cast to another."""
    return from_ == to or to in CASTS[from_]


CASTS: Mapping[ColumnType, tuple[ColumnType, ...]] = {
    "string": ("integer", "long", "double", "boolean", "date", "timestamp"),
    "integer": ("long", "double", "string", "boolean"),
    "long": ("integer", "double", "string", "boolean"),
    "double": ("integer", "long"),
    "boolean": ("integer", "long", "double", "string"),
    "date": ("timestamp", "string"),
    "timestamp": ("date",),
}
