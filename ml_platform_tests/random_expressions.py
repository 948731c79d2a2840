"""Random expressions of every type, as a contract has them and as DuckDB has them, and rows to try them on.

What DuckDB has differently by design is written out in its text, with the reason beside it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from ml_platform.contract.column_types import COLUMN_TYPES, ColumnType

#: An expression's text, and DuckDB's.
Pair = tuple[str, str]

TYPES: Mapping[str, ColumnType] = {
    "i": "integer",
    "l": "long",
    "m": "long",
    "x": "double",
    "y": "double",
    "s": "string",
    "u": "string",
    "f": "boolean",
    "g": "boolean",
    "d": "date",
    "e": "date",
    "t": "timestamp",
    "v": "timestamp",
}
ZONES = (
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
)

#: A double that isn't finite, and a day beyond the calendar, are null here and something in DuckDB.
MACROS = """
create macro finite(z) as case when isfinite(z) then z end;
create macro known(z) as case when z between date '0001-01-01' and date '9999-12-31' then z end;
create macro shown(z) as case when z >= timestamp '0001-01-01' and z < timestamp '10000-01-01' then z end;
"""

INTEGERS = (0, 1, -1, 2, 3, 7, -10, 15, 25, 1250, 2**31 - 1, -(2**31))
LONGS = (*INTEGERS, 2**53 + 1, 2**63 - 1, -(2**63), -(2**63) + 1, 3037000500, 2**62, 5 * 10**18)
DOUBLES = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 3.5, 0.1, 2.675, 0.285, 10.0, -7.25, 1e15, 123456.789),
    *(0.49999999999999994, 9007199254740993.0, 9.223372036854775e18, 9.223372036854776e18, 2147483647.5),
    *(5e-324, 2.2e-308, 1e308, -1e308, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan")),
)
STRINGS = (
    *("", "a", "A", "abc", "aXbXc", "  pad ", "a_b", "50%", "a\nb", "añb", "ÀÉ", "ß", "İ", "日本語", "😀x😀"),
    *("e\u0301", "\u00a0nbsp", "'", "\\", "12", " -7 ", "9223372036854775808", "1.5", "1e5", "true", "No"),
    *(
        "2024-02-29",
        "2023-02-29",
        "2024-01-31 10:20:30",
        "2024-01-31T10:20:30.5+02:00",
        "\uffff",
        "\U00010000",
    ),
)
DATES = (
    *(date(1, 1, 1), date(1, 12, 31), date(9999, 12, 31), date(1582, 10, 10), date(1900, 2, 28)),
    *(date(1970, 1, 1), date(2000, 2, 29), date(2021, 1, 3), date(2024, 12, 30), date(2026, 12, 31)),
)
TIMES = (
    *(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
    *(datetime(1, 1, 1, 12, tzinfo=UTC), datetime(9999, 12, 31, 12, tzinfo=UTC)),
    *(datetime(2024, 3, 31, 0, 59, 59, 999999, UTC), datetime(2024, 3, 31, 1, tzinfo=UTC)),
    *(datetime(2024, 10, 27, 0, 30, tzinfo=UTC), datetime(2024, 10, 27, 1, 30, tzinfo=UTC)),
    *(datetime(2024, 11, 3, 5, 59, tzinfo=UTC), datetime(2024, 11, 3, 6, tzinfo=UTC)),
    *(datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), datetime(1970, 1, 1, tzinfo=UTC)),
    *(datetime(2050, 7, 1, 22, 30, tzinfo=UTC), datetime(2021, 1, 3, 23, 15, 10, 1, UTC)),
)


def rows(seed: int, count: int = 40) -> pa.Table:
    """Rows of the columns, with nulls and extremes among them."""
    chance = random.Random(seed)
    makers: Mapping[ColumnType, Callable[[], Any]] = {
        "integer": lambda: chance.choice([*INTEGERS, chance.randint(-100, 100)]),
        "long": lambda: chance.choice([*LONGS, chance.randint(-(2**63), 2**63 - 1)]),
        "double": lambda: chance.choice([*DOUBLES, chance.uniform(-100, 100), chance.gauss(0, 1e9)]),
        "string": lambda: chance.choice(STRINGS),
        "boolean": lambda: chance.random() < 0.5,
        "date": lambda: chance.choice([*DATES, date.fromordinal(chance.randint(1, date.max.toordinal()))]),
        "timestamp": lambda: chance.choice(
            [*TIMES, datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=chance.uniform(-3e9, 4e9))]
        ),
    }
    return pa.table(
        {
            name: pa.array(
                [None if chance.random() < 0.15 else makers[type_]() for _ in range(count)],
                COLUMN_TYPES[type_].arrow_type,
            )
            for name, type_ in TYPES.items()
        }
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _leaf(draw: st.DrawFn, type_: ColumnType) -> Pair:
    names = [name for name, known in TYPES.items() if known == type_ or (known, type_) == ("integer", "long")]
    if draw(st.integers(0, 2)):
        name = draw(st.sampled_from(names))
        theirs = {"i": "i::bigint", "x": "finite(x)", "y": "finite(y)"}.get(name, name)
        return name, theirs
    match type_:
        case "long":
            number = draw(st.sampled_from(LONGS) | st.integers(-12, 12))
            return str(number), f"('{number}'::bigint)"
        case "double":
            decimal = draw(st.sampled_from([one for one in DOUBLES if abs(one) < 1e308]))
            text = repr(decimal)
            return text, f"('{text}'::double)"
        case "string":
            text = _quoted(draw(st.sampled_from(STRINGS)))
            return text, text
        case "boolean":
            return draw(st.sampled_from([("true", "true"), ("false", "false")]))
        case "date":
            day = f"date '{draw(st.sampled_from(DATES))}'"
            return day, day
        case _:
            time = draw(st.sampled_from(TIMES)).isoformat(sep=" ")
            return f"timestamp '{time}'", f"timestamptz '{time}'"


@st.composite
def expressions(draw: st.DrawFn, type_: ColumnType, depth: int = 3) -> Pair:
    """An expression of a type."""
    if depth == 0:
        return _leaf(draw, type_)

    def of(other: ColumnType) -> Pair:
        return draw(expressions(other, draw(st.integers(0, depth - 1))))

    def form(ours: str, theirs: str, *types: ColumnType) -> Pair:
        made = [of(one) for one in types]
        return ours.format(*(one for one, _ in made)), theirs.format(*(one for _, one in made))

    def same(text: str, *types: ColumnType) -> Pair:
        return form(text, text, *types)

    match draw(st.integers(0, 9)):
        case 0:
            return _leaf(draw, type_)
        case 1 | 2:
            return draw(st.sampled_from(_general(draw, same, form, type_)))()
    of_type = {
        "long": _longs,
        "double": _doubles,
        "string": _strings,
        "boolean": _booleans,
        "date": _dates,
        "timestamp": _timestamps,
    }[type_]
    return draw(st.sampled_from(of_type(draw, same, form)))()


Same = Callable[..., Pair]
Form = Callable[..., Pair]


def _general(draw: st.DrawFn, same: Same, form: Form, type_: ColumnType) -> list[Callable[[], Pair]]:
    t = type_
    return [
        lambda: same("coalesce({0}, {1})", t, t),
        lambda: same("nullif({0}, {1})", t, t),
        lambda: same("greatest({0}, {1}, {2})", t, t, t),
        lambda: same("least({0}, {1})", t, t),
        lambda: same("case when {0} then {1} else {2} end", "boolean", t, t),
        lambda: same("case when {0} then {1} when {2} then null end", "boolean", t, "boolean"),
        lambda: same("if({0}, {1}, {2})", "boolean", t, t),
        lambda: same("case {0} when {1} then {2} when {3} then {4} end", "long", "long", t, "long", t),
    ]


def _longs(draw: st.DrawFn, same: Same, form: Form) -> list[Callable[[], Pair]]:
    two: tuple[ColumnType, ColumnType] = ("long", "long")
    sign = draw(st.sampled_from("+-*"))
    digits = draw(st.integers(-20, 3))
    part = draw(st.sampled_from(["year", "quarter", "month", "week", "day", "doy", "dow", "isodow"]))
    clock = draw(st.sampled_from(["hour", "minute", "second"]))
    zone = draw(st.sampled_from(ZONES))
    at = f"at time zone '{zone}'"
    return [
        lambda: form(f"({{0}} {sign} {{1}})", f"try({{0}} {sign} {{1}})", *two),
        # No long divided by -1 leaves anything, though the quotient of the least one is beyond 64 bits.
        lambda: form("({0} % {1})", "case when {1} = -1 then {0} * 0 else try({0} % {1}) end", *two),
        lambda: form("(- {0})", "try(- {0})", "long"),
        lambda: form("abs({0})", "try(abs({0}))", "long"),
        lambda: form("sign({0})", "sign({0})::bigint", draw(st.sampled_from(("long", "double")))),
        lambda: form(f"round({{0}}, {digits})", f"try(round({{0}}, {digits}))", "long"),
        lambda: same("length({0})", "string"),
        lambda: same("strpos({0}, {1})", "string", "string"),
        lambda: same("position({0} in {1})", "string", "string"),
        # Of nothing but NULL, DuckDB's parts are doubles.
        lambda: form(
            f"extract({part} from {{0}})",
            f"extract({part} from {{0}})::bigint",
            draw(st.sampled_from(("date", "timestamp"))),
        ),
        lambda: form(f"date_part('{clock}', {{0}})", f"date_part('{clock}', {{0}})::bigint", "timestamp"),
        lambda: form(
            f"extract({part} from {{0}} {at})", f"extract({part} from shown({{0}} {at}))::bigint", "timestamp"
        ),
        lambda: form(f"{clock}({{0}} {at})", f"{clock}(shown({{0}} {at}))::bigint", "timestamp"),
        lambda: same("({0} - {1})", "date", "date"),
        lambda: same(
            "date_diff('day', {0}, {1})", *draw(st.sampled_from((("date",) * 2, ("timestamp",) * 2)))
        ),
        lambda: form("cast({0} as long)", "try_cast({0} as bigint)", "double"),
        lambda: form("cast({0} as integer)", "try_cast({0} as integer)::bigint", "long"),
        # Of DuckDB's other forms of whole numbers, as hexadecimal ones, none is accepted.
        lambda: form(
            "try_cast({0} as long)",
            "case when regexp_full_match(trim({0}, ' '), '[+-]?[0-9]+') "
            "then try_cast(trim({0}, ' ') as bigint) end",
            "string",
        ),
        lambda: form("cast({0} as long)", "{0}::bigint", "boolean"),
    ]


def _doubles(draw: st.DrawFn, same: Same, form: Form) -> list[Callable[[], Pair]]:
    two: tuple[ColumnType, ColumnType] = ("double", "double")
    sign = draw(st.sampled_from("+-*/%"))
    digits = draw(st.integers(-5, 5))
    function = draw(st.sampled_from(["floor", "ceil", "sqrt", "ln", "log10", "exp", "abs", "round"]))
    return [
        lambda: form(f"({{0}} {sign} {{1}})", f"finite({{0}} {sign} {{1}})", *two),
        lambda: form("({0} / {1})", "finite({0} / {1})", "long", "long"),
        lambda: form(f"({{0}} {sign} {{1}})", f"finite({{0}} {sign} {{1}}::double)", "double", "long"),
        lambda: form("(- {0})", "(- {0})", "double"),
        lambda: form(f"{function}({{0}})", f"finite(try({function}({{0}})))", "double"),
        lambda: form("power({0}, {1})", "finite(try(power({0}, {1})))", *two),
        lambda: form(f"round({{0}}, {digits})", f"finite(round({{0}}, {digits}))", "double"),
        lambda: form("ceiling({0})", "ceiling({0}::double)", "long"),
        lambda: same("extract(epoch from {0})", "date"),
        # DuckDB adds the part of a second to the rest, which may not be the nearest double.
        lambda: form("extract(epoch from {0})", "(epoch_us({0}) / 1e6::double)", "timestamp"),
        lambda: form("cast({0} as double)", "{0}::double", draw(st.sampled_from(("long", "boolean")))),
        # A text of "inf" or "nan" is no number.
        lambda: form(
            "try_cast({0} as double)",
            "case when regexp_full_match(trim({0}, ' '), "
            "'[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?') "
            "then finite(try_cast(trim({0}, ' ') as double)) end",
            "string",
        ),
    ]


def _strings(draw: st.DrawFn, same: Same, form: Form) -> list[Callable[[], Pair]]:
    start, count = draw(st.integers(-6, 6)), draw(st.integers(0, 6))
    side = draw(st.sampled_from(("left", "right")))
    case = draw(st.sampled_from(("lower", "upper")))
    trim = draw(st.sampled_from(("trim", "ltrim", "rtrim")))
    # DuckDB counts from the position that a count below zero leads back to.
    counted = "case when {2} % 5 >= 0 then substring({0}, {1} % 5, {2} % 5) end"
    return [
        lambda: same("({0} || {1})", "string", "string"),
        lambda: same("concat({0}, {1}, {2})", "string", "string", "string"),
        lambda: same(f"{case}({{0}})", "string"),
        # DuckDB takes away other signs that Unicode counts among the spaces as well.
        lambda: form(f"{trim}({{0}})", f"{trim}({{0}}, ' ')", "string"),
        lambda: same(f"substring({{0}}, {start}, {count})", "string"),
        lambda: same(f"substr({{0}}, {start})", "string"),
        lambda: form("substring({0}, ({1} % 5), ({2} % 5))", counted, "string", "long", "long"),
        lambda: form(f"{side}({{0}}, ({{1}} % 7))", f"{side}({{0}}, try({{1}} % 7))", "string", "long"),
        lambda: same(f"{side}({{0}}, {start})", "string"),
        lambda: same("replace({0}, {1}, {2})", "string", "string", "string"),
        lambda: same("cast({0} as string)", draw(st.sampled_from(("long", "boolean", "date")))),
    ]


def _booleans(draw: st.DrawFn, same: Same, form: Form) -> list[Callable[[], Pair]]:
    t: ColumnType = draw(st.sampled_from(("long", "double", "string", "boolean", "date", "timestamp")))
    sign = draw(st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="]))
    logic = draw(st.sampled_from(("and", "or")))
    distinct = draw(st.sampled_from(("is distinct from", "is not distinct from")))
    function = draw(st.sampled_from(("starts_with", "ends_with", "contains")))
    pattern = _quoted(
        "".join(draw(st.lists(st.sampled_from(["%", "_", "a", "X", ".", "\\", "ñ", "!"]), max_size=5)))
    )
    escaped = _quoted("".join(draw(st.lists(st.sampled_from(["%", "!%", "!_", "a", "!!"]), max_size=4))))
    negated = draw(st.sampled_from(("", "not ")))
    return [
        lambda: same(f"({{0}} {sign} {{1}})", t, t),
        lambda: form(f"({{0}} {sign} {{1}})", f"({{0}}::double {sign} {{1}})", "long", "double"),
        lambda: same(f"({{0}} {logic} {{1}})", "boolean", "boolean"),
        lambda: same("(not {0})", "boolean"),
        lambda: same(f"({{0}} {negated}between {{1}} and {{2}})", t, t, t),
        lambda: same(f"({{0}} {negated}in ({{1}}, {{2}}, null))", t, t, t),
        lambda: same(f"({{0}} {negated}in ('a', 'abc', '', 'A', '12', 'ß', {{1}}))", "string", "string"),
        lambda: same(f"({{0}} is {negated}null)", t),
        lambda: same(f"({{0}} is {negated}true)", "boolean"),
        lambda: same(f"({{0}} {distinct} {{1}})", t, t),
        lambda: same(f"{function}({{0}}, {{1}})", "string", "string"),
        lambda: same(f"({{0}} {negated}like {pattern})", "string"),
        lambda: same(f"({{0}} {negated}like {escaped} escape '!')", "string"),
        lambda: same("cast({0} as boolean)", "long"),
        lambda: form(
            "try_cast({0} as boolean)",
            "try_cast(trim({0}, ' ') as boolean)",  # spaces around a text are ignored for every type
            "string",
        ),
    ]


def _dates(draw: st.DrawFn, same: Same, form: Form) -> list[Callable[[], Pair]]:
    sign = draw(st.sampled_from("+-"))
    unit = draw(st.sampled_from(["year", "quarter", "month", "week", "day"]))
    zone = draw(st.sampled_from(ZONES))
    return [
        lambda: form(
            f"({{0}} {sign} {{1}})", f"known(try({{0}} {sign} try_cast({{1}} as integer)))", "date", "long"
        ),
        # In DuckDB, what is cut off a date is a timestamp.
        lambda: form(f"date_trunc('{unit}', {{0}})", f"date_trunc('{unit}', {{0}})::date", "date"),
        lambda: same("cast({0} as date)", "timestamp"),
        lambda: form(
            f"cast({{0}} at time zone '{zone}' as date)",
            f"shown({{0}} at time zone '{zone}')::date",
            "timestamp",
        ),
        # A date is accepted as 2024-01-31 alone.
        lambda: form(
            "try_cast({0} as date)",
            "case when regexp_full_match(trim({0}, ' '), '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}') "
            "then try_cast(trim({0}, ' ') as date) end",
            "string",
        ),
    ]


def _timestamps(draw: st.DrawFn, same: Same, form: Form) -> list[Callable[[], Pair]]:
    unit = draw(st.sampled_from(["year", "quarter", "month", "week", "day", "hour", "minute", "second"]))
    return [
        lambda: same(f"date_trunc('{unit}', {{0}})", "timestamp"),
        lambda: form("cast({0} as timestamp)", "{0}::timestamptz", "date"),
        # Of a text, only the forms that the list of types has.
        lambda: form(
            "try_cast({0} as timestamp)",
            "case when regexp_full_match(trim({0}, ' '), '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}"
            "([ T][0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}([.][0-9]{{1,6}})?)?(Z|[+-][0-9]{{2}}(:[0-9]{{2}})?)?)?') "
            "then try_cast(trim({0}, ' ') as timestamptz) end",
            "string",
        ),
    ]
