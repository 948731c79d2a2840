"""Derived columns on a platform: beside pandas, wherever tables lie, corrected, judged and masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from ml_platform.contract.product import Product
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import (
    CARRIERS,
    D,
    Platform,
    carry_by,
    days,
    deliver_visits,
    shop,
    shop_contract,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

DERIVE: dict[str, Any] = {
    "worth": "spend * pages",
    "share": "spend / (pages - 1)",
    "is_app": "channel = 'app'",
    "weekday": "extract(isodow from day)",
}
CHOSEN = days("2024-01-01", "2024-01-06")


def product(**changes: Any) -> Product:
    aggregate = shop_contract()["mrds"]["aggregate"] | {"worth": "sum", "share": "max", "is_app": "last"}
    return shop(**{"source__derive": DERIVE, "mrds__aggregate": aggregate} | changes)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_they_are_those_of_pandas_wherever_rows_are_made(
    carrier: str, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = Platform(settings_in(tmp_path), spark, product())
    carry_by(carrier, monkeypatch)
    delivered = deliver_visits(platform, CHOSEN[:2], rows=60, customers=20)

    platform.run("ards", CHOSEN[:2])
    platform.run("mrds", CHOSEN[:2])

    rows = pd.concat(delivered.values(), ignore_index=True).sort_values("visit", ignore_index=True)
    found = platform.rows("ards", ["visit"])
    np.testing.assert_array_equal(found["worth"], rows["spend"] * rows["pages"])
    wanted = (rows["spend"] / (rows["pages"] - 1).replace(0, np.nan)).to_numpy()
    np.testing.assert_array_equal(found["share"].astype("float64"), wanted)
    assert list(found["is_app"]) == list(rows["channel"] == "app")
    assert list(found["weekday"]) == list(pd.to_datetime(rows["day"]).dt.dayofweek + 1)
    worth = rows.assign(worth=rows["spend"] * rows["pages"]).groupby(["customer", "day"])["worth"].sum()
    made = platform.rows("mrds", ["customer", "event_day"])
    np.testing.assert_allclose(made["worth"], worth.to_numpy(), rtol=1e-12)


def test_windows_and_conditions_are_of_them_and_corrections_change_them(platform: Platform) -> None:
    features = {
        "worth_3": {"sum": "worth", "days": 3},
        "of_app": {"count": "visit", "days": 3, "where": "is_app"},
    }
    platform.product = product(mrds__features=features)
    delivered = deliver_visits(platform, CHOSEN, rows=30, customers=6)
    fixed = delivered[CHOSEN[2]].drop(columns="bought").assign(spend=1.0, channel="app")
    platform.deliver(CHOSEN[2], "2024-01-20_fix.csv", fixed.to_csv(index=False))
    platform.run("ards", CHOSEN)
    platform.run("mrds", CHOSEN)

    delivered[CHOSEN[2]] = fixed
    rows = pd.concat(delivered.values()).assign(worth=lambda frame: frame["spend"] * frame["pages"])
    for row in platform.rows("mrds").itertuples():
        window = [str(day) for day in CHOSEN if 0 <= (row.event_day - day).days < 3]
        own = rows[(rows["customer"] == row.customer) & rows["day"].isin(window)]
        assert row.worth_3 == pytest.approx(own["worth"].sum())
        assert row.of_app == (own["channel"] == "app").sum()
    versions = platform.rows("ards_versions")
    assert set(versions[versions["known_to"].isna()]["worth"]) <= {float(n) for n in range(1, 9)}


def test_a_rule_about_one_blocks_its_day_and_a_sensitive_one_is_masked(platform: Platform) -> None:
    columns = shop_contract()["source"]["columns"]
    columns["spend"]["sensitive"] = True
    platform.product = product(
        source__columns=columns, validation__ranges={"worth": {"minimum": 0, "maximum": 5_000}}
    )
    deliver_visits(platform, CHOSEN[:1], rows=30, customers=6)
    header = "visit,day,customer,spend,pages,channel\n"
    platform.deliver(CHOSEN[1], "rows.csv", f"{header}1,{CHOSEN[1]},ann,7654.5,2,web\n")

    results = {day.day: day for day in platform.run("ards", CHOSEN[:2]).days}

    assert results[CHOSEN[0]].outcome == "written"
    assert results[CHOSEN[1]].outcome == "blocked"
    assert "worth" in results[CHOSEN[1]].reason
    assert "15309" not in results[CHOSEN[1]].model_dump_json()
    assert "15,309" not in results[CHOSEN[1]].model_dump_json()


def test_a_file_with_a_column_of_its_name_has_one_too_many(platform: Platform) -> None:
    platform.product = product()
    header = "visit,day,customer,spend,pages,channel,worth\n"
    platform.deliver(CHOSEN[0], "rows.csv", f"{header}1,{CHOSEN[0]},ann,7,2,web,14\n")
    (result,) = platform.run("ards", CHOSEN[0]).days
    assert result.outcome == "refused"
    assert "unexpected columns: worth" in result.reason


def test_another_expression_makes_days_again_from_their_deliveries(platform: Platform) -> None:
    platform.product = product()
    deliver_visits(platform, CHOSEN[:2], rows=10, customers=4)
    platform.run("ards", CHOSEN[:2])
    platform.product = product(source__derive=DERIVE | {"worth": "spend + pages"})
    assert platform.run("ards", CHOSEN[:2]).metadata["days_done"] == 2
    rows = platform.rows("ards")
    np.testing.assert_allclose(rows["worth"], rows["spend"] + rows["pages"])


def test_a_model_learns_from_one_and_its_drift_is_measured(platform: Platform) -> None:
    platform.product = product(model__features={"numeric": ["worth"], "categorical": ["is_app"]})
    chosen = days("2024-01-01", "2024-02-29")
    deliver_visits(platform, chosen, rows=100, customers=300)
    for step in ("ards", "mrds"):
        platform.run(step, chosen)
    (model,) = platform.run("model", D("2024-02-01")).days
    assert model.outcome == "written", model.reason
    platform.run("predictions", chosen[31:])
    (report,) = platform.run("drift_report", D("2024-02-01")).days
    assert report.outcome == "written", report.reason
    assert "worth" in str(report.model_dump())
