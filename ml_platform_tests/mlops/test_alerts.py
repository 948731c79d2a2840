"""What is wrong by the ledger, what of it is news, and the words of a message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from ml_platform.mlops.alerts import messages
from ml_platform.mlops.alerts.channel_states import ChannelState, News, read_cursor, write_cursor
from ml_platform.mlops.alerts.findings import Finding, at_least, day_of, of_records, why_well
from ml_platform.mlops.links import Links
from ml_platform.mlops.remedies import held_back_by, remedies
from ml_platform.storage.ledger import DayRecord, Outcome
from ml_platform_tests.small_platform import D, days, shop

LINKS = Links("http://dagster.example:3000/", "http://reports.example")


def record(
    asset: str, day: str, outcome: Outcome = "written", *, checks: Sequence[dict[str, Any]] = (), **more: Any
) -> DayRecord:
    details = {"checks": list(checks), "metadata": more.pop("metadata", {})}
    return DayRecord(
        asset, D(day), outcome, inputs="i", contract="c", code_version="1", details=details, **more
    )


def check(passed: bool, description: str = "", *, name: str = "data_quality", severity: str = "ERROR") -> Any:
    return {"name": name, "passed": passed, "severity": severity, "description": description, "metadata": {}}


def of(*records: DayRecord) -> list[Finding]:
    by_asset: dict[str, dict[date, DayRecord]] = {}
    for one in records:
        by_asset.setdefault(one.asset, {})[one.day] = one
    return of_records(by_asset)


def finding(key: str, severity: Any = "error", **values: Any) -> Finding:
    given = {
        "asset": "ards",
        "partition": "2024-01-03",
        "subject": "data_quality",
        "what": "3 nulls",
    } | values
    return Finding(key=key, kind="check", severity=severity, **given)


# -- findings ----------------------------------------------------------------------------------------


def test_each_thing_that_is_wrong_is_found_once() -> None:
    wrong = of(
        record("ards", "2024-01-01", "refused", reason="a.csv: missing columns: pages"),
        record("mrds", "2024-01-01", "held_back", reason="ards is refused"),
        record("ards", "2024-01-02", "blocked", reason="3 nulls", checks=[check(False, "3 nulls")]),
        record("ards", "2024-01-03", checks=[check(False, "few rows", severity="WARN")]),
        record("ards", "2024-01-04", checks=[check(True, "all hold")]),
        record("ards", "2024-01-05", "missing", reason="nothing delivered"),
        record("ards", "2024-01-06", "empty", reason="no usable rows"),
        record("predictions", "2024-01-06", "no_model", reason="no model yet"),
    )
    assert [(one.asset, one.partition, one.subject, one.severity, one.what) for one in wrong] == [
        ("ards", "2024-01-01", "refused", "error", "a.csv: missing columns: pages"),
        ("ards", "2024-01-02", "data_quality", "error", "3 nulls"),
        ("ards", "2024-01-03", "data_quality", "warning", "few rows"),
        ("ards", "2024-01-05", "missing", "error", "nothing delivered"),
        ("ards", "2024-01-06", "empty", "warning", "no usable rows"),
    ]


def test_a_check_over_a_window_is_one_finding_since_its_first_failing_day() -> None:
    def performance(day: str, passed: bool) -> DayRecord:
        verdict = check(passed, f"f1 on {day}", name="performance_above_threshold")
        return record("model_performance", day, checks=[verdict])

    wrong = of(
        performance("2024-01-01", False),
        performance("2024-01-02", True),
        performance("2024-01-03", False),
        performance("2024-01-04", False),
    )
    (one,) = wrong
    assert (one.partition, one.since, one.what) == ("2024-01-04", "2024-01-03", "f1 on 2024-01-04")
    assert day_of(one.key) is None
    passed = performance("2024-01-05", True)
    assert of(performance("2024-01-04", False), passed) == []
    assert why_well(one.key, passed) == "written"


def test_an_accepted_day_is_well_and_says_who_and_why() -> None:
    blocked = record("ards", "2024-01-02", "blocked", checks=[check(False, "3 nulls")])
    (one,) = of(blocked)
    accepted = record(
        "ards",
        "2024-01-02",
        checks=[check(False, "accepted by ann", severity="WARN")],
        accepted_by="ann",
        accepted_reason="a holiday",
    )
    assert of(accepted) == []
    assert why_well(one.key, accepted) == "accepted by ann: a holiday"


def test_a_refused_day_that_is_fixed_is_well() -> None:
    (one,) = of(record("ards", "2024-01-02", "refused", reason="a.csv"))
    fixed = record("ards", "2024-01-02", checks=[check(True)], counts={"rows": 1200})
    assert of(fixed) == []
    assert day_of(one.key) == D("2024-01-02")
    assert why_well(one.key, fixed) == "written, 1,200 rows"


def test_a_day_that_is_bad_in_another_way_is_news_and_not_well() -> None:
    (missing,) = of(record("ards", "2024-01-02", "missing", reason="nothing delivered"))
    state = ChannelState().sent([missing])
    refused = record("ards", "2024-01-02", "refused", reason="a.csv: no header")
    now = of(refused)
    assert why_well(missing.key, refused) is None
    assert [one.what for one in state.news(now, {}).wrong] == ["a.csv: no header"]
    assert list(state.sent(now).reported) == ["ards/2024-01-02/refused"]


# -- news --------------------------------------------------------------------------------------------


def test_the_same_news_is_reported_once_and_again_when_it_is_resolved() -> None:
    state = ChannelState()
    first = state.news([finding("a")], {})
    assert [one.key for one in first.wrong] == ["a"]
    state = state.sent([finding("a")])
    assert not state.news([finding("a", what="4 nulls")], {})
    resolved = state.news([], {"a": "written, 9 rows"})
    assert [(one.key, one.what) for one in resolved.well] == [("a", "written, 9 rows")]
    state = state.sent([])
    assert not state.news([], {"a": "written, 9 rows"})
    assert state.news([finding("a")], {}).wrong, "it broke again"


def test_a_warning_that_becomes_an_error_is_news_and_the_other_way_round_is_not() -> None:
    warned = ChannelState().sent([finding("a", "warning")])
    assert warned.news([finding("a", "error")], {}).wrong
    failed = ChannelState().sent([finding("a", "error")])
    assert not failed.news([finding("a", "warning")], {})


def test_what_moves_out_of_sight_is_neither_wrong_nor_well() -> None:
    state = ChannelState().sent([finding("run/of/last/week")])
    assert not state.news([], {})
    assert state.sent([]).reported == {}
    assert list(state.sent([], {"runs"}).reported) == ["run/of/last/week"], "what can't be seen stays"


MORNING = datetime(2024, 1, 10, 11, 0, tzinfo=UTC)


def test_what_came_and_went_while_a_channel_took_nothing_is_told_as_resolved() -> None:
    state = ChannelState()
    state = state.refused(state.news([finding("a")], {}), [finding("a")], MORNING)
    state = state.refused(state.news([finding("b")], {"a": "fixed"}), [finding("b")], MORNING)
    news = state.news([], {"a": "fixed", "b": "fixed too"})
    assert sorted(one.key for one in news.well) == ["a", "b"]
    assert state.sent([]) == ChannelState()


@pytest.mark.parametrize(("failures", "minutes"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (500, 60)])
def test_a_channel_that_fails_is_tried_again_later_and_later(failures: int, minutes: int) -> None:
    state = ChannelState(failures=failures - 1)
    state = state.refused(state.news([finding("a")], {}), [finding("a")], MORNING)
    assert state.failures == failures
    assert state.is_waiting(MORNING + timedelta(minutes=minutes, seconds=-1))
    assert not state.is_waiting(MORNING + timedelta(minutes=minutes))


# -- the cursor --------------------------------------------------------------------------------------


def recorded(days_: Sequence[date], subject: str = "data_quality", asset: str = "ards") -> list[Finding]:
    return [
        finding(f"{asset}/{day}/{subject}", asset=asset, partition=str(day), subject=subject, since=str(day))
        for day in days_
    ]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_ten_years_of_findings_fit_into_a_cursor_and_are_no_news_again(step: int) -> None:
    ten_years = days("2014-01-01", "2023-12-31")[::step]
    many = [one for asset in ("ards", "mrds", "predictions") for one in recorded(ten_years, asset=asset)]
    assert len(many) > 3600
    others = [finding("run/shop_daily/a", partition="2024-01-01 to 2024-01-02", subject="run failed")]
    state = ChannelState().sent([*many, *others])
    cursor = write_cursor({"mail": state, "chat": ChannelState()})
    assert len(cursor) < 12_000
    read = read_cursor(cursor)
    assert read == {"mail": state, "chat": ChannelState()}
    assert not read["mail"].news([*many, *others], {})


def test_a_cursor_keeps_all_of_a_channels_state() -> None:
    state = ChannelState().sent(recorded(days("2024-01-01", "2024-01-03")))
    failed = state.refused(state.news([finding("x")], {}), [finding("x")], MORNING)
    assert read_cursor(write_cursor({"a": state, "b": failed})) == {"a": state, "b": failed}
    assert read_cursor(None) == read_cursor("") == {}


def test_a_cursor_of_an_earlier_version_repeats_no_news() -> None:
    entry = {
        "asset": "ards",
        "partition": "2024-01-02",
        "subject": "refused",
        "severity": "error",
        "since": "x",
    }
    old = json.dumps({"mail": {"ards/2024-01-02/outcome": entry}})
    now = of(record("ards", "2024-01-02", "refused", reason="a.csv"))
    assert not read_cursor(old)["mail"].news(now, {})


# -- words -------------------------------------------------------------------------------------------


def test_a_message_says_the_cause_what_it_holds_back_one_command_and_where_to_look() -> None:
    at = datetime(2024, 1, 4, 23, 30, tzinfo=UTC)
    wrong = finding(
        "a",
        what="too many records are unusable: 3 of 100",
        causes="missing required value in spend: 3; unparseable value in pages: 1",
        run_id="abc",
        report="http://reports.example/shop/validation_report/2024-01-03/report.html",
        recorded_at=int(at.timestamp() * 1e9),
    )
    overdue = finding(
        "b", asset="landing", subject="delivery overdue", what="no rows", since="2024-01-04 10:00 CET"
    )
    well = finding("c", "warning", partition="2024-01-01", what="accepted by ann: fine", since="2024-01-01")
    product = shop(timezone="Europe/Berlin")
    told = messages.message(product, News((wrong, overdue), (well,)), LINKS)
    assert told.title == "[shop] 2 errors, 1 resolved"
    assert told.severity == "error"
    again = "ml-platform backfill shop --from 2024-01-03 --to 2024-01-03"
    asset = "http://dagster.example:3000/assets/shop/ards"
    assert told.body.splitlines() == [
        "Errors:",
        "- Wed 2024-01-03, ards data quality: missing required value in spend: 3",
        "  unparseable value in pages: 1",
        "  holds back: mrds, online_features, predictions of the day",
        f"  now: correct the delivery in landing/shop/2024-01-03, then: {again}",
        "  found 2024-01-05 00:30 CET",
        "  report: http://reports.example/shop/validation_report/2024-01-03/report.html",
        f"  day: {asset}?view=partitions&partition=2024-01-03",
        f"  check: {asset}?view=checks&checkDetail=data_quality",
        "  run: http://dagster.example:3000/runs/abc",
        "- Wed 2024-01-03, delivery overdue: no rows",
        "  holds back: ards, mrds, online_features, predictions of the day",
        f"  now: put the day's files into landing/shop/2024-01-03, then: {again}",
        "  since 2024-01-04 10:00 CET",
        "",
        "Resolved:",
        "- ards 2024-01-01, data quality: accepted by ann: fine",
        "  was wrong since 2024-01-01",
        "",
        "Today: http://reports.example/shop/_today/index.html",
        "All of shop: http://dagster.example:3000/asset-groups~key%3A%22shop%2F*%22/",
    ]


def test_a_warning_holds_nothing_back_and_asks_for_no_command() -> None:
    warned = messages.fact(shop(), finding("a", "warning"), LINKS)
    assert (warned.holds_back, warned.remedies) == ("", ())


@pytest.mark.parametrize(
    ("asset", "subject", "partition", "command"),
    [
        ("ards", "refused", "2024-02-03", "backfill shop --from 2024-02-03 --to 2024-02-03"),
        (
            "model",
            "refused",
            "2024-02-01",
            "backfill shop --from 2024-02-01 --to 2024-02-01 --select model",
        ),
        ("drift_report", "no_drift", "2024-02-01", "train shop"),
        (
            "model",
            "model overdue",
            "2024-02-01",
            "backfill shop --from 2024-02-01 --to 2024-02-01 --select model",
        ),
        (
            "ards, mrds",
            "run failed",
            "2024-02-01 to 2024-02-29",
            "backfill shop --from 2024-02-01 --to 2024-02-29",
        ),
        ("drift_report", "run failed", "2024-02-01", "backfill shop --from 2024-02-01 --to 2024-02-29"),
        ("model_performance", "performance_above_threshold", "2024-02-03", "train shop"),
    ],
)
def test_each_finding_has_the_command_that_fixes_it(
    asset: str, subject: str, partition: str, command: str
) -> None:
    (remedy, *_) = remedies("shop", asset, subject, partition)
    assert remedy.command == f"ml-platform {command}"


def test_a_blocked_day_can_be_accepted_and_made_by_one_command() -> None:
    corrected, accepted = remedies("shop", "ards", "blocked", "2024-02-03")
    again = "ml-platform backfill shop --from 2024-02-03 --to 2024-02-03"
    assert corrected.command == again
    assert accepted.command == f'ml-platform accept shop 2024-02-03 --reason "…" && {again}'


def test_what_is_made_of_a_day_is_held_back_by_it() -> None:
    assert held_back_by("mrds") == ["online_features", "predictions"]
    assert held_back_by("predictions") == []


def test_a_backfill_of_the_past_is_one_digest() -> None:
    many = [
        finding(f"k{day}", partition=str(day), what=f"nulls on {day}")
        for day in days("2023-01-01", "2023-12-31")
    ]
    told = messages.message(shop(), News(tuple(many)), LINKS)
    assert told.title == "[shop] 365 errors"
    assert "365 days from 2023-01-01 to 2023-12-31; the newest of them:" in told.body
    assert told.body.count("nulls on") == messages.LISTED
    assert "nulls on 2023-12-31" in told.body
    assert len(told.body) < 3000


@pytest.mark.parametrize(("severity", "kept"), [("warning", ["a", "b"]), ("error", ["a"])])
def test_a_severity_leaves_out_what_is_less(severity: Any, kept: list[str]) -> None:
    both = [finding("a", "error"), finding("b", "warning")]
    assert [one.key for one in at_least(both, severity)] == kept
