from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_platform.contract.column_types import COLUMN_TYPES, ColumnType
from ml_platform.contract.scalar_functions import ACCEPTED
from ml_platform.contract.scalar_sql import parse, parse_condition
from ml_platform.data_engineering import expression_values
from ml_platform.data_engineering.expression_values import evaluate, holds
from ml_platform_tests.random_expressions import MACROS, TYPES, Pair, expressions, rows

RESULTS: tuple[ColumnType, ...] = ("long", "double", "string", "boolean", "date", "timestamp")
LEAST, GREATEST = -(2**63), 2**63 - 1


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute(MACROS)
        yield connection


def values(found: Any) -> list[object]:
    if pa.types.is_timestamp(found.type):
        found = found.cast(pa.int64())
    return found.to_pylist()


typed_expressions = st.sampled_from(RESULTS).flatmap(
    lambda type_: st.tuples(st.just(type_), expressions(type_))
)


@settings(max_examples=700, deadline=None, suppress_health_check=list(HealthCheck))
@given(typed_expressions, st.integers(0, 2**32))
def test_an_expression_is_what_duckdb_says(
    database: duckdb.DuckDBPyConnection, made: tuple[ColumnType, Pair], seed: int
) -> None:
    type_, (ours, theirs) = made
    table = rows(seed)
    expression = parse(ours, TYPES)
    assert expression.type in (type_, "integer")
    found = evaluate(expression, table)
    assert found.type == COLUMN_TYPES[expression.type].arrow_type
    database.register("made", table)
    expected = database.sql(f"select {theirs} as found from made").to_arrow_table()["found"]
    assert values(found) == values(expected)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(typed_expressions, st.integers(0, 2**32), st.integers(1, 39))
def test_a_table_in_pieces_gives_what_all_of_it_gives(
    made: tuple[ColumnType, Pair], seed: int, size: int
) -> None:
    table = rows(seed)
    expression = pickle.loads(pickle.dumps(parse(made[1][0], TYPES)))
    whole = evaluate(expression, table)
    pieces = [evaluate(expression, table.slice(begin, size)) for begin in range(0, len(table), size)]
    assert values(pa.concat_arrays(pieces)) == values(whole)
    chunked = pa.concat_tables([table.slice(begin, size) for begin in range(0, len(table), size)])
    assert values(evaluate(expression, chunked)) == values(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expression_values, "ROWS_AT_A_TIME", size)
        assert values(evaluate(expression, table)) == values(whole)


#: Operators and signs around operands, without the parentheses that would say what belongs together.
SIGNS = "+ - * % = <> < >= and or || like".split()  # noqa: SIM905
AFTER = [" is null", " is not null", " is true", " in (1, 2)", " not in (1)", " between 0 and 2", "::string"]
AFTER += ["::long", " not between 1 and 3", "::boolean"]


def test_operators_bind_as_in_duckdb(database: duckdb.DuckDBPyConnection) -> None:
    chance = random.Random(7)
    types: dict[str, ColumnType] = {"a": "long", "b": "long", "f": "boolean", "g": "boolean", "s": "string"}
    table = pa.table(
        {
            "a": pa.array([1, 2, 3, 5, None], pa.int64()),
            "b": pa.array([3, 1, None, -2, 4], pa.int64()),
            "f": [True, False, None, True, True],
            "g": [False, True, True, None, True],
            "s": ["1", "2", None, "3", "12"],
        }
    )
    database.register("made", table)
    compared = 0
    for _ in range(3_000):
        text = ""
        for number in range(chance.randint(2, 4)):
            text += f" {chance.choice(SIGNS)} " if number else ""
            text += chance.choice(["not ", "- ", "", "", "", ""])
            text += chance.choice(["a", "b", "f", "g", "s", "1", "2", "true", "null", "'1'"])
            text += chance.choice(AFTER) if chance.random() < 0.3 else ""
        try:
            expression = parse(text, types)
        except ValueError:
            continue
        try:
            expected = database.sql(f"select {text} as found from made").fetchall()
        except duckdb.Error:
            continue
        assert values(evaluate(expression, table)) == [value for (value,) in expected], text
        compared += 1
    assert compared > 100


NULL = None
BY_HAND: list[tuple[str, object]] = [
    # Numbers.
    ("7 + 3 * 2", 13),
    ("9223372036854775807 + 1", NULL),
    ("-9223372036854775808 - 1", NULL),
    ("9223372036854775807 - -1", NULL),
    ("3037000500 * 3037000500", NULL),
    ("-1 * -9223372036854775808", NULL),
    ("-9223372036854775808 * -1", NULL),
    ("-9223372036854775808 * 1", LEAST),
    ("4294967296 * -2147483648", LEAST),
    ("- (-9223372036854775808)", NULL),
    ("abs(-9223372036854775808)", NULL),
    ("1.5 + 1", 2.5),
    ("1e308 * 10", NULL),
    ("1e308 * 10 * 0", NULL),
    ("7 / 2", 3.5),
    ("1 / 0", NULL),
    ("0.0 / 0", NULL),
    ("-7 % 3", -1),
    ("7 % -3", 1),
    ("mod(7, 0)", NULL),
    ("-9223372036854775808 % -1", 0),
    ("-5.5 % 2", -1.5),
    ("5.5 % 0", NULL),
    ("abs(-2.5)", 2.5),
    ("abs(-7)", 7),
    ("sign(-0.5)", -1),
    ("sign(0)", 0),
    ("round(2.5)", 3.0),
    ("round(-2.5)", -3.0),
    ("round(0.49999999999999994)", 0.0),
    ("round(1.25, 1)", 1.3),
    ("round(1234.5, -2)", 1200.0),
    ("round(1250, -2)", 1300),
    ("round(-1250, -2)", -1300),
    ("round(1250, 2)", 1250),
    ("round(9223372036854775807, -1)", NULL),
    ("round(5000000000000000000, -19)", NULL),
    ("round(4999999999999999999, -19)", 0),
    ("round(7, -300)", 0),
    ("round(1e300, 300)", 1e300),
    ("floor(-1.5)", -2.0),
    ("floor(7)", 7.0),
    ("ceil(-1.5)", -1.0),
    ("ceiling(1.2)", 2.0),
    ("sqrt(9)", 3.0),
    ("sqrt(-1)", NULL),
    ("ln(1)", 0.0),
    ("ln(0)", NULL),
    ("log10(1000)", 3.0),
    ("exp(0)", 1.0),
    ("exp(1000)", NULL),
    ("power(2, 10)", 1024.0),
    ("pow(0, -1)", NULL),
    # Comparisons and logic.
    ("9007199254740993 = 9007199254740992.0", True),
    ("'Z' < 'a'", True),
    ("'\uffff' < '\U00010000'", True),
    ("false < true", True),
    ("1 != 2", True),
    ("1 = null", NULL),
    ("null is null", True),
    ("1 is not null", True),
    ("true and null", NULL),
    ("false and null", False),
    ("true or null", True),
    ("false or null", NULL),
    ("not cast(null as boolean)", NULL),
    ("2 between 1 and 3", True),
    ("2 between 3 and 1", False),
    ("4 between null and 3", False),
    ("2 not between 1 and null", NULL),
    ("1 in (2, null)", NULL),
    ("2 in (2, null)", True),
    ("1 not in (2, 3)", True),
    ("'f' in ('a', 'b', 'c', 'd', 'e', 'f')", True),
    ("'g' in ('a', 'b', 'c', 'd', 'e', 'f', null)", NULL),
    ("0.0 in (-0.0, 1)", True),
    ("1 is distinct from null", True),
    ("cast(null as long) is not distinct from null", True),
    ("cast(null as boolean) is true", False),
    ("case when null then 1 when true then 2 else 3 end", 2),
    ("case when false then 1 end", NULL),
    ("case 2 when 1 then 'a' when 2 then 'b' end", "b"),
    ("case cast(null as long) when null then 'a' else 'b' end", "b"),
    ("if(null, 1, 2)", 2),
    ("coalesce(null, 2, 3)", 2),
    ("nullif(2, 2.0)", NULL),
    ("nullif(9007199254740993, 1.5)", 9007199254740993),
    ("nullif(2, null)", 2),
    ("greatest(1, null, 3)", 3),
    ("least('b', null, 'a')", "a"),
    ("least(cast(null as long))", NULL),
    # Texts.
    ("'a' || null", NULL),
    ("'a' || 'b' || 'c'", "abc"),
    ("concat('a', null, 'b')", "ab"),
    ("concat(null, null)", ""),
    ("lower('ÀÉ')", "àé"),
    ("upper('añ')", "AÑ"),
    ("trim('  a\t ')", "a\t"),
    ("ltrim('  a ')", "a "),
    ("rtrim('  a ')", "  a"),
    ("trim('\u00a0a')", "\u00a0a"),
    ("length('añ😀')", 3),
    ("length('e\u0301')", 2),
    ("substring('añ😀b', 2, 2)", "ñ😀"),
    ("substring('abc' from 2)", "bc"),
    ("substr('abc', 2, 100)", "bc"),
    ("substring('abcdef', -3, 2)", "de"),
    ("substring('abc', 0, 2)", "a"),
    ("substring('abc', 2, -1)", NULL),
    ("left('😀bc', 1)", "😀"),
    ("left('abc', -1)", "ab"),
    ("right('abc', 2)", "bc"),
    ("right('abc', -1)", "bc"),
    ("right('abc', 0)", ""),
    ("replace('aXbX', 'X', 'yy')", "ayybyy"),
    ("replace('abc', '', 'x')", "abc"),
    ("starts_with('abc', 'ab')", True),
    ("ends_with('abc', 'bc')", True),
    ("contains('abc', '')", True),
    ("strpos('añ😀b', 'b')", 4),
    ("strpos('abc', 'x')", 0),
    ("position('b' in 'abc')", 2),
    ("'a\nb' like 'a_b'", True),
    ("'aXXb' like 'a%b'", True),
    ("'ab' like 'a.'", False),
    ("'a😀' like 'a_'", True),
    ("'10%' like '10!%' escape '!'", True),
    ("'10x' like '10!%' escape '!'", False),
    ("'a\\' like 'a\\'", True),
    ("'abc' not like 'b%'", True),
    # Dates and times.
    ("extract(year from date '2021-01-03')", 2021),
    ("year(date '0001-01-01')", 1),
    ("quarter(date '2021-04-01')", 2),
    ("month(date '2021-04-01')", 4),
    ("week(date '2021-01-03')", 53),
    ("day(date '2021-01-03')", 3),
    ("extract(doy from date '2024-12-31')", 366),
    ("extract(dow from date '2021-01-03')", 0),
    ("extract(isodow from date '2021-01-03')", 7),
    ("hour(timestamp '2024-01-31 10:20:30.9')", 10),
    ("minute(timestamp '2024-01-31 10:20:30.9')", 20),
    ("second(timestamp '2024-01-31 10:20:30.9')", 30),
    ("second(timestamp '1969-12-31 23:59:59.9')", 59),
    ("extract(epoch from timestamp '1970-01-01 00:00:01.5')", 1.5),
    ("date_part('epoch', date '1970-01-02')", 86400.0),
    ("hour(timestamp '2024-03-31 00:59:59' at time zone 'Europe/Paris')", 1),
    ("hour(timestamp '2024-03-31 01:00:00' at time zone 'Europe/Paris')", 3),
    ("hour(timestamp '2024-10-27 00:59:59' at time zone 'Europe/Paris')", 2),
    ("hour(timestamp '2024-10-27 01:00:00' at time zone 'Europe/Paris')", 2),
    ("minute(timestamp '2024-01-01 00:00:00' at time zone 'Asia/Kolkata')", 30),
    ("hour(timestamp '2100-07-01 00:00:00' at time zone 'Europe/Paris')", 2),
    ("hour(timestamp '9999-12-31 23:00:00' at time zone 'Asia/Tokyo')", NULL),
    ("hour(timestamp '0001-01-01 00:00:00' at time zone 'America/New_York')", NULL),
    ("second(timestamp '1900-01-01 00:00:00' at time zone 'Europe/Paris')", 21),
    ("cast(timestamp '2024-01-31 23:30:00' at time zone 'Europe/Paris' as date)", date(2024, 2, 1)),
    ("timestamp '2024-01-31 10:00:00+02:00' = timestamp '2024-01-31 08:00:00'", True),
    ("date_diff('day', timestamp '2024-01-01 23:00:00', timestamp '2024-01-02 01:00:00')", 1),
    ("datediff('day', date '2024-03-01', date '2024-02-01')", -29),
    ("date '2024-03-01' - date '2024-02-01'", 29),
    ("date '2024-02-28' + 2", date(2024, 3, 1)),
    ("1 + date '2024-02-28'", date(2024, 2, 29)),
    ("date '2024-03-01' - 1", date(2024, 2, 29)),
    ("date '9999-12-31' + 1", NULL),
    ("date '0001-01-01' - 1", NULL),
    ("date '2024-01-01' + 9223372036854775807", NULL),
    ("date_trunc('week', date '2024-02-29')", date(2024, 2, 26)),
    ("date_trunc('quarter', date '2024-05-05')", date(2024, 4, 1)),
    ("date_trunc('hour', timestamp '1969-12-31 23:59:59')", datetime(1969, 12, 31, 23, tzinfo=UTC)),
    ("date_trunc('month', timestamp '2024-05-05 10:00:00')", datetime(2024, 5, 1, tzinfo=UTC)),
    # Casts.
    ("cast(2.5 as long)", 2),
    ("cast(3.5 as long)", 4),
    ("cast(9.3e18 as long)", NULL),
    ("cast(9223372036854775807.0 as long)", NULL),
    ("cast(2147483647.4 as integer)", 2147483647),
    ("cast(2147483647.5 as integer)", NULL),
    ("cast(3000000000 as integer)", NULL),
    ("cast(12 as string)", "12"),
    ("true::string", "true"),
    ("true::long", 1),
    ("0::boolean", False),
    ("(date '0001-01-01')::string", "0001-01-01"),
    ("cast(date '2024-01-31' as timestamp)", datetime(2024, 1, 31, tzinfo=UTC)),
    ("(timestamp '1969-12-31 23:00:00')::date", date(1969, 12, 31)),
    ("try_cast('x' as long)", NULL),
]


@pytest.mark.parametrize(("text", "expected"), BY_HAND)
def test_what_an_expression_gives(text: str, expected: object) -> None:
    found = evaluate(parse(text, {}), pa.table({"a": [1, 2]})).to_pylist()
    assert found == [expected, expected]
    assert type(found[0]) is type(expected)


def test_every_function_has_been_worked_out_by_hand() -> None:
    texts = " ".join(text for text, _ in BY_HAND)
    assert [name for name in ACCEPTED if f"{name}(" not in texts] == []


TEXTS: list[tuple[str, ColumnType, object]] = [
    (" -7 ", "long", -7),
    ("+7", "long", 7),
    ("9223372036854775808", "long", NULL),
    ("2147483648", "integer", NULL),
    ("1.0", "long", NULL),
    ("1e3", "long", NULL),
    ("0x10", "long", NULL),
    ("1_000", "long", NULL),
    ("٣", "long", NULL),
    ("\t7", "long", NULL),
    ("", "long", NULL),
    ("1.5", "double", 1.5),
    (".5", "double", 0.5),
    ("-5.", "double", -5.0),
    ("1e400", "double", NULL),
    ("nan", "double", NULL),
    ("inf", "double", NULL),
    ("1_0.5", "double", NULL),
    ("TRUE", "boolean", True),
    ("n", "boolean", False),
    ("on", "boolean", NULL),
    ("2024-02-29", "date", date(2024, 2, 29)),
    (" 0001-01-01 ", "date", date(1, 1, 1)),
    ("2023-02-29", "date", NULL),
    ("2024-1-5", "date", NULL),
    ("2024-01-31 10:00", "date", NULL),
    ("0000-01-01", "date", NULL),
    ("2024-01-31", "timestamp", datetime(2024, 1, 31, tzinfo=UTC)),
    ("2024-01-31 10:20", "timestamp", datetime(2024, 1, 31, 10, 20, tzinfo=UTC)),
    ("2024-01-31T10:20:30.5Z", "timestamp", datetime(2024, 1, 31, 10, 20, 30, 500_000, UTC)),
    ("2024-01-31 10:20:30-02:30", "timestamp", datetime(2024, 1, 31, 12, 50, 30, tzinfo=UTC)),
    ("2024-01-31 24:00:00", "timestamp", NULL),
    ("2024-01-31 10:20:60", "timestamp", NULL),
    ("2024-01-31 10:20:30.1234567", "timestamp", NULL),
    ("2024-01-31 10:20+02:60", "timestamp", NULL),
    ("2024-01-31 10:20+24:00", "timestamp", NULL),
    ("0001-01-01 00:00:00+01:00", "timestamp", NULL),
]


@pytest.mark.parametrize(("text", "type_", "expected"), TEXTS)
def test_what_a_text_is_as_another_type(text: str, type_: ColumnType, expected: object) -> None:
    found = evaluate(parse(f"cast(a as {type_})", {"a": "string"}), pa.table({"a": [None, text]}))
    assert found.to_pylist() == [None, expected]


def test_what_has_no_value_in_a_column_is_null() -> None:
    table = pa.table(
        {
            "x": [float("nan"), float("inf"), -0.0],
            "d": pa.array([-719163, 2932897, 0], pa.int32()).cast(pa.date32()),
            "t": pa.array([-(2**62), 2**62, 0], pa.int64()).cast(pa.timestamp("us", "UTC")),
        }
    )
    types: dict[str, ColumnType] = {"x": "double", "d": "date", "t": "timestamp"}
    for name in types:
        assert evaluate(parse(f"{name} is null", types), table).to_pylist() == [True, True, False]
        assert evaluate(parse(name, types), table).null_count == 2


def test_a_column_keeps_its_type_and_others_of_a_kind_are_taken_for_it() -> None:
    table = pa.table({"i": pa.array([1, None], pa.int32()), "s": pa.array(["a", None], pa.large_string())})
    types: dict[str, ColumnType] = {"i": "integer", "s": "string"}
    assert evaluate(parse("i", types), table).type == pa.int32()
    assert evaluate(parse("i + 0", types), table).type == pa.int64()
    assert evaluate(parse("s", types), table).equals(pa.array(["a", None]))


def test_null_doesn_t_hold() -> None:
    table = pa.table({"a": [1, 2, None]})
    found = holds(parse_condition("a > 1", {"a": "long"}), table)
    assert found.dtype == np.bool_
    assert found.tolist() == [False, True, False]


def test_no_rows_have_no_values() -> None:
    table = rows(0).slice(0, 0)
    for text in ("x", "i + 1", "lower(s)", "date_trunc('day', t)", "1"):
        expression = parse(text, TYPES)
        found = evaluate(expression, table)
        assert len(found) == 0
        assert found.type == COLUMN_TYPES[expression.type].arrow_type
    assert holds(parse_condition("f", TYPES), table).tolist() == []


def test_an_hour_in_which_a_zone_changes_has_both_its_offsets() -> None:
    # Lord Howe Island goes back by half an hour, and Monrovia's offset had seconds until 1972.
    times = [datetime(2024, 4, 6, 14, 59, 59, tzinfo=UTC), datetime(2024, 4, 6, 15, tzinfo=UTC)]
    times += [datetime(1972, 1, 7, 0, 44, 29, tzinfo=UTC), datetime(1972, 1, 7, 0, 44, 30, tzinfo=UTC)]
    table = pa.table({"t": pa.array(times, pa.timestamp("us", "UTC"))})

    def minutes(zone: str) -> list[object]:
        return evaluate(parse(f"minute(t at time zone '{zone}')", {"t": "timestamp"}), table).to_pylist()

    assert minutes("Australia/Lord_Howe")[:2] == [59, 30]
    assert minutes("Africa/Monrovia")[2:] == [59, 44]
