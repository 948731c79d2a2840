"""Keys as people write them become the contract's values, or an error that says what is accepted."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest

from ml_platform.contract.product import Product
from ml_platform.online_store.keys import KeyFormatError, parse_key
from ml_platform_tests.small_platform import shop

TYPES = {
    "n": "integer",
    "id": "long",
    "name": "string",
    "share": "double",
    "flag": "boolean",
    "on": "date",
    "at": "timestamp",
}


def keyed_by(*entity: str) -> Product:
    columns = {
        **{name: {"type": type_} for name, type_ in TYPES.items()},
        "visit": {"type": "long"},
        "day": {"type": "date"},
        "pages": {"type": "long"},
        "bought": {"type": "integer", "allowed": [0, 1], "nullable": True},
    }
    return shop(
        source__columns=columns,
        mrds={"entity": list(entity), "aggregate": {"pages": "max", "bought": "max"}},
        model__features={"numeric": ["pages"], "categorical": []},
        validation={"minimum_rows": 1},
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n", "-2147483648", -(2**31)),
        ("id", "9223372036854775807", 2**63 - 1),
        ("name", "N14228", "N14228"),
        ("name", '"Miller, ""Bob"""', 'Miller, "Bob"'),
        ("name", " a ", " a "),
        ("share", "0.1", 0.1),
        ("flag", "True", True),
        ("flag", "false", False),
        ("on", "2024-02-29", date(2024, 2, 29)),
        ("at", "2024-01-01T12:00", datetime.fromisoformat("2024-01-01T12:00")),
        ("at", "2024-01-01T12:00+02:00", datetime.fromisoformat("2024-01-01T10:00")),
    ],
)
def test_a_value_gets_its_columns_type(name: str, text: str, value: Any) -> None:
    assert parse_key(keyed_by(name), text) == (value,)


def test_the_columns_of_a_key_are_joined_by_commas() -> None:
    assert parse_key(keyed_by("name", "id"), '"Miller, Ann",7') == ("Miller, Ann", 7)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("n", "2147483648", "n: '2147483648' is not a whole number of 32 bits"),
        ("id", "7.0", "id: '7.0' is not a whole number of 64 bits"),
        ("share", "much", "share: 'much' is not a number"),
        ("flag", "yes", "flag: 'yes' is not true or false"),
        ("on", "2024-02-30", "on: '2024-02-30' is not a date, yyyy-mm-dd"),
        ("at", "noon", "at: 'noon' is not a time in ISO 8601, taken for UTC without an offset"),
        ("name", "a,b", "'a,b' is no key of shop: accepted is name, joined by commas"),
        ("name", '"a', "'\"a' is no key of shop: accepted is name"),
        ("name", "", "'' is no key of shop"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, text: str, expected: str) -> None:
    with pytest.raises(KeyFormatError) as caught:
        parse_key(keyed_by(name), text)
    assert expected in str(caught.value)
