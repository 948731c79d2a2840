"""From which morning on a decision of a person counts."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from ml_platform.cli.decisions import counts_from
from ml_platform_tests.small_platform import D, shop

DAY = D("2024-03-01")


@pytest.mark.parametrize(
    ("moment", "zone", "since"),
    [
        ("2024-03-05T09:59", "UTC", "2024-03-05"),
        ("2024-03-05T10:01", "UTC", "2024-03-06"),
        ("2024-03-05T23:59", "UTC", "2024-03-06"),
        # By then it is the evening of the 4th in Chicago, whose morning is over.
        ("2024-03-05T03:00", "America/Chicago", "2024-03-05"),
        ("2024-03-05T12:00", "America/Chicago", "2024-03-05"),
        ("2024-03-05T17:00", "America/Chicago", "2024-03-06"),
    ],
)
def test_a_decision_counts_from_the_present_morning_or_the_next_once_that_is_over(
    moment: str, zone: str, since: str
) -> None:
    now = datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo("UTC"))
    assert counts_from(shop(timezone=zone), DAY, None, now) == D(since)


def test_mornings_end_when_the_contract_says() -> None:
    product = shop(source__morning_ends="14:30")
    now = datetime(2024, 3, 5, 14, 0, tzinfo=ZoneInfo("UTC"))
    assert counts_from(product, DAY, None, now) == D("2024-03-05")
    assert counts_from(product, DAY, None, now.replace(hour=15)) == D("2024-03-06")


def test_what_is_asked_for_counts_and_a_finished_history_knows_no_today() -> None:
    now = datetime(2024, 3, 5, 14, 0, tzinfo=ZoneInfo("UTC"))
    assert counts_from(shop(), DAY, now.replace(day=3), now) == D("2024-03-03")
    assert counts_from(shop(end="2024-03-31"), DAY, None, now) == D("2024-03-02")
