"""Limits proposed from the days that were: what they enclose, what they leave out, and the contract."""

from __future__ import annotations

import json
import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ml_platform.cli.main import app
from ml_platform.contract.loading import load_product
from ml_platform.contract.product import Product
from ml_platform.mlops.quality.profiles import ColumnProfile, Profile
from ml_platform.mlops.quality.suggestions import LEAST_DAYS, Suggestion, suggest
from ml_platform.settings import Settings
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import SHOP, D, shop

FIRST = D("2024-01-01")


def profile(rows: int = 100, nulls: int = 0, least: float = 1.0, most: float = 50.0) -> Profile:
    return Profile(
        rows,
        {
            "spend": ColumnProfile(nulls=nulls, minimum=least, maximum=most, mean=20.0, stddev=5.0),
            "pages": ColumnProfile(minimum=1.0, maximum=9.0, mean=4.0, stddev=2.0),
            "visit": ColumnProfile(minimum=1.0, maximum=1e6, mean=4.0, stddev=2.0),
        },
    )


def history(*profiles: Profile) -> dict[date, Profile]:
    return {FIRST + timedelta(days=n): found for n, found in enumerate(profiles)}


def by_key(product: Product, profiles: dict[date, Profile]) -> dict[str, Suggestion]:
    return {limit.key: limit for limit in suggest(product, profiles)}


def test_a_limit_encloses_the_days_and_names_the_few_that_lie_far_from_all_others() -> None:
    draw = random.Random(3)
    usual = [
        profile(draw.randint(90, 120), draw.randint(0, 6), draw.uniform(0, 2), draw.uniform(45, 60))
        for _ in range(98)
    ]
    found = by_key(shop(), history(*usual, profile(3), profile(nulls=70, most=9000.0)))
    few, odd = FIRST + timedelta(days=98), FIRST + timedelta(days=99)
    assert set(found) == {"minimum_rows", "maximum_null_share.spend", "ranges.spend", "ranges.pages"}
    rows, nulls, spend = (found[key] for key in ("minimum_rows", "maximum_null_share.spend", "ranges.spend"))
    assert rows.value == 45
    assert dict(rows.beyond) == {few: "3 rows"}
    assert isinstance(nulls.value, float)
    assert 0.06 < nulls.value < 0.12
    assert dict(nulls.beyond) == {odd: "70.0% nulls"}
    assert isinstance(spend.value, dict)
    assert spend.value["minimum"] == 0, "what was never negative has its end at zero"
    assert 60 < spend.value["maximum"] < 80
    assert dict(spend.beyond) == {odd: "1 to 9,000"}
    assert not found["ranges.pages"].beyond


def test_nothing_is_proposed_from_a_few_days() -> None:
    assert suggest(shop(), history(*[profile()] * (LEAST_DAYS - 1))) == []
    assert suggest(shop(), history(*[profile()] * LEAST_DAYS, *[Profile()] * 50))


def test_figures_of_a_sensitive_column_are_not_shown() -> None:
    columns = {**SHOP["source"]["columns"], "spend": {"type": "double", "nullable": True, "sensitive": True}}
    days = history(*[profile()] * 99, profile(most=123456.0))
    limit = by_key(shop(source__columns=columns), days)["ranges.spend"]
    assert "50" not in limit.seen
    assert "123" not in str(limit.beyond)


def test_what_is_always_the_same_tiny_or_not_yet_required_gets_no_limit_that_blocks() -> None:
    constant = by_key(shop(), history(*[profile(least=0.0, most=0.0)] * 60))
    assert "ranges.spend" not in constant
    small = [profile(least=1.2e-13, most=1.3e-13), profile(least=1.2e-13, most=1.4e-13)]
    value = by_key(shop(), history(*small * 30))["ranges.spend"].value
    assert isinstance(value, dict)
    assert value["minimum"] < 1.2e-13 < 1.4e-13 < value["maximum"] < 3e-13
    spend = {"type": "double", "nullable": True, "since": "2024-01-31"}
    product = shop(source__columns={**SHOP["source"]["columns"], "spend": spend})
    late = history(*[profile(nulls=100)] * 30, *[profile(nulls=2)] * 30)
    assert by_key(product, late)["maximum_null_share.spend"].value == 0.03
    assert "maximum_null_share.spend" not in by_key(shop(), late)


finite = st.floats(-1e300, 1e300, allow_nan=False)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 10**12), st.floats(0, 1), finite, finite), min_size=14, max_size=80))
def test_whatever_the_days_were_few_would_have_been_blocked_and_the_contract_takes_the_limits(
    days: list[tuple[int, float, float, float]],
) -> None:
    profiles = history(
        *[profile(rows, int(rows * share), min(ends), max(ends)) for rows, share, *ends in days]
    )
    found = suggest(shop(), profiles)
    assert found
    content: dict[str, Any] = {}
    for limit in found:
        assert len(limit.beyond) <= 0.04 * len(days), limit
        key, _, column = limit.key.partition(".")
        if column:
            content.setdefault(key, {})[column] = limit.value
        else:
            content[key] = limit.value
    again = suggest(shop(validation=content), profiles)
    assert not [limit for limit in again if limit.is_new]


@pytest.fixture
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "contracts"
    folder.mkdir()
    path = folder / "shop.yaml"
    text = yaml.safe_dump(SHOP, sort_keys=False)
    path.write_text(text.replace("validation:", "# what a day must fulfil\nvalidation:  # of us all"))
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ML_PLATFORM_PRODUCTS", str(folder))
    return path


def record(days: dict[date, Profile]) -> None:
    ledger = Ledger(Tables.of(Settings()), "shop")
    ledger.record(
        [
            DayRecord("ards", day, "written", "x", "contract", "1", details={"profile": found.plain()})
            for day, found in days.items()
        ]
    )


def test_the_command_shows_the_limits_and_writes_them_beside_the_contracts_comments(contract: Path) -> None:
    record(history(*[profile()] * 99, profile(3)))
    before = contract.read_text()
    shown = CliRunner().invoke(app, ["suggest", "shop"])
    assert shown.exit_code == 0, shown.output
    assert "validation.minimum_rows: 50 (now 1)" in shown.output
    assert "it would have blocked 1 of 100 days: 2024-04-09: 3 rows" in " ".join(shown.output.split())
    assert contract.read_text() == before
    plain = json.loads(CliRunner().invoke(app, ["suggest", "shop", "--json"]).output)
    rows = next(limit for limit in plain["limits"] if limit["key"] == "minimum_rows")
    assert (rows["value"], rows["now"], rows["days"]) == (50, 1, 100)
    assert rows["would_have_blocked"] == {"2024-04-09": "3 rows"}
    assert contract.read_text() == before

    written = CliRunner().invoke(app, ["suggest", "shop", "--write", "--only", "minimum_rows"])
    assert written.exit_code == 0, written.output
    assert load_product(contract).validation.minimum_rows == 50
    assert not load_product(contract).validation.ranges
    everything = CliRunner().invoke(app, ["suggest", "shop", "--write"])
    assert everything.exit_code == 0, everything.output
    product = load_product(contract)
    assert product.validation.ranges["spend"].minimum == 0
    assert "# what a day must fulfil\nvalidation:  # of us all" in contract.read_text()
    assert [path.name for path in contract.parent.iterdir()] == ["shop.yaml"]
    assert "nothing to change" in CliRunner().invoke(app, ["suggest", "shop"]).output


def test_limits_are_written_whatever_the_estimator_can_learn(contract: Path) -> None:
    record(history(*[profile()] * 99, profile(3)))
    text = contract.read_text().replace("LogisticRegression", "Nope")
    contract.write_text(text)
    written = CliRunner().invoke(app, ["suggest", "shop", "--write", "--only", "minimum_rows"])
    assert written.exit_code == 0, written.output
    assert load_product(contract, try_estimators=False).validation.minimum_rows == 50


def test_the_command_says_what_is_missing(contract: Path) -> None:
    nothing = CliRunner().invoke(app, ["suggest", "shop"])
    assert nothing.exit_code == 1
    assert "0 days with rows" in nothing.output
    record(history(*[profile()] * 20))
    unknown = CliRunner().invoke(app, ["suggest", "shop", "--only", "ranges.price"])
    assert unknown.exit_code == 1
    assert "no limit is proposed for ranges.price" in unknown.output
