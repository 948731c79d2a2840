"""Verdicts apart from content: given again without writing, accepted by people, void with new data."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from deltalake import WriterProperties, write_deltalake

from ml_platform.data_engineering import buckets
from ml_platform.engine.acceptance import accept
from ml_platform.engine.step import quality_of
from ml_platform.mlops.quality import expectations, large_days, validation
from ml_platform.mlops.quality.results import Result
from ml_platform.storage.day_files import DayFiles
from ml_platform_tests.small_platform import D, Platform, days, deliver_visits, shop

DAY = D("2024-01-01")
HEADER = "visit,day,customer,spend,pages,channel\n"
ROWS = [f"{n},2024-01-01,c{n},{n}.5,{n % 7},web" for n in range(1, 9)]


def with_rules(platform: Platform, **rules: object) -> Platform:
    validation = {"minimum_rows": 1, "not_null": ["customer", "pages", "channel"], **rules}
    return Platform(platform.settings, platform.spark, shop(validation=validation))


def blocked(platform: Platform) -> Platform:
    """A platform whose ``DAY`` has eight rows where ten are expected."""
    strict = with_rules(platform, minimum_rows=10)
    strict.deliver(DAY, "a.csv", HEADER + "\n".join(ROWS) + "\n")
    (day,) = strict.run("ards", DAY).days
    assert day.outcome == "blocked"
    return strict


# -- records that can't be used ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "outcome"), [(0, "written"), (10, "blocked"), (19, "blocked"), (20, "blocked")]
)
def test_no_day_is_better_off_the_more_of_it_is_unusable(platform: Platform, bad: int, outcome: str) -> None:
    """A day of which nothing can be used is no day without rows."""
    lines = [f"{n},{DAY},c{n},1.0,1,{'fax' if n < bad else 'web'}\n" for n in range(20)]
    platform.deliver(DAY, "a.csv", HEADER + "".join(lines))
    (day,) = platform.run("ards", DAY).days
    assert (day.outcome, day.metadata["quarantined"]) == (outcome, bad)
    if bad:
        assert f"{bad} of 20 records" in day.reason
    assert platform.run("mrds", DAY).days[0].outcome == ("held_back" if bad else "written")
    assert platform.run("ards", DAY).days[0].up_to_date


def test_a_day_of_which_nothing_can_be_used_may_be_accepted_and_is_then_without_rows(
    platform: Platform,
) -> None:
    platform.deliver(DAY, "a.csv", HEADER + f"1,{DAY},ann,1.0,1,fax\n")
    (day,) = platform.run("ards", DAY).days
    assert day.outcome == "blocked"
    assert {error.expectation for error in quality_of(platform.ledger.latest("ards")[DAY]).errors} == {
        "there are enough rows",
        "few records are unusable (error level)",
    }
    (record,) = accept(platform.ledger, DAY, reason="a test delivery", by="ann")
    assert (record.outcome, record.accepted_by) == ("empty", "ann")
    (day,) = platform.run("ards", DAY).days
    assert (day.up_to_date, day.failure) == (True, None)
    assert platform.run("mrds", DAY).days[0].outcome == "empty"
    platform.deliver(DAY, "b.csv", HEADER + f"2,{DAY},bob,1.0,1,web\n")
    lenient = with_rules(platform, quarantined_share={"warning": 0.9, "error": 0.9})
    assert lenient.run("ards", DAY).days[0].outcome == "written"


def test_a_contract_that_accepts_any_share_of_unusable_records_has_days_without_rows(
    platform: Platform,
) -> None:
    lenient = with_rules(platform, quarantined_share={"warning": 1.0, "error": 1.0}, minimum_rows=0)
    lenient.deliver(DAY, "a.csv", HEADER + f"1,{DAY},ann,1.0,1,fax\n")
    (day,) = lenient.run("ards", DAY).days
    assert (day.outcome, day.reason) == ("empty", "the delivery has no usable rows")


# -- accepted by a person ----------------------------------------------------------------------------


@pytest.mark.slow
def test_an_accepted_day_is_used_and_says_who_and_why(platform: Platform) -> None:
    strict = blocked(platform)
    assert strict.run("mrds", DAY).days[0].outcome == "held_back"
    (record,) = accept(strict.ledger, DAY, reason="a holiday", by="ann")
    assert (record.outcome, record.accepted_by, record.accepted_reason) == ("written", "ann", "a holiday")
    assert strict.run("mrds", DAY).days[0].outcome == "written"

    strict.sessions_asked_for = 0
    (again,) = strict.run("ards", DAY).days
    assert (again.up_to_date, strict.sessions_asked_for) == (True, 0)
    assert (again.metadata["accepted_by"], again.metadata["accepted_reason"]) == ("ann", "a holiday")
    (check,) = again.checks
    assert (check.passed, check.severity) == (False, "WARN")
    assert check.description.startswith(
        "accepted by ann (a holiday): there are too few rows: 8, expected at least 10"
    )
    page = (strict.settings.reports_path / f"shop/validation_report/{DAY}/report.html").read_text
    strict.run("validation_report", DAY)
    assert "accepted by ann: a holiday" in page()


def test_an_acceptance_is_void_when_the_data_changes(platform: Platform) -> None:
    strict = blocked(platform)
    accept(strict.ledger, DAY, reason="a holiday", by="ann")
    strict.deliver(DAY, "b.csv", HEADER + "99,2024-01-01,zoe,1,1,web\n")
    (day,) = strict.run("ards", DAY).days
    assert (day.outcome, day.reason) == ("blocked", "there are too few rows: 9, expected at least 10")
    assert strict.ledger.latest("ards")[DAY].accepted_by is None


def test_labels_that_come_leave_an_acceptance_as_it_is(platform: Platform) -> None:
    """They come on the mornings after; whoever has accepted the day isn't asked again."""
    strict = with_rules(platform, minimum_rows=10)
    frame = pd.DataFrame({"visit": range(8), "day": DAY, "customer": [f"c{n}" for n in range(8)]})
    rows = frame.assign(spend=1.5, pages=2, channel="web")
    strict.deliver(DAY, f"{DAY + timedelta(days=1)}_rows.csv", rows.to_csv(index=False))
    assert strict.run("ards", DAY).days[0].outcome == "blocked"
    accept(strict.ledger, DAY, reason="a holiday", by="ann", on=D("2024-01-04"))
    labels = frame[["visit", "day"]].assign(bought=1)
    strict.deliver(DAY, f"{DAY + timedelta(days=2)}_labels.csv", labels[:5].to_csv(index=False))
    assert strict.run("ards", DAY).days[0].outcome == "written"
    record = strict.ledger.latest("ards")[DAY]
    assert (record.accepted_by, record.barred, record.counts["labelled"]) == (
        "ann",
        (None, D("2024-01-04")),
        5,
    )
    # Another row isn't what was accepted, although there are as many.
    strict.deliver(DAY, f"{DAY + timedelta(days=2)}_fix.csv", rows[:1].assign(spend=9.0).to_csv(index=False))
    assert strict.run("ards", DAY).days[0].outcome == "blocked"


def test_an_acceptance_holds_for_what_failed_then_and_nothing_else(platform: Platform) -> None:
    strict = blocked(platform)
    accept(strict.ledger, DAY, reason="a holiday", by="ann")
    stricter = with_rules(platform, minimum_rows=20)
    assert stricter.run("ards", DAY).days[0].outcome == "written"
    assert stricter.ledger.latest("ards")[DAY].accepted_by == "ann"
    other = with_rules(platform, minimum_rows=20, ranges={"spend": {"maximum": 5}})
    (day,) = other.run("ards", DAY).days
    assert day.outcome == "blocked"
    assert "spend is outside its range: 4 of 8 rows, expected at most 5" in day.reason


def test_what_is_not_blocked_cannot_be_accepted(platform: Platform) -> None:
    with pytest.raises(LookupError, match="nothing has been materialized"):
        accept(platform.ledger, DAY, reason="why not", by="ann")
    platform.deliver(DAY, "a.csv", HEADER + "\n".join(ROWS) + "\n")
    platform.run("ards", DAY)
    with pytest.raises(LookupError, match="ards is written"):
        accept(platform.ledger, DAY, reason="why not", by="ann")
    strict = blocked(platform)
    with pytest.raises(ValueError, match="needs a reason"):
        accept(strict.ledger, DAY, reason="  ", by="ann")


# -- judged again ------------------------------------------------------------------------------------


def test_a_change_of_the_rules_judges_again_and_writes_nothing(platform: Platform) -> None:
    platform.deliver(DAY, "a.csv", HEADER + "\n".join(ROWS) + "\n")
    platform.run("ards", DAY)
    version = platform.tables.version("shop", "ards")
    other = with_rules(platform, ranges={"spend": {"minimum": 3}})
    result = other.run("ards", DAY)
    assert result.metadata["days_judged_again"] == 1
    assert result.days[0].outcome == "blocked"
    assert "spend is outside its range: 2 of 8 rows, expected at least 3" in result.days[0].reason
    assert platform.tables.version("shop", "ards") == version
    mended = platform.run("ards", DAY)
    assert mended.days[0].outcome == "written"
    assert platform.tables.version("shop", "ards") == version


@pytest.mark.slow
def test_a_change_of_the_past_judges_again_without_spark(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-22")
    deliver_visits(platform, chosen, rows=40)
    platform.run("ards", chosen)
    first = platform.ledger.latest("ards")[D("2024-01-22")]
    deliver_visits(platform, [D("2024-01-15")], rows=120, seed=1)
    platform.run("ards", "2024-01-15")
    platform.sessions_asked_for = 0
    result = platform.run("ards", "2024-01-22")
    assert (result.metadata["days_judged_again"], platform.sessions_asked_for) == (1, 0)
    again = platform.ledger.latest("ards")[D("2024-01-22")]
    assert again.fingerprint == first.fingerprint
    rows = {one.expectation: one.observed for one in quality_of(again).results}  # type: ignore[union-attr]
    # The median of 40, 40 and 120 rows.
    assert rows["rows are as many as on this weekday before"].startswith("40 rows, 1.00 times the median")


def test_each_day_of_a_range_has_a_verdict_of_its_own(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-03")
    strict = with_rules(platform, minimum_rows=3, ranges={"spend": {"maximum": 100}})
    texts = {
        "2024-01-01": "1,2024-01-01,ann,1,1,web\n2,2024-01-01,bob,2,1,web\n3,2024-01-01,cid,3,1,web\n",
        "2024-01-02": "4,2024-01-02,ann,1,1,web\n",
        "2024-01-03": "5,2024-01-03,ann,500,1,web\n6,2024-01-03,bob,2,1,web\n7,2024-01-03,cid,3,1,web\n",
    }
    for day, text in texts.items():
        strict.deliver(day, "a.csv", HEADER + text)
    found = {str(day.day): day for day in strict.run("ards", chosen).days}
    assert [day.outcome for day in found.values()] == ["written", "blocked", "blocked"]
    assert found["2024-01-02"].reason == "there are too few rows: 1, expected at least 3"
    assert found["2024-01-03"].reason == "spend is outside its range: 1 of 3 rows, expected at most 100"
    (check,) = found["2024-01-03"].checks
    first = check.metadata["expectations"][0]
    assert (first["dimension"], first["severity"], first["failing_rows"]) == ("validity", "error", 1)
    assert first["examples"] == "day = 2024-01-03, visit = 5: spend = 500.0"


def test_a_warning_does_not_block(platform: Platform) -> None:
    lenient = with_rules(platform, ranges={"spend": {"maximum": 4}}, severity={"range": "warning"})
    lenient.deliver(DAY, "a.csv", HEADER + "\n".join(ROWS) + "\n")
    (day,) = lenient.run("ards", DAY).days
    assert day.outcome == "written"
    assert (day.checks[0].passed, day.checks[0].severity) == (False, "WARN")
    assert lenient.run("mrds", DAY).days[0].outcome == "written"


def test_a_custom_expectation_of_the_contract_blocks_with_its_own_words(platform: Platform) -> None:
    added = {
        "type": "expect_column_mean_to_be_between",
        "kwargs": {"column": "spend", "max_value": 2},
        "description": "customers spend little",
    }
    strict = with_rules(platform, expectations=[added, {**added, "on": "mrds", "severity": "warning"}])
    strict.deliver(DAY, "a.csv", HEADER + "\n".join(ROWS) + "\n")
    (day,) = strict.run("ards", DAY).days
    assert day.reason == "not fulfilled: customers spend little: 5, expected max_value: 2"


# -- two engines -------------------------------------------------------------------------------------

TYPED = {
    "key": ["id"],
    "event_day": "day",
    "label": "bought",
    "columns": {
        "id": {"type": "long"},
        "day": {"type": "date"},
        "name": {"type": "string", "nullable": True, "allowed": ["a", "b", ""]},
        "amount": {"type": "double", "nullable": True},
        "count": {"type": "integer", "nullable": True},
        "big": {"type": "long", "nullable": True},
        "flag": {"type": "boolean", "nullable": True},
        "born": {"type": "date", "nullable": True},
        "seen": {"type": "timestamp", "nullable": True},
        "bought": {"type": "integer", "allowed": [0, 1], "nullable": True},
    },
}
TYPED_ROWS = """id,day,name,amount,count,big,flag,born,seen,bought
1,2024-01-01,a,1.5,1,9007199254740993,true,1980-02-29,2024-01-01T00:30:00Z,1
2,2024-01-01,,,,,,,,
3,2024-01-01,b,2.5,-5,-9007199254740993,false,1900-01-01,1999-12-31T23:59:59+14:00,0
4,2024-01-01,a,-0.0,2147483647,0,true,2100-12-31,2024-06-01T12:00:00Z,
5,2024-01-01,b,1e300,7,7,false,1980-02-29,2024-01-01T00:30:00Z,1
"""
CUSTOM = [
    {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "big", "max_value": 9007199254740992},
    },
    {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "born"}},
    {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "count", "max_value": 3}},
    {"type": "expect_column_values_to_be_null", "kwargs": {"column": "flag"}},
    {
        "type": "expect_column_max_to_be_between",
        "kwargs": {"column": "count", "min_value": 0, "max_value": 9},
    },
    {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "name", "regex": "^a$"}},
    {"type": "expect_column_unique_value_count_to_be_between", "kwargs": {"column": "name", "max_value": 1}},
    {"type": "expect_compound_columns_to_be_unique", "kwargs": {"column_list": ["name", "flag"]}},
]


def test_pandas_and_spark_give_the_same_verdicts(platform: Platform) -> None:
    product = shop(
        source=TYPED,
        mrds={"entity": ["id"], "aggregate": {"amount": "sum", "count": "max", "bought": "last"}},
        model__features={"numeric": ["amount", "count"]},
        validation={
            "not_null": ["name", "amount", "count"],
            "maximum_null_share": {"big": 0.5, "born": 0.1},
            "ranges": {"amount": {"minimum": 0, "maximum": 10}, "count": {"minimum": 0}},
            "expectations": CUSTOM,
        },
    )
    found = {}
    for rows_in_memory in (1000, 1):
        settings = platform.settings.model_copy(update={"validation_rows_in_memory": rows_in_memory})
        typed = Platform(settings, platform.spark, product)
        typed.deliver(DAY, "a.csv", TYPED_ROWS)
        typed.run("ards", DAY, force=True)
        quality = quality_of(typed.ledger.latest("ards")[DAY])
        assert quality is not None
        found[rows_in_memory] = [
            (one.expectation, one.passed, one.failing_rows, one.observed, len(one.examples))
            for one in quality.results
        ]
    assert found[1] == found[1000]
    by_words = {words: (passed, failing) for words, passed, failing, *_ in found[1]}
    assert by_words["amount is never null"] == (False, 1)
    assert by_words["amount is within its range"] == (False, 1)
    assert by_words["count is within its range"] == (False, 1)
    assert by_words["born is seldom null"] == (False, 1)
    assert by_words["big is seldom null"][0] is True
    assert by_words["big column values to be between"] == (False, 1)
    assert by_words["born column values to be unique"] == (False, 2)
    assert all(by_words[f"{name} is of type {one['type']}"][0] for name, one in TYPED["columns"].items())


@pytest.mark.parametrize(
    ("wanted", "passed"),
    [
        (["NumericType"], True),
        (["IntegralType", "DoubleType"], True),
        (["IntegralType", "StringType"], False),
        (["DecimalType"], False),
    ],
)
def test_a_type_is_what_sparks_classes_say_and_another_one_is_a_failure_of_the_day(
    platform: Platform, wanted: list[str], passed: bool
) -> None:
    of_type = {
        "type": "expect_column_values_to_be_in_type_list",
        "kwargs": {"column": "spend", "type_list": wanted},
        "severity": "warning",
    }
    chosen = Platform(platform.settings, platform.spark, shop(validation={"expectations": [of_type]}))
    deliver_visits(chosen, [DAY])
    (done,) = chosen.run("ards", DAY).days
    assert done.outcome == "written"
    quality = quality_of(chosen.ledger.latest("ards")[DAY])
    assert quality is not None
    (result,) = [
        found for found in quality.results if found.severity == "warning" and "type list" in found.expectation
    ]
    assert (result.passed, result.failing_rows, result.examples) == (passed, 0, ())
    if not passed:
        assert result.observed == "DoubleType"


@pytest.mark.slow
def test_both_engines_take_nan_for_null(platform: Platform) -> None:
    product = shop(validation={"not_null": ["spend"], "ranges": {"spend": {"maximum": 10}}})
    suite = [
        one for one in expectations.suite(product, "ards") if not one.of_schema and one.columns == ("spend",)
    ]
    values = [1.0, float("nan"), None, float("inf"), -0.0, 11.0]
    rows = platform.spark.createDataFrame(
        [(DAY, n, value, DAY) for n, value in enumerate(values)],
        "day date, visit bigint, spend double, event_day date",
    )
    for rows_in_memory in (100, 0):
        found = validation.validate(
            product,
            "ards",
            lambda: rows,
            {"day": "date", "visit": "long", "spend": "double", "event_day": "date"},
            {DAY: suite},
            {DAY: len(values)},
            maximum_rows=rows_in_memory,
            session=lambda: platform.spark,
        )[DAY]
        assert [(one.expectation, one.failing_rows) for one in found] == [
            ("spend is never null", 2),
            ("spend is within its range", 2),
        ]


@pytest.mark.slow
def test_many_days_at_once_are_judged_like_each_alone(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spend_at_most = {"type": "expect_column_values_to_be_between", "on": "ards"}
    product = shop(
        validation={
            "not_null": ["customer", "channel"],
            "maximum_null_share": {"spend": 0.1},
            "ranges": {"pages": {"minimum": 1, "maximum": 8}},
            "expectations": [
                {**spend_at_most, "kwargs": {"column": "spend", "max_value": 90}},
                {**spend_at_most, "kwargs": {"column": "spend", "max_value": 50}, "severity": "warning"},
                {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "customer"}},
                {
                    "type": "expect_column_values_to_match_regex",
                    "kwargs": {"column": "customer", "regex": "^c"},
                },
            ],
        }
    )
    suite = [one for one in expectations.suite(product, "ards") if not one.of_schema]
    draw = np.random.default_rng(5)
    rows: list[tuple[object, ...]] = []
    for n, day in enumerate(days("2024-01-01", "2024-01-08")):
        # Each day has another defect, the first has none.
        for visit in range(40):
            customer = None if n == 1 and visit == 7 else f"c{visit if n != 2 else visit // 2}"
            spend = float(draw.uniform(0, 49)) + (45 if n in (3, 4) and visit == 5 else 0) + 40 * (n == 4)
            pages = 9 if n == 5 and visit > 30 else 3
            spending = None if n == 6 and visit < 8 else spend
            rows.append((visit, day, customer, spending, pages, "web" if n != 7 else None, None, day))
    types = "visit bigint, day date, customer string, spend double, pages int, channel string, bought int"
    table = platform.spark.createDataFrame(rows, f"{types}, event_day date")
    chosen = days("2024-01-01", "2024-01-08")

    write_deltalake(
        tmp_path / "ards",
        table.toArrow(),
        partition_by=["event_day"],
        writer_properties=WriterProperties(max_row_group_size=16),
    )
    written = (DayFiles(str(tmp_path / "ards")), 0)

    product_types = {name: declared.type for name, declared in product.source.columns.items()}
    product_types["event_day"] = "date"

    def judged(
        *days_: date, files: tuple[DayFiles, int] | None, at_most: int = 1000
    ) -> dict[date, list[Result]]:
        suites, sizes = dict.fromkeys(days_, suite), dict.fromkeys(days_, 40)
        return validation.validate(
            product,
            "ards",
            lambda: table,
            product_types,
            suites,
            sizes,
            maximum_rows=at_most,
            session=lambda: platform.spark,
            files=files,
        )

    together = judged(*chosen, files=None)
    assert judged(*chosen, files=written) == together
    for day in chosen:
        assert together[day] == judged(day, files=None)[day] == judged(day, files=written)[day]
    # So are days that are too large for that, whoever reads them: in parts of a few rows.
    monkeypatch.setattr(buckets, "PIECE_BYTES", 300)
    monkeypatch.setattr(large_days, "HASHES_AT_ONCE", 7)
    for day in chosen:
        for files in (written, None):
            large = judged(day, files=files, at_most=39)[day]
            assert [replace(one, examples=()) for one in large] == [
                replace(one, examples=()) for one in together[day]
            ]
    beyond = "spend column values to be between"
    failed = [
        [one.severity for one in together[day] if not one.passed and one.expectation.startswith(beyond)]
        for day in chosen
    ]
    assert failed[:6] == [[], [], [], ["warning"], ["error", "warning"], []]
    assert all(any(not one.passed for one in together[day]) for day in chosen[1:])


@pytest.mark.parametrize(
    ("kwargs", "holds"),
    [
        ({"min_value": 40}, [False, True, True]),
        ({"min_value": 40, "strict_min": True}, [False, False, True]),
        ({"min_value": 39.5, "max_value": 40.5}, [False, True, False]),
        ({"max_value": 40}, [True, True, False]),
        ({"max_value": 40, "strict_max": True}, [True, False, False]),
        ({"value": 40}, [False, True, False]),
    ],
)
def test_the_number_of_rows_is_judged_of_all_days_at_once(kwargs: dict[str, Any], holds: list[bool]) -> None:
    kind = "expect_table_row_count_to_equal" if "value" in kwargs else "expect_table_row_count_to_be_between"
    rule = {"type": kind, "kwargs": kwargs, "on": "ards"}
    least = [
        one
        for one in expectations.suite(shop(validation={"minimum_rows": 39, "expectations": [rule]}), "ards")
        if one.of_size
    ]
    chosen = days("2024-01-01", "2024-01-04")
    # The last day is held against no more than the contract's minimum.
    suites = {**dict.fromkeys(chosen[:3], least), chosen[3]: least[:1]}
    sizes = dict(zip(chosen, (39, 40, 41, 38), strict=True))
    found = validation._by_size(suites, sizes)
    assert [found[day][-1].passed for day in chosen[:3]] == holds
    assert [found[day][0].passed for day in chosen] == [True, True, True, False]
    assert [found[day][0].value for day in chosen] == [39.0, 40.0, 41.0, 38.0]


# -- the report --------------------------------------------------------------------------------------


def test_a_report_is_one_page_that_shows_what_is_wrong_and_masks_what_is_sensitive(
    platform: Platform,
) -> None:
    columns = shop().model_dump(mode="json", exclude_defaults=True)["source"]["columns"]
    columns["customer"]["sensitive"] = True
    columns["spend"]["sensitive"] = True
    strict = Platform(
        platform.settings,
        platform.spark,
        shop(
            source__columns=columns,
            validation={"ranges": {"spend": {"maximum": 5}, "pages": {"maximum": 5}}, "not_null": []},
            validation__expectations=[
                {"type": "expect_column_max_to_be_between", "kwargs": {"column": "spend", "max_value": 1}}
            ],
        ),
    )
    hostile = "98,2024-01-01,<script>alert(1)</script>,7.25,6,web\n97,2024-01-01,zoe,7.25,six,web\n"
    strict.deliver(DAY, "a.csv", HEADER + "\n".join(ROWS) + "\n" + hostile)
    strict.run("ards", DAY)
    (made,) = strict.run("validation_report", DAY).days
    folder = strict.settings.reports_path / "shop" / "validation_report" / str(DAY)
    assert made.metadata["report_file"] == str(folder / "report.html")
    assert made.metadata["report"].startswith("http://127.0.0.1:3001/shop/validation_report/2024-")
    assert made.metadata["verdict"] == "blocked"
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    linked = {"http://www.w3.org", "http://127.0.0.1:3000/assets/shop/ards?"}  # nothing is loaded
    assert set(re.findall(r"https?://[^\"/]*[^\"?]*[?]?", page)) <= linked
    assert "https://" not in page
    assert page.index("Blocked") < page.index("pages is outside its range") < page.index("is of type")
    assert "day = 2024-01-01, visit = 6: pages = 6" in page
    assert "visit = 98: spend = •••" in page
    for hidden in ("7.25", "alert(1)", "at most 5</td>\n  <td></td>"):
        assert hidden not in page
    assert (
        (folder / "quarantine.csv")
        .read_text()
        .splitlines()[1]
        .startswith("a.csv,11,unparseable value in pages")
    )
    assert 'href="quarantine.csv"' in page


@pytest.mark.parametrize(
    ("text", "verdict", "told"),
    [
        ("x;y\n1;2\n", "refused", "a.csv"),
        (HEADER, "empty", "no usable rows"),
    ],
)
def test_a_day_that_could_not_be_read_has_a_report_too(
    platform: Platform, text: str, verdict: str, told: str
) -> None:
    platform.deliver(DAY, "a.csv", text)
    platform.run("ards", DAY)
    (made,) = platform.run("validation_report", DAY).days
    assert (made.outcome, made.metadata["verdict"]) == ("written", verdict)
    page = Path(made.metadata["report_file"]).read_text()
    assert told in page
    assert "There was nothing to judge." in page


def test_a_day_without_a_delivery_has_no_report_and_no_evaluation(platform: Platform) -> None:
    for step in ("ards", "mrds"):
        platform.run(step, DAY)
    for step in ("validation_report", "model_performance"):
        (found,) = platform.run(step, DAY).days
        assert found.outcome == "missing"
        assert "no rows have been delivered" in found.reason
        assert "report" not in found.metadata
    platform.run("validation_report", DAY, force=True)
    assert list(platform.settings.home.rglob("report.html")) == []


def test_the_page_of_a_withdrawn_day_shows_nothing_of_it_any_more(platform: Platform) -> None:
    platform.deliver(DAY, "secret-name.csv", "x;y\n1;2\n")
    platform.deliver(DAY + timedelta(days=1), "a.csv", "x;y\n")  # else the folder may not be mounted
    platform.run("ards", DAY)
    (made,) = platform.run("validation_report", DAY).days
    page = Path(made.metadata["report_file"])
    assert "secret-name.csv" in page.read_text()
    shutil.rmtree(platform.folder(DAY))
    platform.run("ards", DAY)
    (gone,) = platform.run("validation_report", DAY).days
    assert gone.outcome == "missing"
    assert "secret-name.csv" not in page.read_text()


def test_a_report_is_made_again_only_when_a_verdict_changes(platform: Platform) -> None:
    deliver_visits(platform, [DAY], rows=20)
    for step in ("ards", "mrds", "validation_report"):
        platform.run(step, DAY)
    (again,) = platform.run("validation_report", DAY).days
    assert again.up_to_date
    with_rules(platform, minimum_rows=2).run("ards", DAY)
    (changed,) = platform.run("validation_report", DAY).days
    assert not changed.up_to_date
