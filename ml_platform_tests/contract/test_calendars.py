"""For which days a delivery is due, held against pandas and against dates that anybody can look up."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._core.definitions.freshness import CronFreshnessPolicy, TimeWindowFreshnessPolicy
from pandas.tseries.holiday import USFederalHolidayCalendar

from ml_platform.cli.contracts import in_words
from ml_platform.contract.loading import ContractError
from ml_platform.contract.product import Product
from ml_platform.graph.alerts import findings
from ml_platform.graph.assets import _freshness
from ml_platform.graph.schedules import model_is_due
from ml_platform.mlops.quality import anomalies
from ml_platform.mlops.quality.anomalies import DayFacts
from ml_platform.mlops.quality.profiles import Profile
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import DATA_STEPS, SCORING_STEPS, D, Platform, days, shop

WORKING = ["mon", "tue", "wed", "thu", "fri"]


def with_calendar(**delivery: Any) -> Product:
    return shop(delivery={"weekdays": WORKING, **delivery})


def test_without_a_calendar_every_day_is_due() -> None:
    product = shop()
    assert product.due_days(days("2024-01-01", "2024-12-31")) == days("2024-01-01", "2024-12-31")
    assert product.delivery.is_daily
    assert "Deliveries are due for every day." in in_words(product)


def test_due_days_are_those_of_another_calendar_of_the_same_country() -> None:
    product = with_calendar(holidays="US")
    first, last = "2021-01-01", "2030-12-31"
    expected = pd.bdate_range(
        first, last, freq="C", holidays=USFederalHolidayCalendar().holidays(first, last).to_list()
    )
    # The federal calendar of pandas has Columbus Day and Veterans Day as the package has them.
    assert product.due_days(days(first, last)) == [day.date() for day in expected]


@pytest.mark.parametrize(
    ("holidays", "day", "due"),
    [
        ("US-NY", "2024-02-12", False),  # Lincoln's Birthday, in New York and not everywhere
        ("US", "2024-02-12", True),
        ("DE-BY", "2024-01-06", False),  # a Saturday as well
        ("DE-BY", "2025-01-06", False),
        ("DE-BE", "2025-01-06", True),
        ("NO", "2024-05-17", False),
        ("XNYS", "2024-03-29", False),  # the exchange closes on Good Friday
        ("US", "2024-03-29", True),
        (["2024-12-24"], "2024-12-24", False),
        (["2024-12-24"], "2025-12-24", True),
        (["US", D("2024-12-24")], "2024-12-24", False),
        (["US", D("2024-12-24")], "2024-12-25", False),
        ("2024-12-24", "2024-12-24", False),
        (D("2024-12-24"), "2024-12-24", False),
    ],
)
def test_countries_their_parts_exchanges_and_dates_are_known(holidays: Any, day: str, due: bool) -> None:
    assert with_calendar(holidays=holidays).due(D(day)) is due


@pytest.mark.parametrize(
    ("delivery", "said"),
    [
        ({"holidays": "XX"}, "no calendar 'XX' is known"),
        ({"holidays": "us"}, "near it are"),
        ({"holidays": "US-XX"}, "US has no part 'XX'; accepted are AK, AL"),
        ({"holidays": ["2024-02-30"]}, "no calendar '2024-02-30'"),
        ({"weekdays": []}, "at least 1 item"),
        ({"weekdays": ["monday"]}, "delivery.weekdays.0"),
        ({"weekdays": ["mon", "mon"]}, "listed twice"),
    ],
)
def test_a_calendar_that_is_not_known_is_an_error_in_words(delivery: dict[str, Any], said: str) -> None:
    with pytest.raises(ContractError) as caught:
        shop(delivery=delivery)
    assert said in str(caught.value)


def test_the_contract_is_told_in_words() -> None:
    lines = "\n".join(in_words(with_calendar(holidays=["US-NY", "2024-12-24"], arrives="due_days")))
    assert (
        "Deliveries are due for Mondays to Fridays, without the holidays of US-NY and 2024-12-24; what would "
        "arrive on another day comes on the next of them." in lines
    )
    assert "for Mondays, Wednesdays to Fridays." in "\n".join(
        in_words(shop(delivery={"weekdays": ["mon", "wed", "thu", "fri"]}))
    )


def test_rows_and_labels_are_expected_when_they_can_arrive() -> None:
    friday = date(2024, 5, 24)  # Memorial Day is the Monday after it
    product = with_calendar(holidays="US")
    assert product.rows_expected_on(friday) == date(2024, 5, 25)
    assert product.labels_expected_on(friday) == date(2024, 5, 26)
    product = with_calendar(holidays="US", arrives="due_days")
    assert product.rows_expected_on(friday) == product.labels_expected_on(friday) == date(2024, 5, 28)


# -- the ledger and what reads it ----------------------------------------------------------------------


def test_a_day_without_a_due_delivery_is_no_finding_of_any_asset(tmp_path: Path) -> None:
    product = with_calendar(holidays=["2024-01-01"])
    platform = Platform(settings_in(tmp_path), None, product)  # type: ignore[arg-type]
    chosen = ["2024-01-01", "2024-01-02", "2024-01-06"]  # a holiday, a working day, a Saturday
    expected = ["not_due", "missing", "not_due"]
    for step in (*DATA_STEPS, *SCORING_STEPS[:1], "validation_report"):
        result = platform.run(step, [D(day) for day in chosen])
        outcomes = [day.outcome for day in result.days]
        assert outcomes[0::2] == expected[0::2], step
        assert [day.failure is None for day in result.days][0::2] == [True, True]
        (single,) = platform.run(step, "2024-01-06").days
        assert (single.outcome, single.failure) == ("not_due", None)
        assert single.up_to_date
    assert platform.sessions_asked_for == 0
    found = platform.ledger.latest("ards")
    assert [found[D(day)].outcome for day in chosen] == expected
    assert [found[D(day)].usable for day in chosen] == [True, False, True]
    assert "Saturdays" in found[D("2024-01-06")].reason


def test_a_window_without_any_due_day_is_no_failure(tmp_path: Path) -> None:
    product = shop(delivery={"weekdays": ["sun"]})
    platform = Platform(settings_in(tmp_path), None, product)  # type: ignore[arg-type]
    closed = days("2024-01-01", "2024-01-06")
    for step in ("ards", "mrds", "predictions"):
        platform.run(step, closed)
    delivered = DayRecord(
        asset="mrds", day=D("2024-01-07"), outcome="written", inputs="i", contract="c", code_version="1"
    )
    platform.ledger.record([delivered])
    (performance,) = platform.run("model_performance", "2024-01-07").days
    assert (performance.outcome, performance.failure) == ("no_model", None)


@pytest.mark.parametrize(
    ("arrives", "now", "late"),
    [
        # Sunday: Friday's rows should have come on Saturday, or come on Monday.
        ("any_day", datetime.fromisoformat("2024-05-19T12:00"), [date(2024, 5, 17)]),
        ("due_days", datetime.fromisoformat("2024-05-19T12:00"), []),
        ("due_days", datetime.fromisoformat("2024-05-20T09:00"), []),
        ("due_days", datetime.fromisoformat("2024-05-20T11:00"), [date(2024, 5, 17)]),
    ],
)
def test_only_due_days_are_overdue(tmp_path: Path, arrives: str, now: datetime, late: list[date]) -> None:
    product = with_calendar(
        arrives=arrives, holidays=["2024-05-16", "2024-05-15", "2024-05-14", "2024-05-13"]
    )
    with dg.DagsterInstance.ephemeral() as instance:
        wrong = findings(product, settings_in(tmp_path), instance, lambda zone: now.replace(tzinfo=zone))
    overdue = [one.partition for one in wrong if one.subject == "delivery overdue"]
    assert overdue == [str(day) for day in late]


@pytest.mark.parametrize(
    ("delivery", "expected"),
    [
        ({}, "0 10 * * *"),
        ({"weekdays": WORKING}, "0 10 * * 2,3,4,5,6"),
        ({"weekdays": WORKING, "arrives": "due_days"}, "0 10 * * 1,2,3,4,5"),
        ({"weekdays": ["sat"]}, "0 10 * * 0"),
        ({"weekdays": WORKING, "holidays": "US"}, timedelta(days=4, hours=10)),
    ],
)
def test_freshness_follows_the_calendar(delivery: dict[str, Any], expected: str | timedelta) -> None:
    policy = _freshness(shop(delivery=delivery))
    if isinstance(policy, CronFreshnessPolicy):
        assert policy.deadline_cron == expected
        return
    assert isinstance(policy, TimeWindowFreshnessPolicy)
    assert policy.fail_window.to_timedelta() == expected


def test_a_calendar_that_changes_is_followed_without_force(tmp_path: Path) -> None:
    closed, always = with_calendar(), shop()
    for product, outcome in ((always, "missing"), (closed, "not_due"), (always, "missing")):
        platform = Platform(settings_in(tmp_path), None, product)  # type: ignore[arg-type]
        (result,) = platform.run("ards", "2024-01-06").days
        assert result.outcome == outcome


def mrds_record(day: date, labelled: int) -> DayRecord:
    counts = {"rows": 10, "labelled": labelled}
    return DayRecord("mrds", day, "written", inputs="i", contract="c", code_version="1", counts=counts)


def test_a_model_waits_for_no_day_for_which_no_delivery_is_due(tmp_path: Path) -> None:
    # March 2024 ends with Good Friday, a Saturday and Easter Sunday.
    product = with_calendar(holidays="XNYS")
    settings = settings_in(tmp_path)
    ledger = Ledger(Tables.of(settings), product.name)
    due = product.due_days(days("2024-03-01", "2024-03-31"))
    assert due[-1] == date(2024, 3, 28)
    ledger.record([mrds_record(day, 10) for day in due])
    assert model_is_due(product, settings, date(2024, 4, 1))[0]
    everyday = model_is_due(shop(), settings, date(2024, 4, 1))
    assert not everyday[0]
    assert "waiting" in everyday[1]
    ledger.record([mrds_record(date(2024, 3, 28), 0)])
    assert not model_is_due(product, settings, date(2024, 4, 1))[0]
    assert model_is_due(product, settings, date(2024, 4, 5))[0]


def facts_of(product: Product, day: date, rows: dict[date, int], labelled: int = 10) -> dict[str, Any]:
    known = {d: DayFacts({"rows": n, "labelled": labelled}, Profile(n, {})) for d, n in rows.items()}
    return {fact.name: fact for fact in anomalies.facts(product, day, known)}


def test_few_rows_of_a_holiday_are_neither_judged_nor_a_measure() -> None:
    product = with_calendar(holidays="US")
    mondays = [date(2024, 5, 6) + timedelta(weeks=n) for n in range(6)]
    memorial_day = date(2024, 5, 27)
    rows = dict.fromkeys(mondays, 1_000) | {memorial_day: 3}
    assert facts_of(product, memorial_day, rows)["rows_of_weekday"].score is None
    assert "holiday of US" in facts_of(product, memorial_day, rows)["rows_of_weekday"].expected
    assert facts_of(shop(), memorial_day, rows)["rows_of_weekday"].score == 0.003
    # Of two Mondays before, one a holiday, only the other counts: too few to compare with.
    few = {memorial_day: 3, mondays[4]: 1_000, mondays[2]: 1_000}
    assert facts_of(product, mondays[4], few)["rows_of_weekday"].score is None
    assert facts_of(shop(), mondays[4], few)["rows_of_weekday"].score is not None


def test_on_a_monday_the_labels_of_the_last_working_days_are_looked_for() -> None:
    product = with_calendar()
    friday, monday = date(2024, 5, 17), date(2024, 5, 20)
    rows = {friday: 10, monday: 10}
    fact = facts_of(product, monday, rows, labelled=0)["labelled_share"]
    assert (fact.score, fact.observed) == (0.0, f"0 of 10 rows of {friday} (0.00%)")
    assert facts_of(shop(), monday, rows, labelled=0)["labelled_share"].score is None
    first, _ = anomalies.window(product, monday)
    assert first <= friday
