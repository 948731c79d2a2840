from __future__ import annotations

import pickle
import re
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.contract.column_types import ColumnType
from ml_platform.contract.scalar_functions import ACCEPTED, PARTS
from ml_platform.contract.scalar_sql import Expression, parse, parse_condition
from ml_platform.contract.scalar_tree import Call, Column, Value

TYPES: dict[str, ColumnType] = {
    "price": "double",
    "quantity": "integer",
    "total": "long",
    "channel": "string",
    "name": "string",
    "paid": "boolean",
    "day": "date",
    "due": "date",
    "time": "timestamp",
    "seen": "timestamp",
    "unit price": "double",
    'a"b': "long",
    "a.b": "long",
    "Größe": "double",
    "order": "long",
}


def refusal(text: str) -> str:
    with pytest.raises(ValueError, match=r"\S") as raised:
        parse(text, TYPES)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("quantity", "integer"),
        ("total", "long"),
        ("quantity + 1", "long"),
        ("+quantity", "integer"),
        ("-quantity", "long"),
        ("quantity * price", "double"),
        ("price * quantity", "double"),
        ("total / quantity", "double"),
        ("total % 7", "long"),
        ("mod(price, 2)", "double"),
        ("price / nullif(total, 0)", "double"),
        ("nullif(quantity, 0.5)", "long"),
        ("1", "long"),
        ("-9223372036854775808", "long"),
        ("1.5", "double"),
        ("2.", "double"),
        ("1e3", "double"),
        ("'it''s'", "string"),
        ("true", "boolean"),
        ("DATE '2024-01-31'", "date"),
        ("TIMESTAMP '2024-01-31 10:00:00'", "timestamp"),
        ("channel = 'web' and price > 10", "boolean"),
        ("case when channel is null then 'none' else lower(name) end", "string"),
        ("case when paid then 1 end", "long"),
        ("case when paid then 1 else price end", "double"),
        ("case channel when 'web' then 1 when 'shop' then 2.5 end", "double"),
        ("if(paid, 1, null)", "long"),
        ("coalesce(price, 0)", "double"),
        ("coalesce(null, quantity)", "long"),
        ("greatest(total, 1)", "long"),
        ("least(day, due)", "date"),
        ("concat(name, null)", "string"),
        ("name || '!' || channel", "string"),
        ("length(name)", "long"),
        ("substring(name from 2 for 3)", "string"),
        ("position('a' in name)", "long"),
        ("name not like 'A!_%' escape '!'", "boolean"),
        ("name is not distinct from channel", "boolean"),
        ("paid is not true", "boolean"),
        ("total not in (1, 2, null)", "boolean"),
        ("price between 1 and total", "boolean"),
        ("extract(hour from time)", "long"),
        ("extract(epoch from time)", "double"),
        ("hour(time at time zone 'Europe/Paris')", "long"),
        ("date_part('isodow', (time at time zone 'Europe/Paris'))", "long"),
        ("cast(time at time zone 'Europe/Paris' as date)", "date"),
        ("(time at time zone 'Europe/Paris')::date", "date"),
        ("time::date", "date"),
        ("day::timestamp", "timestamp"),
        ("day - due", "long"),
        ("date_diff('day', day, due)", "long"),
        ("datediff('day', time, seen)", "long"),
        ("day + 1", "date"),
        ("1 + day", "date"),
        ("day - total", "date"),
        ("date_trunc('month', day)", "date"),
        ("date_trunc('hour', time)", "timestamp"),
        ("name::double", "double"),
        ("try_cast(name as int)", "integer"),
        ("cast(null as bool)", "boolean"),
        ("name::varchar", "string"),
        ("round(price, 2)", "double"),
        ("round(total)", "long"),
        ("floor(total)", "double"),
        ("sign(price)", "long"),
        ("power(2, total)", "double"),
        ('"unit price" * 2', "double"),
        ('"a""b" + "a.b"', "long"),
        ('"order"', "long"),
        ("Größe", "double"),
        ("price -- of one\n * /* how many */ quantity", "double"),
        ("CASE WHEN paid THEN Lower(name) END", "string"),
    ],
)
def test_what_an_expression_is(text: str, type_: ColumnType) -> None:
    expression = parse(text, TYPES)
    assert expression.type == expression.tree.type == type_
    assert expression.text == text
    assert pickle.loads(pickle.dumps(expression)) == expression
    assert hash(expression) == hash(parse(text, TYPES))


def test_the_tree_holds_nothing_of_the_parser() -> None:
    tree = parse("price * quantity", TYPES).tree
    assert tree == Call(
        "*", (Column("price", "double"), Call("cast", (Column("quantity", "integer"),), "double")), "double"
    )
    assert parse("(1)", {}) == Expression("(1)", "long", Value(1, "long"))


def test_the_columns_of_an_expression_come_in_its_order() -> None:
    text = 'case when paid then total + quantity else total * "a.b" end'
    assert parse(text, TYPES).columns == ("paid", "total", "quantity", "a.b")
    assert parse("1", TYPES).columns == ()


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("pric * 2", "column 1", "no column is called 'pric'; there are price, quantity"),
        ("1 + total * pric", "column 13", "there are price"),
        ("1 +\n  total *\n  pric", "line 3, column 3", "there are price"),
        ("1 + Price", "column 5", "capitals count, and there is price"),
        ('1 + "Price"', "column 5", "capitals count, and there is price"),
        ("größe", "column 1", "there is Größe"),
        ("price + name", "column 9", "+ takes (long, long) or (double, double)"),
        ("lower(price)", "column 7", "lower takes (string), and this is (double)"),
        ("lower(name, 1)", "column 1", "here are 2 arguments"),
        ("round()", "column 1", "here are 0 arguments"),
        ("lowr(name)", "column 1", "no function is called 'lowr'; there are lower, power, floor"),
        ("1 + read_csv('x')", "column 5", "no function is called 'read_csv'"),
        ("2 * count(*)", "column 5", "an aggregate"),
        ("sum(price) over ()", "column 12", "window functions aren't accepted"),
        ("row_number()", "column 1", "a window function"),
        ("total in (select 1)", "column 11", "subqueries"),
        ("(select 1)", "column 2", "subqueries"),
        ("exists(select 1)", "column 1", "subqueries"),
        ("select price", "column 1", "statements aren't accepted"),
        ("drop table x", "column 1", "begins a statement"),
        ("update x set y = 1", "column 1", "begins a statement"),
        ("price; total", "column 6", "nothing is accepted after it"),
        ("price, total", "column 6", "an expression is one value"),
        ("(price, total)", "column 2", "one value"),
        ("price +", "column 7", "something is missing after +"),
        ("(price", "column 2", "a closing parenthesis is missing"),
        ("price)", "column 6", "can't stand here"),
        ("price total", "column 7", "can't stand here"),
        ("price as total", "column 7", "can't stand here"),
        ("case when paid then 1", "column 21", "the end of a case is missing"),
        ("", "", "an expression is empty"),
        (" \n ", "", "an expression is empty"),
        ("-- price", "", "an expression is empty"),
        ("null", "column 1", "null alone has no type"),
        ("coalesce(null, null)", "column 1", "nothing but NULL"),
        ("null + null", "column 1", "give NULL a type"),
        ("case when paid then null end", "column 11", "nothing but NULL"),
        ("9223372036854775808", "column 1", "beyond 64 bits"),
        ("- 9223372036854775809", "column 3", "beyond 64 bits"),
        ("price + 1e400", "column 9", "beyond the numbers of a double"),
        ("1_000", "column 1", "1_000 is followed by something, or no number"),
        ("1price", "column 1", "followed by something"),
        (".5", "column 1", "a number begins with a digit"),
        ("now()", "column 1", "reads the clock"),
        ("current_date", "column 1", "reads the clock"),
        ("random()", "column 1", "differs with each call"),
        ("log(price)", "column 1", "write ln or log10"),
        ("price = 'x'", "column 1", "two values of one type, and this is (double, string)"),
        ("day > '2024-01-31'", "column 1", "DATE '2024-01-31'"),
        ("day > time", "column 1", "cast one to the type of the other"),
        ("time - seen", "column 1", "- takes"),
        ("1 < total < 3", "column 13", "a comparison of a comparison"),
        ("not price", "column 5", "not takes (boolean)"),
        ("paid or price", "column 9", "or takes (boolean, boolean)"),
        ("if(price, 1, 2)", "column 4", "a condition is a boolean"),
        ("if(paid, 1)", "column 1", "write if(condition, value, other value)"),
        ("case when paid then 1 else name end", "column 28", "this is a string after a long"),
        ("coalesce(price, name)", "column 17", "this is a string after a double"),
        ("total in (1, 'x')", "column 14", "this is a string after a long"),
        ("total in ()", "column 1", "in takes a list"),
        ("concat(name, 1)", "column 14", "concat takes strings"),
        ("name like channel", "column 11", "like takes a pattern in quotes"),
        ("name like 'a!' escape '!'", "column 11", "nothing follows the last !"),
        ("name like 'a' escape '!!'", "column 22", "escape takes one sign"),
        ("name ilike 'a'", "column 6", "write lower(a) like"),
        ("round(price, total)", "column 14", "a whole number of digits"),
        ("price::string", "column 1", "can't be cast to string, but to integer, long"),
        ("time::string", "column 1", "can't be cast to string, but to date"),
        ("price::decimal(3, 1)", "column 1", "this type isn't accepted"),
        ("price::float", "column 1", "this type isn't accepted"),
        ("total::int[]", "column 11", "lists aren't accepted"),
        ("name::varchar(3)", "column 7", "takes no length"),
        ("date '2024-02-30'", "column 6", "'2024-02-30' is no date; accepted is a day like 2024-01-31"),
        ("date '2024-01-31'::timestamp", "column 18", "put what is cast in parentheses"),
        ("cast('x' as long)", "column 6", "'x' is no long"),
        ("time at time zone 'UTC'", "column 1", "is accepted within extract"),
        ("hour(time at time zone 'Mars')", "column 24", "'Mars' is not a time zone"),
        ("hour(time at time zone 'localtime')", "column 24", "is not a time zone"),
        ("hour(time at time zone '../UTC')", "column 24", "is not a time zone"),
        ("hour(time at time zone name)", "column 24", "a time zone is written in quotes"),
        ("hour(day at time zone 'UTC')", "column 6", "at time zone takes a timestamp"),
        ("extract(epoch from time at time zone 'UTC')", "column 20", "leave the zone out"),
        ("hour(day)", "column 6", "hour is a part of a timestamp, and this is a date"),
        ("extract(century from time)", "column 22", "no part is called 'century'; accepted are year"),
        ("date_part(channel, time)", "column 1", "no part is called"),
        ("date_trunc('decade', day)", "column 12", "date_trunc takes one of year"),
        ("date_diff('hour', time, seen)", "column 11", "date_diff takes one of day"),
        ("date_diff('day', day, time)", "column 23", "this is a timestamp after a date"),
        ("day + interval '1' day", "column 7", "date_diff"),
        ("total // 2", "column 7", "the accepted division is /"),
        ("total ** 2", "column 7", "write power(a, b)"),
        ("total ^ 2", "column 7", "write power(a, b)"),
        ("total == 2", "column 7", "write ="),
        ("name ~ 'a'", "column 6", "regular expressions"),
        ("orders.price", "column 7", "a column is named without its table"),
        ("name[1]", "column 5", "lists aren't accepted"),
        ("{'a': 1}", "column 1", "structs aren't accepted"),
        ("? + 1", "column 1", "parameters aren't accepted"),
        ("@price", "column 1", "isn't accepted"),
        ("x -> x", "column 3", "isn't accepted"),
        ("name => name", "column 6", "isn't accepted"),
        ("total := 1", "column 7", "isn't accepted"),
        ("e'a'", "column 1", "has nothing before its '"),
        ("$$a$$", "column 1", "isn't accepted"),
        ("'a' 'b'", "column 1", "isn't accepted"),
        ('"lower"(name)', "column 1", "has no quotes"),
        ("lower(all name)", "column 7", "all can't stand here"),
        ("lower(distinct name)", "column 16", "isn't accepted"),
        ("lower(name order by name)", "column 12", "isn't accepted"),
        ("lower(name) filter (where paid)", "column 1", "isn't accepted"),
        ("total = any(total)", "column 9", "no function is called 'any'"),
        ("total between symmetric 3 and 1", "column 15", "symmetric can't stand here"),
        ("'abc", "column 1", "no closing quote"),
        ('1 + "abc', "column 5", "no closing double quote"),
        ('""', "column 1", "is empty"),
        ("price /* a", "column 7", "isn't closed"),
        ("pri\0ce", "column 4", "the character U+0000 isn't accepted"),
        ("price\x1b[0m", "column 6", "the character U+001B"),
        ("price + \ud800", "column 9", "the character U+D800"),
        ("price\u00a0+ 1", "column 6", "U+00A0"),
        ("price + \u200b1", "column 9", "isn't accepted"),
        ("😀", "column 1", "isn't accepted"),
        ("'" + "a" * 9_998 + "'", "", "10,000 characters; 2,000 are accepted"),
        ("(" * 26 + "1" + ")" * 26, "column 26", "nested deeper than 25 levels"),
        ("(" * 1_000, "column 26", "nested deeper than 25 levels"),
        ("not " * 400 + "paid", "column 101", "nested deeper"),
        ("- " * 900 + "1", "column 51", "nested deeper"),
        ("case when paid then " * 90 + "1", "column 501", "nested deeper"),
        ("total + 1 - 1" + " + 1 - 1" * 100, "column 1", "more than 100 operations"),
        ("total" + "::string::long" * 100, "column 1", "more than 100 operations"),
    ],
)
def test_what_is_wrong_and_where(text: str, place: str, words: str) -> None:
    message = refusal(text)
    assert message.startswith(f"{place}: " if place else "an expression")
    assert words in message
    assert len(message) < 1_000


def test_a_message_lists_all_functions_and_columns() -> None:
    assert all(name in refusal("nothing(1)") for name in ACCEPTED)
    assert all(name in refusal("nothing") for name in TYPES)
    assert all(name in refusal("extract(nothing from time)") for name in PARTS)
    with pytest.raises(ValueError, match="there are none"):
        parse("price", {})


def test_a_condition_is_a_boolean() -> None:
    assert parse_condition("price > 10", TYPES).type == "boolean"
    with pytest.raises(ValueError, match=r"column 1: a condition is true or false, .* this is a double"):
        parse_condition("price", TYPES)


def test_long_sums_aren_t_deep() -> None:
    text = "price" + " + price" * 240
    assert parse(text, TYPES).type == "double"
    assert parse("paid" + " and paid" * 200, TYPES).type == "boolean"
    assert len(parse(f"total in ({', '.join(map(str, range(400)))})", TYPES).tree.arguments) == 401  # type: ignore[union-attr]


def test_a_caller_far_down_the_stack_gets_the_same() -> None:
    text = "(" * 25 + "price" + ")" * 25

    def deeper(levels: int) -> Expression:
        return parse(text, TYPES) if levels == 0 else deeper(levels - 1)

    found = []
    thread = threading.Thread(target=lambda: found.append(deeper(sys.getrecursionlimit() - 250)))
    thread.start()
    thread.join()
    assert found == [parse(text, TYPES)]


#: What expressions are made of, and what they aren't.
WORDS = re.findall(
    r"\S+",
    "price total name paid day time ( ) , + - * / % || = <> < case when then else end is not null in between "
    "and or like escape cast( as long :: 'a' 1 2.5 extract( from hour at zone date timestamp '2024-01-31' "
    "lower( coalesce( if( over select distinct true interval . [ ] { } : ; ? @ # ~ ^ \" ' /* */ --",
)


@settings(max_examples=400, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(WORDS),
        max_size=14,
    ).map(" ".join)
)
def test_whatever_is_written_is_an_expression_or_a_value_error(text: str) -> None:
    try:
        expression = parse(text, TYPES)
    except ValueError:
        return
    assert pickle.loads(pickle.dumps(expression)) == expression


def test_reading_needs_nothing_that_takes_long_to_import() -> None:
    code = (
        "import sys; import ml_platform.contract.scalar_sql as sql; "
        "assert not {'pyarrow', 'pandas', 'numpy', 'duckdb', 'sqlglot'} & set(sys.modules); "
        "sql.parse('a + 1', {'a': 'long'}); "
        "assert not {'pyarrow', 'pandas', 'numpy', 'duckdb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
