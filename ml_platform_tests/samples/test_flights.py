"""The sample of flights: the figures that are known of the year, and how its days are delivered."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from ml_platform.contract.days import DayRange
from ml_platform.contract.loading import load_product
from ml_platform.contract.product import Product
from ml_platform.samples import SAMPLES, flights
from ml_platform.settings import PACKAGE

YEAR = DayRange(date(2013, 1, 1), date(2013, 12, 31))


@pytest.fixture(scope="module")
def product() -> Product:
    return load_product(PACKAGE / "products" / "flights.yaml")


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    path = tmp_path_factory.mktemp("flights") / "flights.csv"
    assert flights.write_history(path, YEAR.first, YEAR.last) == 336_776
    return read(path)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_year_has_the_columns_of_the_contract(product: Product, year: list[dict[str, str]]) -> None:
    assert set(year[0]) == set(product.source.columns)
    assert set(flights.COLUMNS) == set(product.source.columns)


def test_the_year_has_the_gaps_that_are_known_of_it(year: list[dict[str, str]]) -> None:
    empty = Counter(name for row in year for name, value in row.items() if value == "")

    assert empty == {"dep_delay": 8_255, "tailnum": 2_512, "late": 9_430}


def test_numbers_are_written_as_in_the_source(year: list[dict[str, str]]) -> None:
    # The first flight of the year, by hand from the source: 2 minutes late off, 11 minutes late on.
    assert list(year[0].values()) == [
        *("2013-01-01", "UA", "1545", "N14228", "EWR", "IAH", "515", "5", "1400", "2", "0")
    ]
    assert not any("." in row["flight"] + row["hour"] + row["dep_delay"] for row in year)


def test_late_means_more_than_15_minutes(tmp_path: Path) -> None:
    first = date(2013, 1, 1)
    flights.write_history(tmp_path / "day.csv", first, first)
    # Counted in the source with awk: 842 flights, 831 arrivals, 245 of them more than 15 minutes late.
    assert Counter(row["late"] for row in read(tmp_path / "day.csv")) == {"0": 586, "1": 245, "": 11}


def test_days_are_delivered_with_labels_a_day_later(product: Product, tmp_path: Path) -> None:
    days = DayRange(date(2013, 1, 1), date(2013, 1, 2))
    read_rows: list[int] = []

    SAMPLES["flights"](product, tmp_path, days, progress=read_rows.append)

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.csv")) == [
        "flights/2013-01-01/2013-01-02T0600_flights.csv",
        "flights/2013-01-01/2013-01-03T0600_labels.csv",
        "flights/2013-01-02/2013-01-03T0600_flights.csv",
        "flights/2013-01-02/2013-01-04T0600_labels.csv",
    ]
    day = tmp_path / "flights" / "2013-01-01"
    rows = read(day / "2013-01-02T0600_flights.csv")
    assert len(rows) == 842
    assert "late" not in rows[0]
    labels = read(day / "2013-01-03T0600_labels.csv")
    assert set(labels[0]) == product.label_file_columns
    assert Counter(row["late"] for row in labels) == {"0": 586, "1": 245}
    assert read_rows[-1] == 842 + 943


def test_more_days_can_be_landed_beside_those_that_are_there(product: Product, tmp_path: Path) -> None:
    flights.land(product, tmp_path, DayRange(date(2013, 3, 2), date(2013, 3, 2)))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.csv")}

    summary = flights.land(product, tmp_path, DayRange(date(2013, 3, 1), date(2013, 3, 3)))

    assert summary.days == 3
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())


def test_days_without_flights_are_refused(product: Product, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no flights of 2014-01-01; the sample has those of 2013"):
        flights.land(product, tmp_path, DayRange(date(2014, 1, 1), date(2014, 1, 1)))
