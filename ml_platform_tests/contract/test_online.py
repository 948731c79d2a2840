"""Until when features hold in the online store: by the contract, beside a walk through the days."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.contract import online
from ml_platform.contract.calendars import WEEKDAYS
from ml_platform.contract.loading import ContractError, parse_product
from ml_platform.contract.product import Product
from ml_platform_tests.engine import test_labels_ahead as labels_ahead
from ml_platform_tests.small_platform import D, shop

DAY = timedelta(days=1)
WINDOWS = {
    "visits_28": {"count": "visit", "days": 28},
    "visits_7": {"count": "visit", "days": 7, "until": "yesterday"},
    "since": {"days_since": "visit"},
}
#: A Friday.
FRIDAY = D("2024-03-01")


def of_population(**changes: Any) -> Product:
    population = {"active_within_days": 30, **changes.pop("population", {})}
    return labels_ahead.product(labels_ahead.ANY, WINDOWS, mrds__population=population, **changes)


@pytest.mark.parametrize(
    ("product", "until"),
    [
        (shop(), None),
        (shop(online={"expires_after_days": 1}), "2024-03-02"),
        (shop(mrds__features={"all": {"count": "visit", "days": "all"}}), None),
        (shop(mrds__features=WINDOWS), "2024-03-08"),
        (shop(mrds__features=WINDOWS, online={"expires_after_days": 365}), "2025-03-01"),
        # Saturday's rows come on Sunday, and may be three days late.
        (of_population(), "2024-03-06"),
        (of_population(online={"grace_days": 0}), "2024-03-03"),
        (of_population(population={"weekdays": ["fri"]}), "2024-03-12"),
        (of_population(population={"weekdays": ["fri", "mon"]}), "2024-03-08"),
        (of_population(delivery={"weekdays": ["mon", "tue", "wed", "thu", "fri"]}), "2024-03-08"),
        # Good Friday and Easter Monday.
        (of_population(delivery={"holidays": "DE"}, population={"weekdays": ["mon"]}), "2024-03-08"),
        (of_population(online={"expires_after_days": 2}), "2024-03-03"),
    ],
)
def test_features_hold_until(product: Product, until: str | None) -> None:
    assert online.valid_until(product, FRIDAY) == (until and D(until))
    assert (online.rule(product) is None) == (online.in_words(product) is None) == (until is None)


def test_a_holiday_is_skipped() -> None:
    product = of_population(delivery={"holidays": "DE"}, population={"weekdays": ["mon"]})
    assert online.valid_until(product, D("2024-03-25")) == D("2024-04-08") + 4 * DAY


@given(
    weekdays=st.lists(st.sampled_from(WEEKDAYS), min_size=1, unique=True),
    due=st.lists(st.sampled_from(WEEKDAYS), min_size=1, unique=True),
    arrives=st.sampled_from(["any_day", "due_days"]),
    grace=st.sampled_from([0, 1, 3, 400]),
    day=st.dates(D("2023-01-01"), D("2026-12-31")),
)
def test_a_population_is_served_without_a_gap_while_its_days_come_in_time(
    weekdays: list[Any], due: list[Any], arrives: Any, grace: int, day: date
) -> None:
    """On the morning on which the next day's rows come there are features, and not much longer."""
    if set(weekdays).isdisjoint(due):
        return
    product = of_population(
        population={"weekdays": weekdays},
        delivery={"weekdays": due, "arrives": arrives},
        online={"grace_days": grace},
    )
    following = day + DAY
    while WEEKDAYS[following.weekday()] not in set(weekdays) & set(due):
        following += DAY
    came = following + DAY
    while arrives == "due_days" and WEEKDAYS[came.weekday()] not in due:
        came += DAY
    assert online.valid_until(product, day) == came + grace * DAY


@pytest.mark.parametrize(
    ("end", "today", "expired"),
    [
        (None, "2024-03-06", False),
        (None, "2024-03-07", True),
        ("2024-03-03", "2030-01-01", False),
        ("2024-03-05", "2030-01-01", False),
        ("2024-03-06", "2030-01-01", True),
    ],
)
def test_a_history_that_has_an_end_stays_as_it_was_then(end: str | None, today: str, expired: bool) -> None:
    product = of_population(end=end and D(end))
    assert online.has_expired(product, FRIDAY, None, D(today)) is expired
    assert online.has_expired(product, FRIDAY, D("2024-03-06"), D(today)) is expired
    assert not online.has_expired(product, FRIDAY, D("2024-03-07"), min(D(today), D("2024-03-07")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"population": {"weekdays": []}}, "mrds.population.weekdays"),
        ({"population": {"weekdays": ["mon", "mon"]}}, "a weekday is listed twice"),
        ({"population": {"weekdays": ["monday"]}}, "mrds.population.weekdays"),
        (
            {"population": {"weekdays": ["sat"]}, "delivery": {"weekdays": ["mon"]}},
            "no delivery is due for any of these weekdays",
        ),
        ({"online": {"expires_after_days": 0}}, "online.expires_after_days"),
        ({"online": {"grace_days": -1}}, "online.grace_days"),
        ({"online": {"expires": 3}}, "online.expires"),
    ],
)
def test_what_cannot_be_is_an_error_of_the_contract(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        parse_product(
            labels_ahead.contract(
                labels_ahead.ANY,
                WINDOWS,
                mrds__population={"active_within_days": 30, **changes.pop("population", {})},
                **changes,
            ),
            "shop.yaml",
        )
