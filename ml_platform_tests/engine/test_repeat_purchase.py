"""A plain shop history becomes a repeat-purchase model: recency, frequency, money, and who stays away."""

from __future__ import annotations

import bisect
import contextlib
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import betaln
from sklearn.metrics import roc_auc_score

from ml_platform.contract.loading import parse_product
from ml_platform.online_store.store import OnlineStore
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, shop_contract

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

DAYS = days("2023-01-01", "2023-09-30")
MONTH = D("2023-08-01")
AHEAD, ACTIVE = 30, 90
FEATURES: dict[str, Any] = {
    "spent_28": {"sum": "amount", "days": 28},
    "orders_28": {"count": "order", "days": 28},
    "orders_90": {"count": "order", "days": 90},
    "lifetime": {"count": "order", "days": "all"},
    "recency": {"days_since": "order", "until": "today"},
    "rate": {"expression": "cast(lifetime as double) / nullif(days_all, 0)"},
}
RFM = ["spent_28", "orders_28", "orders_90", "lifetime", "recency", "rate"]


def contract(features: list[str]) -> dict[str, Any]:
    """A customer, a date, an amount: that is all there is."""
    content = shop_contract()
    content["start"] = str(DAYS[0])
    content["source"] = {
        "key": ["order"],
        "event_day": "day",
        "columns": {
            "order": {"type": "long"},
            "day": {"type": "date"},
            "customer": {"type": "string"},
            "amount": {"type": "double"},
        },
    }
    content["mrds"] = {
        "entity": ["customer"],
        "aggregate": {"amount": "sum"},
        "features": FEATURES,
        "label": {"name": "buys_again", "any": "order", "within_days": AHEAD},
        "population": {"active_within_days": ACTIVE},
    }
    content["model"] = {
        "features": {"numeric": features},
        "estimator": {"class": "sklearn.ensemble.HistGradientBoostingClassifier", "params": {"max_depth": 3}},
        "partial_windows": True,
        "first_month": f"{MONTH:%Y-%m}",
    }
    content["evaluation"] = {
        "metric": "roc_auc",
        "threshold": 0.6,
        "minimum_rows": 100,
        "minimum_positives": 10,
    }
    content["validation"] = {"minimum_rows": 1}
    content.pop("retrain", None)
    return content


#: The chance of each customer to order on a day is drawn from a beta distribution.
CHANCES = (0.5, 15.0)


def history(seed: int = 3, customers: int = 600) -> pd.DataFrame:
    """Orders of customers of whom each orders with a chance of its own, the same every day."""
    draw = np.random.default_rng(seed)
    chance = draw.beta(*CHANCES, customers)
    found = []
    for day in DAYS:
        (who,) = np.nonzero(draw.random(customers) < chance)
        found.append(
            pd.DataFrame(
                {
                    "order": day.toordinal() * 10_000 + np.arange(len(who)),
                    "day": day.isoformat(),
                    "customer": [f"c{n:04d}" for n in who],
                    "amount": draw.gamma(2.0, 20.0, len(who)).round(2),
                }
            )
        )
    return pd.concat(found, ignore_index=True)


@pytest.mark.slow
def test_a_repeat_purchase_model_is_as_good_as_can_be(tmp_path: Path, spark: SparkSession) -> None:
    orders = history()
    scores: dict[str, float] = {}
    for name, features in {"windows": RFM, "day": ["amount"]}.items():
        platform = Platform(
            settings_in(tmp_path / name), spark, parse_product(contract(features), "shop.yaml")
        )
        for day in DAYS:
            own = orders[orders["day"] == day.isoformat()]
            platform.deliver(day, f"{day + timedelta(days=1)}T0600_orders.csv", own.to_csv(index=False))
        for step in ("ards", "mrds"):
            assert {day.outcome for day in platform.run(step, DAYS).days} == {"written"}
        (model,) = platform.run("model", MONTH).days
        scored = [day for day in DAYS if MONTH <= day < DAYS[-1] - timedelta(days=AHEAD)]
        platform.run("predictions", scored)
        found = platform.rows("predictions")
        assert not found.empty, model.metadata
        truth = _truth(found, orders)
        scores[name] = roc_auc_score(truth, found["probability"])
        if name == "windows":
            scores["best"] = roc_auc_score(truth, _reachable(found, orders))
            _check_labels_and_population(platform, orders)
    assert scores["windows"] > scores["best"] - 0.02, scores
    assert scores["windows"] > scores["day"] + 0.1, scores


def _reachable(rows: pd.DataFrame, orders: pd.DataFrame) -> list[float]:
    """The chance that a customer orders again, given all that can be known on the day.

    That is how many days of the history had an order of the customer. By Bayes' rule the chance a day is
    distributed as Beta(a + days with an order, b + days without) then, and no order comes in n days with the
    expected (1 - chance) ** n of that.
    """
    bought = {
        customer: sorted(date.fromisoformat(day).toordinal() for day in own)
        for customer, own in orders.groupby("customer")["day"]
    }
    found = []
    for row in rows.itertuples():
        at = row.event_day.toordinal()
        with_order = bisect.bisect_right(bought[row.customer], at)
        a, b = CHANCES[0] + with_order, CHANCES[1] + at - DAYS[0].toordinal() + 1 - with_order
        found.append(1 - float(np.exp(betaln(a, b + AHEAD) - betaln(a, b))))
    return found


def _truth(rows: pd.DataFrame, orders: pd.DataFrame) -> list[int]:
    """Whether each customer orders again in time, by a look at the orders."""
    bought = {
        customer: np.sort([date.fromisoformat(day).toordinal() for day in own])
        for customer, own in orders.groupby("customer")["day"]
    }
    found = []
    for row in rows.itertuples():
        at = row.event_day.toordinal()
        ordered = bought[row.customer]
        found.append(int(((ordered > at) & (ordered <= at + AHEAD)).any()))
    return found


def _check_labels_and_population(platform: Platform, orders: pd.DataFrame) -> None:
    made = platform.rows("mrds")
    known = made.dropna(subset=["buys_again"])
    assert known["event_day"].max() == DAYS[-1] - timedelta(days=AHEAD)
    assert list(known["buys_again"].astype(int)) == _truth(known, orders)
    last = {
        customer: {date.fromisoformat(day) for day in own}
        for customer, own in orders.groupby("customer")["day"]
    }
    for day in DAYS[::17]:
        active = {
            customer
            for customer, own in last.items()
            if any(day - timedelta(days=ACTIVE) < other <= day for other in own)
        }
        assert set(made[made["event_day"] == day]["customer"]) == active
    platform.run("online_features", DAYS[-3:])
    with contextlib.closing(OnlineStore(platform.settings.online_url)) as store:
        newest = made[made["event_day"] == DAYS[-1]]
        found = store.get(platform.product, [[name] for name in newest["customer"]])
    assert all(row is not None and row["event_day"] == DAYS[-1] for row in found)
