"""The list of quarantined records is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from ml_platform.contract.monitoring import MASK
from ml_platform.mlops.quality.quarantine import Unusable, _masked
from ml_platform_tests.small_platform import SHOP, shop


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_is_a_formula(first: str) -> None:
    unusable = Unusable()
    name = f'{first}HYPERLINK("http://evil.example.com","2024")_visits.csv'
    unusable.add(name, 2, f"{first}1+1")
    unusable.add("2024-01-02T0600_visits.csv", 3, "missing required value in a")
    rows = list(csv.reader(io.StringIO(unusable.as_csv().decode(), newline="")))
    assert sorted(rows[1:]) == sorted(
        [
            [f"'{name}", "2", f"'{first}1+1"],
            ["2024-01-02T0600_visits.csv", "3", "missing required value in a"],
        ]
    )


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("unparseable value in spend: 'x' is not double", None),
        ("unparseable value in customer: '4711' is not long", f"unparseable value in customer: {MASK}"),
        (
            "unparseable value in spend: 'x' is not double; value not allowed in customer: '4711'",
            f"unparseable value in spend: 'x' is not double; value not allowed in customer: {MASK}",
        ),
        (
            "value not allowed in customer: '4711'; unparseable value in spend: 'x' is not double",
            f"value not allowed in customer: {MASK}",
        ),
    ],
)
def test_no_reason_quotes_a_sensitive_value(reason: str, shown: str | None) -> None:
    columns = SHOP["source"]["columns"]
    product = shop(source__columns={**columns, "customer": {"type": "string", "sensitive": True}})
    assert _masked(reason, product) == (shown or reason)
