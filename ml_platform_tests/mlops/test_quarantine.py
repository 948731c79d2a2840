"""The list of quarantined records is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from ml_platform.mlops.quality.quarantine import Unusable


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
