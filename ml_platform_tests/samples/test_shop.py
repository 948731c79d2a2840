"""The sample of a shop: its days are the same however they are made, and what is true of its customers."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import dblquad
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from ml_platform.contract.days import DayRange
from ml_platform.contract.product import Product
from ml_platform.samples import SAMPLES, contract_of_sample, shop
from ml_platform.samples.shop import LEAVES, NO_FLAWS, ORDERS, Flaws

DAY = timedelta(days=1)
FIRST = date(2023, 1, 1)
WEEK = DayRange(date(2023, 3, 1), date(2023, 3, 7))


@pytest.fixture(scope="module")
def product() -> Product:
    return contract_of_sample("shop")


def files(landing: Path, day: date) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (landing / "shop" / day.isoformat()).iterdir()}


def orders_of(landing: Path) -> pd.DataFrame:
    """The orders as they are in the end: of each the one that was delivered last, without bad ones."""
    paths = sorted((landing / "shop").rglob("*.csv"), key=lambda path: path.name)
    found = [pd.read_csv(path).assign(file=path.name) for path in paths]
    orders = pd.concat(found, ignore_index=True).drop_duplicates("order", keep="last")
    return orders[orders["price"].notna()].assign(day=lambda found: pd.to_datetime(found["day"]).dt.date)


def histories(orders: pd.DataFrame, day: date) -> pd.DataFrame:
    """Of each customer: orders after the first one, and the days from that to the last one and to a day."""
    own = orders[orders["day"] <= day].groupby("customer")["day"]
    return pd.DataFrame(
        {
            "orders": own.count() - 1,
            "last": (own.max() - own.min()).map(lambda days: days.days),
            "days": (day - own.min()).map(lambda days: days.days),
        }
    )


def order_again(orders: pd.DataFrame, day: date, ahead: int) -> set[str]:
    return set(orders[(orders["day"] > day) & (orders["day"] <= day + ahead * DAY)]["customer"])


def test_a_day_is_the_same_alone_and_with_others(product: Product, tmp_path: Path) -> None:
    day = date(2023, 3, 4)
    progress: list[int] = []
    accounts: Any = SAMPLES["shop"](product, tmp_path / "a", WEEK, progress=progress.append)
    [alone] = shop.land(product, tmp_path / "b", DayRange(day, day))
    assert alone == accounts[3]
    assert progress[-1] == sum(account.rows for account in accounts)
    assert files(tmp_path / "a", day) == files(tmp_path / "b", day)


def test_landing_again_touches_no_file_and_another_seed_replaces_all(
    product: Product, tmp_path: Path
) -> None:
    shop.land(product, tmp_path, WEEK)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.csv")}
    shop.land(product, tmp_path, WEEK)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.csv")} == before
    assert list(tmp_path.iterdir()) == [tmp_path / "shop"]

    old = files(tmp_path, WEEK.first)
    shop.land(product, tmp_path, WEEK, seed=1, flaws=NO_FLAWS)
    assert set(files(tmp_path, WEEK.first)) == {"2023-03-02T0600_orders.csv"}
    assert files(tmp_path, WEEK.first)["2023-03-02T0600_orders.csv"] != old["2023-03-02T0600_orders.csv"]


def test_the_accounts_are_what_the_files_hold(product: Product, tmp_path: Path) -> None:
    flaws = Flaws(late=0.1, corrections=0.1, bad_rows=0.05)
    accounts = shop.land(product, tmp_path, WEEK, flaws=flaws)
    shop.land(product, tmp_path / "perfect", WEEK, flaws=NO_FLAWS)
    for account in accounts:
        day = account.day
        folder = tmp_path / "shop" / day.isoformat()
        first = pd.read_csv(folder / f"{day + DAY}T0600_orders.csv")
        late = pd.read_csv(folder / f"{day + 2 * DAY}T0600_late.csv")
        corrected = pd.read_csv(folder / f"{day + 4 * DAY}T0600_corrections.csv")
        assert list(first) == list(product.source.columns)
        assert account.bad == first["price"].isna().sum() > 0
        assert account.late == len(late) > 0
        assert account.corrections == len(corrected) > 0
        assert account.rows == len(first) - account.bad + len(late)
        assert account.delivered == len(first) + len(late) + len(corrected)
        assert set(corrected["order"]) <= set(first["order"])
        assert not set(late["order"]) & set(first["order"])
        wrong = first.set_index("order")["quantity"][corrected["order"]]
        assert list(wrong) == list(corrected["quantity"] * 10)
    columns = list(product.source.columns)
    in_the_end = orders_of(tmp_path)[columns].sort_values("order", ignore_index=True)
    perfect = orders_of(tmp_path / "perfect")[columns].sort_values("order", ignore_index=True)
    pd.testing.assert_frame_equal(in_the_end, perfect)


def test_a_customer_orders_once_a_day_at_most_and_begins_with_an_order(
    product: Product, tmp_path: Path
) -> None:
    days = DayRange(FIRST, date(2023, 4, 30))
    accounts = shop.land(product, tmp_path, days, rows_per_day=40)
    orders = orders_of(tmp_path)
    assert not orders.duplicated(["day", "customer"]).any()
    new = orders.groupby("customer")["day"].min().value_counts()
    assert {account.day: account.new for account in accounts} == {day: new.get(day, 0) for day in days}


def test_days_without_orders_are_delivered(product: Product, tmp_path: Path) -> None:
    days = DayRange(FIRST, date(2023, 1, 10))
    accounts = shop.land(product, tmp_path, days, rows_per_day=1)
    assert min(account.rows for account in accounts) == 0
    assert all(files(tmp_path, day) for day in days)


def test_what_cannot_be_landed_is_said(product: Product, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2023-01-01 to 2023-12-31"):
        shop.land(product, tmp_path, DayRange(date(2022, 12, 31), FIRST))
    with pytest.raises(ValueError, match="rows_per_day"):
        shop.land(product, tmp_path, WEEK, rows_per_day=0)
    assert not list(tmp_path.iterdir())


# -- the truth -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orders", "last", "days", "ahead"), [(0, 0, 0, 30), (0, 0, 40, 30), (3, 20, 25, 7), (5, 90, 90, 1)]
)
def test_the_true_probability_is_the_integral_over_all_customers_with_such_a_history(
    orders: int, last: int, days: int, ahead: int
) -> None:
    def likelihood(p: float, q: float, days: int) -> float:
        """Of one who orders with p and leaves with q: of the days until the last order, and silence since."""
        known = p**orders * (1 - p) ** (last - orders) * (1 - q) ** last
        silent = days - last
        stays = ((1 - p) * (1 - q)) ** silent
        leaves = sum(q * ((1 - p) * (1 - q)) ** number for number in range(silent))
        return known * (stays + leaves)

    def all_customers(days: int) -> float:
        found, _ = dblquad(
            lambda q, p: likelihood(p, q, days) * beta.pdf(p, *ORDERS) * beta.pdf(q, *LEAVES),
            *(0, 1, 0, 0.4),
            epsabs=0,
            epsrel=1e-7,
        )
        return float(found)

    [found] = shop.true_probability([orders], [last], [days], ahead)
    assert found == pytest.approx(1 - all_customers(days + ahead) / all_customers(days), abs=1e-5)


def test_the_truth_is_that_of_the_orders(product: Product, tmp_path: Path) -> None:
    shop.land(product, tmp_path, DayRange(FIRST, product.end or FIRST))
    orders, day = orders_of(tmp_path), date(2023, 11, 30)
    known = histories(orders, day)
    again = known.index.isin(order_again(orders, day, 30))
    chance = shop.true_probability(known["orders"], known["last"], known["days"], 30)
    # Each customer is drawn by themselves: the number of those who order again, and of each tenth.
    for part in np.array_split(np.argsort(chance, kind="stable"), 10):
        expected, deviation = chance[part].sum(), np.sqrt((chance[part] * (1 - chance[part])).sum())
        assert abs(again[part].sum() - expected) < 4 * deviation

    # What the module says of the sample.
    active = (known["days"] - known["last"] < 90).to_numpy()
    day_alone = (known["days"] - known["last"] == 0).to_numpy()
    assert round(int(active.sum()), -2) == CUSTOMERS
    assert again[active].mean() == pytest.approx(AGAIN, abs=0.005)
    assert roc_auc_score(again[active], chance[active]) == pytest.approx(BEST, abs=0.005)
    assert roc_auc_score(again[active], day_alone[active]) == pytest.approx(ALONE, abs=0.005)
    assert orders["day"].value_counts().mean() == pytest.approx(300, rel=0.02)


CUSTOMERS, AGAIN, BEST, ALONE = 9_700, 0.33, 0.85, 0.54
