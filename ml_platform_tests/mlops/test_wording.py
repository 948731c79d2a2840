"""What a rule says when it holds, and when it doesn't: never a failure in the words of a success."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from ml_platform.contract.product import Product
from ml_platform.mlops.quality import anomalies, expectations, validation
from ml_platform.mlops.quality.anomalies import DayFacts, Fact
from ml_platform.mlops.quality.profiles import ColumnProfile, Profile
from ml_platform.mlops.quality.results import Quality, Result
from ml_platform_tests.small_platform import SHOP, shop

DAY = date(2024, 3, 15)
OWN = {"type": "expect_column_max_to_be_between", "kwargs": {"column": "pages", "max_value": 9}}
DELIVERED = {"delivered": 1000}


def product(**columns: dict[str, object]) -> Product:
    return shop(
        source__columns={
            name: declared | columns.get(name, {}) for name, declared in SHOP["source"]["columns"].items()
        },
        validation={
            "not_null": ["customer"],
            "maximum_null_share": {"spend": 0.5},
            "ranges": {"spend": {"minimum": 0}},
            "expectations": [
                {"type": "expect_column_max_to_be_between", "kwargs": {"column": "pages", "max_value": 9}}
            ],
        },
    )


def profile(
    rows: int = 1000, *, mean: float = 40.0, stddev: float = 5.0, nulls: int = 0, web: float = 0.5
) -> Profile:
    columns = {
        "spend": ColumnProfile(nulls=nulls, mean=mean, stddev=stddev),
        "customer": ColumnProfile(nulls=nulls, values=rows // 2),
        "channel": ColumnProfile(nulls=nulls, values=2, shares={"web": web, "app": 1 - web}),
    }
    return Profile(rows=rows, columns=columns)


def facts(today: DayFacts, declared: Product | None = None) -> dict[str, Fact]:
    counts = {"delivered": 1000, "labelled": 1000}
    known = {DAY - timedelta(days=n): DayFacts(counts, profile()) for n in range(1, 30)} | {DAY: today}
    return {one.name: one for one in anomalies.facts(declared or product(), DAY, known)}


def said(today: DayFacts, declared: Product | None = None) -> set[str]:
    """What the failed facts say, up to the figures."""
    results = validation.judge_facts({DAY: list(facts(today, declared).values())})[DAY]
    return {one.statement for one in results if not one.passed}


@pytest.mark.parametrize(
    ("today", "expected"),
    [
        (DayFacts(DELIVERED, profile(mean=90.0)), "the mean of spend is higher than before"),
        (DayFacts(DELIVERED, profile(mean=-90.0)), "the mean of spend is lower than before"),
        (DayFacts(DELIVERED, profile(stddev=90.0)), "spend varies more than before"),
        (DayFacts(DELIVERED, profile(stddev=0.1)), "spend varies less than before"),
        (DayFacts(DELIVERED, profile(nulls=700)), "spend is null more often than before"),
        (DayFacts(DELIVERED, profile(web=0.99)), "the shares of the values of channel have changed"),
        (DayFacts(DELIVERED, profile(rows=100)), "rows are fewer than on this weekday before"),
        (DayFacts(DELIVERED, profile(rows=9000)), "rows are more than on this weekday before"),
        (DayFacts(DELIVERED | {"quarantined": 590}), "too many records are unusable (error level)"),
        (DayFacts(DELIVERED | {"superseded": 590}), "too many records repeat others of the day"),
    ],
)
def test_a_failed_fact_says_what_is_wrong(today: DayFacts, expected: str) -> None:
    assert expected in said(today)


def test_a_day_like_those_before_fails_nothing() -> None:
    assert said(DayFacts(DELIVERED, profile())) == set()


def test_labels_that_are_missing_are_called_missing() -> None:
    known = {
        DAY: DayFacts(DELIVERED, profile()),
        DAY - timedelta(days=2): DayFacts({"labelled": 1}, profile()),
    }
    results = validation.judge_facts({DAY: anomalies.facts(product(), DAY, known)})[DAY]
    assert [one.statement for one in results if not one.passed] == ["labels of 2 days before are missing"]


def test_a_sensitive_columns_direction_is_not_said() -> None:
    declared = product(spend={"sensitive": True})
    assert "the mean of spend is other than before" in said(DayFacts(DELIVERED, profile(mean=90.0)), declared)


def test_no_rule_fails_in_the_words_in_which_it_holds() -> None:
    declared = product()
    rules = [
        *expectations.suite(declared, "ards"),
        *expectations.suite(declared, "mrds", profile()),
        *facts(DayFacts(DELIVERED, profile())).values(),
    ]
    assert {rule.words for rule in rules if not rule.wrong or rule.wrong == rule.words} == set()
    hopeful = ("as before", "few records", "enough", "never", "seldom", "within", "identifies", "have come")
    failures = [rule.wrong for rule in rules if not rule.wrong.startswith("not fulfilled: ")]
    assert [text for text in failures if any(word in text for word in hopeful)] == []
    assert any(rule.wrong.startswith("not fulfilled: pages") for rule in rules)


def test_a_verdict_lists_failures_as_what_is_wrong() -> None:
    passed = Result(
        expectation="the mean of car_value is as before",
        dimension="validity",
        severity="warning",
        passed=True,
        observed="43,210",
        expected="19,771 to 38,517",
        problem="the mean of car_value is higher than before",
    )
    failed = replace(passed, passed=False)
    assert (
        Quality((failed,)).summary
        == "the mean of car_value is higher than before: 43,210, expected 19,771 to 38,517"
    )
    assert Quality((failed,)).table[0]["expectation"] == "the mean of car_value is higher than before"
    assert Quality((passed,)).table[0]["expectation"] == "the mean of car_value is as before"
    assert Quality.of(Quality((failed,)).plain()).results == (failed,)
    # A verdict that was given before it had these words.
    old = {name: value for name, value in Quality((failed,)).plain()[0].items() if name != "problem"}
    assert Quality.of([old]).summary.startswith("not fulfilled: the mean of car_value is as before: 43,210")


def test_the_words_of_a_failure_change_no_verdict() -> None:
    rule = expectations.suite(product(), "ards")[0]
    assert replace(rule, wrong="other words").rule_content == rule.rule_content
    assert replace(rule, expected="other").rule_content != rule.rule_content
