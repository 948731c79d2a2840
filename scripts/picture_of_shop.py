"""Draw docs/shop.png: what a row knows of a customer's orders, and predictions beside the truth.

Run it after `ml-platform sample shop --from 2023-01-01 --to 2023-12-31` and a backfill of these days.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import pandas as pd
from deltalake import DeltaTable

from ml_platform.samples import shop
from ml_platform.settings import PACKAGE, Settings

DAY = date(2023, 9, 15)
SHOWN = (date(2023, 6, 1), date(2023, 11, 5))
BLUE, ORANGE, GREY = "#2563eb", "#ea580c", "#6b7280"


def main() -> None:
    """Read the tables of the sample, and draw."""
    settings = Settings()
    orders = _table(settings, "ards", ("event_day", "<=", SHOWN[1]))
    rows = _table(settings, "mrds", ("event_day", "=", DAY)).set_index("customer")
    scored = _table(settings, "predictions", ("event_day", "=", DAY))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=[1.9, 1], layout="constrained")
    _one_customer(left, orders, rows)
    _beside_the_truth(right, orders, scored)
    figure.savefig(PACKAGE.parent / "docs" / "shop.png", dpi=130)


def _table(settings: Settings, name: str, where: tuple[str, str, date]) -> pd.DataFrame:
    return DeltaTable(f"{settings.tables_root}/shop/{name}").to_pandas(filters=[where])


def _one_customer(axes: Any, orders: pd.DataFrame, rows: pd.DataFrame) -> None:
    """The orders of somebody who orders again, the windows that end on the day, and the days ahead."""
    chosen = rows[(rows["orders_90"] == 5) & (rows["orders_28"] == 2) & (rows["orders_again"] == 1)]
    customer = chosen[chosen["recency"] > 7].index.min()
    row = rows.loc[customer]
    own = orders[(orders["customer"] == customer) & (orders["event_day"] >= SHOWN[0])]
    axes.vlines(own["event_day"], 0, own["amount"], color=GREY, lw=2)
    axes.plot(own["event_day"], own["amount"], "o", color=GREY, ms=5)
    top = float(own["amount"].max())
    for place, length in enumerate((90, 28)):
        first = DAY - timedelta(days=length - 1)
        height = top * (1.45 - 0.2 * place)
        axes.annotate(
            "", (first, height), (DAY, height), arrowprops={"arrowstyle": "<-", "color": BLUE, "lw": 2}
        )
        said = f"{length} days: {row[f'orders_{length}']:.0f} orders, {row[f'spent_{length}']:.2f}"
        axes.text(DAY - timedelta(days=2), height + top * 0.03, said, color=BLUE, ha="right", va="bottom")
    axes.axvspan(DAY + timedelta(days=1), DAY + timedelta(days=30), color=ORANGE, alpha=0.12, lw=0)
    axes.text(
        DAY + timedelta(days=3),
        top * 1.6,
        "30 days ahead:\nthe label, known\nonce they are over",
        color=ORANGE,
        va="center",
    )
    axes.axvline(DAY, color="black", lw=1)
    axes.text(DAY - timedelta(days=2), top * 1.85, f"event day {DAY}", ha="right", va="top")
    axes.set(xlim=SHOWN, ylim=(0, top * 1.9), ylabel="order")
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%d %b"))
    axes.set_title("A row of the MRDS: one customer, one day", loc="left", fontsize=11)


def _beside_the_truth(axes: Any, orders: pd.DataFrame, scored: pd.DataFrame) -> None:
    """What the model says of each customer, beside the chance with which the sample was drawn."""
    own = orders[orders["event_day"] <= DAY].groupby("customer")["event_day"]
    first, last, count = own.min(), own.max(), own.count()
    of = scored["customer"]
    days = [(newest - oldest).days for oldest, newest in zip(first[of], last[of], strict=True)]
    ages = [(DAY - oldest).days for oldest in first[of]]
    truth = shop.true_probability(count[of] - 1, days, ages, 30)
    axes.hexbin(truth, scored["probability"], gridsize=28, cmap="Blues", bins="log", mincnt=1)
    axes.plot([0, 1], [0, 1], color=ORANGE, lw=1)
    axes.set(xlabel="true chance to order again", ylabel="predicted", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"{len(scored):,} customers on {DAY}", loc="left", fontsize=11)


if __name__ == "__main__":
    main()
