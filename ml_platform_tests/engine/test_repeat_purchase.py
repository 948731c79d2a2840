"""The sample of a shop becomes a repeat-purchase model: recency, frequency, money, and who stays away."""

from __future__ import annotations

import contextlib
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ml_platform.contract.days import DayRange
from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.online_store.store import OnlineStore
from ml_platform.samples import contract_of_sample, shop
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.samples.test_shop import histories, order_again, orders_of
from ml_platform_tests.small_platform import D, Platform, days

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

DAYS = days("2023-01-01", "2023-08-31")
MONTH = D("2023-07-01")
AHEAD, ACTIVE = timedelta(days=30), timedelta(days=90)
ROWS_PER_DAY = 100


def knowing_the_day_alone() -> Product:
    """The sample's contract with a model that sees nothing but what was spent on the day."""
    content = contract_of_sample("shop").model_dump(mode="json", by_alias=True, exclude_unset=True)
    content["model"]["features"] = {"numeric": ["amount"]}
    return parse_product(content, "shop.yaml")


@pytest.mark.slow
def test_a_repeat_purchase_model_is_as_good_as_can_be(tmp_path: Path, spark: SparkSession) -> None:
    scores: dict[str, float] = {}
    for name, product in {"windows": contract_of_sample("shop"), "day": knowing_the_day_alone()}.items():
        platform = Platform(settings_in(tmp_path / name), spark, product)
        landing = platform.settings.landing_path
        shop.land(product, landing, DayRange(DAYS[0], DAYS[-1]), rows_per_day=ROWS_PER_DAY)
        orders = orders_of(landing)
        for step in ("ards", "mrds"):
            assert {day.outcome for day in platform.run(step, DAYS).days} == {"written"}
        (model,) = platform.run("model", MONTH).days
        platform.run("predictions", [day for day in DAYS if MONTH <= day <= DAYS[-1] - AHEAD])
        found = platform.rows("predictions")
        assert not found.empty, model.metadata
        truth = ordered_again(found, orders)
        scores[name] = roc_auc_score(truth, found["probability"])
        if name == "windows":
            scores["best"] = roc_auc_score(truth, reachable(found, orders))
            check_labels_and_population(platform, orders)
    assert scores["windows"] > scores["best"] - 0.02, scores
    assert scores["windows"] > scores["day"] + 0.1, scores


def by_day(rows: pd.DataFrame) -> list[tuple[date, pd.DataFrame]]:
    return [(day, part) for day, part in rows.groupby("event_day", sort=False)]


def reachable(rows: pd.DataFrame, orders: pd.DataFrame) -> pd.Series:
    """The chance that a customer orders again, given all that can be known on the day."""
    found = []
    for day, part in by_day(rows):
        known = histories(orders, day).loc[part["customer"]]
        chance = shop.true_probability(known["orders"], known["last"], known["days"], AHEAD.days)
        found.append(pd.Series(chance, part.index))
    return pd.concat(found)[rows.index]


def ordered_again(rows: pd.DataFrame, orders: pd.DataFrame) -> pd.Series:
    """Whether each customer orders again in time, by a look at the orders."""
    found = [part["customer"].isin(order_again(orders, day, AHEAD.days)) for day, part in by_day(rows)]
    return pd.concat(found)[rows.index].astype(int)


def check_labels_and_population(platform: Platform, orders: pd.DataFrame) -> None:
    made = platform.rows("mrds")
    known = made.dropna(subset=["orders_again"])
    assert known["event_day"].max() == DAYS[-1] - AHEAD
    assert list(known["orders_again"].astype(int)) == list(ordered_again(known, orders))
    for day in DAYS[::17]:
        active = orders[(orders["day"] > day - ACTIVE) & (orders["day"] <= day)]
        assert set(made[made["event_day"] == day]["customer"]) == set(active["customer"])
    platform.run("online_features", DAYS[-3:])
    with contextlib.closing(OnlineStore(platform.settings.online_url)) as store:
        newest = made[made["event_day"] == DAYS[-1]]
        found = store.get(platform.product, [[name] for name in newest["customer"]])
    assert all(row is not None and row["event_day"] == DAYS[-1] for row in found)
