"""Where entities are few, models are compared on the days after they have learned."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from ml_platform.contract.learning import LEAST_DAYS_FORWARD
from ml_platform.contract.loading import ContractError
from ml_platform.machine_learning import holdout, training_data
from ml_platform.machine_learning.model_history import ModelHistory, attempts, decisions_due
from ml_platform.machine_learning.promotion import compare, serving
from ml_platform.overview import history as overview
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, deliver_visits, shop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.parametrize("delay", [0, 1, 7, 30, 60, 90, 180])
@pytest.mark.parametrize("asked", [1, 31, 69, 70, 200])
def test_a_challenger_is_decided_on_the_first_morning_that_knows_all_labels_of_its_days(
    delay: int, asked: int
) -> None:
    product = shop(model__holdout_days=asked, source__label_delay_days=delay, model__first_month="2025-01")
    as_of = D("2024-05-01")
    shadow = holdout.forward(product, as_of)
    decided_on = as_of + holdout.wait_forward(product)
    assert len(shadow) == max(70, asked)
    assert shadow.first == as_of
    assert product.last_labelled_day(decided_on) == shadow.last
    assert product.last_labelled_day(decided_on - timedelta(days=1)) < shadow.last
    # The twin of a first model has the same many days, all known on the morning of that model.
    twin = holdout.forward(product, holdout.twin_as_of(product, as_of))
    assert product.last_labelled_day(as_of) == twin.last
    assert len({holdout.week(day) for day in shadow}) >= 10


def test_few_entities_are_fewer_than_a_hundred() -> None:
    assert [holdout.mode_for(n) for n in (1, 30, 99, 100, 10**6)] == ["time"] * 3 + ["entities"] * 2


def test_a_contract_that_asks_for_time_needs_ten_weeks() -> None:
    assert shop(model__holdout="time", model__holdout_days=70).model.holdout == "time"
    with pytest.raises(ContractError, match=r"needs holdout_days of at least 70, not 69"):
        shop(model__holdout="time", model__holdout_days=69)
    content = shop().model_dump(mode="json", by_alias=True)["model"]
    del content["holdout_days"]
    without = shop(model=content | {"holdout": "time"})
    assert holdout.days_forward(without) == LEAST_DAYS_FORWARD


def test_of_as_good_challengers_few_are_promoted_though_days_resemble_their_neighbours() -> None:
    """Errors of one entity that last for days: a bootstrap of weeks sees them, one of days does not."""
    promoted = {"weeks": 0, "days": 0}
    product = shop(evaluation__metric="accuracy")
    for seed in range(100):
        draw = np.random.default_rng(seed)
        day = np.arange(70).repeat(4)
        label = draw.integers(0, 2, len(day))
        # Which of the two models is right changes every few days, for all rows at once.
        mood = np.repeat(draw.random(24), 3)[:70][day]
        chances = [np.where(mood > 0.5, *odds) for odds in ((0.85, 0.55), (0.55, 0.85))]
        right = [draw.random(len(day)) < chance for chance in chances]
        models = [np.where(one, label, 1 - label) for one in right]
        for unit, cluster in (("weeks", day // 7), ("days", day)):
            found = compare(product, label, (models[0], models[0]), (models[1], models[1]), cluster)
            promoted[unit] += found.verdict
    assert promoted["weeks"] <= 0.1 * 100
    assert promoted["weeks"] < promoted["days"]


@pytest.mark.slow
def test_entities_are_counted_up_to_a_bound(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-10")
    deliver_visits(platform, chosen, rows=20, customers=40)
    for step in ("ards", "mrds"):
        platform.run(step, chosen)
    wanted = platform.rows("mrds")["customer"].nunique()
    arguments = (lambda: platform.spark, platform.product, platform.tables, chosen)
    assert training_data.count_entities(*arguments, 1000) == wanted
    assert training_data.count_entities(*arguments, 5) == 5
    assert training_data.count_entities(*arguments[:3], [], 5) == 0


def stations(day: date, count: int, *, shifted: bool) -> pd.DataFrame:
    """Rows of each station on a day; ``bought`` follows ``spend``, and after a shift its opposite."""
    draw = np.random.default_rng([count, day.toordinal()])
    spend = draw.normal(0, 1, count).round(3)
    chance = 1 / (1 + np.exp(-4 * (-spend if shifted else spend)))
    return pd.DataFrame(
        {
            "visit": np.arange(count),
            "day": day.isoformat(),
            "customer": [f"s{n}" for n in range(count)],
            "spend": spend,
            "pages": 1,
            "channel": "web",
            "bought": (draw.random(count) < chance).astype(int),
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize(("count", "first"), [(1, "2024-05-01"), (30, "2024-04-01")])
def test_a_product_with_few_entities_gets_a_champion_and_another_one_after_a_shift(
    tmp_path: Path, spark: SparkSession, count: int, first: str
) -> None:
    shift, last = D("2024-05-01"), D("2024-10-31")
    contract: dict[str, Any] = {
        "start": "2024-01-01",
        "mrds__entity": ["customer"],
        "model__minimum_rows": 20,
        "retrain__training_days": 40,
        "validation__severity": dict.fromkeys(
            ("mean_of_history", "spread_of_history", "shares_of_history"), "warning"
        ),
    }
    platform = Platform(settings_in(tmp_path / "home"), spark, shop(**contract))
    product = platform.product
    chosen = days("2024-01-01", str(last))
    for day in chosen:
        frame = stations(day, count, shifted=day >= shift)
        rows, labels = frame.drop(columns="bought"), frame[["visit", "day", "bought"]]
        platform.deliver(day, f"{day + timedelta(days=1)}_rows.csv", rows.to_csv(index=False))
        platform.deliver(day, f"{day + timedelta(days=2)}_labels.csv", labels.to_csv(index=False))
    for step in ("ards", "mrds"):
        platform.run(step, chosen)

    history = ModelHistory(platform.tables, product)
    platform.run("model", [D(f"2024-{month:02}-01") for month in range(2, D(first).month + 1)])
    decisions = history.decisions()
    assert {model.holdout for model in history.models()} == {"time"}
    # Before, no twin has enough rows to learn from and seventy days since.
    promoted = [str(decision.as_of) for decision in decisions if decision.promoted]
    assert promoted == [first], [decision.reason for decision in decisions]
    champion = decisions[-1]
    assert champion.reason.startswith(f"of a twin as of {D(first) - timedelta(days=71)}: f1 ")
    assert champion.comparison is not None
    assert champion.comparison.rows == 70 * count
    assert serving(decisions, D(first)) == champion

    # A challenger of after the shift: nobody knows better before its ten weeks are over.
    (result,) = platform.run("model", "2024-06-01", as_of=D("2024-06-20")).days
    june = {decision.as_of: decision for decision in history.decisions()}[D("2024-06-20")]
    decided_on = D("2024-06-20") + timedelta(days=70 + 1)
    assert (june.decided_on, june.promoted, june.waiting) == (decided_on, True, False)
    assert june.comparison is not None
    assert june.comparison.lower is not None
    assert june.comparison.lower > 0
    assert june.comparison.champion is not None
    assert result.metadata["promoted"]
    before, after = decided_on - timedelta(days=1), decided_on
    assert serving(history.decisions(), before) == champion
    assert serving(history.decisions(), after) == june
    line = {line.as_of: line for line in overview.models(product, platform.settings)}[D("2024-06-20")]
    assert line.serves_from == decided_on

    # The comparison is that of both models on the rows of these days, found another way.
    mrds = platform.rows("mrds")
    shadow = mrds[mrds["event_day"].between(D("2024-06-20"), decided_on - timedelta(days=2))]
    assert june.comparison.rows == len(shadow)
    assert june.comparison.positives == int(shadow["bought"].sum())

    # A challenger whose days are not over waits, and nothing is trained meanwhile.
    platform.run("model", "2024-10-01")
    october = history.decisions()[-1]
    assert (october.as_of, october.waiting, october.promoted) == (D("2024-10-01"), True, False)
    assert october.decided_on == D("2024-12-11")
    known = {attempt.as_of: attempt for attempt in attempts(platform.tables, product)}
    assert known[D("2024-10-01")].decided_on == D("2024-12-11")
    assert not known[D("2024-10-01")].lost
    assert decisions_due(platform.tables, product) == []
