"""A history that was made morning by morning, and one that is made at once: models learn the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from ml_platform.contract.product import Product
from ml_platform.engine.earlier_verdicts import mornings_of
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, shop, visits

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ALL = days("2024-01-01", "2024-02-10")
AS_OF = D("2024-02-01")
SCORED = days("2024-02-01", "2024-02-10")
Files = dict[tuple[date, str], str]


def product(**changes: Any) -> Product:
    """The product ``shop``, of which a day needs thirty rows."""
    return shop(validation__minimum_rows=30, **changes)


def files() -> Files:
    """Forty days, with corrections before and after the first model, late rows, and a day of garbage."""
    found: Files = {}
    for day in ALL:
        frame = visits(day, rows=60, customers=120)
        rows = frame.drop(columns="bought")
        if day == D("2024-01-20"):
            bad = rows.assign(spend=rows["spend"] * 1000)
            found[day, f"{day + timedelta(days=1)}_visits.csv"] = csv(bad[:7])
            found[day, f"{day + timedelta(days=3)}_visits.csv"] = csv(rows)
        elif day == D("2024-01-12"):  # a third of the rows comes late
            found[day, f"{day + timedelta(days=1)}_visits.csv"] = csv(rows[20:])
            found[day, f"{day + timedelta(days=4)}_visits.csv"] = csv(rows[:20])
        else:
            found[day, f"{day + timedelta(days=1)}_visits.csv"] = csv(rows)
        found[day, f"{day + timedelta(days=2)}_labels.csv"] = csv(frame[["visit", "day", "bought"]])
    for day, known in ((D("2024-01-10"), D("2024-01-15")), (D("2024-01-25"), D("2024-02-05"))):
        frame = visits(day, rows=60, customers=120)
        fixed = frame.assign(spend=100 - frame["spend"], channel="other").drop(columns="bought")
        found[day, f"{known}_fix.csv"] = csv(fixed[::2])
    for day, known in ((D("2024-01-08"), D("2024-01-18")), (D("2024-01-27"), D("2024-02-06"))):
        frame = visits(day, rows=60, customers=120)[["visit", "day", "bought"]]
        found[day, f"{known}_labels.csv"] = csv(frame.assign(bought=1 - frame["bought"])[::3])
    scored = D("2024-02-03")
    frame = visits(scored, rows=60, customers=120).drop(columns="bought")
    found[scored, "2024-02-07_fix.csv"] = csv(frame.assign(spend=1.0)[::2])
    late = frame.head(5).assign(visit=range(1, 6), customer=[f"late{n}" for n in range(5)])
    found[scored, "2024-02-08_more.csv"] = csv(late)
    return found


def csv(frame: pd.DataFrame) -> str:
    text: str = frame.to_csv(index=False)
    return text


def known(name: str) -> date:
    return D(name[:10])


def bring(platform: Platform, chosen: Mapping[tuple[date, str], str]) -> list[date]:
    for (day, name), text in chosen.items():
        platform.deliver(day, name, text)
    return sorted({day for day, _ in chosen})


def models(platform: Platform) -> list[ModelRecord]:
    return ModelHistory(platform.tables, platform.product).models()


#: Mornings on which something is corrected, those before them, that of the model, and the last one.
MORNINGS = [
    D(f"2024-{day}")
    for day in (
        "01-11", "01-13", "01-15", "01-16", "01-18", "01-21", "01-23", "02-01", "02-04", "02-05", "02-06",
        "02-07", "02-08", "02-12",
    )
]  # fmt: skip


def morning_by_morning(platform: Platform, delivered: Files) -> None:
    before = D("2024-01-01")
    for morning in MORNINGS:
        chosen = {key: text for key, text in delivered.items() if before < known(key[1]) <= morning}
        came, before = bring(platform, chosen), morning
        for step in ("ards", "mrds"):
            platform.run(step, came)
        if morning >= AS_OF:
            platform.run("model", AS_OF)
            platform.run("predictions", [day for day in SCORED if day < morning])


def at_once(platform: Platform, delivered: Files) -> None:
    bring(platform, delivered)
    for step in ("ards", "mrds"):
        platform.run(step, ALL)
    platform.run("model", AS_OF)
    platform.run("predictions", SCORED)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Platform:
    platform = Platform(settings_in(tmp_path_factory.mktemp("live")), spark, product())
    morning_by_morning(platform, files())
    return platform


def predictions(platform: Platform) -> pd.DataFrame:
    return platform.rows("predictions").drop(columns="model_version")


@pytest.mark.slow
def test_a_replay_learns_and_scores_what_every_morning_did(live: Platform, tmp_path: Path) -> None:
    replay = Platform(settings_in(tmp_path / "replay"), live.spark, product())
    at_once(replay, files())
    assert len(models(live)) == 1, "no correction after the first model has made another one"
    assert [model.fingerprint for model in models(replay)] == [model.fingerprint for model in models(live)]
    pd.testing.assert_frame_equal(predictions(replay), predictions(live))
    assert replay.fingerprints("ards", "mrds") == live.fingerprints("ards", "mrds")
    scored = live.rows("predictions")
    assert {f"late{n}" for n in range(5)} <= set(scored["customer"])


@pytest.mark.slow
def test_the_days_that_were_corrected_say_when_they_could_be_used(live: Platform) -> None:
    records = live.ledger.latest("ards")
    found = {day: mornings for day, record in records.items() if (mornings := mornings_of(record))}
    assert {day: [morning.is_usable for morning in mornings] for day, mornings in found.items()} == {
        D("2024-01-08"): [True],
        D("2024-01-10"): [True, True],
        D("2024-01-12"): [True, True],
        D("2024-01-20"): [False, True],
        D("2024-01-25"): [True, True],
        D("2024-01-27"): [True],
        D("2024-02-03"): [True, True, True],
    }


@pytest.mark.slow
def test_a_model_of_corrected_rows_learns_from_what_is_true_today(live: Platform, tmp_path: Path) -> None:
    other = Platform(settings_in(tmp_path / "corrected"), live.spark, product(model__learns_from="corrected"))
    at_once(other, files())
    (corrected,), (served,) = models(other), models(live)
    assert corrected.fingerprint != served.fingerprint
